//! The login: AMQP's opening handshake, from the protocol header to `connection.open-ok`.
//!
//! The client library's own handshake guesses that a password is wrong, after three seconds; gives its
//! own name to the broker; writes the password to its log; and limits the time of each poll instead of
//! the whole. So hello-mq logs in itself, and [`super::library`] gives the library a handshake in
//! memory.
//!
//! Methods and their fields: AMQP 0-9-1 reference, class `connection`; frames: specification,
//! section 2.3.5; capabilities: <https://www.rabbitmq.com/docs/consumer-cancel#capabilities>.

use std::fmt;
use std::io;

use super::connection::{CloseCause, Socket};
use super::endpoint::ConnectWaiter;
use super::frames::{
    self, FRAME_MIN_SIZE, Fields, LIBRARY, Method, ReplyText, Truncated, method_frame,
    put_long_string, put_short_string,
};
use crate::error::{Error, TlsFault};
use crate::message::{FieldTable, FieldValue};
use crate::text;
use crate::values::Mechanism;

/// The client's side of a login.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Login<'a> {
    /// The acceptable mechanisms. The first that the broker offers is used.
    pub(crate) mechanisms: &'a [Mechanism],
    pub(crate) username: &'a str,
    pub(crate) password: &'a str,
    pub(crate) vhost: &'a str,
    /// The proposed heartbeat interval in seconds; 0 for none.
    pub(crate) heartbeat: u16,
    /// The name of the connection in the broker's listings and log.
    pub(crate) connection_name: &'a str,
    /// Whether to open the library's channel, too.
    pub(crate) opens_library_channel: bool,
    /// Frames for the channel for messages, which are sent before the virtual host is open. Without any,
    /// that channel is not opened.
    pub(crate) first_request: &'a [u8],
}

/// A step of the login, for messages about its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Connect,
    Tls,
    /// From the protocol header to connection.start.
    Greeting,
    /// From connection.start-ok to connection.tune.
    Login,
    /// From connection.open to connection.open-ok.
    Open,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Tls => "negotiating TLS",
            Self::Greeting => "waiting for its greeting",
            Self::Login => "waiting for its answer to the login",
            Self::Open => "waiting for it to open the virtual host",
        })
    }
}

/// The reason why a login failed.
#[derive(Debug)]
pub(crate) enum LoginFailure {
    /// The broker refused the login.
    Refused(ReplyText),
    /// TLS failed.
    Tls(TlsFault, String),
    /// The peer is not a broker that hello-mq can talk to.
    Unusable(String),
    /// The connection ended, failed or took too long.
    Io(Step, io::Error),
    /// The broker closed the connection after a start-ok of this many bytes, more than every broker has
    /// to accept.
    TooLong(usize),
    /// The user does not want to wait any longer.
    Stopped(Error),
}

impl From<Error> for LoginFailure {
    fn from(error: Error) -> Self {
        Self::Stopped(error)
    }
}

impl From<Truncated> for LoginFailure {
    fn from(truncated: Truncated) -> Self {
        Self::Unusable(truncated.to_string())
    }
}

/// AMQP's reply code for a refused login.
const ACCESS_REFUSED: u16 = 403;

/// The outcome of a login: the agreed frame size and the broker's properties.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    /// The largest frame in bytes.
    pub(crate) frame_max: u32,
    /// The broker's product, version and the like.
    pub(crate) server_properties: FieldTable,
}

impl ServerIdentity {
    /// Returns the broker's product and version for the log.
    pub(crate) fn description(&self) -> String {
        let (product, version) = (self.property(b"product"), self.property(b"version"));
        format!("the broker is {product} {version}")
    }

    fn property(&self, name: &[u8]) -> String {
        match self.server_properties.get(name) {
            Some(FieldValue::LongString(text)) => text::one_line(&String::from_utf8_lossy(text)),
            _ => "?".to_owned(),
        }
    }

    /// Returns RabbitMQ's series, such as (4, 0); `None` for another product.
    pub(crate) fn series(&self) -> Option<(u32, u32)> {
        let version = self.property(b"version");
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        let series = (numbers.next()??, numbers.next()??);
        (self.property(b"product") == "RabbitMQ").then_some(series)
    }
}

/// Waits for the end of the TLS handshake. After a failure the socket is unusable.
pub(crate) fn shake_hands(
    waiter: &mut ConnectWaiter,
    socket: &mut Socket,
) -> Result<(), LoginFailure> {
    let done = waiter.wait(socket, |socket| {
        (!socket.stream().is_handshaking()).then_some(())
    })?;
    if done.is_some() {
        return Ok(());
    }
    let error = match socket.take_close_cause() {
        Some(CloseCause::Failed(error)) => error,
        Some(_) => io::ErrorKind::UnexpectedEof.into(),
        None => io::ErrorKind::TimedOut.into(),
    };
    Err(LoginFailure::Io(Step::Tls, error))
}

/// Logs in. After a failure the socket is unusable.
pub(crate) fn log_in(
    waiter: &mut ConnectWaiter,
    socket: &mut Socket,
    login: &Login,
) -> Result<ServerIdentity, LoginFailure> {
    let mut handshake = Handshake {
        waiter,
        socket,
        step: Step::Greeting,
    };
    handshake.socket.send(&frames::PROTOCOL_HEADER);
    let start = handshake.expect(frames::CONNECTION_START)?;
    let (mechanism, server_properties) = read_start(frames::arguments(&start), login.mechanisms)?;

    handshake.step = Step::Login;
    let start_ok = start_ok(login, mechanism);
    let start_ok = method_frame(0, frames::CONNECTION_START_OK, &start_ok);
    handshake.socket.send(&start_ok);
    let tune = handshake.expect(frames::CONNECTION_TUNE);
    let tune = tune.map_err(|failure| match failure {
        LoginFailure::Io(_, error)
            if error.kind() != io::ErrorKind::TimedOut
                && start_ok.len() > FRAME_MIN_SIZE as usize =>
        {
            LoginFailure::TooLong(start_ok.len())
        }
        other => other,
    })?;

    handshake.step = Step::Open;
    let agreed = tuned_limits(frames::arguments(&tune).0, login.heartbeat)?;
    let mut open = Vec::new();
    put_short_string(&mut open, login.vhost.as_bytes());
    open.extend([0, 0]);
    let mut requests = [
        method_frame(0, frames::CONNECTION_TUNE_OK, &agreed.encode()),
        method_frame(0, frames::CONNECTION_OPEN, &open),
    ]
    .concat();
    if login.opens_library_channel {
        requests.extend(method_frame(LIBRARY, frames::CHANNEL_OPEN, &[0]));
    }
    handshake.socket.send(&requests);
    if !login.first_request.is_empty() {
        handshake.socket.open_channel();
        handshake.socket.send_on_channel(login.first_request);
    }
    handshake.expect(frames::CONNECTION_OPEN_OK)?;
    if login.opens_library_channel {
        handshake.expect_library_channel()?;
    }
    socket.finish_login(agreed.channel_max, agreed.frame_max, agreed.heartbeat);
    Ok(ServerIdentity {
        frame_max: agreed.frame_max,
        server_properties,
    })
}

/// Reads connection.start: chooses a mechanism that the broker offers, and returns its properties.
fn read_start(
    mut fields: Fields,
    mechanisms: &[Mechanism],
) -> Result<(Mechanism, FieldTable), LoginFailure> {
    let version = (fields.u8()?, fields.u8()?);
    if version != (0, 9) {
        return Err(LoginFailure::Unusable(format!(
            "it speaks AMQP {}-{}, not 0-9-1",
            version.0, version.1
        )));
    }
    let server_properties = fields.long_string()?;
    let offered = fields.long_string()?;
    let is_offered = |mechanism: &&Mechanism| {
        offered
            .split(|&byte| byte == b' ')
            .any(|name| name == mechanism.as_str().as_bytes())
    };
    let mechanism = mechanisms.iter().find(is_offered).copied();
    let mechanism = mechanism.ok_or_else(|| {
        let wanted = match mechanisms {
            [Mechanism::External, ..] => "a client certificate (EXTERNAL)",
            _ => "a user name and a password (PLAIN)",
        };
        LoginFailure::Refused(ReplyText {
            code: ACCESS_REFUSED,
            text: format!(
                "it does not accept {wanted}, only {}",
                String::from_utf8_lossy(offered)
            ),
        })
    })?;
    // Unreadable properties do not keep hello-mq from logging in.
    let server_properties = FieldTable::decode(server_properties).unwrap_or_default();
    Ok((mechanism, server_properties))
}

fn start_ok(login: &Login, mechanism: Mechanism) -> Vec<u8> {
    let mut capabilities = Vec::new();
    for name in [
        // Without it the broker answers a refused login by closing the socket.
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
        ("connection_name", login.connection_name),
        ("information", login.connection_name),
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

/// The limits that client and broker agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TunedLimits {
    channel_max: u16,
    frame_max: u32,
    heartbeat: u16,
}

impl TunedLimits {
    /// Returns the arguments of connection.tune-ok.
    fn encode(self) -> Vec<u8> {
        let mut arguments = Vec::with_capacity(8);
        arguments.extend(self.channel_max.to_be_bytes());
        arguments.extend(self.frame_max.to_be_bytes());
        arguments.extend(self.heartbeat.to_be_bytes());
        arguments
    }
}

/// Accepts the broker's limits, with the smaller heartbeat. If the broker proposes none (0), ours is used:
/// without heartbeats a dead peer is never noticed.
fn tuned_limits(tune: &[u8], heartbeat: u16) -> Result<TunedLimits, LoginFailure> {
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
    if frame_max < FRAME_MIN_SIZE {
        return Err(LoginFailure::Unusable(format!(
            "its maximum frame size is {frame_max} bytes, below AMQP's minimum of {FRAME_MIN_SIZE}"
        )));
    }
    if channel_max < LIBRARY {
        return Err(LoginFailure::Unusable(format!(
            "it allows {channel_max} channel per connection (channel_max), and hello-mq needs {LIBRARY}"
        )));
    }
    Ok(TunedLimits {
        channel_max,
        frame_max,
        heartbeat,
    })
}

struct Handshake<'h, 'w> {
    waiter: &'h mut ConnectWaiter<'w>,
    socket: &'h mut Socket,
    step: Step,
}

impl Handshake<'_, '_> {
    /// Waits for `method`, and returns its frame.
    fn expect(&mut self, method: Method) -> Result<Vec<u8>, LoginFailure> {
        let received = self.waiter.wait(self.socket, Socket::next_login_method)?;
        let Some(received) = received else {
            return Err(self.failure());
        };
        if received.method == method {
            return Ok(received.frame);
        }
        Err(LoginFailure::Unusable(match received.method {
            frames::CONNECTION_SECURE => {
                "it asks for a second factor after user and password".to_owned()
            }
            (class, method) => format!("it sent an unexpected method {class}.{method}"),
        }))
    }

    /// Waits until the library's channel is open.
    fn expect_library_channel(&mut self) -> Result<(), LoginFailure> {
        let mut frame = Vec::new();
        let received = self.waiter.wait(self.socket, |socket| {
            socket.take_library_frames(&mut frame);
            (!frame.is_empty()).then_some(())
        })?;
        received.ok_or_else(|| self.failure())
    }

    /// Returns the reason why the expected method did not come.
    fn failure(&mut self) -> LoginFailure {
        let io = |kind: io::ErrorKind| LoginFailure::Io(self.step, kind.into());
        match self.socket.take_close_cause() {
            Some(CloseCause::ClosedByBroker(reply)) => LoginFailure::Refused(reply),
            Some(CloseCause::Failed(error)) => LoginFailure::Io(self.step, error),
            Some(CloseCause::NotAmqp) => not_a_broker(self.socket.unparsed()),
            Some(_) => match self.socket.unparsed() {
                rest if is_frame_start(rest) => io(io::ErrorKind::UnexpectedEof),
                rest => not_a_broker(rest),
            },
            None => io(io::ErrorKind::TimedOut),
        }
    }
}

/// Whether these bytes may begin a frame of the login, as no bytes do, too.
fn is_frame_start(bytes: &[u8]) -> bool {
    bytes.iter().zip(&[frames::METHOD, 0]).all(|(a, b)| a == b)
}

/// Describes a peer whose answer is not an AMQP 0-9-1 frame.
fn not_a_broker(first: &[u8]) -> LoginFailure {
    match first {
        [0x15 | 0x16, 3, ..] => {
            LoginFailure::Tls(TlsFault::TlsPort, "that port uses TLS".to_owned())
        }
        first => LoginFailure::Unusable(describe_peer(first)),
    }
}

/// The number of first bytes that a message shows.
const SHOWN_BYTES: usize = 8;

/// Describes a peer that is not a broker by its first bytes.
pub(crate) fn describe_peer(first: &[u8]) -> String {
    let first = &first[..first.len().min(SHOWN_BYTES)];
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
        _ => format!(
            "it is not an AMQP broker; it answered {}…",
            text::quote(first)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::{
        CHANNEL_OPEN, CONNECTION_CLOSE_OK, CONNECTION_OPEN, CONNECTION_SECURE, CONNECTION_START,
        CONNECTION_TUNE, CONNECTION_TUNE_OK, HEARTBEAT_FRAME, MESSAGES,
    };
    use super::super::peer::{self, broker, channel_open_ok, close, open_ok, pair};
    use super::super::wait::{PollSource, SilenceTimer, Waiter};
    use super::*;
    use crate::interrupt::Interrupt;
    use crate::messenger::Messenger;
    use crate::settings::Broker;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::sync::LazyLock;
    use std::time::{Duration, Instant};

    const LOGIN: Login = Login {
        mechanisms: &[Mechanism::External, Mechanism::Plain],
        username: "u",
        password: "s3cret",
        vhost: "/",
        heartbeat: 10,
        connection_name: "n",
        opens_library_channel: true,
        first_request: b"first",
    };

    static BROKER: LazyLock<Broker> = LazyLock::new(broker);

    fn start() -> Vec<u8> {
        peer::start(b"AMQPLAIN PLAIN")
    }

    fn tune() -> Vec<u8> {
        peer::tune(60)
    }

    /// Logs in with a broker that sends all its answers beforehand. Returns the bytes that it received.
    fn log_in_with(
        interrupt: &Interrupt,
        deadline: Instant,
        end: Shutdown,
        answers: &[&[u8]],
    ) -> (Result<(ServerIdentity, Socket), LoginFailure>, Vec<u8>) {
        let messenger = Messenger::new(true);
        let (stream, mut peer) = pair();
        peer.write_all(&answers.concat()).unwrap();
        peer.shutdown(end).unwrap();
        let mut socket = Socket::new(BROKER.to_string(), stream, &messenger);
        let mut waiter = Waiter::new(interrupt, None, &messenger).unwrap();
        let mut waiter = ConnectWaiter {
            waiter: &mut waiter,
            deadline,
            silence: &mut SilenceTimer::default(),
            broker: &BROKER,
        };
        let result = log_in(&mut waiter, &mut socket, &LOGIN);
        let mut sent = Vec::new();
        // It would block, or the broker reads nothing.
        let _ = peer.read_to_end(&mut sent);
        (result.map(|server| (server, socket)), sent)
    }

    fn in_an_hour() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    fn try_log_in(answers: &[&[u8]]) -> (Result<(ServerIdentity, Socket), LoginFailure>, Vec<u8>) {
        let interrupt = Interrupt::default();
        log_in_with(&interrupt, in_an_hour(), Shutdown::Write, answers)
    }

    fn why(answers: &[&[u8]]) -> String {
        match try_log_in(answers).0.unwrap_err() {
            LoginFailure::Unusable(why) | LoginFailure::Tls(TlsFault::TlsPort, why) => why,
            other => format!("{other:?}"),
        }
    }

    fn has(sent: &[u8], part: &[u8]) -> bool {
        sent.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn a_login_opens_the_virtual_host_and_the_channels_and_sends_the_first_request() {
        let answers = [
            &start()[..],
            &HEARTBEAT_FRAME,
            &tune(),
            &open_ok(),
            &channel_open_ok(),
        ];
        let (result, sent) = try_log_in(&answers);
        let (server, socket) = result.unwrap();
        assert_eq!(server.frame_max, 131_072);
        // Heartbeats are on.
        assert!(socket.timer().is_some());
        assert_eq!(server.description(), "the broker is Rabbit ?");
        assert!(sent.starts_with(b"AMQP\x00\x00\x09\x01"));
        assert!(has(
            &sent,
            b"\x05PLAIN\x00\x00\x00\x09\x00u\x00s3cret\x05en_US"
        ));
        let requests = [
            method_frame(0, CONNECTION_TUNE_OK, &[7, 255, 0, 2, 0, 0, 0, 10]),
            method_frame(0, CONNECTION_OPEN, b"\x01/\x00\x00"),
            method_frame(LIBRARY, CHANNEL_OPEN, &[0]),
            method_frame(MESSAGES, CHANNEL_OPEN, &[0]),
            LOGIN.first_request.to_vec(),
        ];
        assert!(sent.ends_with(&requests.concat()));
        // Nothing is requested before the broker accepts user and password.
        let (_, sent) = try_log_in(&[&start()]);
        assert!(has(&sent, b"s3cret") && !has(&sent, LOGIN.first_request));
    }

    #[test]
    fn the_first_mechanism_that_the_broker_offers_is_used() {
        let (_, sent) = try_log_in(&[&peer::start(b"PLAIN EXTERNAL")]);
        assert!(has(&sent, b"\x08EXTERNAL\x00\x00\x00\x00\x05en_US"));
        let (result, sent) = try_log_in(&[&peer::start(b"PLAINER")]);
        assert_eq!(sent, frames::PROTOCOL_HEADER);
        assert!(
            matches!(&result, Err(LoginFailure::Refused(ReplyText { code: 403, text }))
                if text == "it does not accept a client certificate (EXTERNAL), only PLAINER"),
            "{result:?}"
        );
    }

    #[test]
    fn heartbeats_are_on_unless_we_want_none() {
        for (proposed, ours, agreed) in [(60, 10, 10), (5, 10, 5), (0, 10, 10), (60, 0, 0)] {
            let limits = [7, 255, 0, 2, 0, 0, 0, proposed];
            let heartbeat = tuned_limits(&limits, ours).unwrap().heartbeat;
            assert_eq!(heartbeat, agreed, "{proposed} {ours}");
        }
    }

    #[test]
    fn limits_that_are_too_small_are_refused_and_0_is_no_limit() {
        let agreed = |channel_max: u8, frame_max: u16| {
            let [high, low] = frame_max.to_be_bytes();
            tuned_limits(&[0, channel_max, 0, 0, high, low, 0, 60], 10).map_err(|failure| {
                match failure {
                    LoginFailure::Unusable(why) => why,
                    other => format!("{other:?}"),
                }
            })
        };
        let least = agreed(2, 4096).unwrap();
        assert_eq!((least.channel_max, least.frame_max), (2, 4096));
        let none = agreed(0, 0).unwrap();
        assert_eq!((none.channel_max, none.frame_max), (u16::MAX, u32::MAX));
        assert_eq!(
            agreed(2, 4095).unwrap_err(),
            "its maximum frame size is 4095 bytes, below AMQP's minimum of 4096"
        );
        assert_eq!(
            agreed(1, 4096).unwrap_err(),
            "it allows 1 channel per connection (channel_max), and hello-mq needs 2"
        );
    }

    #[test]
    fn a_refusal_has_the_brokers_words() {
        let refusal = close(0, 403, "ACCESS_REFUSED - no");
        let (start, tune, open_ok) = (start(), tune(), open_ok());
        let before: [&[&[u8]]; 4] = [&[], &[&start], &[&start, &tune], &[&start, &tune, &open_ok]];
        for before in before {
            let answers = [before, &[&refusal]].concat();
            let is_refused = |result: &Result<_, _>| {
                assert!(
                    matches!(result, Err(LoginFailure::Refused(ReplyText { code: 403, text })) if text == "ACCESS_REFUSED - no"),
                    "{result:?}"
                );
            };
            let (result, sent) = try_log_in(&answers);
            is_refused(&result);
            assert!(has(&sent, &method_frame(0, CONNECTION_CLOSE_OK, &[])));
            // It may be gone before close-ok.
            let interrupt = Interrupt::default();
            let (result, _) = log_in_with(&interrupt, in_an_hour(), Shutdown::Both, &answers);
            is_refused(&result);
        }
    }

    #[test]
    fn a_peer_that_is_no_broker_is_described() {
        assert_eq!(
            why(&[b"AMQP\x03\x01\x00\x00"]),
            "it speaks another version of AMQP (3-1-0-0)"
        );
        assert_eq!(why(&[b"HTTP/1.1 400 Bad Request"]), "it is a web server");
        assert_eq!(why(&[b"HTTP"]), "it is a web server");
        assert_eq!(why(&[&[0x15, 3, 3, 0, 2, 2, 70]]), "that port uses TLS");
        assert_eq!(why(&[&[0x15, 3]]), "that port uses TLS");
        assert_eq!(
            why(&[b"220 mail ready"]),
            "it is not an AMQP broker; it answered '220 mail'…"
        );
        assert_eq!(
            why(&[&[1, 0, 0, 0, 0, 0, 2, 0, 0, 0]]),
            "it is not an AMQP broker; it answered '\\x01\\x00\\x00\\x00\\x00\\x00\\x02\\x00'…"
        );
        assert_eq!(
            why(&[&method_frame(0, CONNECTION_TUNE, &[])]),
            "it sent an unexpected method 10.30"
        );
        assert_eq!(
            why(&[&method_frame(0, CONNECTION_START, &[0])]),
            "it sent a truncated method"
        );
        assert_eq!(
            why(&[&method_frame(0, CONNECTION_START, &[0, 8])]),
            "it speaks AMQP 0-8, not 0-9-1"
        );
        assert_eq!(
            why(&[&start(), &method_frame(0, CONNECTION_SECURE, &[0; 4])]),
            "it asks for a second factor after user and password"
        );
    }

    #[test]
    fn an_end_of_the_connection_is_reported_with_its_step() {
        let (start, tune, open_ok) = (start(), tune(), open_ok());
        let answers: [(&[&[u8]], Step); 7] = [
            (&[], Step::Greeting),
            (&[&start[..20]], Step::Greeting),
            (&[&start], Step::Login),
            (&[&start, &tune[..1]], Step::Login),
            (&[&start, &tune], Step::Open),
            (&[&start, &tune, &open_ok], Step::Open),
            (&[&start, &tune, &open_ok, &[1, 0, 2]], Step::Open),
        ];
        for (answers, step) in answers {
            let (result, _) = try_log_in(answers);
            assert!(
                matches!(&result, Err(LoginFailure::Io(at, error))
                    if *at == step && error.kind() == io::ErrorKind::UnexpectedEof),
                "{result:?}"
            );
        }
    }

    #[test]
    fn the_deadline_and_the_interrupt_end_it() {
        let interrupt = Interrupt::default();
        let log_in = || log_in_with(&interrupt, Instant::now(), Shutdown::Write, &[&start()]).0;
        let late = log_in();
        assert!(
            matches!(&late, Err(LoginFailure::Io(Step::Greeting, error)) if error.kind() == io::ErrorKind::TimedOut),
            "{late:?}"
        );
        interrupt.trigger();
        let interrupted = log_in();
        assert!(
            matches!(
                interrupted,
                Err(LoginFailure::Stopped(Error::Interrupted(_)))
            ),
            "{interrupted:?}"
        );
    }

    #[test]
    fn no_answer_panics() {
        // Every prefix of a valid dialogue, and each byte of it replaced in turn.
        let good = [start(), tune(), open_ok(), channel_open_ok()].concat();
        assert!(try_log_in(&[&good]).0.is_ok());
        for length in 0..good.len() {
            assert!(try_log_in(&[&good[..length]]).0.is_err(), "{length}");
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
