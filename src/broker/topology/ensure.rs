//! Making sure that a queue exists before messages are sent or received.
//!
//! This happens on the channel for messages, without the client library. So the declaration can be sent
//! with the login, and needs no round trip, no second channel and no threads.

use super::kind;
use crate::broker::frames::{self, MESSAGES};
use crate::broker::session::{Connector, Session};
use crate::error::{self, Error};
use crate::message::ShortString;
use crate::topology::Queue;
use crate::values::QueueName;

/// Has the first session of a connector declare a queue with its login, if one is given. The first use of
/// that session is [`ensure`] or [`ensure_again`] then.
pub(crate) fn declare_at_login(connector: Connector, queue: Option<&Queue>) -> Connector {
    connector.with_first_request(queue.map(declaration).unwrap_or_default())
}

/// Declares a queue. An existing one is used even if it has other properties or the user may not declare it.
/// If the broker does not permit transient queues, a durable one is made.
///
/// # Errors
/// [`Error::Refused`] in the broker's words if the queue does not exist and cannot be made.
pub(crate) fn ensure(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let Some(name) = &queue.name else {
        return Err(Error::Bug("a queue without a name is used".to_owned()));
    };
    match declare(session, queue) {
        Err(Error::Refused { said, .. }) if error::is_transient_refusal(&said) => {
            session.reopen()?;
            ensure_durable(session, name, queue)
        }
        Ok(()) => {
            session.queue_kind = kind::of_declared(queue);
            session.is_queue_auto_delete = queue.auto_delete;
            Ok(())
        }
        refused => accept_existing(session, name, refused),
    }
}

/// As [`ensure`], on each connection of a command. `existed` keeps whether the queue has existed before.
pub(crate) fn ensure_again(
    session: &mut Session,
    queue: &Queue,
    existed: &mut bool,
) -> Result<(), Error> {
    if *existed {
        return restore(session, queue);
    }
    ensure(session, queue)?;
    *existed = true;
    Ok(())
}

/// As [`ensure`], for a queue that existed on an earlier connection. If it is gone, as a queue that is not
/// durable is after a restart, so are its messages, and the user is told.
fn restore(session: &mut Session, queue: &Queue) -> Result<(), Error> {
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
    let is_declared = declared.is_ok();
    accept_existing(session, name, declared)?;
    if is_declared {
        session.note(&format!(
            "{} does not permit non-durable queues; declaring queue {name} durable",
            session.name()
        ));
    }
    Ok(())
}

/// Turns the refusal of a declaration into success if the queue exists.
fn accept_existing(
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
                // The queue is exclusive to another connection, or the user may not look it up (from
                // RabbitMQ 4.3 on without any permission on it). It may be usable all the same.
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

fn declare(session: &mut Session, queue: &Queue) -> Result<(), Error> {
    let operation = format!("declare queue {queue}");
    session.request(&operation, &declaration(queue), frames::QUEUE_DECLARE_OK)
}

fn look_up(session: &mut Session, queue: &QueueName) -> Result<(), Error> {
    let operation = format!("look up queue {queue}");
    let request = frames::declare_passive(MESSAGES, queue.as_str());
    session.request(&operation, &request, frames::QUEUE_DECLARE_OK)
}

fn declaration(queue: &Queue) -> Vec<u8> {
    let name = queue.name.as_ref().map_or("", QueueName::as_str);
    let arguments = queue.arguments.iter();
    let arguments = arguments.filter_map(|(name, value)| {
        // Longer names are refused when they are read.
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

    /// Sends `before`, receives frames up to a declaration, and answers with `rest` and its answer.
    /// Returns the frames on the channel for messages.
    fn serve(listener: &TcpListener, before: &[u8], rest: &[u8]) -> (Vec<Vec<u8>>, TcpStream) {
        let mut client = listener.accept().unwrap().0;
        // A missing frame fails the test.
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        client.write_all(before).unwrap();
        client.read_exact(&mut [0; PROTOCOL_HEADER.len()]).unwrap();
        let mut received: Vec<Vec<u8>> = Vec::new();
        while received
            .last()
            .is_none_or(|frame| method(frame) != QUEUE_DECLARE)
        {
            let frame = read_frame(&mut client);
            if FrameHeader::read(&frame).unwrap().channel == MESSAGES {
                received.push(frame);
            }
        }
        let answers = [
            rest,
            &method_frame(MESSAGES, CHANNEL_OPEN_OK, &[0; 4]),
            &method_frame(MESSAGES, QUEUE_DECLARE_OK, b"\x01q\0\0\0\0\0\0\0\0"),
        ];
        client.write_all(&answers.concat()).unwrap();
        (received, client)
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
        let mut session = declare_at_login(connector, Some(&queue)).open().unwrap();
        let mut existed = false;
        ensure_again(&mut session, &queue, &mut existed).unwrap();
        session.reopen().unwrap();
        ensure_again(&mut session, &queue, &mut existed).unwrap();
        drop(session);
        let open = method_frame(MESSAGES, CHANNEL_OPEN, &[0]);
        let [first, second] = broker_thread.join().unwrap();
        assert_eq!(first.0, [open.clone(), declaration(&queue)]);
        assert_eq!(second.0, [open, frames::declare_passive(MESSAGES, "q")]);
    }
}
