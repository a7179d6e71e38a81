//! A session: a connection to the broker after the login, and how it is opened.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use nix::unistd;

use super::connection::{Connection, Socket};
use super::endpoint::tls::Client;
use super::endpoint::{self, BrokerStream, ConnectFailure, ConnectWaiter, first_share};
use super::frames::{Method, ReplyText};
use super::library::Library;
use super::login::{self, Login, LoginFailure, ServerIdentity, Step};
use super::wait::{GRACE, SilenceTimer, Waiter};
use crate::credentials;
use crate::error::{Error, TlsFault, is_exhaustion, reason};
use crate::interrupt::Interrupt;
use crate::message::Message;
use crate::messenger::Messenger;
use crate::settings::{Broker, Origin};
use crate::text;
use crate::topology::QueueKind;
use crate::values::{Host, Mechanism, Secret};

/// The time after which connecting is announced.
const ANNOUNCE_CONNECT_AFTER: Duration = Duration::from_secs(2);

/// AMQP's reply code for a frame that is too long.
const FRAME_ERROR: u16 = 501;

/// Opens sessions with the broker, and in [`super::reconnect`] reopens them.
#[derive(Clone, Debug)]
pub struct Connector {
    pub(super) broker: Broker,
    connection_name: String,
    pub(super) interrupt: Interrupt,
    pub(super) deadline: Option<Instant>,
    pub(super) messenger: Messenger,
    /// Whether sessions start the client library.
    is_declaring: bool,
    /// The frames on the channel for messages that the first session sends with its login.
    pub(super) first_request: Vec<u8>,
}

impl Connector {
    /// Returns a connector. `verb` describes the connection in the broker's listings; at the `deadline`
    /// every wait ends.
    #[must_use]
    pub fn new(
        broker: &Broker,
        verb: &str,
        interrupt: &Interrupt,
        deadline: Option<Instant>,
        messenger: &Messenger,
    ) -> Self {
        Self {
            broker: broker.clone(),
            connection_name: connection_name(verb),
            interrupt: interrupt.clone(),
            deadline,
            messenger: messenger.clone(),
            is_declaring: false,
            first_request: Vec::new(),
        }
    }

    /// Sets whether sessions will declare, delete or the like. If so, they start the client library during
    /// the login.
    #[must_use]
    pub fn declaring(self, is_declaring: bool) -> Self {
        Self {
            is_declaring,
            ..self
        }
    }

    /// Has the session of [`Connector::open`] send frames on the channel for messages with its login.
    pub(super) fn with_first_request(self, first_request: Vec<u8>) -> Self {
        Self {
            first_request,
            ..self
        }
    }

    /// Returns the broker's URL without the password.
    #[must_use]
    pub fn broker(&self) -> String {
        self.broker.to_string()
    }

    /// Connects and logs in once, and announces it if that takes long and `is_announced`.
    ///
    /// # Errors
    /// [`Error::Unreachable`] with the reason of each address; [`Error::LoginRefused`] in the broker's
    /// words, as no other host would accept the login; [`Error::Tls`] if every attempt failed in TLS;
    /// [`Error::Interrupted`]; [`Error::TimeIsUp`].
    pub(super) fn open_once(
        &self,
        is_announced: bool,
        first_request: &[u8],
    ) -> Result<Session, Error> {
        let password = match self.broker.mechanisms() {
            [Mechanism::External] => Secret::default(),
            _ => credentials::password(&self.broker.password, &self.interrupt, &self.messenger)?,
        };
        let mut waiter = Waiter::new(&self.interrupt, self.deadline, &self.messenger)?;
        let library = self
            .is_declaring
            .then(|| Library::start(true, waiter.waker()))
            .transpose()?;
        let mut silence = SilenceTimer::new(if is_announced {
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
                connection_name: &self.connection_name,
                opens_library_channel: self.is_declaring,
                first_request,
            },
            waiter: ConnectWaiter {
                waiter: &mut waiter,
                deadline: Instant::now() + self.broker.connect_timeout.value.get(),
                silence: &mut silence,
                broker: &self.broker,
            },
            failures: Vec::new(),
        };
        match attempt.try_hosts()? {
            Some(LoggedIn { socket, server }) => Ok(Session {
                connection: Connection::new(waiter, socket, server.frame_max),
                series: server.series(),
                queue_kind: None,
                is_queue_auto_delete: false,
                library,
                first_request: first_request.to_vec(),
                connector: self.clone(),
            }),
            None => Err(attempt.into_error()),
        }
    }
}

/// The attempt to open a session, at each address of each host.
struct Attempt<'a> {
    connector: &'a Connector,
    tls: Option<Client>,
    login: Login<'a>,
    waiter: ConnectWaiter<'a>,
    failures: Vec<AddressFailure>,
}

/// The reason why an address, or a host, failed.
struct AddressFailure {
    reason: String,
    tls_fault: Option<TlsFault>,
}

struct LoggedIn {
    socket: Socket,
    server: ServerIdentity,
}

impl Attempt<'_> {
    /// Tries each host in order, and each of its addresses. They share the time. Returns `None` if all fail.
    fn try_hosts(&mut self) -> Result<Option<LoggedIn>, Error> {
        let hosts = &self.connector.broker.hosts.value;
        let deadline = self.waiter.deadline;
        for (index, host) in hosts.iter().enumerate() {
            self.waiter.deadline = first_share(deadline, hosts.len() - index);
            let start = Instant::now();
            match endpoint::resolve(&mut self.waiter, host) {
                Ok(addresses) => {
                    let logged_in = self.try_addresses(host, &addresses, start)?;
                    if logged_in.is_some() {
                        return Ok(logged_in);
                    }
                }
                Err(ConnectFailure::Io(error)) => {
                    let name = text::escape(host.name());
                    let reason = reason(&error);
                    self.add_failure(format!("unknown host name: {reason} ({name})"), None);
                }
                Err(ConnectFailure::TimedOut) => {
                    let timeout = self.connector.broker.connect_timeout.value.get();
                    let timeout = humantime::format_duration(timeout);
                    self.add_failure(
                        format!("the host name was not resolved within {timeout}"),
                        None,
                    );
                }
                Err(ConnectFailure::Stopped(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    fn try_addresses(
        &mut self,
        host: &Host,
        addresses: &[SocketAddr],
        mut start: Instant,
    ) -> Result<Option<LoggedIn>, Error> {
        let deadline = self.waiter.deadline;
        for (index, &address) in addresses.iter().enumerate() {
            debug!("connecting to {address}");
            self.waiter.deadline = first_share(deadline, addresses.len() - index);
            match self.try_address(host, address) {
                Ok(logged_in) => {
                    let broker = self.connector.broker.at(host);
                    info!("logged in to {broker} at {address}");
                    info!("{}", logged_in.server.description());
                    return Ok(Some(logged_in));
                }
                Err(failure) => self.note_failure(failure, host, address, start.elapsed())?,
            }
            start = Instant::now();
        }
        Ok(None)
    }

    fn try_address(&mut self, host: &Host, address: SocketAddr) -> Result<LoggedIn, LoginFailure> {
        let socket = endpoint::connect_to(&mut self.waiter, address)?;
        let stream = match &self.tls {
            None => BrokerStream::Plain(socket),
            Some(client) => {
                let connection = client.connection(self.certificate_name(host));
                BrokerStream::tls(socket, connection.map_err(LoginFailure::Unusable)?)
            }
        };
        let name = self.connector.broker.at(host);
        let mut socket = Socket::new(name, stream, &self.connector.messenger);
        // In TLS 1.3 the broker checks our certificate only after our handshake, during the login.
        let server = login::shake_hands(&mut self.waiter, &mut socket)
            .and_then(|()| login::log_in(&mut self.waiter, &mut socket, &self.login))
            .map_err(|failure| self.tls_failure(failure, host, &socket))?;
        Ok(LoggedIn { socket, server })
    }

    /// Returns the name that the broker's certificate has to be for.
    fn certificate_name<'h>(&'h self, host: &'h Host) -> &'h str {
        match &self.connector.broker.tls.server_name.value {
            Some(name) => name.as_str(),
            None => host.name(),
        }
    }

    /// Turns a failure of the connection into one of TLS if TLS has caused it.
    fn tls_failure(&self, failure: LoginFailure, host: &Host, socket: &Socket) -> LoginFailure {
        let (Some(client), LoginFailure::Io(step, _)) = (&self.tls, &failure) else {
            return failure;
        };
        let first = socket.stream().first_bytes();
        if *step == Step::Tls && first.starts_with(b"AMQP") {
            let why = "that port uses AMQP without TLS".to_owned();
            return LoginFailure::Tls(TlsFault::PlainPort, why);
        }
        if *step == Step::Tls && !matches!(first, [] | [0x15 | 0x16, 3, ..]) {
            return LoginFailure::Tls(TlsFault::PlainPort, login::describe_peer(first));
        }
        match socket.stream().tls_error() {
            Some(error) => {
                let (fault, why) = client.fault(error, self.certificate_name(host));
                LoginFailure::Tls(fault, why)
            }
            None => failure,
        }
    }

    /// Notes why an address failed.
    ///
    /// # Errors
    /// The failure itself if no other address can do better.
    fn note_failure(
        &mut self,
        failure: LoginFailure,
        host: &Host,
        address: SocketAddr,
        elapsed: Duration,
    ) -> Result<(), Error> {
        match failure {
            LoginFailure::Stopped(error) => return Err(error),
            LoginFailure::TooLong(length) => {
                let text = format!(
                    "it closed the connection without an error after a login of {length} bytes, most of \
                     them password or token"
                );
                let code = FRAME_ERROR;
                return Err(self.refused(host, ReplyText { code, text }));
            }
            LoginFailure::Refused(mut reply) => {
                reply.text = text::one_line(&reply.text);
                let error = self.refused(host, reply);
                if !error.is_transient() {
                    return Err(error);
                }
                self.add_failure(error.to_string(), None);
            }
            LoginFailure::Unusable(why) => self.add_failure(format!("{why} ({address})"), None),
            LoginFailure::Tls(fault, why) => {
                self.add_failure(format!("{why} ({address})"), Some(fault));
            }
            LoginFailure::Io(_, source) if is_exhaustion(&source) => {
                return Err(Error::System {
                    what: "connect",
                    source,
                });
            }
            LoginFailure::Io(step, error) => {
                let why = describe_io_error(step, &error, self.tls.is_some(), elapsed);
                self.add_failure(format!("{why} ({address})"), None);
            }
        }
        Ok(())
    }

    fn add_failure(&mut self, reason: String, tls_fault: Option<TlsFault>) {
        self.failures.push(AddressFailure { reason, tls_fault });
    }

    fn refused(&self, host: &Host, reply: ReplyText) -> Error {
        let broker = &self.connector.broker;
        Error::LoginRefused {
            broker: broker.at(host),
            username: broker.username.value.clone(),
            has_password: broker.password.origin != Origin::Default,
            code: reply.code,
            said: reply.text,
        }
    }

    /// Returns the error for an attempt of which every address failed.
    fn into_error(mut self) -> Error {
        if self.failures.is_empty() {
            self.add_failure("the host name has no address".to_owned(), None);
        }
        // Failures other than those of TLS may be temporary.
        let is_tls = self.failures.iter().all(|it| it.tls_fault.is_some());
        let fault = self.failures[0].tls_fault.filter(|_| is_tls);
        let reasons: Vec<_> = self.failures.into_iter().map(|it| it.reason).collect();
        let reason = reasons.join("; ");
        let broker = &self.connector.broker;
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

impl From<ConnectFailure> for LoginFailure {
    fn from(failure: ConnectFailure) -> Self {
        match failure {
            ConnectFailure::TimedOut => Self::Io(Step::Connect, io::ErrorKind::TimedOut.into()),
            ConnectFailure::Io(error) => Self::Io(Step::Connect, error),
            ConnectFailure::Stopped(error) => Self::Stopped(error),
        }
    }
}

fn describe_io_error(
    step: Step,
    error: &io::Error,
    is_over_tls: bool,
    elapsed: Duration,
) -> String {
    let during = match step {
        // The system's errors say that it was connecting.
        Step::Connect if error.kind() != io::ErrorKind::TimedOut => String::new(),
        step => format!(" while {step}"),
    };
    // A peer of another protocol, or one that refuses a certificate, may hang up without an answer.
    let guess = match (step, error.kind()) {
        (_, io::ErrorKind::TimedOut) => "",
        (Step::Tls, _) => "; does that port use TLS?",
        (Step::Greeting, _) if is_over_tls => {
            "; does it require a client certificate, or a different one?"
        }
        (Step::Greeting, _) => "; does that port use TLS (amqps)?",
        _ => "",
    };
    match error.kind() {
        io::ErrorKind::TimedOut => {
            let elapsed = text::rounded(elapsed);
            format!("no answer within {elapsed}{during}")
        }
        io::ErrorKind::UnexpectedEof => format!("it closed the connection{during}{guess}"),
        _ => format!("{}{during}{guess}", reason(error)),
    }
}

/// Returns the connection's name, such as `hello-mq 0.1.0 send, host, pid 42`.
fn connection_name(verb: &str) -> String {
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

/// A connection to the broker after the login.
pub struct Session {
    pub(super) connection: Connection,
    /// RabbitMQ's series, such as (4, 0); `None` for another product.
    pub(super) series: Option<(u32, u32)>,
    /// The kind of the queue that is consumed from, once it is known.
    pub(super) queue_kind: Option<QueueKind>,
    /// Whether that queue is deleted with its last consumer, once its kind is known.
    pub(super) is_queue_auto_delete: bool,
    /// The client library, once it is started.
    library: Option<Library>,
    /// The request that was sent with the login, until its answer is waited for.
    first_request: Vec<u8>,
    connector: Connector,
}

impl Session {
    /// Returns the broker's URL without the password.
    #[must_use]
    pub fn name(&self) -> &str {
        self.connection.name()
    }

    /// Tells the user something.
    pub(super) fn note(&self, text: &str) {
        self.connector.messenger.note(text);
    }

    pub(super) fn username(&self) -> &str {
        &self.connector.broker.username.value
    }

    /// Opens another connection to the same broker, with an interrupt and a deadline of its own.
    pub(super) fn open_another(
        &self,
        interrupt: &Interrupt,
        deadline: Instant,
    ) -> Result<Session, Error> {
        let connector = Connector {
            interrupt: interrupt.clone(),
            deadline: Some(deadline),
            ..self.connector.clone()
        };
        connector.declaring(false).open_once(true, &[])
    }

    /// Replaces this connection, which the broker has closed.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        *self = self.connector.open_once(true, &[])?;
        Ok(())
    }

    /// Replaces this connection if the broker has closed it, as it does after some refusals.
    pub(crate) fn reopen_if_closed(&mut self) -> Result<(), Error> {
        if self.connection.is_open() {
            return Ok(());
        }
        self.reopen()
    }

    /// Sends a request on the channel for messages, which has no other use meanwhile, and waits for its
    /// answer. A request that was sent with the login is not sent again. `operation` describes it, such as
    /// `declare queue 'hello'`.
    ///
    /// # Errors
    /// [`Error::Refused`] in the broker's words; [`Error::Lost`], [`Error::Interrupted`] and
    /// [`Error::TimeIsUp`].
    pub(super) fn request(
        &mut self,
        operation: &str,
        request: &[u8],
        answer: Method,
    ) -> Result<(), Error> {
        if std::mem::take(&mut self.first_request) != request {
            let socket = self.connection.socket();
            socket.open_channel();
            socket.send_on_channel(request);
        }
        self.connection
            .wait_for_answer(operation, |socket| socket.take_answer(answer))
    }

    /// Runs a call of the client library on its channel, and waits for the result. `operation` describes it,
    /// such as `declare queue 'hello'`.
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
        let result = self.connection.wait_for_answer(operation, |socket| {
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
            // The library is unusable after an answer that it does not understand.
            other => {
                info!("the client library: {other}");
                self.protocol_error(operation)
            }
        })
    }

    /// Ends the connection because of an answer that is not valid, and returns the error.
    pub(super) fn protocol_error(&mut self, operation: &str) -> Error {
        self.connection.protocol_error(operation)
    }

    /// Warns of the parts of a received message that cannot be read.
    pub(super) fn warn_if_incomplete(&self, message: &Message) {
        if let Some(problem) = &message.incomplete {
            let note = format!("part of a message can't be decoded and is left out: {problem}");
            warn!("{note}");
            self.note(&note);
        }
    }

    /// Closes the connection, within a second. All requests before it have been answered, so it does not
    /// matter whether the broker answers this one.
    pub fn close(mut self) {
        if let Err(error) = self.connection.close(GRACE) {
            info!("{error}");
        }
    }
}
