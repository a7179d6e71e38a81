//! The broker's end of a connection, for tests.

use std::ffi::OsString;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::connection::{ChannelEvent, Content};
use super::endpoint::BrokerStream;
use super::frames::{
    self, FrameHeader, LIBRARY, MESSAGES, Method, method_frame, put_body, put_long_string,
    put_publish, put_short_string,
};
use crate::cli::{self, Command};
use crate::message::{Message, Properties};
use crate::settings::{self, Broker};

/// Returns the settings of a broker that is never connected to.
pub(crate) fn broker() -> Broker {
    broker_at("amqp://localhost")
}

/// Returns the settings of the broker with this URL.
pub(crate) fn broker_at(url: &str) -> Broker {
    let cli = cli::parse(["hello-mq", "send", "--url", url].map(OsString::from)).unwrap();
    let Command::Verb(verb) = &cli.command else {
        panic!("{cli:?}")
    };
    let settings = settings::resolve(&cli.common, verb, |_| None, None);
    settings.unwrap().broker
}

/// Returns a stream and its other end. Bytes can be read as soon as they are written, which TCP does not
/// promise.
pub(crate) fn pair() -> (BrokerStream, UnixStream) {
    let (client, broker) = UnixStream::pair().unwrap();
    client.set_nonblocking(true).unwrap();
    broker.set_nonblocking(true).unwrap();
    let client = TcpStream::from(OwnedFd::from(client));
    (BrokerStream::Plain(client), broker)
}

/// Returns connection.start with these mechanisms.
pub(crate) fn start(mechanisms: &[u8]) -> Vec<u8> {
    let mut arguments = vec![0, 9];
    put_long_string(&mut arguments, b"\x07productS\x00\x00\x00\x06Rabbit");
    put_long_string(&mut arguments, mechanisms);
    put_long_string(&mut arguments, b"en_US");
    method_frame(0, frames::CONNECTION_START, &arguments)
}

/// Returns connection.tune with RabbitMQ's limits and this heartbeat.
pub(crate) fn tune(heartbeat: u8) -> Vec<u8> {
    method_frame(
        0,
        frames::CONNECTION_TUNE,
        &[7, 255, 0, 2, 0, 0, 0, heartbeat],
    )
}

/// Returns connection.open-ok.
pub(crate) fn open_ok() -> Vec<u8> {
    method_frame(0, frames::CONNECTION_OPEN_OK, &[0])
}

/// Returns channel.open-ok on the library's channel.
pub(crate) fn channel_open_ok() -> Vec<u8> {
    method_frame(LIBRARY, (20, 11), &[0; 4])
}

/// The size of a body frame: so small that most bodies have several.
pub(crate) const BODY_FRAME_SIZE: usize = 20;

/// Returns a method with the content frames of a message.
pub(crate) fn content(method: Method, arguments: &[u8], body: &[u8]) -> Vec<u8> {
    let message = Message {
        properties: Properties {
            priority: Some(7),
            ..Properties::default()
        },
        body: body.to_vec(),
        ..Message::default()
    };
    let mut publish = Vec::new();
    put_publish(&mut publish, MESSAGES, &message, false);
    let method_size = FrameHeader::read(&publish).unwrap().frame_size();
    let mut frames = method_frame(MESSAGES, method, arguments);
    frames.extend(&publish[method_size..]);
    for part in body.chunks(BODY_FRAME_SIZE) {
        put_body(&mut frames, MESSAGES, part);
    }
    frames
}

/// Returns basic.deliver with the content frames of a message.
pub(crate) fn delivery(tag: u8, body: &[u8]) -> Vec<u8> {
    let arguments = [b"\x03tag\0\0\0\0\0\0\0", &[tag][..], b"\0\0\x01k"];
    content(frames::BASIC_DELIVER, &arguments.concat(), body)
}

/// Returns channel.close, or with channel 0 connection.close.
pub(crate) fn close(channel: u16, code: u16, text: &str) -> Vec<u8> {
    let mut arguments = code.to_be_bytes().to_vec();
    put_short_string(&mut arguments, text.as_bytes());
    arguments.extend([0; 4]);
    let method = match channel {
        0 => frames::CONNECTION_CLOSE,
        _ => frames::CHANNEL_CLOSE,
    };
    method_frame(channel, method, &arguments)
}

/// Splits whole frames.
pub(crate) fn cut(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(header) = FrameHeader::read(bytes) {
        let (frame, rest) = bytes.split_at(header.frame_size());
        all.push(frame);
        bytes = rest;
    }
    assert_eq!(bytes, b"");
    all
}

/// Describes an event, except for its time.
pub(crate) fn describe(event: &ChannelEvent) -> String {
    match event {
        ChannelEvent::Delivered(content) => describe_content("delivered", content),
        ChannelEvent::Returned(reason, content) => describe_content(reason, content),
        ChannelEvent::Got(Some(content)) => describe_content("got", content),
        ChannelEvent::Got(None) => "got nothing".to_owned(),
        ChannelEvent::Confirmed(confirm) => format!("{confirm:?}"),
        ChannelEvent::Answered(method) => format!("answered {method:?}"),
        ChannelEvent::Cancelled => "cancelled".to_owned(),
    }
}

fn describe_content(what: &str, content: &Content) -> String {
    let Content { tag, message } = content;
    assert_eq!(message.properties.priority, Some(7));
    format!(
        "{what} {tag} {} '{}' '{}' {} {:?}",
        message.redelivered,
        message.exchange,
        message.routing_key,
        message.body.len(),
        message.incomplete
    )
}
