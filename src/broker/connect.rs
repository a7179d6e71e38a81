//! From a host's name to a socket on which the login is done, within one time-out.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use log::{debug, info};

use super::handshake::{self, Failure, Heard, Login};
use crate::error::{Error, reason};
use crate::settings::Broker;
use crate::text;

/// A socket on which the login is done.
pub struct Connected {
    /// The broker's URL without the password: which of several it is.
    pub broker: String,
    pub socket: TcpStream,
    pub heard: Heard,
}

/// Tries each host in order, and of each host each address, until one lets us log in. They share
/// the time.
///
/// # Errors
/// [`Error::Unreachable`] with what failed at each address, [`Error::LoginRefused`] in the broker's
/// words if user, password or virtual host are not good: no other host will have them then.
pub fn connect(broker: &Broker, client: &str) -> Result<Connected, Error> {
    let deadline = Instant::now() + broker.connect_timeout.value.get();
    let hosts = &broker.hosts.value;
    let mut failed = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let until = share(deadline, hosts.len() - index);
        let addresses = match (host.name(), broker.port_of(host)).to_socket_addrs() {
            Ok(addresses) => addresses.collect::<Vec<_>>(),
            Err(error) => {
                let name = text::escape(host.name());
                failed.push(format!(
                    "the host's name is not known: {} ({name})",
                    reason(&error)
                ));
                continue;
            }
        };
        for (index, address) in addresses.iter().enumerate() {
            debug!("connecting to {address}");
            let start = Instant::now();
            match log_in(
                address,
                share(until, addresses.len() - index),
                broker,
                client,
            ) {
                Ok((socket, heard)) => {
                    let broker = broker.at(host);
                    info!("logged in to {broker} at {address}");
                    return Ok(Connected {
                        broker,
                        socket,
                        heard,
                    });
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
                    failed.push(error.to_string());
                }
                Err(Failure::NotAmqp(why)) => failed.push(format!("{why} ({address})")),
                Err(Failure::Io(step, error)) => {
                    failed.push(why(step, &error, start.elapsed(), address));
                }
            }
        }
    }
    if failed.is_empty() {
        failed.push("the host's name has no address".to_owned());
    }
    Err(unreachable(broker, failed.join("; ")))
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

fn log_in(
    address: &SocketAddr,
    deadline: Instant,
    broker: &Broker,
    client: &str,
) -> Result<(TcpStream, Heard), Failure> {
    let at_start = |error| Failure::Io(None, error);
    let left = deadline
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    let socket = TcpStream::connect_timeout(address, left).map_err(at_start)?;
    // One message outstanding would wait for the peer's delayed acknowledgement: 40 ms each.
    socket.set_nodelay(true).map_err(at_start)?;
    let heard = handshake::log_in(
        &mut Bounded {
            socket: &socket,
            deadline,
        },
        &Login {
            username: &broker.username.value,
            password: broker.password.value.expose(),
            vhost: broker.vhost.value.as_str(),
            heartbeat: broker.heartbeat.value.seconds(),
            client,
        },
    )?;
    socket.set_read_timeout(None).map_err(at_start)?;
    socket.set_write_timeout(None).map_err(at_start)?;
    Ok((socket, heard))
}

fn why(
    step: Option<handshake::Step>,
    error: &io::Error,
    waited: Duration,
    address: &SocketAddr,
) -> String {
    let step = step
        .map(|step| format!(" while {step}"))
        .unwrap_or_default();
    match error.kind() {
        io::ErrorKind::TimedOut => {
            format!(
                "no answer within {}{step} ({address})",
                text::rounded(waited)
            )
        }
        io::ErrorKind::UnexpectedEof => format!("it closed the connection{step} ({address})"),
        _ => format!("{}{step} ({address})", reason(error)),
    }
}

/// A socket that fails with `TimedOut` once a moment has passed, however slowly bytes trickle in.
struct Bounded<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

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
        self.socket.read(buffer).map_err(timed_out)
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
