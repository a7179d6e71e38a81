//! Making sure of a queue before messages are sent or received.
//!
//! That happens on the channel for messages, which is open anyway, and with frames of our own: so it can
//! go with the login, and takes neither a round trip, nor a second channel, nor the client library's
//! threads.

use super::kind;
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::{Connector, Session};
use crate::error::{self, Error};
use crate::message::ShortString;
use crate::topology::Queue;
use crate::values::QueueName;

/// The same way to the broker, but that a queue is declared with the first login, if one is given. What
/// is done with that session then begins with [`ensure`] or [`keep`].
#[must_use]
pub fn begin(connector: Connector, queue: Option<&Queue>) -> Connector {
    connector.beginning_with(queue.map(declaration).unwrap_or_default())
}

/// Makes sure that a queue exists, as the tutorial does before it sends or receives: declares it
/// with its properties. A queue that exists with others is used as it is; where the user may not
/// declare, so is one that exists; where the broker takes no transient queue any more, a durable
/// one is made.
///
/// # Errors
/// [`Error::Refused`] in the broker's words if the queue does not exist and can't be made.
pub fn ensure(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let Some(name) = &queue.name else {
        return Err(Error::Bug("a queue without a name is used".to_owned()));
    };
    match declare(session, queue) {
        Err(Error::Refused { said, .. }) if error::is_transient_refusal(&said) => {
            session.reopen()?;
            ensure_durable(session, name, queue)
        }
        Ok(()) => {
            session.queue = kind::of_declared(queue);
            Ok(())
        }
        refused => exists_anyway(session, name, refused),
    }
}

/// As [`ensure`], over one connection after the other: `was_there` remembers whether the queue was
/// made sure of before.
///
/// # Errors
/// As [`ensure`].
pub fn keep(session: &mut Session, queue: &Queue, was_there: &mut bool) -> Result<(), Error> {
    if *was_there {
        return ensure_again(session, queue);
    }
    ensure(session, queue)?;
    *was_there = true;
    Ok(())
}

/// As [`ensure`], for a queue that was there on a connection that is lost. If it is gone with its
/// broker, as a queue is that is not durable, so is what was in it, and that is said.
fn ensure_again(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let Some(name) = &queue.name else {
        return ensure(session, queue);
    };
    match look_up(session, name) {
        Ok(()) => return Ok(()),
        Err(error @ Error::Refused { code: 404, .. }) if !error.is_transient() => {
            session.note(&format!(
                "queue {name} and its messages are lost; declaring it again (a durable queue survives a \
                 restart of the broker)"
            ));
        }
        // It is made sure of in the other way.
        Err(_) => {}
    }
    ensure(session, queue)
}

fn ensure_durable(session: &mut Session, name: &QueueName, queue: &Queue) -> Result<(), Error> {
    let durable = Queue {
        durable: true,
        ..queue.clone()
    };
    let declared = declare(session, &durable);
    let made = declared.is_ok();
    exists_anyway(session, name, declared)?;
    if made {
        session.note(&format!(
            "{} does not permit non-durable queues; declaring queue {name} durable",
            session.name()
        ));
    }
    Ok(())
}

/// Turns the refusal to declare a queue into success if the queue exists nevertheless.
fn exists_anyway(
    session: &mut Session,
    queue: &QueueName,
    declared: Result<(), Error>,
) -> Result<(), Error> {
    const NOT_PERMITTED: u16 = 403;
    const RESOURCE_LOCKED: u16 = 405;
    const PRECONDITION_FAILED: u16 = 406;
    match declared {
        Err(
            refusal @ Error::Refused {
                code: NOT_PERMITTED | RESOURCE_LOCKED | PRECONDITION_FAILED,
                ..
            },
        ) => {
            match look_up(session, queue) {
                // Another connection may have it for itself, or the user may not even ask after it
                // (from RabbitMQ 4.3 on, who has no right on it may not): whether it can be used in
                // spite of that shows when it is.
                Ok(())
                | Err(Error::Refused {
                    code: NOT_PERMITTED | RESOURCE_LOCKED,
                    ..
                }) => Ok(()),
                Err(Error::Refused { .. }) => Err(refusal),
                Err(error) => Err(error),
            }
        }
        other => other,
    }
}

/// Declares a queue: it is made if it does not exist, and confirmed if it exists with exactly these
/// properties.
fn declare(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let operation = format!("declare queue {queue}");
    session.ask(&operation, &declaration(queue), frames::QUEUE_DECLARE_OK)
}

/// Asks after a queue without changing anything.
fn look_up(session: &mut Session, queue: &QueueName) -> Result<(), Error> {
    let operation = format!("look up queue {queue}");
    let request = frames::look_up(MESSAGES, queue.as_str());
    session.ask(&operation, &request, frames::QUEUE_DECLARE_OK)
}

fn declaration(queue: &Queue) -> Vec<u8> {
    let name = queue.name.as_ref().map_or("", QueueName::as_str);
    let arguments = queue.arguments.iter();
    let arguments = arguments.filter_map(|(name, value)| {
        // It fits: what is longer is refused where it is read.
        let name = ShortString::new(name.as_str()).ok()?;
        Some((name, value.clone()))
    });
    let arguments = arguments.collect();
    frames::declare(MESSAGES, name, queue.durable, queue.auto_delete, &arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::frames::{
        CHANNEL_OPEN, CHANNEL_OPEN_OK, FRAME_HEADER, Fields, FrameHeader, Method, PROTOCOL_HEADER,
        QUEUE_DECLARE, QUEUE_DECLARE_OK, method_frame,
    };
    use crate::broker::peer;
    use crate::interrupt::Interrupt;
    use crate::messenger::Messenger;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    fn read_frame(client: &mut TcpStream) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER];
        client.read_exact(&mut frame).unwrap();
        frame.resize(FrameHeader::read(&frame).unwrap().frame_size(), 0);
        client.read_exact(&mut frame[FRAME_HEADER..]).unwrap();
        frame
    }

    fn method(frame: &[u8]) -> Method {
        Fields(&frame[FRAME_HEADER..]).method().unwrap()
    }

    /// Says `before`, hears the client out up to a declaration, and answers that and what comes before
    /// it. Returns what it was asked on the channel for messages.
    fn serve(listener: &TcpListener, before: &[u8], rest: &[u8]) -> (Vec<Vec<u8>>, TcpStream) {
        let mut client = listener.accept().unwrap().0;
        // What never comes fails the test.
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client.write_all(before).unwrap();
        client.read_exact(&mut [0; PROTOCOL_HEADER.len()]).unwrap();
        let mut asked: Vec<Vec<u8>> = Vec::new();
        while asked
            .last()
            .is_none_or(|frame| method(frame) != QUEUE_DECLARE)
        {
            let frame = read_frame(&mut client);
            if FrameHeader::read(&frame).unwrap().channel == MESSAGES {
                asked.push(frame);
            }
        }
        let answers = [
            rest,
            &method_frame(MESSAGES, CHANNEL_OPEN_OK, &[0; 4]),
            &method_frame(MESSAGES, QUEUE_DECLARE_OK, b"\x01q\0\0\0\0\0\0\0\0"),
        ];
        client.write_all(&answers.concat()).unwrap();
        (asked, client)
    }

    #[test]
    fn a_queue_is_declared_with_the_first_login_and_looked_up_after_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let broker = peer::broker_at(&format!("amqp://{}", listener.local_addr().unwrap()));
        let queue = Queue::plain("q".parse().unwrap());
        let login = [peer::start(b"PLAIN"), peer::tune(60)].concat();
        let broker_thread = thread::spawn(move || {
            let first = serve(&listener, &login, &peer::open_ok());
            let second = serve(&listener, &[login, peer::open_ok()].concat(), &[]);
            [first, second]
        });
        let messenger = Messenger::new(true);
        let connector = Connector::new(&broker, "test", &Interrupt::default(), None, &messenger);
        let mut session = begin(connector, Some(&queue)).open().unwrap();
        let mut was_there = false;
        keep(&mut session, &queue, &mut was_there).unwrap();
        session.reopen().unwrap();
        keep(&mut session, &queue, &mut was_there).unwrap();
        drop(session);
        let open = method_frame(MESSAGES, CHANNEL_OPEN, &[0]);
        let [first, second] = broker_thread.join().unwrap();
        assert_eq!(first.0, [open.clone(), declaration(&queue)]);
        assert_eq!(second.0, [open, frames::look_up(MESSAGES, "q")]);
    }
}
