//! A session: one connection to the broker that is logged in, and how to open another one.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use nix::unistd;

use super::connection::{Connection, Content, Socket};
use super::endpoint::tls::Client;
use super::endpoint::{self, BrokerStream, ConnectLimits, share};
use super::frames::Method;
use super::library::Library;
use super::login::{self, Login, LoginFailure, ServerIdentity, Step};
use super::wait::{GRACE, SilenceTimer, Waiter};
use crate::credentials;
use crate::error::{Error, TlsFault, is_exhaustion, reason};
use crate::interrupt::Interrupt;
use crate::messenger::Messenger;
use crate::settings::{Broker, Origin};
use crate::text;
use crate::topology::QueueKind;
use crate::values::{Host, Mechanism, Secret};

/// How long to connect in silence.
const ANNOUNCE_CONNECT_AFTER: Duration = Duration::from_secs(2);

/// AMQP's reply code of a frame that is too long.
const FRAME_ERROR: u16 = 501;

/// How to get a session with the broker, and in [`super::reconnect`] how to get it back.
#[derive(Clone, Debug)]
pub struct Connector {
    pub(super) broker: Broker,
    client: String,
    pub(super) interrupt: Interrupt,
    pub(super) until: Option<Instant>,
    pub(super) messenger: Messenger,
    /// Whether sessions have the library at hand.
    is_declaring: bool,
    /// The frames on the channel for messages with which the first session begins.
    pub(super) first: Vec<u8>,
}

impl Connector {
    /// A way to the broker. `verb` is what the connection is for, in the broker's listings; at the
    /// moment `until` everything ends, whatever it is waiting for.
    #[must_use]
    pub fn new(
        broker: &Broker,
        verb: &str,
        interrupt: &Interrupt,
        until: Option<Instant>,
        messenger: &Messenger,
    ) -> Self {
        Self {
            broker: broker.clone(),
            client: client(verb),
            interrupt: interrupt.clone(),
            until,
            messenger: messenger.clone(),
            is_declaring: false,
            first: Vec::new(),
        }
    }

    /// The same for sessions that declare, delete or the like: they have the client library at hand.
    #[must_use]
    pub fn declaring(self, is_declaring: bool) -> Self {
        Self {
            is_declaring,
            ..self
        }
    }

    /// The same, but that the session of [`Connector::open`] begins with these frames on the channel for
    /// messages, which go with the login.
    pub(super) fn beginning_with(self, first: Vec<u8>) -> Self {
        Self { first, ..self }
    }

    /// The broker's URL without the password.
    #[must_use]
    pub fn broker(&self) -> String {
        self.broker.to_string()
    }

    /// Connects and logs in once, and sends what is to be sent `first`. With `is_announced` it says so if
    /// that takes long.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with what failed at each address; [`Error::LoginRefused`] in the broker's
    /// words if user, password or virtual host are not good: no other host will have them then;
    /// [`Error::Tls`] if nothing but TLS failed; [`Error::Interrupted`]; [`Error::TimeIsUp`].
    pub(super) fn open_once(&self, is_announced: bool, first: &[u8]) -> Result<Session, Error> {
        let password = match self.broker.mechanisms() {
            [Mechanism::External] => Secret::default(),
            _ => credentials::password(&self.broker.password, &self.interrupt, &self.messenger)?,
        };
        let mut waiter = Waiter::new(&self.interrupt, self.until, &self.messenger)?;
        let library = self
            .is_declaring
            .then(|| Library::start(true, waiter.waker()))
            .transpose()?;
        let mut patience = SilenceTimer::new(if is_announced {
            ANNOUNCE_CONNECT_AFTER
        } else {
            Duration::MAX
        });
        let tls = &self.broker.tls;
        let mut attempt = Attempt {
            connector: self,
            tls: tls.enabled.value.then(|| Client::new(tls)).transpose()?,
            login: Login {
                mechanisms: self.broker.mechanisms(),
                username: &self.broker.username.value,
                password: password.expose(),
                vhost: self.broker.vhost.value.as_str(),
                heartbeat: self.broker.heartbeat.value.seconds(),
                client: &self.client,
                opens_channel: self.is_declaring,
                first,
            },
            waiter: &mut waiter,
            limits: ConnectLimits {
                deadline: Instant::now() + self.broker.connect_timeout.value.get(),
                patience: &mut patience,
                broker: &self.broker,
            },
            failed: Vec::new(),
        };
        match attempt.each_host()? {
            Some((socket, greeting)) => Ok(Session {
                connection: Connection::new(waiter, socket, greeting.frame_max),
                series: greeting.series(),
                queue: None,
                library,
                first: first.to_vec(),
                connector: self.clone(),
            }),
            None => Err(attempt.outcome()),
        }
    }
}

/// The attempts to open one session, at each host and each of its addresses.
struct Attempt<'a> {
    connector: &'a Connector,
    tls: Option<Client>,
    login: Login<'a>,
    waiter: &'a mut Waiter,
    limits: ConnectLimits<'a>,
    /// Why it failed so far, each with TLS's part in it.
    failed: Vec<(String, Option<TlsFault>)>,
}

type OpenedSocket = (Socket, ServerIdentity);

impl Attempt<'_> {
    /// Tries each host in order, and of each host each address. They share the time.
    fn each_host(&mut self) -> Result<Option<OpenedSocket>, Error> {
        let hosts = &self.connector.broker.hosts.value;
        let deadline = self.limits.deadline;
        for (index, host) in hosts.iter().enumerate() {
            self.limits.deadline = share(deadline, hosts.len() - index);
            let start = Instant::now();
            let addresses = match endpoint::resolve(self.waiter, &mut self.limits, host)? {
                Some(Ok(addresses)) => addresses,
                Some(Err(error)) => {
                    let name = text::escape(host.name());
                    let reason = reason(&error);
                    self.failed
                        .push((format!("unknown host name: {reason} ({name})"), None));
                    continue;
                }
                None => {
                    let timeout = self.connector.broker.connect_timeout.value.get();
                    let timeout = humantime::format_duration(timeout);
                    let why = format!("the host name was not resolved within {timeout}");
                    self.failed.push((why, None));
                    continue;
                }
            };
            if let Some(opened) = self.each_address(host, &addresses, start)? {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }

    fn each_address(
        &mut self,
        host: &Host,
        addresses: &[SocketAddr],
        mut start: Instant,
    ) -> Result<Option<OpenedSocket>, Error> {
        let deadline = self.limits.deadline;
        for (index, &address) in addresses.iter().enumerate() {
            debug!("connecting to {address}");
            self.limits.deadline = share(deadline, addresses.len() - index);
            match self.at(host, address) {
                Ok(opened) => {
                    info!(
                        "logged in to {} at {address}",
                        self.connector.broker.at(host)
                    );
                    info!("{}", opened.1.about_broker());
                    return Ok(Some(opened));
                }
                Err(failure) => self.note(failure, host, address, start.elapsed())?,
            }
            start = Instant::now();
        }
        Ok(None)
    }

    fn at(&mut self, host: &Host, address: SocketAddr) -> Result<OpenedSocket, LoginFailure> {
        let connected = endpoint::connect_to(self.waiter, &mut self.limits, address)?;
        let connected = connected.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
        let socket = connected.map_err(|error| LoginFailure::Io(Step::Connect, error))?;
        let name = self.connector.broker.at(host);
        let mut socket = match &self.tls {
            None => Socket::new(name, BrokerStream::Plain(socket), &self.connector.messenger),
            Some(client) => {
                let peer = self.peer(host);
                let connection = client
                    .connection(peer)
                    .map_err(|error| LoginFailure::Io(Step::Tls, error))?;
                let stream = BrokerStream::over_tls(socket, connection);
                let mut socket = Socket::new(name, stream, &self.connector.messenger);
                let shaken = login::shake_hands(self.waiter, &mut self.limits, &mut socket);
                shaken.map_err(|failure| self.tls_failure(failure, host, &mut socket))?;
                socket
            }
        };
        let greeting = login::log_in(self.waiter, &mut self.limits, &mut socket, &self.login)
            // In TLS 1.3 the broker looks at our certificate when our handshake is done.
            .map_err(|failure| self.tls_failure(failure, host, &mut socket))?;
        Ok((socket, greeting))
    }

    /// The name that the broker's certificate has to be for.
    fn peer<'h>(&'h self, host: &'h Host) -> &'h str {
        match &self.connector.broker.tls.server_name.value {
            Some(name) => name.as_str(),
            None => host.name(),
        }
    }

    /// Finds out whether it was TLS that failed.
    fn tls_failure(&self, failure: LoginFailure, host: &Host, socket: &mut Socket) -> LoginFailure {
        let Some(client) = &self.tls else {
            return failure;
        };
        let (step, error) = match failure {
            LoginFailure::Io(step, error) => (step, error),
            other => return other,
        };
        let first = socket.stream().first_bytes();
        if step == Step::Tls && first.starts_with(b"AMQP") {
            let why = "that port uses AMQP without TLS".to_owned();
            return LoginFailure::Tls(TlsFault::NotThere, why);
        }
        if step == Step::Tls && !matches!(first, [] | [0x15 | 0x16, 3, ..]) {
            return LoginFailure::Tls(TlsFault::NotThere, login::stranger_words(first));
        }
        match client.fault(&error, self.peer(host)) {
            Some((fault, why)) => LoginFailure::Tls(fault, why),
            None => LoginFailure::Io(step, error),
        }
    }

    /// Notes why an attempt failed.
    ///
    /// # Errors
    /// If no other address is better.
    fn note(
        &mut self,
        failure: LoginFailure,
        host: &Host,
        address: SocketAddr,
        waited: Duration,
    ) -> Result<(), Error> {
        let failed = match failure {
            LoginFailure::Left(error) => return Err(error),
            LoginFailure::TooLong(length) => {
                let said = format!(
                    "it closed the connection without an error after a login of {length} bytes, most of \
                     them password or token"
                );
                return Err(self.refused(host, FRAME_ERROR, said));
            }
            LoginFailure::Refused { code, said } => {
                let error = self.refused(host, code, text::one_line(&said));
                if !error.is_transient() {
                    return Err(error);
                }
                (error.to_string(), None)
            }
            LoginFailure::NotAmqp(why) => (format!("{why} ({address})"), None),
            LoginFailure::Tls(fault, why) => (format!("{why} ({address})"), Some(fault)),
            LoginFailure::Io(_, source) if is_exhaustion(&source) => {
                return Err(Error::System {
                    what: "connect",
                    source,
                });
            }
            LoginFailure::Io(step, error) => {
                let why = why(step, &error, self.tls.is_some(), waited);
                (format!("{why} ({address})"), None)
            }
        };
        self.failed.push(failed);
        Ok(())
    }

    fn refused(&self, host: &Host, code: u16, said: String) -> Error {
        let broker = &self.connector.broker;
        Error::LoginRefused {
            broker: broker.at(host),
            username: broker.username.value.clone(),
            has_password: broker.password.origin != Origin::Default,
            code,
            said,
        }
    }

    /// The error of a broker that let nobody in anywhere.
    fn outcome(mut self) -> Error {
        let broker = &self.connector.broker;
        if self.failed.is_empty() {
            let why = "the host name has no address".to_owned();
            self.failed.push((why, None));
        }
        // What is not TLS's fault may get better by waiting.
        let is_tls = self.failed.iter().all(|(_, fault)| fault.is_some());
        let fault = self.failed[0].1.filter(|_| is_tls);
        let reasons: Vec<_> = self.failed.into_iter().map(|(reason, _)| reason).collect();
        let reason = reasons.join("; ");
        match fault {
            Some(fault) => Error::Tls {
                broker: broker.to_string(),
                reason,
                fault,
            },
            None => Error::Unreachable {
                broker: broker.to_string(),
                reason,
                origin: format!("host {}, port {}", broker.hosts.origin, broker.port.origin),
            },
        }
    }
}

fn why(step: Step, error: &io::Error, over_tls: bool, waited: Duration) -> String {
    let while_ = match step {
        // What else should have been going on?
        Step::Connect if error.kind() != io::ErrorKind::TimedOut => String::new(),
        step => format!(" while {step}"),
    };
    // Who does not understand, or does not like what is shown, may hang up without an answer.
    let what_if = match (step, error.kind()) {
        (_, io::ErrorKind::TimedOut | io::ErrorKind::InvalidInput) => "",
        (Step::Tls, _) => "; does that port use TLS?",
        (Step::Greeting, _) if over_tls => {
            "; does it require a client certificate, or a different one?"
        }
        (Step::Greeting, _) => "; does that port use TLS (amqps)?",
        _ => "",
    };
    match error.kind() {
        io::ErrorKind::TimedOut => {
            let waited = text::rounded(waited);
            format!("no answer within {waited}{while_}")
        }
        io::ErrorKind::UnexpectedEof => format!("it closed the connection{while_}{what_if}"),
        _ => format!("{}{while_}{what_if}", reason(error)),
    }
}

/// Who connects: `hello-mq 0.1.0 send, host, pid 42`.
fn client(verb: &str) -> String {
    let host = unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown host".to_owned());
    format!(
        "hello-mq {} {verb}, {host}, pid {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    )
}

/// One open connection to the broker.
pub struct Session {
    pub(super) connection: Connection,
    /// RabbitMQ's series, such as (4, 0), if it is RabbitMQ.
    pub(super) series: Option<(u32, u32)>,
    /// The kind of the queue that is consumed from, once it is known.
    pub(super) queue: Option<QueueKind>,
    /// The client library, once it is started.
    library: Option<Library>,
    /// The request that was sent with the login, until somebody waits for the answer.
    first: Vec<u8>,
    connector: Connector,
}

impl Session {
    /// The broker's URL without the password.
    #[must_use]
    pub fn name(&self) -> &str {
        self.connection.name()
    }

    /// Tells the user something.
    pub(super) fn note(&self, text: &str) {
        self.connector.messenger.note(text);
    }

    /// The user that is logged in.
    pub(super) fn username(&self) -> &str {
        &self.connector.broker.username.value
    }

    /// Opens another connection to the same broker for something that is done by `until`.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub(super) fn beside(&self, interrupt: &Interrupt, until: Instant) -> Result<Session, Error> {
        let connector = Connector {
            interrupt: interrupt.clone(),
            until: Some(until),
            ..self.connector.clone()
        };
        connector.declaring(false).open_once(true, &[])
    }

    /// Opens a new connection in place of this one, which the broker has closed.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        *self = self.connector.open_once(true, &[])?;
        Ok(())
    }

    /// Opens a new connection if the broker has closed this one, as it does for a refusal of the
    /// graver kind.
    ///
    /// # Errors
    /// As [`Connector::open`].
    pub fn revive(&mut self) -> Result<(), Error> {
        if self.connection.is_open() {
            return Ok(());
        }
        self.reopen()
    }

    /// Makes a request on the channel for messages while nothing else uses it, unless it was made with the
    /// login, and waits for its `answer`. `operation` says what, such as `declare queue 'hello'`.
    ///
    /// # Errors
    /// [`Error::Refused`] in the broker's words; [`Error::Lost`], [`Error::Interrupted`] and
    /// [`Error::TimeIsUp`].
    pub(super) fn ask(
        &mut self,
        operation: &str,
        request: &[u8],
        answer: Method,
    ) -> Result<(), Error> {
        if std::mem::take(&mut self.first) != request {
            let socket = self.connection.socket();
            socket.open_channel();
            socket.post(request);
        }
        self.connection
            .answer(operation, |socket| socket.take_answer(answer).then_some(()))
    }

    /// Has the client library do something on its channel, and waits for it. `operation` says what, such
    /// as `declare queue 'hello'`.
    ///
    /// # Errors
    /// [`Error::Refused`] in the broker's words; [`Error::Lost`], [`Error::Interrupted`] and
    /// [`Error::TimeIsUp`].
    pub(super) fn call<T: Send + 'static>(
        &mut self,
        operation: &str,
        run: impl FnOnce(&amiquip::Channel) -> amiquip::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let library = match &mut self.library {
            Some(library) => library,
            None => {
                let waker = self.connection.waiter().waker();
                self.library.insert(Library::start(false, waker)?)
            }
        };
        let answer = library.call(run);
        let result = self.connection.answer(operation, |socket| {
            library.exchange(socket);
            answer.next()
        })?;
        let result = result.unwrap_or(Err(amiquip::Error::IoThreadPanic));
        result.map_err(|error| match error {
            amiquip::Error::ServerClosedChannel { code, message, .. } => Error::Refused {
                broker: self.name().to_owned(),
                operation: operation.to_owned(),
                code,
                said: message,
            },
            amiquip::Error::CreatePollHandle { source }
            | amiquip::Error::RegisterWithPollHandle { source }
            | amiquip::Error::ForkFailed { source } => Error::System {
                what: "start the client library",
                source,
            },
            amiquip::Error::ExhaustedChannelIds
            | amiquip::Error::UnavailableChannelId { .. }
            | amiquip::Error::IoThreadPanic => Error::Bug(format!("the client library: {error}")),
            // It does not go on after an answer that it can't make sense of.
            other => {
                info!("the client library: {other}");
                self.misunderstood(operation)
            }
        })
    }

    /// Gives the connection up, as the broker's answer makes no sense.
    pub(super) fn misunderstood(&mut self, operation: &str) -> Error {
        self.connection.misunderstood(operation)
    }

    /// Says what can't be read of a message that came, and is left out.
    pub(super) fn inspect(&self, content: Content) -> Content {
        if let Some(problem) = &content.message.incomplete {
            let note = format!("part of a message can't be decoded and is left out: {problem}");
            warn!("{note}");
            self.note(&note);
        }
        content
    }

    /// Says goodbye to the broker, within a second. What was done before is known to be done, whether or
    /// not the broker answers.
    pub fn close(mut self) {
        if let Err(error) = self.connection.close(GRACE) {
            info!("{error}");
        }
    }
}
