//! The broker: the only room that knows the client library and its sockets.
//!
//! From the ground up: [`wait`] is the one wait; `endpoint` gets a stream to the broker; `connection`
//! owns its socket; `login` logs in; `library` is the client library on a stream in memory; a
//! [`Session`] is all of that. On it, [`topology`] declares queues, [`publish`] sends messages and
//! [`consume`] receives them. [`Connector`] gets a session, and gets it back.

mod connection;
pub mod consume;
mod endpoint;
mod frames;
mod library;
mod login;
#[cfg(test)]
mod peer;
pub mod publish;
mod reconnect;
mod session;
pub mod topology;
mod wait;

pub use reconnect::Retry;
pub use session::{Connector, Session};
