//! The login: AMQP's opening handshake, from the protocol header to `connection.open-ok`.
//!
//! The client library has a handshake of its own, but one that tells a wrong password only by a
//! guess, three seconds late; names itself to the broker; writes the password to its log; and
//! bounds each poll instead of the whole. So hello-mq logs in itself, and [`super::stream`] then
//! replays what the broker said to the library, which answers into the void.
//!
//! Methods and their fields: AMQP 0-9-1 reference, class `connection`; frames: specification,
//! section 2.3.5; capabilities: <https://www.rabbitmq.com/docs/consumer-cancel#capabilities>.

use std::fmt;
use std::io::{self, Read, Write};

use super::frames::{
    CONNECTION_CLOSE, CutShort, FRAME_END, Fields, FrameHeader, HEARTBEAT, METHOD, Method,
    method_frame, put_long_string, put_short_string,
};
use crate::error::TlsFault;
use crate::text;
use crate::values::Mechanism;

/// What hello-mq says of itself and asks for.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// How to log in, the first that the broker offers.
    pub mechanisms: &'a [Mechanism],
    /// The user's name.
    pub username: &'a str,
    /// The password, in clear: it is what goes onto the wire.
    pub password: &'a str,
    /// The virtual host to open.
    pub vhost: &'a str,
    /// The proposed heartbeat interval in seconds; 0 for none.
    pub heartbeat: u16,
    /// Who connects, for the broker's listings and log.
    pub client: &'a str,
}

/// Where the handshake was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody has to listen there.
    Connect,
    /// The broker has to shake hands in TLS.
    Tls,
    /// The broker has to answer the protocol header.
    Greeting,
    /// The broker has to accept user and password.
    Login,
    /// The broker has to open the virtual host.
    Open,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Tls => "shaking hands in TLS",
            Self::Greeting => "waiting for its greeting",
            Self::Login => "waiting for its answer to the login",
            Self::Open => "waiting for it to open the virtual host",
        })
    }
}

/// Why the handshake failed.
#[derive(Debug)]
pub enum Failure {
    /// The broker closed the connection with AMQP's code and these words.
    Refused {
        /// AMQP's reply code.
        code: u16,
        /// The broker's words, not yet made fit to print.
        said: String,
    },
    /// TLS can't be spoken with it.
    Tls(TlsFault, String),
    /// What answers is no AMQP 0-9-1 broker.
    NotAmqp(String),
    /// The connection ended, failed or took too long.
    Io(Step, io::Error),
}

impl From<CutShort> for Failure {
    fn from(cut_short: CutShort) -> Self {
        Self::NotAmqp(cut_short.to_string())
    }
}

/// No frame of a handshake comes near it; what does is not AMQP.
const FRAME_MAX: usize = 1 << 20;

/// AMQP's reply code of a login that is not good.
const ACCESS_REFUSED: u16 = 403;

const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const SECURE: Method = (10, 20);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CLOSE_OK: Method = (10, 51);
pub const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);

/// The channel that is opened in one go with the connection: every command needs one.
pub const FIRST_CHANNEL: u16 = 1;

/// What the broker said in the login.
#[derive(Debug)]
pub struct Heard {
    /// The frames that the library has to see: start, tune and open-ok.
    pub frames: Vec<u8>,
    /// The frame that it has to see when it opens [`FIRST_CHANNEL`].
    pub channel_frame: Vec<u8>,
    /// The largest frame that was agreed on, in bytes.
    pub frame_max: u32,
}

/// Logs in over `stream` and returns what the broker said. Time-outs are the stream's.
///
/// # Errors
/// A [`Failure`]; the stream is then of no more use.
pub fn log_in(stream: &mut (impl Read + Write), login: &Login) -> Result<Heard, Failure> {
    let mut wire = Wire {
        stream,
        step: Step::Greeting,
        channel: 0,
        heard: Vec::new(),
    };

    wire.send(b"AMQP\x00\x00\x09\x01")?;
    let start = wire.expect(START)?;
    let mechanism = choose(&start, login.mechanisms)?;

    wire.step = Step::Login;
    wire.send(&method_frame(0, START_OK, &start_ok(login, mechanism)))?;
    let tune = wire.expect(TUNE)?;

    wire.step = Step::Open;
    let tune_ok = tune_ok(&tune, login.heartbeat)?;
    // The library is to find the heartbeat that was agreed on, the frame's last field.
    let end = wire.heard.len() - 1;
    wire.heard[end - 2..end].copy_from_slice(&tune_ok[6..]);
    let mut open = Vec::new();
    put_short_string(&mut open, login.vhost.as_bytes());
    open.extend([0, 0]);
    let requests = [
        method_frame(0, TUNE_OK, &tune_ok),
        method_frame(0, OPEN, &open),
        method_frame(FIRST_CHANNEL, CHANNEL_OPEN, &[0]),
    ];
    wire.send(&requests.concat())?;
    wire.expect(OPEN_OK)?;
    let frames = std::mem::take(&mut wire.heard);
    wire.channel = FIRST_CHANNEL;
    wire.expect(CHANNEL_OPEN_OK)?;
    Ok(Heard {
        frames,
        channel_frame: wire.heard,
        frame_max: u32::from_be_bytes([tune_ok[2], tune_ok[3], tune_ok[4], tune_ok[5]]),
    })
}

/// How to log in, of what the broker offers.
fn choose(arguments: &[u8], mechanisms: &[Mechanism]) -> Result<Mechanism, Failure> {
    let mut fields = Fields(arguments);
    let version = (fields.byte()?, fields.byte()?);
    if version != (0, 9) {
        return Err(Failure::NotAmqp(format!(
            "it speaks AMQP {}-{}, not 0-9-1",
            version.0, version.1
        )));
    }
    let _server_properties = fields.long_string()?;
    let offered = fields.long_string()?;
    let is_offered = |mechanism: &&Mechanism| {
        offered
            .split(|&byte| byte == b' ')
            .any(|name| name == mechanism.as_str().as_bytes())
    };
    mechanisms.iter().find(is_offered).copied().ok_or_else(|| {
        let wanted = match mechanisms {
            [Mechanism::External, ..] => "a client's certificate (EXTERNAL)",
            _ => "a user name and a password (PLAIN)",
        };
        Failure::Refused {
            code: ACCESS_REFUSED,
            said: format!(
                "it does not accept {wanted}, only {}",
                String::from_utf8_lossy(offered)
            ),
        }
    })
}

fn start_ok(login: &Login, mechanism: Mechanism) -> Vec<u8> {
    let mut capabilities = Vec::new();
    for name in [
        // So that a refused login is answered in words instead of by silence and a closed socket.
        "authentication_failure_close",
        "basic.nack",
        "connection.blocked",
        "consumer_cancel_notify",
        "exchange_exchange_bindings",
        "publisher_confirms",
    ] {
        put_short_string(&mut capabilities, name.as_bytes());
        capabilities.extend([b't', 1]);
    }
    let mut properties = Vec::new();
    for (name, value) in [
        ("product", "hello-mq"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("platform", std::env::consts::OS),
        ("connection_name", login.client),
        ("information", login.client),
    ] {
        put_short_string(&mut properties, name.as_bytes());
        properties.push(b'S');
        put_long_string(&mut properties, value.as_bytes());
    }
    put_short_string(&mut properties, b"capabilities");
    properties.push(b'F');
    put_long_string(&mut properties, &capabilities);

    let mut arguments = Vec::new();
    put_long_string(&mut arguments, &properties);
    put_short_string(&mut arguments, mechanism.as_str().as_bytes());
    let response = match mechanism {
        Mechanism::Plain => ["", login.username, login.password].join("\0"),
        Mechanism::External => String::new(),
    };
    put_long_string(&mut arguments, response.as_bytes());
    put_short_string(&mut arguments, b"en_US");
    arguments
}

/// The answer to the broker's limits: all accepted, with the smaller heartbeat, or ours where the
/// broker proposes none (0): without heartbeats a dead peer is never noticed. The library, shown the
/// same limits, comes to the same values.
fn tune_ok(tune: &[u8], heartbeat: u16) -> Result<Vec<u8>, Failure> {
    let mut fields = Fields(tune);
    let channel_max = match fields.u16()? {
        0 => u16::MAX,
        max => max,
    };
    let frame_max = match fields.u32()? {
        0 => u32::MAX,
        max => max,
    };
    let heartbeat = match fields.u16()? {
        0 => heartbeat,
        proposed => proposed.min(heartbeat),
    };
    let mut arguments = Vec::with_capacity(8);
    arguments.extend(channel_max.to_be_bytes());
    arguments.extend(frame_max.to_be_bytes());
    arguments.extend(heartbeat.to_be_bytes());
    Ok(arguments)
}

struct Wire<'a, S> {
    stream: &'a mut S,
    step: Step,
    /// Where the next answer is expected; the connection's own, 0, is always possible.
    channel: u16,
    heard: Vec<u8>,
}

impl<S: Read + Write> Wire<'_, S> {
    fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream
            .write_all(bytes)
            .and_then(|()| self.stream.flush())
            .map_err(|error| Failure::Io(self.step, error))
    }

    /// Reads frames until one with `method`, and returns its arguments.
    fn expect(&mut self, method: Method) -> Result<Vec<u8>, Failure> {
        loop {
            let (kind, frame) = self.frame()?;
            if kind == HEARTBEAT {
                continue;
            }
            let mut fields = Fields(&frame[7..frame.len() - 1]);
            let got = (fields.u16()?, fields.u16()?);
            if got == method {
                let arguments = fields.0.to_vec();
                self.heard.extend(frame);
                return Ok(arguments);
            }
            return Err(match got {
                CONNECTION_CLOSE => {
                    let code = fields.u16()?;
                    let said = String::from_utf8_lossy(fields.short_string()?).into_owned();
                    // A courtesy: it has no more to say.
                    let _ = self.send(&method_frame(0, CLOSE_OK, &[]));
                    Failure::Refused { code, said }
                }
                SECURE => Failure::NotAmqp(
                    "it asks for a second factor after user and password".to_owned(),
                ),
                (class, method) => {
                    Failure::NotAmqp(format!("it sent method {class}.{method} out of turn"))
                }
            });
        }
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), Failure> {
        let mut frame = vec![0; 7];
        self.fill(&mut frame)?;
        let header = FrameHeader::read(&frame).ok_or(CutShort)?;
        let is_frame = matches!(header.kind, METHOD | HEARTBEAT)
            && (header.channel == 0 || header.channel == self.channel)
            && header.size <= FRAME_MAX;
        if !is_frame {
            if frame.starts_with(b"AMQP") {
                // A protocol header, which is one byte longer than a frame's.
                frame.push(0);
                self.fill(&mut frame[7..])?;
            }
            return Err(match frame.as_slice() {
                [0x15 | 0x16, 3, ..] => {
                    Failure::Tls(TlsFault::NotHere, "it speaks TLS there".to_owned())
                }
                _ => Failure::NotAmqp(stranger(&frame)),
            });
        }
        frame.resize(header.frame_size(), 0);
        self.fill(&mut frame[7..])?;
        if frame.last() != Some(&FRAME_END) {
            return Err(Failure::NotAmqp("it sent a frame without end".to_owned()));
        }
        Ok((header.kind, frame))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        self.stream
            .read_exact(buffer)
            .map_err(|error| Failure::Io(self.step, error))
    }
}

/// Who answers, by the first bytes of an answer that is not an AMQP 0-9-1 frame.
pub fn stranger(first: &[u8]) -> String {
    match first {
        [b'A', b'M', b'Q', b'P', version @ ..] => format!(
            "it speaks another version of AMQP ({})",
            version
                .iter()
                .map(u8::to_string)
                .collect::<Vec<_>>()
                .join("-")
        ),
        [b'H', b'T', b'T', b'P', ..] => "it is a web server".to_owned(),
        _ => format!("it is no AMQP broker; it answered {}…", text::quote(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A broker's side that was written down beforehand, and what was said to it.
    struct Script {
        answers: Cursor<Vec<u8>>,
        heard: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answers.read(buffer)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LOGIN: Login = Login {
        mechanisms: &[Mechanism::External, Mechanism::Plain],
        username: "u",
        password: "s3cret",
        vhost: "/",
        heartbeat: 10,
        client: "n",
    };

    fn start() -> Vec<u8> {
        let mut arguments = vec![0, 9];
        put_long_string(&mut arguments, b"");
        put_long_string(&mut arguments, b"AMQPLAIN PLAIN");
        put_long_string(&mut arguments, b"en_US");
        method_frame(0, START, &arguments)
    }

    fn tune() -> Vec<u8> {
        method_frame(0, TUNE, &[7, 255, 0, 2, 0, 0, 0, 60])
    }

    fn try_log_in(answers: &[&[u8]]) -> (Result<Heard, Failure>, Vec<u8>) {
        let mut script = Script {
            answers: Cursor::new(answers.concat()),
            heard: Vec::new(),
        };
        let result = log_in(&mut script, &LOGIN);
        (result, script.heard)
    }

    fn why(answers: &[&[u8]]) -> String {
        match try_log_in(answers).0.unwrap_err() {
            Failure::NotAmqp(why) | Failure::Tls(TlsFault::NotHere, why) => why,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_login_returns_the_frames_for_the_library() {
        let heartbeat = [HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];
        let open_ok = method_frame(0, OPEN_OK, &[0]);
        let channel_open_ok = method_frame(FIRST_CHANNEL, CHANNEL_OPEN_OK, &[0; 4]);
        let answers: [&[u8]; 5] = [&start(), &heartbeat, &tune(), &open_ok, &channel_open_ok];
        let (heard, said) = try_log_in(&answers);
        let heard = heard.unwrap();
        assert_eq!(heard.frame_max, 131_072);
        // The library reads the heartbeat that was agreed on.
        let agreed = method_frame(0, TUNE, &[7, 255, 0, 2, 0, 0, 0, 10]);
        assert_eq!(heard.frames, [start(), agreed, open_ok].concat());
        assert_eq!(heard.channel_frame, channel_open_ok);
        let has = |part: &[u8]| said.windows(part.len()).any(|window| window == part);
        assert!(said.starts_with(b"AMQP\x00\x00\x09\x01"));
        assert!(has(b"\x05PLAIN\x00\x00\x00\x09\x00u\x00s3cret\x05en_US"));
        assert!(has(&method_frame(0, TUNE_OK, &[7, 255, 0, 2, 0, 0, 0, 10])));
        let opened = [
            method_frame(0, OPEN, b"\x01/\x00\x00"),
            method_frame(FIRST_CHANNEL, CHANNEL_OPEN, &[0]),
        ];
        assert!(said.ends_with(&opened.concat()));
    }

    #[test]
    fn heartbeats_are_on_unless_we_want_none() {
        for (proposed, ours, agreed) in [(60, 10, 10), (5, 10, 5), (0, 10, 10), (60, 0, 0)] {
            let tune = [7, 255, 0, 2, 0, 0, 0, proposed];
            assert_eq!(
                tune_ok(&tune, ours).unwrap()[6..],
                [0, agreed],
                "{proposed} {ours}"
            );
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_brokers_words() {
        let mut arguments = 403_u16.to_be_bytes().to_vec();
        put_short_string(&mut arguments, b"ACCESS_REFUSED - no");
        arguments.extend([0; 4]);
        let (result, said) =
            try_log_in(&[&start(), &method_frame(0, CONNECTION_CLOSE, &arguments)]);
        assert!(
            matches!(&result, Err(Failure::Refused { code: 403, said }) if said == "ACCESS_REFUSED - no"),
            "{result:?}"
        );
        assert!(said.ends_with(&method_frame(0, CLOSE_OK, &[])));
    }

    #[test]
    fn a_stranger_is_told_by_what_it_says() {
        assert_eq!(
            why(&[b"AMQP\x03\x01\x00\x00"]),
            "it speaks another version of AMQP (3-1-0-0)"
        );
        assert_eq!(why(&[b"HTTP/1.1 400 Bad Request"]), "it is a web server");
        assert_eq!(why(&[&[0x15, 3, 3, 0, 2, 2, 70]]), "it speaks TLS there");
        assert_eq!(
            why(&[b"220 mail ready"]),
            "it is no AMQP broker; it answered '220 mai'…"
        );
        assert_eq!(
            why(&[&[1, 0, 0, 0, 0, 0, 2, 0, 0, 0]]),
            "it sent a frame without end"
        );
        assert_eq!(
            why(&[&method_frame(0, TUNE, &[])]),
            "it sent method 10.30 out of turn"
        );
        assert_eq!(
            why(&[&method_frame(0, START, &[0])]),
            "it sent a method that is cut short"
        );
        assert_eq!(
            why(&[&method_frame(0, START, &[0, 8])]),
            "it speaks AMQP 0-8, not 0-9-1"
        );
    }

    #[test]
    fn an_end_is_told_with_the_step_that_it_interrupts() {
        for (answers, step) in [
            (vec![], Step::Greeting),
            (vec![start()], Step::Login),
            (vec![start(), tune()], Step::Open),
        ] {
            let answers: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
            let (result, _) = try_log_in(&answers);
            assert!(
                matches!(&result, Err(Failure::Io(at, _)) if *at == step),
                "{result:?}"
            );
        }
    }

    #[test]
    fn no_answer_of_any_bytes_makes_it_panic() {
        // Every prefix of a good dialogue, with each byte of it in turn replaced.
        let good = [
            start(),
            tune(),
            method_frame(0, OPEN_OK, &[0]),
            method_frame(FIRST_CHANNEL, CHANNEL_OPEN_OK, &[0; 4]),
        ];
        let good = good.concat();
        for length in 0..=good.len() {
            let _ = try_log_in(&[&good[..length]]);
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = try_log_in(&[&bad]);
            }
        }
    }
}
