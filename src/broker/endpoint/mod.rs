//! From a host's name to a stream: addresses, TCP, TLS.

mod stream;
pub(crate) mod tls;

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

use super::wait::{
    Announcement, GRACE, OnInterrupt, PollSource, SilenceTimer, Wait, WaitEnd, Waiter,
};
use crate::error::Error;
use crate::settings::Broker;
use crate::values::Host;
use crate::waker;
pub(crate) use stream::BrokerStream;

/// Waits during one attempt to connect.
pub(crate) struct ConnectWaiter<'a> {
    pub(crate) waiter: &'a mut Waiter,
    pub(crate) deadline: Instant,
    pub(crate) silence: &'a mut SilenceTimer,
    pub(crate) broker: &'a Broker,
}

impl ConnectWaiter<'_> {
    /// Processes `source` until `check` returns something. Returns `None` if the deadline passes or the
    /// source closes before that.
    ///
    /// # Errors
    /// [`Error::Interrupted`] and [`Error::TimeIsUp`].
    pub(crate) fn wait<S: PollSource, T>(
        &mut self,
        source: &mut S,
        check: impl FnMut(&mut S) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let broker = self.broker;
        let deadline = self
            .waiter
            .deadline()
            .map_or(self.deadline, |deadline| deadline.min(self.deadline));
        let text = || format!("connecting to {broker}");
        let wait = Wait {
            deadline: Some(deadline),
            on_interrupt: OnInterrupt::Return,
            announcement: Some(Announcement {
                timer: &mut *self.silence,
                text: &text,
            }),
        };
        match self.waiter.wait(source, wait, check) {
            Ok(result) => Ok(Some(result)),
            Err(WaitEnd::Interrupted) => {
                Err(Error::Interrupted(format!("while connecting to {broker}")))
            }
            Err(WaitEnd::TimedOut | WaitEnd::GraceOver) if self.waiter.is_time_up() => {
                Err(Error::TimeIsUp)
            }
            Err(WaitEnd::TimedOut | WaitEnd::GraceOver | WaitEnd::Closed) => Ok(None),
        }
    }
}

/// The reason why there is no address or no connection.
pub(crate) enum ConnectFailure {
    /// The deadline has passed.
    TimedOut,
    /// The system reports an error.
    Io(io::Error),
    /// The user does not want to wait any longer.
    Stopped(Error),
}

impl From<Error> for ConnectFailure {
    fn from(error: Error) -> Self {
        Self::Stopped(error)
    }
}

impl From<io::Error> for ConnectFailure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Finds the addresses of a host. The system's look-up has no time limit, so it runs in a thread, which is
/// left to itself after the deadline.
pub(crate) fn resolve(
    waiter: &mut ConnectWaiter,
    host: &Host,
) -> Result<Vec<SocketAddr>, ConnectFailure> {
    let (name, port) = (host.name().to_owned(), waiter.broker.port_of(host));
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, receiver) = waker::unbounded();
    receiver.add_waker(waiter.waiter.waker());
    let look_up = move || {
        let addresses = (name.as_str(), port).to_socket_addrs();
        let _ = sender.send(addresses.map(Iterator::collect));
    };
    thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(look_up)
        .map_err(Error::thread)?;
    // The system's own timeout may say more.
    waiter.deadline += GRACE;
    let addresses = waiter.wait(&mut (), |()| receiver.try_recv().ok());
    waiter.deadline -= GRACE;
    Ok(addresses?.ok_or(ConnectFailure::TimedOut)??)
}

/// Connects to an address.
pub(crate) fn connect_to(
    waiter: &mut ConnectWaiter,
    address: SocketAddr,
) -> Result<TcpStream, ConnectFailure> {
    let mut connecting = Connecting::start(address)?;
    let connected = waiter.wait(&mut connecting, |connecting| connecting.outcome.take())?;
    connected.ok_or(ConnectFailure::TimedOut)??;
    // With Nagle's algorithm a single message would wait 40 ms for the peer's delayed acknowledgement.
    connecting.socket.set_nodelay(true)?;
    Ok(connecting.socket)
}

/// Keeps commands that start at the same time from inheriting the socket, where the system can.
#[cfg(not(target_vendor = "apple"))]
const SOCKET_FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC;
#[cfg(target_vendor = "apple")]
const SOCKET_FLAGS: SockFlag = SockFlag::empty();

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
        let socket = socket(family, SockType::Stream, SOCKET_FLAGS, None)?;
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

    fn process(&mut self, is_ready: bool) {
        if is_ready {
            self.outcome = Some(match self.socket.take_error() {
                Ok(None) => Ok(()),
                Ok(Some(error)) | Err(error) => Err(error),
            });
        }
    }
}

/// Returns the end of the first of `count` equal shares of the time until `deadline`.
pub(crate) fn first_share(deadline: Instant, count: usize) -> Instant {
    let now = Instant::now();
    let left = deadline.saturating_duration_since(now);
    let share = left / u32::try_from(count).unwrap_or(u32::MAX);
    now + share.max(Duration::from_millis(1))
}
