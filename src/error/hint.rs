//! What to do next about an error.

use super::{Error, Mismatch, TlsFault, is_exclusive_use, is_exhaustion, is_transient_refusal};
use crate::text;

impl Error {
    /// What to do next, where there is something to say.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Usage(_) => "'hello-mq --help' shows what can be typed",
            Self::EmptyInput => "an empty message is sent with: hello-mq send ''",
            // The problem is an option's file, or the variable's value.
            Self::Config { place, .. } if !place.contains(':') => return None,
            Self::Config { .. } => "'hello-mq man hello-mq.toml' documents every key",
            Self::Unreachable { origin, .. } => {
                return Some(format!(
                    "is RabbitMQ running there, and is the address right ({origin})? --url, or \
                     --host and --port, name another"
                ));
            }
            Self::Tls { fault, .. } => return of_tls(*fault).map(ToOwned::to_owned),
            Self::LoginRefused {
                username,
                has_password,
                code,
                said,
                ..
            } => return of_login(*code, said, username, *has_password),
            Self::Refused {
                code,
                operation,
                said,
                ..
            } => return of_refusal(*code, operation, said),
            Self::Different(mismatch) => return Some(of_mismatch(mismatch)),
            Self::Topology { .. } => {
                "'hello-mq declare --all' can be run again; what is there is not touched"
            }
            Self::Cancelled { .. } => "'hello-mq receive' declares the queue again",
            Self::AckTimeout { .. } => {
                "what is unacknowledged for so long is delivered again; a longer consumer_timeout in \
                 rabbitmq.conf or of the queue (x-consumer-timeout), a --prefetch of fewer messages, or a \
                 faster reader avoids it"
            }
            Self::Dropped { .. } => {
                "what a queue drops goes to its dead-letter exchange, if it has one; from RabbitMQ 4.3 on \
                 looking at messages does not count"
            }
            Self::ConfirmFailure(messages) => match &messages.cause {
                Some(cause) => return cause.hint(),
                None if messages.returned.is_empty() => QUEUE_REFUSES,
                None => {
                    "no queue took it: without --exchange it needs one of the routing key's name \
                     ('hello-mq declare' makes it, and so does send without --no-declare), with it \
                     a binding that matches ('rabbitmqctl list_bindings'); 'send --allow-unroutable' \
                     takes it for no error"
                }
            },
            Self::Lost {
                code: Some(541), ..
            } => UNDELIVERABLE,
            Self::Lost { .. } => {
                "try again when the broker is back; what was not confirmed may have to be sent \
                 again, and what was not acknowledged is back in its queue"
            }
            Self::Bug(_) => "please report it, with the command and the output of RUST_LOG=debug",
            Self::System { .. } => RESOURCES_HINT,
            Self::NotBack { last, .. } => return last.hint(),
            Self::NoReply { .. } => {
                "does anybody receive the requests, and answer them? 'rabbitmqctl list_consumers' \
                 shows who receives"
            }
            Self::Nack { .. } => QUEUE_REFUSES,
            Self::NoConfirm { .. } => {
                "what is not confirmed may have arrived nevertheless; try again later"
            }
            Self::Spawn { source, .. } if is_exhaustion(source) => RESOURCES_HINT,
            Self::Descriptor { name, .. } => match *name {
                "standard input" => "where there is nothing to read, redirect it: </dev/null",
                "standard output" => "to throw away what is printed, redirect it: >/dev/null",
                _ => "to throw away what is said, redirect it: 2>/dev/null",
            },
            Self::Short { .. }
            | Self::TimeIsUp
            | Self::Input(_)
            | Self::InputFile { .. }
            | Self::BadInput { .. }
            | Self::File { .. }
            | Self::Output { .. }
            | Self::Directory { .. }
            | Self::Spawn { .. }
            | Self::CommandFailed(_)
            | Self::Declined(_)
            | Self::Interrupted(_) => return None,
        };
        Some(hint.to_owned())
    }
}

const RESOURCES_HINT: &str =
    "'ulimit -a' shows how much of it a process may have; fewer --jobs take less";

const UNDELIVERABLE: &str = "the broker's log says what failed; one cause is a message that was published over AMQP 1.0 with a \
     property for which AMQP 0-9-1 has no type: it stays in the queue, where an AMQP 1.0 client can take it";

const QUEUE_REFUSES: &str = "the queue is full or its node is in trouble; try again later";

fn of_tls(fault: TlsFault) -> Option<&'static str> {
    match fault {
        TlsFault::Theirs => Some(
            "--tls-ca-file names a file with other authorities to trust, --tls-server-name another \
             name to expect",
        ),
        TlsFault::Ours => {
            Some("--tls-cert-file and --tls-key-file name the client's certificate and its key")
        }
        TlsFault::NotThere => {
            Some("amqp:// is without TLS; with it, brokers usually listen on port 5671")
        }
        TlsFault::NotHere => Some("amqps:// in the URL, or --tls, speaks TLS"),
        TlsFault::Other => None,
    }
}

fn of_login(code: u16, said: &str, username: &str, has_password: bool) -> Option<String> {
    const PLACES: &str = "in the URL, HELLO_MQ_PASSWORD, --password-file or the configuration file";
    let hint = match code {
        403 if said.contains("EXTERNAL") => {
            "EXTERNAL takes the user from the client's certificate: is there one of that name, and \
             does the broker have the mechanism on? --auth plain logs in with user and password"
        }
        403 if username == "guest" => {
            return Some(format!(
                "check --username and the password ({PLACES}; --explain shows which); the user guest \
                 may only log in from the broker's own host"
            ));
        }
        403 if has_password => {
            return Some(format!(
                "check --username and the password ({PLACES}; --explain shows which)"
            ));
        }
        403 => {
            return Some(format!(
                "there is no password for user '{}', so that guest's was tried: give it {PLACES}",
                text::escape(username)
            ));
        }
        501 => {
            "RabbitMQ takes a login of 4096 bytes at most up to 4.0, and of 8192 from 4.1 on: a shorter \
             password or token, or a larger initial_frame_max of the broker"
        }
        530 if said.contains("limit") => LIMITED_USE,
        530 => {
            "check --vhost and the user's right to it: 'rabbitmqctl list_vhosts' and \
             'rabbitmqctl list_user_permissions USER' show them"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

const LIMITED_USE: &str = "'rabbitmqctl list_connections' shows who is connected, and 'rabbitmqctl \
                           list_vhost_limits' and 'list_user_limits' what is allowed";

fn of_refusal(code: u16, operation: &str, said: &str) -> Option<String> {
    let is_delete = operation.starts_with("delete");
    let hint = match code {
        403 if is_exclusive_use(said) => {
            "another consumer has the queue for itself (wait until it ends, or use another queue), or it \
             is one for a single active consumer, which lets in nobody with --exclusive"
        }
        403 if said.contains("reserved prefix") || said.contains("system exchange") => {
            "names that begin with 'amq.' are the broker's own; use another"
        }
        403 => {
            return Some(missing_right(operation, said).unwrap_or_else(|| {
                "'rabbitmqctl list_user_permissions USER' shows what the user may configure, \
                 write and read"
                    .to_owned()
            }));
        }
        404 if said.contains("no exchange") => {
            return Some(format!(
                "'hello-mq declare {} --exchange-type TYPE' makes it, with TYPE direct, fanout, topic or \
                 headers; 'rabbitmqctl list_exchanges' shows those that exist",
                missing_exchange(said)
            ));
        }
        404 => {
            "'hello-mq declare QUEUE' makes a queue, and with --type stream a stream; 'rabbitmqctl \
             list_queues' shows those that exist"
        }
        405 if said.contains("single active consumer") => {
            "it can't be looked into, only received from; 'hello-mq declare --check' counts its messages"
        }
        405 => {
            "another connection has the queue for itself; wait until it ends, or use another queue"
        }
        406 if is_delete && said.ends_with("not empty") => {
            "without --if-empty it is deleted with its messages"
        }
        406 if is_delete && said.ends_with("in use") => {
            "without --if-unused it is deleted nevertheless"
        }
        406 if said.contains("invalid arg 'x-stream-offset'") => "--stream-offset is for a stream",
        406 if said.contains("invalid arg 'x-priority'") => {
            "--priority is not for a stream, of which every consumer gets every message"
        }
        406 if said.contains("consumer prefetch count is not set for") => {
            "--auto-ack is not for a stream, from which nothing is taken anyway"
        }
        406 if said.contains("of queue type rabbit_classic_queue") => {
            "a classic queue does not take it; another type may (--type quorum, or stream)"
        }
        406 if said.contains("limit") && said.ends_with("is reached") => {
            "'rabbitmqctl list_vhost_limits' shows how many the virtual host may have; 'hello-mq delete' makes \
             room, and so does a larger limit ('rabbitmqctl set_vhost_limits')"
        }
        406 if said.contains("user_id property") => {
            "a message has to come from the user that its user_id names, or from one with the tag \
             impersonator: log in as that user, or send it without ('receive --forward-to' does with \
             --without user_id)"
        }
        406 if said.contains("value_too_large") => "the broker takes no value as large as that",
        540 if operation.starts_with("purge") => {
            "a stream keeps its messages until they are too old or too many; 'hello-mq delete' and \
             'hello-mq declare' make it anew"
        }
        541 if operation.starts_with("consume") => UNDELIVERABLE,
        540 if operation.starts_with("look at") => {
            "a stream is read without taking anything from it: 'hello-mq receive --stream-offset first \
             --drain'"
        }
        540 if is_delete => {
            "'hello-mq declare --check' shows whether it has messages or consumers; without \
             --if-empty and --if-unused it can be deleted"
        }
        530 if said.contains("limit") => LIMITED_USE,
        _ if is_transient_refusal(said) => "declare the queue with --durable",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn of_mismatch(mismatch: &Mismatch) -> String {
    match &mismatch.command {
        Some(command) => format!("nothing was changed; as it is, it is declared by: {command}"),
        None => {
            let list = if mismatch.entity.starts_with("queue") {
                "list_queues name durable auto_delete arguments"
            } else {
                "list_exchanges name type durable auto_delete internal arguments"
            };
            format!(
                "nothing was changed; the broker did not say everything: 'rabbitmqctl {list}' does"
            )
        }
    }
}

/// The option that names the exchange of which the broker says `NOT_FOUND - no exchange 'e' in vhost '/'`.
fn missing_exchange(said: &str) -> String {
    let said = text::one_line(said);
    let name = said
        .split_once("no exchange '")
        .and_then(|(_, rest)| rest.rsplit_once("' in vhost "));
    match name {
        Some((name, _)) if name.starts_with('-') => format!("-e{}", text::shell(name)),
        Some((name, _)) => format!("-e {}", text::shell(name)),
        None => "-e NAME".to_owned(),
    }
}

/// Which of the user's rights is missing on what. RabbitMQ from 3.11 on says the right; before, it
/// follows from the operation (<https://www.rabbitmq.com/docs/access-control#authorisation>).
///
/// Its words: `ACCESS_REFUSED - [configure ]access to queue 'q' in vhost '/' refused for user 'u'`.
fn missing_right(operation: &str, said: &str) -> Option<String> {
    let said = text::one_line(said);
    let said = said.strip_prefix("ACCESS_REFUSED - ")?;
    let (right, rest) = match said.strip_prefix("access to ") {
        Some(rest) => (None, rest),
        None => said
            .split_once(" access to ")
            .map(|(right, rest)| (Some(right), rest))?,
    };
    let (resource, user) = rest.split_once(" refused for user ")?;
    let right = right.unwrap_or_else(|| right_for(operation, resource));
    let resource = resource.replace(" in vhost ", " in virtual host ");
    let kind = if resource.starts_with("topic") {
        "topic_permissions"
    } else {
        "permissions"
    };
    // From RabbitMQ 4.3.1 on whoever has any right on it may ask after it, and the broker names one.
    let right = match right {
        "configure" if operation.starts_with("look up") => "configure, write or read",
        right => right,
    };
    Some(format!(
        "user {user} needs the {right} right on {resource}: 'rabbitmqctl list_user_{kind} {}' \
         shows what there is",
        user.trim_matches('\'')
    ))
}

/// The right that an operation needs on a resource, which is named as `queue 'q' in vhost '/'`.
fn right_for(operation: &str, resource: &str) -> &'static str {
    let verb = operation.split(' ').next().unwrap_or_default();
    let (is_queue, is_exchange) = (
        resource.starts_with("queue"),
        resource.starts_with("exchange"),
    );
    match verb {
        "publish" => "write",
        "consume" | "look" | "purge" => "read",
        "listen" if is_exchange => "read",
        // Its destination is written to, what it leads from is read.
        "bind" if is_queue => "write",
        "bind" => match resource.split_once(" in vhost ") {
            Some((name, _)) if operation.contains(&format!(" to {name}")) => "read",
            _ => "write",
        },
        // Where a queue dead-letters to, or an exchange hands on.
        "declare" if is_exchange && operation.starts_with("declare queue") => "write",
        _ => "configure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_right_is_named_whether_the_broker_does_or_not() {
        let old = "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'";
        let new = "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'u'";
        for (operation, said) in [
            ("consume from queue 'q'", old),
            ("purge queue 'q'", old),
            ("look at queue 'q'", new),
        ] {
            let hint = missing_right(operation, said).unwrap();
            assert!(
                hint.starts_with("user 'u' needs the read right on queue 'q' in virtual host '/'"),
                "{hint}"
            );
        }
        for (operation, resource, right) in [
            ("declare queue 'q'", "queue 'q' in vhost '/'", "configure"),
            ("declare queue 'q'", "exchange 'e' in vhost '/'", "write"),
            (
                "declare exchange 'e'",
                "exchange 'e' in vhost '/'",
                "configure",
            ),
            ("delete queue 'q'", "queue 'q' in vhost '/'", "configure"),
            ("publish", "exchange 'e' in vhost '/'", "write"),
            (
                "listen to exchange 'e'",
                "exchange 'e' in vhost '/'",
                "read",
            ),
            (
                "listen to exchange 'e'",
                "queue 'amq.gen-x' in vhost '/'",
                "configure",
            ),
            (
                "bind queue 'q' to exchange 'e' with 'k'",
                "queue 'q' in vhost '/'",
                "write",
            ),
            (
                "bind queue 'q' to exchange 'e' with 'k'",
                "exchange 'e' in vhost '/'",
                "read",
            ),
            (
                "bind exchange 'd' to exchange 'e' with 'k'",
                "exchange 'd' in vhost '/'",
                "write",
            ),
        ] {
            assert_eq!(
                right_for(operation, resource),
                right,
                "{operation} {resource}"
            );
        }
        assert_eq!(missing_right("publish", "ACCESS_REFUSED - no"), None);
    }
}
