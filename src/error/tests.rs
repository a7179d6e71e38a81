//! Tests of the errors: their words, and the statuses that they end with.

use super::*;

fn refused(code: u16) -> Error {
    Error::Refused {
        broker: "amqp://guest@localhost:5672/".to_owned(),
        operation: "declare queue 'hello'".to_owned(),
        code,
        said: "WORDS".to_owned(),
    }
}

#[test]
fn a_refusals_status_follows_from_the_brokers_code() {
    for (code, status) in [(403, 77), (404, 67), (405, 76), (406, 76), (541, 76)] {
        assert_eq!(refused(code).status().code(), status, "{code}");
    }
}

#[test]
fn a_returned_message_weighs_more_than_a_refused_one() {
    let mut messages = ConfirmFailure {
        refused: vec!["argument 2".to_owned()],
        ..ConfirmFailure::default()
    };
    assert_eq!(
        Error::ConfirmFailure(Box::new(messages)).status().code(),
        75
    );
    let mut returned = NameList::default();
    returned.push(|| "argument 1 (NO_ROUTE)".to_owned());
    messages = ConfirmFailure {
        broker: "amqp://h/".to_owned(),
        confirmed: 1,
        total: Some(3),
        returned,
        refused: vec!["argument 2".to_owned()],
        ..ConfirmFailure::default()
    };
    let error = Error::ConfirmFailure(Box::new(messages));
    assert_eq!(error.status().code(), 67);
    assert_eq!(
        error.to_string(),
        "amqp://h/ returned argument 1 (NO_ROUTE); amqp://h/ rejected (nack) argument 2; 1 of 3 confirmed"
    );
}

#[test]
fn a_long_list_of_messages_is_cut() {
    let messages = ConfirmFailure {
        refused: (0..12).map(|n| n.to_string()).collect(),
        ..ConfirmFailure::default()
    };
    assert!(messages.to_string().contains("8, 9 and 2 more;"));
}
