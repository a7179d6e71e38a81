//! A publisher that speaks AMQP 1.0, as far as it takes to publish
//! (specification of AMQP 1.0, parts 1, 2 and 5).

use std::io::{Read, Write};
use std::net::TcpStream;

/// A link to a queue.
pub struct Publisher {
    broker: TcpStream,
    published: u8,
}

const NULL: &[u8] = b"\x40";
const FALSE: &[u8] = b"\x42";
const ZERO: &[u8] = b"\x43";

const AMQP: u8 = 0;
const SASL: u8 = 1;

impl Publisher {
    /// Logs in at this URL as guest, and attaches to a queue.
    pub fn open(url: &str, queue: &str) -> Self {
        let address = url.rsplit('@').next().unwrap().trim_end_matches('/');
        let mut publisher = Self {
            broker: TcpStream::connect(address).unwrap(),
            published: 0,
        };
        publisher.greet(*b"AMQP\x03\x01\0\0");
        publisher.frame();
        let init = [symbol("PLAIN"), binary(b"\0guest\0guest")];
        publisher.say(SASL, 0x41, &init, b"");
        publisher.frame();
        publisher.greet(*b"AMQP\0\x01\0\0");
        publisher.say(AMQP, 0x10, &[string("test"), string("vhost:/")], b"");
        publisher.frame();
        let window = || b"\x52\x7f".to_vec();
        let begin = [NULL.to_vec(), ZERO.to_vec(), window(), window()];
        publisher.say(AMQP, 0x11, &begin, b"");
        publisher.frame();
        let attach = [
            string("link"),
            ZERO.to_vec(),
            FALSE.to_vec(),
            NULL.to_vec(),
            NULL.to_vec(),
            described(0x28, &list(&[string("source")])),
            described(0x29, &list(&[string(&format!("/queues/{queue}"))])),
            NULL.to_vec(),
            NULL.to_vec(),
            ZERO.to_vec(),
        ];
        publisher.say(AMQP, 0x12, &attach, b"");
        // The broker attaches, too, and gives credit.
        publisher.frame();
        publisher.frame();
        publisher
    }

    /// Publishes a message of these sections, and waits until the broker has it.
    pub fn publish(&mut self, sections: &[u8]) {
        let transfer = [
            ZERO.to_vec(),
            vec![0x52, self.published],
            binary(&[self.published]),
            ZERO.to_vec(),
            FALSE.to_vec(),
        ];
        self.published += 1;
        self.say(AMQP, 0x14, &transfer, sections);
        // The state of the message that is settled is `accepted`.
        let disposition = self.frame();
        let accepted = b"\0\x53\x24";
        assert!(
            disposition.windows(3).any(|part| part == accepted),
            "{disposition:?}"
        );
    }

    fn greet(&mut self, header: [u8; 8]) {
        self.broker.write_all(&header).unwrap();
        let mut answer = [0; 8];
        self.broker.read_exact(&mut answer).unwrap();
        assert_eq!(answer, header);
    }

    fn say(&mut self, kind: u8, performative: u8, fields: &[Vec<u8>], payload: &[u8]) {
        let body = [&described(performative, &list(fields)), payload].concat();
        let size = u32::try_from(body.len() + 8).unwrap().to_be_bytes();
        let frame = [&size[..], &[2, kind, 0, 0], &body].concat();
        self.broker.write_all(&frame).unwrap();
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut size = [0; 4];
        self.broker.read_exact(&mut size).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(size) as usize - 4];
        self.broker.read_exact(&mut frame).unwrap();
        frame
    }
}

/// What stands behind a descriptor: a performative, a section.
pub fn described(descriptor: u8, value: &[u8]) -> Vec<u8> {
    [b"\0\x53", &[descriptor][..], value].concat()
}

fn short(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind, u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
}

pub fn string(text: &str) -> Vec<u8> {
    short(0xa1, text.as_bytes())
}

pub fn symbol(text: &str) -> Vec<u8> {
    short(0xa3, text.as_bytes())
}

pub fn binary(bytes: &[u8]) -> Vec<u8> {
    short(0xa0, bytes)
}

fn compound(kind: u8, values: &[Vec<u8>]) -> Vec<u8> {
    let count = u8::try_from(values.len()).unwrap();
    short(kind, &[&[count][..], &values.concat()].concat())
}

pub fn list(values: &[Vec<u8>]) -> Vec<u8> {
    compound(0xc0, values)
}

pub fn map(keys_and_values: &[Vec<u8>]) -> Vec<u8> {
    compound(0xc1, keys_and_values)
}
