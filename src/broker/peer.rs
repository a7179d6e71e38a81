//! The other end of a connection, as the tests play it.

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

/// The settings of a broker that nobody connects to.
pub fn broker() -> Broker {
    broker_at("amqp://localhost")
}

/// The settings of the broker with this URL.
pub fn broker_at(url: &str) -> Broker {
    let cli = cli::parse(["hello-mq", "send", "--url", url].map(OsString::from)).unwrap();
    let Command::Verb(verb) = &cli.command else {
        panic!("{cli:?}")
    };
    let settings = settings::resolve(&cli.common, verb, |_| None, None);
    settings.unwrap().broker
}

/// A stream, and its other end. What is written to one can be read from the other at once, which no
/// system promises of TCP, so that a test knows what comes first.
pub fn pair() -> (BrokerStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let ours = TcpStream::from(OwnedFd::from(ours));
    (BrokerStream::Plain(ours), theirs)
}

/// The broker's greeting, with the ways to log in that it offers.
pub fn start(mechanisms: &[u8]) -> Vec<u8> {
    let mut arguments = vec![0, 9];
    put_long_string(&mut arguments, b"\x07productS\x00\x00\x00\x06Rabbit");
    put_long_string(&mut arguments, mechanisms);
    put_long_string(&mut arguments, b"en_US");
    method_frame(0, frames::CONNECTION_START, &arguments)
}

/// RabbitMQ's limits, with this heartbeat.
pub fn tune(heartbeat: u8) -> Vec<u8> {
    method_frame(
        0,
        frames::CONNECTION_TUNE,
        &[7, 255, 0, 2, 0, 0, 0, heartbeat],
    )
}

/// The answer to the opening of the virtual host.
pub fn open_ok() -> Vec<u8> {
    method_frame(0, frames::CONNECTION_OPEN_OK, &[0])
}

/// The answer to the opening of the library's channel.
pub fn channel_open_ok() -> Vec<u8> {
    method_frame(LIBRARY, (20, 11), &[0; 4])
}

/// How many bytes of a body stand in a frame: so few that most bodies have several.
pub const PART: usize = 20;

/// The frames with which the broker hands over a message.
pub fn content(method: Method, arguments: &[u8], body: &[u8]) -> Vec<u8> {
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
    for part in body.chunks(PART) {
        put_body(&mut frames, MESSAGES, part);
    }
    frames
}

/// The frames of a message for the consumer.
pub fn delivery(tag: u8, body: &[u8]) -> Vec<u8> {
    let arguments = [b"\x03tag\0\0\0\0\0\0\0", &[tag][..], b"\0\0\x01k"];
    content(frames::BASIC_DELIVER, &arguments.concat(), body)
}

/// The frame with which the broker closes a channel, or with channel 0 the connection.
pub fn close(channel: u16, code: u16, said: &str) -> Vec<u8> {
    let mut arguments = code.to_be_bytes().to_vec();
    put_short_string(&mut arguments, said.as_bytes());
    arguments.extend([0; 4]);
    let method = match channel {
        0 => frames::CONNECTION_CLOSE,
        _ => frames::CHANNEL_CLOSE,
    };
    method_frame(channel, method, &arguments)
}

/// Cuts whole frames apart.
pub fn cut(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(header) = FrameHeader::read(bytes) {
        let (frame, rest) = bytes.split_at(header.frame_size());
        all.push(frame);
        bytes = rest;
    }
    assert_eq!(bytes, b"");
    all
}

/// All that an arrival says, but for when it came.
pub fn told(arrival: &ChannelEvent) -> String {
    match arrival {
        ChannelEvent::Delivered(content) => told_content("delivered", content),
        ChannelEvent::Returned(said, content) => told_content(said, content),
        ChannelEvent::Got(Some(content)) => told_content("got", content),
        ChannelEvent::Got(None) => "got nothing".to_owned(),
        ChannelEvent::Confirmed(confirm) => format!("{confirm:?}"),
        ChannelEvent::Answered(method) => format!("answered {method:?}"),
        ChannelEvent::Cancelled => "cancelled".to_owned(),
    }
}

fn told_content(what: &str, content: &Content) -> String {
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
