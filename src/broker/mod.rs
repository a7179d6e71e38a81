//! The broker: the only modules that use the client library and sockets.
//!
//! Each module uses those before it: [`wait`] is where all of them wait; `endpoint` opens a stream to the
//! broker; `connection` owns its socket; `login` logs in; `library` is the client library on a stream in
//! memory; a [`Session`] has all of these. On a session, [`topology`] declares queues, [`publish`] sends messages and
//! [`consume`] receives them. A [`Connector`] opens and reopens sessions.

mod connection;
pub(crate) mod consume;
mod endpoint;
mod frames;
mod library;
mod login;
#[cfg(test)]
mod peer;
pub(crate) mod publish;
mod reconnect;
mod session;
pub(crate) mod topology;
mod wait;

pub use publish::window::{PublishOutcome, Window};
pub(crate) use reconnect::Retry;
pub use session::{Connector, Session};
pub use topology::difference;
