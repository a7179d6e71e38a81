//! Envelopes that are written and read, and what is wrong with others.

use super::super::properties::tests::properties as any_properties;
use super::*;
use proptest::prelude::*;
use std::time::{Duration, UNIX_EPOCH};

fn written(message: &Message) -> String {
    let mut out = Vec::new();
    write(message, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        properties in any_properties(),
        exchange in ".{0,20}",
        routing_key in ".{0,20}",
        body in prop_oneof![".{0,20}".prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..20)],
        received in proptest::option::of(0..4_000_000_000_000_000u64),
    ) {
        let received = received.map(|micros| UNIX_EPOCH + Duration::from_micros(micros));
        let message = Message { exchange, routing_key, properties, body, received, ..Message::default() };
        let line = written(&message);
        prop_assert!(!line.contains(char::is_control), "{}", line);
        let expected = Envelope {
            exchange: Some(message.exchange),
            routing_key: Some(message.routing_key),
            properties: message.properties,
            body: message.body,
            received_at: received,
        };
        prop_assert_eq!(parse(line.clone().into_bytes()), Ok(expected), "{}", line);
        for end in 0..line.len() {
            prop_assert_eq!(check_beginning(&line.as_bytes()[..end]), Ok(()), "{}", line);
        }
    }

    #[test]
    fn nothing_that_is_read_panics(line in r#"[\[\]{}":,!a-z0-9.\\-]{0,60}"#) {
        let _ = parse(line.clone().into_bytes());
        let _ = parse(format!(r#"{{"payload":"","properties":{{"headers":{line}}}}}"#).into_bytes());
    }
}

#[test]
fn the_names_are_those_of_the_management_api() {
    let message = Message {
        routing_key: "hello".to_owned(),
        received: Some(UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789)),
        properties: Properties {
            delivery_mode: Some(2),
            kind: ShortString::new("t").ok(),
            headers: Some(
                [(ShortString::new("n").unwrap(), FieldValue::Long(1))]
                    .into_iter()
                    .collect(),
            ),
            ..Properties::default()
        },
        body: b"Hello \"World\"\n".to_vec(),
        ..Message::default()
    };
    assert_eq!(
        written(&message),
        r#"{"exchange":"","routing_key":"hello","redelivered":false,"received_at":"2023-11-14T22:13:20.123456Z","properties":{"type":"t","delivery_mode":2,"headers":{"n":{"!amqp":"long","value":1}}},"payload_bytes":14,"payload":"Hello \"World\"\n","payload_encoding":"string"}"#
    );
    // One that was not received has no time of receipt.
    let message = Message {
        body: b"\xff\0".to_vec(),
        ..Message::default()
    };
    assert!(written(&message).ends_with(
        r#""redelivered":false,"properties":{},"payload_bytes":2,"payload":"/wA=","payload_encoding":"base64"}"#
    ));
}

#[test]
fn what_the_management_api_prints_is_read() {
    let line = br#"{"payload_bytes":1,"redelivered":true,"exchange":"","routing_key":"q","message_count":0,"properties":[],"payload":"a","payload_encoding":"string"}"#;
    let envelope = parse(line.to_vec()).unwrap();
    assert_eq!(
        (envelope.body.as_slice(), envelope.properties),
        (&b"a"[..], Properties::default())
    );
    let line = br#"{"properties":{"headers":{"s":"x","i":1,"l":5000000000,"d":1.0,"a":[true,null]}},"payload":""}"#;
    let headers = parse(line.to_vec()).unwrap().properties.headers.unwrap();
    let values: Vec<_> = headers
        .entries()
        .iter()
        .map(|(_, value)| value.clone())
        .collect();
    assert_eq!(
        values,
        [
            FieldValue::LongString(b"x".to_vec()),
            FieldValue::SignedInt(1),
            FieldValue::Long(5_000_000_000),
            FieldValue::Double(1.0),
            FieldValue::Array(vec![FieldValue::Bool(true), FieldValue::Void]),
        ]
    );
}

#[test]
fn a_time_of_receipt_is_read_with_all_its_digits() {
    let read = |time: &str| {
        let line = format!(r#"{{"payload":"","received_at":{time}}}"#);
        parse(line.into_bytes()).map(|envelope| envelope.received_at)
    };
    for (time, nanoseconds) in [
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T00:00:00.000001Z", 1000),
        ("1970-01-01T00:00:00.123456789Z", 123_456_789),
    ] {
        let expected = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        assert_eq!(read(&format!("\"{time}\"")), Ok(Some(expected)), "{time}");
    }
    assert_eq!(read("1"), Err("received_at is not a string".to_owned()));
    for wrong in ["", "now", "2025-12-31", "2025-12-31T23:59:60:00Z"] {
        let problem = "received_at is not a time like 2025-12-31T23:59:59.123456Z";
        assert_eq!(read(&format!("\"{wrong}\"")), Err(problem.to_owned()));
    }
}

#[test]
fn what_is_wrong_is_told() {
    let long = "x".repeat(256);
    let rows = [
        ("{", "is not JSON: unexpected end (column 2)"),
        ("", "is not JSON: unexpected end"),
        ("[1]", "is not a JSON object"),
        ("{}", "has no payload"),
        (r#"{"payload":1}"#, "payload is not a string"),
        (r#"{"payload":"","playload":1}"#, "unknown key 'playload'"),
        (
            r#"{"payload":"a","payload":"b"}"#,
            "has the key 'payload' twice",
        ),
        (
            r#"{"payload":"","\u0070ayload":""}"#,
            "has the key 'payload' twice",
        ),
        (
            r#"{"payload":"","properties":{"app_id":"a","app_id":"b"}}"#,
            "has the key 'app_id' twice",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"a":1,"b":2,"a":1}}}"#,
            "headers has the key 'a' twice",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"t":[{"a":1,"\u0061":2}]}}}"#,
            "has the key 'a' twice",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"byte","value":1,"value":2}}}}"#,
            "has the key 'value' twice",
        ),
        (
            r#"{"payload":"\u00"}"#,
            "is not JSON: invalid escape (column 13)",
        ),
        (
            r#"{"payload":"\ud83d"}"#,
            "is not JSON: lone surrogate (column 13)",
        ),
        (
            r#"{"incomplete":"no \"properties\"","payload":""}"#,
            "is incomplete: no \"properties\"",
        ),
        (
            r#"{"payload":"%","payload_encoding":"base64"}"#,
            "payload is not base64",
        ),
        (
            r#"{"payload":"","payload_encoding":"hex"}"#,
            "payload_encoding is neither",
        ),
        (
            r#"{"payload":"","properties":{"content-type":"a"}}"#,
            "unknown property 'content-type'",
        ),
        (
            r#"{"payload":"","properties":{"priority":256}}"#,
            "priority is not between 0 and 255",
        ),
        (
            r#"{"payload":"","properties":{"priority":"1"}}"#,
            "priority is not an integer",
        ),
        (
            r#"{"payload":"","properties":{"app_id":5}}"#,
            "app_id is not a string",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":18446744073709551615}}}"#,
            "headers 'n': 18446744073709551615 does not fit",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":18446744073709551616}}}"#,
            "headers 'n': 18446744073709551616 does not fit in 64 bits",
        ),
        (
            r#"{"payload":"","properties":{"timestamp":18446744073709551616}}"#,
            "timestamp",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"field","base64":"Vgd0"}}}}"#,
            "'n': is not a value of type 'field'",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"byte","value":300}}}}"#,
            "'n': is not a value of type 'byte'",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"float","value":1e39}}}}"#,
            "'n': is out of range for a float",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"double","value":"7ff8000000000000"}}}}"#,
            "'n': is not a value of type 'double'",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":1e999}}}"#,
            "number out of range",
        ),
        (
            r#"{"payload":"","properties":{"headers":{"n":{"!amqp":"qubit","value":1}}}}"#,
            "unknown type 'qubit'",
        ),
        (
            &format!(r#"{{"payload":"","exchange":"{long}"}}"#),
            "exchange can have at most 255",
        ),
        (
            &format!(r#"{{"payload":"","properties":{{"headers":{{"{long}":1}}}}}}"#),
            "a header's name can have at most",
        ),
    ];
    for (line, problem) in rows {
        let error = parse(line.into()).unwrap_err();
        assert!(error.contains(problem), "{line}: {error}");
    }
}

#[test]
fn a_decoded_body_is_encoded_again() {
    for name in ContentEncoding::NAMES {
        let encoding = name.parse().unwrap();
        for body in [&b"1 tea"[..], b"", b"\xff\0"] {
            let message = Message {
                body: body.to_vec(),
                decoded: Some(encoding),
                ..Message::default()
            };
            let line = written(&message);
            let keys = format!(r#","decoded":"{name}","payload_bytes":{},"#, body.len());
            assert!(line.contains(&keys), "{line}");
            let sent = parse(line.into_bytes()).unwrap();
            assert_ne!(sent.body, body);
            assert_eq!(encoding.decode(&sent.body).unwrap(), body);
        }
    }
    for (value, problem) in [
        (r#""br""#, "decoded is none of gzip, deflate and zstd"),
        ("null", "decoded is not a string"),
    ] {
        let line = format!(r#"{{"decoded":{value},"payload":""}}"#);
        assert_eq!(parse(line.into()), Err(problem.to_owned()));
    }
}

#[test]
fn a_long_body_is_decoded_where_it_stands() {
    for length in [0, 1, 2, 3, 3071, 3072, 3073, 3074, 6144, 100_000] {
        let body: Vec<u8> = (0..length)
            .map(|n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes()[0] | 0x80)
            .collect();
        let message = Message {
            body: body.clone(),
            ..Message::default()
        };
        let line = written(&message);
        let escaped = line.replace('/', "\\/");
        for line in [line, escaped] {
            assert!(parse(line.into_bytes()).unwrap().body == body, "{length}");
        }
    }
    let encoded = "AAAA".repeat(2000);
    for (at, wrong, problem) in [
        (4090, "AA==", "Invalid symbol 61"),
        (4095, "=", "Invalid symbol 61, offset 4095"),
        (5000, "%", "Invalid symbol 37, offset 5000"),
        (7999, "", "Invalid padding"),
    ] {
        let mut payload = encoded.clone();
        payload.replace_range(at..payload.len().min(at + wrong.len().max(1)), wrong);
        let line = format!(r#"{{"payload_encoding":"base64","payload":"{payload}"}}"#);
        let error = parse(line.into_bytes()).unwrap_err();
        assert!(error.contains(problem), "{at} {wrong}: {error}");
    }
}

#[test]
fn a_message_that_is_not_complete_is_not_sent() {
    let message = Message {
        incomplete: Some("properties: truncated".to_owned()),
        body: b"a".to_vec(),
        ..Message::default()
    };
    let error = parse(written(&message).into_bytes()).unwrap_err();
    assert_eq!(error, "is incomplete: properties: truncated");
}

#[test]
fn what_is_wrong_is_found_before_the_line_ends() {
    let begun = |text: &str| check_beginning(text.as_bytes());
    let numbers = "1,".repeat(1 << 20);
    for (begin, problem) in [
        ("no JSON", "is not a JSON object"),
        (r#"{"playload":"#, "unknown key 'playload'"),
        (r#"{"payload":["#, "payload is not a string"),
        (r#"{"payload":"a" "#, ""),
        (r#"{"payload":"a";"#, "expected ',' or '}'"),
    ] {
        match begun(begin) {
            Ok(()) => assert_eq!(problem, ""),
            Err(error) => assert!(error.contains(problem), "{begin}: {error}"),
        }
    }
    for key in [r#""properties":{"headers":{"a":"#, r#""redelivered":"#] {
        let error = begun(&format!("{{{key}[{numbers}")).unwrap_err();
        assert!(error.contains("of properties and headers"), "{error}");
    }
}

#[test]
fn what_a_body_from_amqp_1_0_holds_is_added_and_left_aside() {
    let value = |encoded: &[u8]| {
        let message = Message {
            properties: Properties {
                kind: ShortString::new("amqp-1.0").ok(),
                ..Properties::default()
            },
            body: [b"\0\x53\x77", encoded].concat(),
            ..Message::default()
        };
        let mut line = Vec::new();
        write_decoded(&message, &mut line).unwrap();
        let read = parse(line.clone()).unwrap();
        assert_eq!(read.body, message.body);
        let line = String::from_utf8(line).unwrap();
        let value = line.split(r#""amqp10_value":"#).nth(1)?.to_owned();
        Some(value.split(r#","payload_bytes""#).next()?.to_owned())
    };
    for (encoded, expected) in [
        (&b"\xa1\x03a\n\""[..], Some(r#""a\n\"""#)),
        (
            b"\xa0\x02\xff\0",
            Some(r#"{"!amqp":"binary","base64":"/wA="}"#),
        ),
        (b"\x40", Some("null")),
        (b"\x71\xff\xff\xff\xff", Some("-1")),
        (b"\x72\x3f\xc0\0\0", Some("1.5")),
        (b"\x72\x7f\xc0\0\0", Some(r#""NaN""#)),
        (
            b"\x83\0\0\0\0\0\0\0\0",
            Some(r#""1970-01-01T00:00:00.000Z""#),
        ),
        (b"\xc1\x06\x02\xa1\x01k\x43", None),
        (b"\xc1\x05\x02\xa1\x01k\x43", Some(r#"{"k":0}"#)),
        (
            b"\xc1\x05\x04\x43\x41\x44\x42",
            Some("[[0,true],[0,false]]"),
        ),
        (b"\xc0\x03\x02\x43\x45", Some("[0,[]]")),
        (b"\xc1\x01\0", Some("{}")),
    ] {
        assert_eq!(value(encoded).as_deref(), expected, "{encoded:?}");
    }
}
