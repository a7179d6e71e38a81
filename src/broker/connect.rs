//! From a host's name to a socket on which the login is done, within one time-out.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use log::{debug, info};
use rustls::ClientConnection;

use super::handshake::{self, Failure, Heard, Login, Step};
use super::tls::{self, Client};
use crate::error::{Error, TlsFault, reason};
use crate::settings::Broker;
use crate::text;
use crate::values::{Host, Secret};

/// A socket on which the login is done.
pub struct Connected {
    /// The broker's URL without the password: which of several it is.
    pub broker: String,
    pub socket: TcpStream,
    /// What encrypts, if something does.
    pub tls: Option<Box<ClientConnection>>,
    pub heard: Heard,
}

/// Tries each host in order, and of each host each address, until one lets us log in. They share
/// the time.
///
/// # Errors
/// [`Error::Unreachable`] with what failed at each address; [`Error::LoginRefused`] in the broker's
/// words if user, password or virtual host are not good: no other host will have them then;
/// [`Error::Tls`] if nothing but TLS failed.
pub fn connect(broker: &Broker, password: &Secret, client: &str) -> Result<Connected, Error> {
    let begun = Instant::now();
    let deadline = begun + broker.connect_timeout.value.get();
    let attempt = Attempt {
        broker,
        tls: if broker.tls.enabled.value {
            Some(Client::new(&broker.tls)?)
        } else {
            None
        },
        login: Login {
            mechanisms: broker.mechanisms(),
            username: &broker.username.value,
            password: password.expose(),
            vhost: broker.vhost.value.as_str(),
            heartbeat: broker.heartbeat.value.seconds(),
            client,
        },
    };
    let hosts = &broker.hosts.value;
    let mut failed = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let until = share(deadline, hosts.len() - index);
        let addresses = match (host.name(), broker.port_of(host)).to_socket_addrs() {
            Ok(addresses) => addresses.collect::<Vec<_>>(),
            Err(error) => {
                let name = text::escape(host.name());
                let reason = reason(&error);
                failed.push((
                    format!("the host's name is not known: {reason} ({name})"),
                    None,
                ));
                continue;
            }
        };
        for (index, address) in addresses.iter().enumerate() {
            debug!("connecting to {address}");
            // What went before the first is part of its time.
            let start = if failed.is_empty() {
                begun
            } else {
                Instant::now()
            };
            match attempt.at(host, address, share(until, addresses.len() - index)) {
                Ok(connected) => {
                    info!("logged in to {} at {address}", connected.broker);
                    return Ok(connected);
                }
                Err(Failure::Refused { code, said }) => {
                    let error = Error::LoginRefused {
                        broker: broker.at(host),
                        code,
                        said: text::one_line(&said),
                    };
                    if !error.is_transient() {
                        return Err(error);
                    }
                    failed.push((error.to_string(), None));
                }
                Err(Failure::NotAmqp(why)) => failed.push((format!("{why} ({address})"), None)),
                Err(Failure::Tls(fault, why)) => {
                    failed.push((format!("{why} ({address})"), Some(fault)));
                }
                Err(Failure::Io(step, error)) => {
                    let over_tls = attempt.tls.is_some();
                    let why = why(step, &error, over_tls, start.elapsed(), address);
                    failed.push((why, None));
                }
            }
        }
    }
    if failed.is_empty() {
        failed.push(("the host's name has no address".to_owned(), None));
    }
    // What is not TLS's fault may get better by waiting.
    let is_tls = failed.iter().all(|(_, fault)| fault.is_some());
    let fault = failed[0].1.filter(|_| is_tls);
    let reasons: Vec<_> = failed.into_iter().map(|(reason, _)| reason).collect();
    let reason = reasons.join("; ");
    Err(match fault {
        Some(fault) => Error::Tls {
            broker: broker.to_string(),
            reason,
            fault,
        },
        None => unreachable(broker, reason),
    })
}

/// The error of a broker that can't be reached, with where its address was set.
pub fn unreachable(broker: &Broker, reason: String) -> Error {
    Error::Unreachable {
        broker: broker.to_string(),
        reason,
        origin: format!("host {}, port {}", broker.hosts.origin, broker.port.origin),
    }
}

/// The end of the first of so many equal shares of the time that is left.
fn share(deadline: Instant, shares: usize) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / u32::try_from(shares).unwrap_or(u32::MAX)
}

/// What is the same at each address.
struct Attempt<'a> {
    broker: &'a Broker,
    tls: Option<Client>,
    login: Login<'a>,
}

impl Attempt<'_> {
    fn at(
        &self,
        host: &Host,
        address: &SocketAddr,
        deadline: Instant,
    ) -> Result<Connected, Failure> {
        let at_start = |error| Failure::Io(Step::Connect, error);
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        let socket = TcpStream::connect_timeout(address, left).map_err(at_start)?;
        // One message outstanding would wait for the peer's delayed acknowledgement: 40 ms each.
        socket.set_nodelay(true).map_err(at_start)?;
        let mut bounded = Bounded {
            socket: &socket,
            deadline,
            first: Vec::new(),
        };
        let (tls, heard) = match &self.tls {
            None => (None, handshake::log_in(&mut bounded, &self.login)?),
            Some(client) => {
                let (tls, heard) = self.over_tls(client, host, &mut bounded)?;
                (Some(tls), heard)
            }
        };
        socket.set_read_timeout(None).map_err(at_start)?;
        socket.set_write_timeout(None).map_err(at_start)?;
        Ok(Connected {
            broker: self.broker.at(host),
            socket,
            tls,
            heard,
        })
    }

    fn over_tls(
        &self,
        client: &Client,
        host: &Host,
        bounded: &mut Bounded,
    ) -> Result<(Box<ClientConnection>, Heard), Failure> {
        let settings = &self.broker.tls;
        let name = match &settings.server_name.value {
            Some(name) => name.as_str(),
            None => host.name(),
        };
        let mut connection = client.shake_hands(bounded, name).map_err(|error| {
            let is_tls = matches!(bounded.first.as_slice(), [] | [0x15 | 0x16, 3, ..]);
            match client.fault(&error, name) {
                _ if bounded.first.starts_with(b"AMQP") => Failure::Tls(
                    TlsFault::NotThere,
                    "it speaks AMQP without TLS there".to_owned(),
                ),
                _ if !is_tls => {
                    Failure::Tls(TlsFault::NotThere, handshake::stranger(&bounded.first))
                }
                Some((fault, why)) => Failure::Tls(fault, why),
                None => Failure::Io(Step::Tls, error),
            }
        })?;
        debug!("TLS: {:?}", connection.protocol_version());
        let result = handshake::log_in(
            &mut rustls::Stream::new(&mut *connection, bounded),
            &self.login,
        );
        // In TLS 1.3 the broker looks at our certificate when our handshake is done.
        let heard = result.map_err(|failure| match failure {
            Failure::Io(step, error) => {
                let error = tls::last_words(&mut connection, bounded, error);
                match client.fault(&error, name) {
                    Some((fault, why)) => Failure::Tls(fault, why),
                    None => Failure::Io(step, error),
                }
            }
            other => other,
        })?;
        Ok((connection, heard))
    }
}

fn why(
    step: Step,
    error: &io::Error,
    over_tls: bool,
    waited: Duration,
    address: &SocketAddr,
) -> String {
    let while_ = match step {
        // What else should have been going on?
        Step::Connect if error.kind() != io::ErrorKind::TimedOut => String::new(),
        step => format!(" while {step}"),
    };
    // Who does not understand, or does not like what is shown, may hang up without an answer.
    let what_if = match (step, error.kind()) {
        (_, io::ErrorKind::TimedOut | io::ErrorKind::InvalidInput) => "",
        (Step::Tls, _) => "; is TLS spoken there?",
        (Step::Greeting, _) if over_tls => "; does it want a client's certificate, or another one?",
        (Step::Greeting, _) => "; is TLS spoken there (amqps)?",
        _ => "",
    };
    match error.kind() {
        io::ErrorKind::TimedOut => {
            let waited = text::rounded(waited);
            format!("no answer within {waited}{while_} ({address})")
        }
        io::ErrorKind::UnexpectedEof => {
            format!("it closed the connection{while_}{what_if} ({address})")
        }
        _ => format!("{}{while_}{what_if} ({address})", reason(error)),
    }
}

/// A socket that fails with `TimedOut` once a moment has passed, however slowly bytes trickle in.
struct Bounded<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
    /// The first bytes that came, by which a stranger is known.
    first: Vec<u8>,
}

/// So many bytes are enough for that.
const ENOUGH: usize = 8;

impl Bounded<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

/// Unix reports a socket's time-out as `WouldBlock`.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        let length = self.socket.read(buffer).map_err(timed_out)?;
        let wanted = length.min(ENOUGH.saturating_sub(self.first.len()));
        self.first.extend_from_slice(&buffer[..wanted]);
        Ok(length)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
