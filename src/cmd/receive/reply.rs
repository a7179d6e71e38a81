//! `hello-mq receive --reply`: what a command prints goes to whoever asked.

use std::io;

use super::job::Done;
use super::outlet::Outlet;
use crate::broker::Connector;
use crate::broker::consume::Ticket;
use crate::broker::publish::Fate;
use crate::cmd::sending::{Ledger, Outgoing};
use crate::input::Place;
use crate::message::{Message, Properties, ShortString};
use crate::settings::Settings;
use crate::talk::Talk;
use crate::waker::Sender;

/// Where a reply goes to, and what it belongs to.
#[derive(Clone, Debug)]
pub struct Address {
    reply_to: String,
    correlation_id: Option<ShortString>,
}

impl Address {
    /// Where a request wants its reply; `None` if it wants none.
    pub fn of(request: &Message) -> Option<Self> {
        let properties = &request.properties;
        let reply_to = properties.reply_to.as_ref()?.as_str()?;
        Some(Self {
            reply_to: reply_to.to_owned(),
            correlation_id: properties.correlation_id.clone(),
        })
    }
}

/// Replies on their way.
pub struct Replies {
    outlet: Outlet,
}

impl Replies {
    /// Starts to send. What becomes of each reply is told to `done`.
    ///
    /// # Errors
    /// Those of the system, if it has no more threads.
    pub fn spawn(
        settings: &Settings,
        connector: Connector,
        talk: Talk,
        done: Sender<Done>,
    ) -> io::Result<Self> {
        let ledger = Sent {
            done: done.clone(),
            known: 0,
        };
        let failed = move |error| {
            let _ = done.send(Done::NoReplies(error));
        };
        Outlet::spawn(settings, connector, talk, ledger, failed).map(|outlet| Self { outlet })
    }

    /// Sends a reply for a request.
    pub fn send(&self, ticket: Ticket, address: Address, body: Vec<u8>) {
        let reply = Message {
            routing_key: address.reply_to,
            properties: Properties {
                correlation_id: address.correlation_id,
                ..Properties::default()
            },
            body,
            ..Message::default()
        };
        self.outlet.publish([(ticket, reply)]);
    }

    /// Closes the connection.
    pub fn close(self) {
        self.outlet.close();
    }
}

/// Tells what became of each reply.
struct Sent {
    done: Sender<Done>,
    known: u64,
}

impl Ledger for Sent {
    fn take(&mut self, _: &Outgoing) {}

    fn note(&mut self, message: &Outgoing, fate: &Fate) {
        let Place::Argument(ticket) = message.place else {
            return;
        };
        let returned = match fate {
            Fate::Refused => return,
            Fate::Confirmed => None,
            Fate::Returned(said) => Some(said.clone()),
        };
        self.known += 1;
        let _ = self.done.send(Done::Replied(ticket, returned));
    }

    fn known(&self) -> u64 {
        self.known
    }

    fn refused(&self) -> Vec<String> {
        vec!["a reply".to_owned()]
    }
}
