//! From a host's name to a stream: addresses, TCP, TLS.

mod stream;
pub mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, socket,
};

use super::wait::{GRACE, OnInterrupt, PollSource, SilenceTimer, Wait, WaitEnd, Waiter};
use crate::error::Error;
use crate::settings::Broker;
use crate::values::Host;
use crate::waker;
pub use stream::BrokerStream;

/// What may end an attempt to connect besides its outcome.
pub struct ConnectLimits<'a> {
    /// When the attempt is over.
    pub deadline: Instant,
    /// How long it takes in silence, with what is said then.
    pub patience: &'a mut SilenceTimer,
    /// The broker, for what is said.
    pub broker: &'a Broker,
}

impl ConnectLimits<'_> {
    /// Keeps `source` going until `came` returns something. `None` means that the time is over.
    ///
    /// # Errors
    /// [`Error::Interrupted`] and [`Error::TimeIsUp`].
    pub fn wait<S: PollSource, T>(
        &mut self,
        waiter: &mut Waiter,
        source: &mut S,
        came: impl FnMut(&mut S) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let broker = self.broker;
        let announcement = || format!("connecting to {broker}");
        let until = waiter
            .until()
            .map_or(self.deadline, |until| until.min(self.deadline));
        let wait = Wait {
            until: Some(until),
            on_interrupt: OnInterrupt::Return,
            announcement: Some((&mut *self.patience, &announcement)),
        };
        match waiter.wait(source, wait, came) {
            Ok(it) => Ok(Some(it)),
            Err(WaitEnd::Interrupted) => {
                Err(Error::Interrupted(format!("while connecting to {broker}")))
            }
            Err(WaitEnd::Late | WaitEnd::GaveUp) if waiter.is_late() => Err(Error::TimeIsUp),
            Err(WaitEnd::Late | WaitEnd::GaveUp | WaitEnd::Over) => Ok(None),
        }
    }
}

/// Finds the addresses of a host. The system looks up a name for as long as it likes, so that is done
/// in a thread, which is left to itself when the time is over. `None` means that it is over.
///
/// # Errors
/// [`Error::Interrupted`] and [`Error::TimeIsUp`]. The inner error is the system's.
pub fn resolve(
    waiter: &mut Waiter,
    limits: &mut ConnectLimits,
    host: &Host,
) -> Result<Option<io::Result<Vec<SocketAddr>>>, Error> {
    let (name, port) = (host.name().to_owned(), limits.broker.port_of(host));
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(Some(Ok(vec![SocketAddr::new(address, port)])));
    }
    let (sender, found) = waker::unbounded();
    found.wakes(waiter.waker());
    let look_up = move || {
        let addresses = (name.as_str(), port).to_socket_addrs();
        let _ = sender.send(addresses.map(Iterator::collect));
    };
    thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(look_up)
        .map_err(Error::thread)?;
    // The system's own time-out may tell more than ours.
    limits.deadline += GRACE;
    let addresses = limits.wait(waiter, &mut (), |()| found.try_recv().ok());
    limits.deadline -= GRACE;
    addresses
}

/// Connects to an address. `None` means that the time is over.
///
/// # Errors
/// [`Error::Interrupted`] and [`Error::TimeIsUp`]. The inner error is the system's.
pub fn connect_to(
    waiter: &mut Waiter,
    limits: &mut ConnectLimits,
    address: SocketAddr,
) -> Result<Option<io::Result<TcpStream>>, Error> {
    let mut connecting = match Connecting::start(address) {
        Ok(connecting) => connecting,
        Err(error) => return Ok(Some(Err(error))),
    };
    let connected = limits.wait(waiter, &mut connecting, |connecting| {
        connecting.outcome.take()
    });
    Ok(connected?.map(|outcome| outcome.and_then(|()| prepared(connecting.socket))))
}

fn prepared(socket: TcpStream) -> io::Result<TcpStream> {
    // One message outstanding would wait for the peer's delayed acknowledgement: 40 ms each.
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A command that starts at the same time must not inherit the socket. Not every system can make one so.
#[cfg(not(target_vendor = "apple"))]
const CLOSED_FOR_COMMANDS: SockFlag = SockFlag::SOCK_CLOEXEC;
#[cfg(target_vendor = "apple")]
const CLOSED_FOR_COMMANDS: SockFlag = SockFlag::empty();

/// A socket that is being connected.
struct Connecting {
    socket: TcpStream,
    outcome: Option<io::Result<()>>,
}

impl Connecting {
    fn start(address: SocketAddr) -> io::Result<Self> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let socket = socket(family, SockType::Stream, CLOSED_FOR_COMMANDS, None)?;
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let socket = TcpStream::from(socket);
        socket.set_nonblocking(true)?;
        let connected = match address {
            SocketAddr::V4(address) => connect(socket.as_raw_fd(), &SockaddrIn::from(address)),
            SocketAddr::V6(address) => connect(socket.as_raw_fd(), &SockaddrIn6::from(address)),
        };
        let outcome = match connected {
            Ok(()) => Some(Ok(())),
            Err(Errno::EINPROGRESS | Errno::EINTR) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { socket, outcome })
    }
}

impl PollSource for Connecting {
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        Some((self.socket.as_fd(), PollFlags::POLLOUT))
    }

    fn turn(&mut self, is_ready: bool) {
        if is_ready {
            self.outcome = Some(match self.socket.take_error() {
                Ok(None) => Ok(()),
                Ok(Some(error)) | Err(error) => Err(error),
            });
        }
    }
}

/// The end of the first of so many equal shares of the time that is left.
pub fn share(deadline: Instant, shares: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let share = left / u32::try_from(shares).unwrap_or(u32::MAX);
    now + share.max(Duration::from_millis(1))
}
