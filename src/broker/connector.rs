//! How to get a session, and how to get it back: hosts, time-outs and the one retry policy.

use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use amiquip::{
    Auth, Connection, ConnectionBlockedNotification, ConnectionOptions, ConnectionTuning,
};
use crossbeam_channel::{Receiver, after, at, bounded, never, select, unbounded};
use log::info;

use super::connect::{self, Connected};
use super::guard::{GRACE, Guard, Word};
use super::retry::Backoff;
use super::stream::{Link, LoggedIn};
use super::wire::{Watch, Wire};
use super::{Session, tls};
use crate::bell::Bell;
use crate::credentials;
use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::settings::Broker;
use crate::talk::Talk;
use crate::text;
use crate::values::{Mechanism, Secret, Span};

/// How long to connect in silence.
const SILENCE: Duration = Duration::from_secs(2);

/// How to get a session, and how to get it back.
#[derive(Clone)]
pub struct Connector {
    pub(super) broker: Broker,
    client: String,
    pub(super) interrupt: Interrupt,
    until: Option<Instant>,
    pub(super) talk: Talk,
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
        talk: &Talk,
    ) -> Self {
        Self {
            broker: broker.clone(),
            client: client(verb),
            interrupt: interrupt.clone(),
            until,
            talk: talk.clone(),
        }
    }

    /// The broker's URL without the password.
    #[must_use]
    pub fn broker(&self) -> String {
        self.broker.to_string()
    }

    /// Whether the moment at which everything ends has come.
    pub(super) fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Connects and logs in; where the user is willing to wait for a broker that is not up yet
    /// (`--wait`), again and again.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::LoginRefused`], or [`Error::Interrupted`] if the user did
    /// not wait.
    pub fn open(&self) -> Result<Session, Error> {
        let wait = self.broker.wait.value;
        let until = Instant::now().checked_add(wait.get());
        match self.try_open(Some(SILENCE)) {
            Err(error) if error.is_transient() && wait != Span::seconds(0) => {
                self.talk
                    .note(&format!("{error}; waiting for it, up to {wait}"));
                self.try_until(until, &mut Backoff::default())
            }
            result => result,
        }
    }

    /// Connects again after a connection was `lost`, and says so, until the moment `until`.
    ///
    /// # Errors
    /// [`Error::NotBack`]; [`Error::LoginRefused`] if it is for good; [`Error::Interrupted`].
    pub fn reopen(
        &self,
        lost: Error,
        until: Option<Instant>,
        backoff: &mut Backoff,
    ) -> Result<Session, Error> {
        let start = Instant::now();
        self.talk.note(&format!("{lost}; connecting again"));
        match self.try_until(until, backoff) {
            Ok(session) => {
                let name = &session.name;
                self.talk.note(&format!(
                    "connected to {name} again after {}",
                    text::rounded(start.elapsed())
                ));
                Ok(session)
            }
            Err(error) if error.is_transient() => Err(Error::NotBack {
                lost: Box::new(lost),
                patience: text::rounded(start.elapsed()),
                last: Box::new(error),
            }),
            Err(error) => Err(error),
        }
    }

    /// Opens a new connection right away, without waiting for a broker that is not up.
    pub(super) fn open_again(&self) -> Result<Session, Error> {
        self.try_open(Some(SILENCE))
    }

    fn try_until(&self, until: Option<Instant>, backoff: &mut Backoff) -> Result<Session, Error> {
        loop {
            let next = [
                Some(Instant::now() + backoff.next_delay()),
                until,
                self.until,
            ];
            let next = next.into_iter().flatten().min().map_or_else(never, at);
            select! {
                recv(next) -> _ => {}
                recv(self.interrupt.receiver()) -> _ => {
                    return Err(Error::Interrupted(format!("while waiting for {}", self.broker)));
                }
            }
            match self.try_open(None) {
                Err(error)
                    if error.is_transient() && until.is_none_or(|until| Instant::now() < until) =>
                {
                    info!("{error}");
                }
                result => return result,
            }
        }
    }

    fn try_open(&self, silence: Option<Duration>) -> Result<Session, Error> {
        let password = match self.broker.mechanisms() {
            [Mechanism::External] => Secret::default(),
            _ => credentials::password(&self.broker.password, &self.interrupt, &self.talk)?,
        };
        let (guard, words) = unbounded();
        let Established {
            name,
            connection,
            socket,
            wire,
            frame_max,
            ..
        } = self.establish_and_guard(password, silence, words)?;
        self.interrupt.rings(wire.bell());
        Ok(Session {
            connection: Some(connection),
            name,
            socket,
            wire,
            frame_max,
            spare: None,
            last: None,
            connector: self.clone(),
            guard,
        })
    }

    /// Connects in a thread of its own, so that nothing (a name server, least of all) can keep the
    /// user from leaving; the same thread then guards the connection.
    fn establish_and_guard(
        &self,
        password: Secret,
        silence: Option<Duration>,
        words: Receiver<Word>,
    ) -> Result<Established, Error> {
        let (sender, established) = bounded(1);
        let connector = self.clone();
        let thread = move || {
            let result = connect::connect(&connector.broker, &password, &connector.client)
                .and_then(|connected| Established::new(connected, &connector.broker));
            let guard = result.as_ref().ok().and_then(|established| {
                Some(Guard {
                    name: established.name.clone(),
                    socket: established.socket.try_clone().ok()?,
                    blocked: established.blocked.clone(),
                    interrupt: connector.interrupt.clone(),
                    until: connector.until,
                    talk: connector.talk.clone(),
                })
            });
            if sender.send(result).is_ok() {
                if let Some(guard) = guard {
                    guard.watch(&words);
                }
            }
        };
        thread::Builder::new()
            .name("guard".to_owned())
            .spawn(thread)
            .map_err(|error| Error::Bug(format!("cannot start a thread: {error}")))?;

        let timeout = self.broker.connect_timeout.value.get();
        // The thread bounds every step but the look-up of the name.
        let give_up = after(timeout + GRACE);
        let mut silence = silence.map_or_else(never, after);
        let over = self.until.map_or_else(never, at);
        loop {
            select! {
                recv(established) -> result => {
                    return result.unwrap_or_else(|_| Err(Error::Bug("the connecting thread died".to_owned())));
                }
                recv(self.interrupt.receiver()) -> _ => {
                    return Err(Error::Interrupted(format!("while connecting to {}", self.broker)));
                }
                recv(give_up) -> _ => {
                    let timeout = humantime::format_duration(timeout);
                    let why = format!("the host's name was not found within {timeout}");
                    return Err(connect::unreachable(&self.broker, why));
                }
                recv(over) -> _ => return Err(Error::TimeIsUp),
                recv(silence) -> _ => {
                    self.talk.note(&format!("connecting to {}", self.broker));
                    silence = never();
                }
            }
        }
    }
}

/// A connection in the client library's hands.
struct Established {
    name: String,
    connection: Connection,
    socket: TcpStream,
    wire: Arc<Wire<Link>>,
    frame_max: usize,
    blocked: Receiver<ConnectionBlockedNotification>,
}

impl Established {
    fn new(connected: Connected, broker: &Broker) -> Result<Self, Error> {
        let Connected {
            broker: name,
            socket,
            tls,
            heard,
        } = connected;
        // The broker may hang up at any moment, and the library then fails in many ways.
        let lost = |error: &dyn std::fmt::Display| {
            let error = text::one_line(&error.to_string());
            connect::unreachable(
                broker,
                format!("the connection ended right after the login: {error}"),
            )
        };
        let frame_max = heard.frame_max as usize;
        let stream = socket
            .set_nonblocking(true)
            .and_then(|()| {
                let link = match tls {
                    None => Link::Plain(socket.try_clone()?),
                    Some(tls) => Link::Tls(tls::Stream::new(socket.try_clone()?, tls)),
                };
                let watch = Watch::new(socket.try_clone()?)?;
                let reads_ahead = matches!(link, Link::Tls(_));
                Ok(LoggedIn::new(
                    link,
                    reads_ahead,
                    heard,
                    Some(watch),
                    Bell::new()?,
                ))
            })
            .map_err(|error| lost(&error))?;
        let wire = Arc::clone(stream.wire());
        // The login is done: the library is given neither user nor password.
        let options = ConnectionOptions::<Auth>::default()
            .auth(Auth::Plain {
                username: String::new(),
                password: String::new(),
            })
            .heartbeat(broker.heartbeat.value.seconds())
            .connection_timeout(Some(GRACE));
        let tuning = ConnectionTuning::default();
        let opened = Connection::insecure_open_stream(stream, options, tuning);
        let mut connection = opened.map_err(|error| lost(&error))?;
        info!("{}", about_broker(&connection));
        let blocked = connection
            .listen_for_connection_blocked()
            .map_err(|error| lost(&error))?;
        Ok(Self {
            name,
            connection,
            socket,
            wire,
            frame_max,
            blocked,
        })
    }
}

/// Who connects: `hello-mq 0.1.0 send, host, pid 42`.
fn client(verb: &str) -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown host".to_owned());
    format!(
        "hello-mq {} {verb}, {host}, pid {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    )
}

fn about_broker(connection: &Connection) -> String {
    let property = |name: &str| match connection.server_properties().get(name) {
        Some(amiquip::AmqpValue::LongString(text)) => text::one_line(text),
        _ => "?".to_owned(),
    };
    format!(
        "the broker is {} {}",
        property("product"),
        property("version")
    )
}
