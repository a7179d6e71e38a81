//! The hints: what the user can do about an error.

use super::{Error, Mismatch, TlsFault, is_exclusive_use, is_exhaustion, is_transient_refusal};
use crate::text;

impl Error {
    /// Returns a hint, if there is one for the error.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Usage(_) => "see 'hello-mq --help'",
            Self::EmptyInput => "to send an empty message, write: hello-mq send ''",
            // The problem is the file of an option, or the value of a variable.
            Self::Config { place, .. } if !place.contains(':') => return None,
            Self::Config { .. } => "see 'hello-mq man hello-mq.toml' for every key",
            Self::Unreachable { origin, .. } => {
                let how = if origin.starts_with("host the default") {
                    "; set another with --url, or --host and --port"
                } else {
                    ""
                };
                return Some(format!(
                    "check that RabbitMQ is running there and that the address is right ({origin}){how}"
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
                "run 'hello-mq declare --all' again after fixing the cause; it does not change what exists"
            }
            Self::Cancelled { .. } => "'hello-mq receive' declares the queue again",
            Self::AckTimeout { .. } => {
                "unacknowledged messages are delivered again; raise consumer_timeout in rabbitmq.conf or \
                 x-consumer-timeout of the queue, lower --prefetch, or use a faster reader"
            }
            Self::Dropped { .. } => {
                "dropped messages go to the queue's dead-letter exchange, if it has one; from RabbitMQ 4.3 \
                 on, peeking does not count as a delivery"
            }
            Self::ConfirmFailure(messages) => match &messages.cause {
                Some(cause) => return cause.hint(),
                None if messages.returned.is_empty() => QUEUE_REFUSES,
                None => {
                    "no queue matches: without --exchange, a queue named like the routing key must exist \
                     ('hello-mq declare' creates it, as does send without --no-declare); with --exchange, \
                     a binding must match ('rabbitmqctl list_bindings'); to ignore unroutable messages, use \
                     'send --allow-unroutable'"
                }
            },
            Self::Unroutable { .. } => {
                "the message stays in its queue; create the target with 'hello-mq declare QUEUE', or bind a \
                 queue to its exchange with 'hello-mq declare QUEUE -e EXCHANGE --bind ROUTING_KEY'"
            }
            Self::Lost {
                code: Some(541), ..
            } => UNDELIVERABLE,
            Self::Lost { .. } => {
                "try again when the broker is back; unconfirmed messages may have to be sent again, and \
                 unacknowledged messages are back in their queue"
            }
            Self::Bug(_) => "please report it, with the command and the output of RUST_LOG=debug",
            Self::System { .. } => RESOURCES_HINT,
            Self::NotBack { last, .. } => return last.hint(),
            Self::Publisher(error) => return error.hint(),
            Self::NoReply { .. } => {
                "check that a server receives and answers the requests: 'rabbitmqctl list_consumers'"
            }
            Self::Nack { .. } => QUEUE_REFUSES,
            Self::NoConfirm { .. } => "try again later; unconfirmed messages may have arrived",
            Self::Spawn { source, .. } if is_exhaustion(source) => RESOURCES_HINT,
            Self::Descriptor { name, .. } => match *name {
                "standard input" => "if there is no input, redirect it: </dev/null",
                "standard output" => "to discard the output, redirect it: >/dev/null",
                _ => "to discard errors and notices, redirect them: 2>/dev/null",
            },
            Self::HeldTooMany => {
                "take or remove some of the messages that do not match, or raise --max-held; the broker \
                 keeps each in memory"
            }
            Self::Unmapped { .. } => "try the expression with --peek --output json",
            Self::Short { .. }
            | Self::TimeIsUp
            | Self::Input(_)
            | Self::InputFile { .. }
            | Self::BadInput { .. }
            | Self::File { .. }
            | Self::Output { .. }
            | Self::Save { .. }
            | Self::Directory { .. }
            | Self::Spawn { .. }
            | Self::CommandFailed(_)
            | Self::Declined(_)
            | Self::Interrupted(_) => return None,
        };
        Some(hint.to_owned())
    }
}

const RESOURCES_HINT: &str = "'ulimit -a' shows the limits of a process; use fewer --jobs";

const UNDELIVERABLE: &str = "see the broker's log; one cause is a message published over AMQP 1.0 with a property for which \
     AMQP 0-9-1 has no type: it stays in the queue, for an AMQP 1.0 client";

const QUEUE_REFUSES: &str = "the queue may be full or its node in trouble; try again later";

fn of_tls(fault: TlsFault) -> Option<&'static str> {
    match fault {
        TlsFault::BrokerCertificate => Some(
            "trust other authorities with --tls-ca-file, or expect another name with --tls-server-name",
        ),
        TlsFault::ClientCertificate => {
            Some("set the client certificate and its key with --tls-cert-file and --tls-key-file")
        }
        TlsFault::PlainPort => {
            Some("use amqp:// to connect without TLS; with TLS, the usual port is 5671")
        }
        TlsFault::TlsPort => Some("use amqps:// in the URL, or --tls"),
        TlsFault::Other => None,
    }
}

fn of_login(code: u16, said: &str, username: &str, has_password: bool) -> Option<String> {
    const PLACES: &str = "in the URL, HELLO_MQ_PASSWORD, --password-file or the configuration file";
    let hint = match code {
        403 if said.contains("EXTERNAL") => {
            "EXTERNAL takes the user from the client certificate: check that this user exists and that the \
             broker has the mechanism enabled, or log in with user and password (--auth plain)"
        }
        403 if username == "guest" => {
            return Some(format!(
                "check --username and the password ({PLACES}; --explain shows which); user guest may only \
                 log in from the broker's own host"
            ));
        }
        403 if has_password => {
            return Some(format!(
                "check --username and the password ({PLACES}; --explain shows which)"
            ));
        }
        403 => {
            return Some(format!(
                "no password is set for user '{}', so guest's was tried: set it {PLACES}",
                text::escape(username)
            ));
        }
        501 => {
            "RabbitMQ accepts a login of 4096 bytes up to 4.0, and of 8192 from 4.1 on: use a shorter \
             password or token, or raise the broker's initial_frame_max"
        }
        530 if said.contains("limit") => LIMITED_USE,
        530 => {
            "check --vhost and the user's permissions on it: 'rabbitmqctl list_vhosts' and \
             'rabbitmqctl list_user_permissions USER'"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

const LIMITED_USE: &str = "'rabbitmqctl list_connections' shows who is connected, and 'rabbitmqctl \
                           list_vhost_limits' and 'list_user_limits' show the limits";

fn of_refusal(code: u16, operation: &str, said: &str) -> Option<String> {
    let is_delete = operation.starts_with("delete");
    let hint = match code {
        403 if is_exclusive_use(said) => {
            "another consumer uses the queue exclusively (wait for it to exit, or use another queue), or \
             the queue has a single active consumer and does not support --exclusive"
        }
        403 if said.contains("reserved prefix") || said.contains("system exchange") => {
            "names that begin with 'amq.' are reserved for the broker; use another name"
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
                "create it with 'hello-mq declare {} --exchange-type TYPE' (direct, fanout, topic or \
                 headers); 'rabbitmqctl list_exchanges' shows those that exist",
                missing_exchange(said)
            ));
        }
        404 => {
            "create a queue with 'hello-mq declare QUEUE', or a stream with --type stream; 'rabbitmqctl \
             list_queues' shows those that exist"
        }
        405 if said.contains("single active consumer") => {
            "receive from it instead; 'hello-mq declare --check' shows the number of its messages"
        }
        405 => {
            "another connection uses the queue exclusively; wait until it closes, or use another queue"
        }
        406 if is_delete && said.ends_with("not empty") => {
            "to delete it with its messages, omit --if-empty"
        }
        406 if is_delete && said.ends_with("in use") => "to delete it anyway, omit --if-unused",
        406 if said.contains("invalid arg 'x-stream-offset'") => {
            "--stream-offset requires a stream"
        }
        406 if said.contains("invalid arg 'x-priority'") => {
            "streams do not support --priority: each consumer gets every message"
        }
        406 if said.contains("consumer prefetch count is not set for") => {
            "streams do not support --auto-ack: reading removes nothing from them"
        }
        406 if said.contains("of queue type rabbit_classic_queue") => {
            "classic queues do not support it; other types may (--type quorum or stream)"
        }
        406 if said.contains("limit") && said.ends_with("is reached") => {
            "'rabbitmqctl list_vhost_limits' shows the limit of the virtual host; delete queues with \
             'hello-mq delete', or raise it with 'rabbitmqctl set_vhost_limits'"
        }
        406 if said.contains("user_id property") => {
            "the broker accepts a message with a user_id only from that user, or from one with the tag \
             impersonator: log in as that user, or remove the property ('receive --forward-to' does with \
             --without user_id)"
        }
        406 if said.contains("value_too_large") => "use a smaller value",
        540 if operation.starts_with("purge") => {
            "a stream keeps its messages until they exceed its maximum age or size; to empty it, recreate \
             it with 'hello-mq delete' and 'hello-mq declare'"
        }
        541 if operation.starts_with("consume") => UNDELIVERABLE,
        540 if operation.starts_with("peek at") => {
            "read a stream with 'hello-mq receive --stream-offset first --drain'; this removes nothing \
             from it"
        }
        540 if is_delete => {
            "this type of queue supports neither --if-empty nor --if-unused; omit them, and check for \
             messages and consumers with 'hello-mq declare --check' first"
        }
        530 if said.contains("limit") => LIMITED_USE,
        _ if is_transient_refusal(said) => "declare the queue with --durable",
        _ => return None,
    };
    Some(hint.to_owned())
}

fn of_mismatch(mismatch: &Mismatch) -> String {
    match &mismatch.command {
        Some(command) => format!("nothing was changed; to match what exists, write: {command}"),
        None => {
            let list = if mismatch.entity.starts_with("queue") {
                "list_queues name durable auto_delete arguments"
            } else {
                "list_exchanges name type durable auto_delete internal arguments"
            };
            format!(
                "nothing was changed; the broker did not report everything: see 'rabbitmqctl {list}'"
            )
        }
    }
}

/// Returns the option for the exchange that is missing according to the broker's `NOT_FOUND - no exchange 'e' in vhost '/'`.
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

/// Describes the user's missing permission. RabbitMQ names it since 3.11; before, it follows from the
/// operation (<https://www.rabbitmq.com/docs/access-control#authorisation>).
///
/// The broker's text: `ACCESS_REFUSED - [configure ]access to queue 'q' in vhost '/' refused for user 'u'`.
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
    // Since RabbitMQ 4.3.1 any permission on an entity suffices to look it up, and the broker names one.
    let right = match right {
        "configure" if operation.starts_with("look up") => "configure, write or read",
        right => right,
    };
    Some(format!(
        "user {user} needs {right} permission on {resource}: see 'rabbitmqctl list_user_{kind} {}'",
        user.trim_matches('\'')
    ))
}

/// Returns the permission that an operation needs on a resource, such as `queue 'q' in vhost '/'`.
fn right_for(operation: &str, resource: &str) -> &'static str {
    let verb = operation.split(' ').next().unwrap_or_default();
    let (is_queue, is_exchange) = (
        resource.starts_with("queue"),
        resource.starts_with("exchange"),
    );
    match verb {
        "publish" => "write",
        "consume" | "peek" | "purge" => "read",
        "listen" if is_exchange => "read",
        // Binding needs write on the destination and read on the source.
        "bind" if is_queue => "write",
        "bind" => match resource.split_once(" in vhost ") {
            Some((name, _)) if operation.contains(&format!(" to {name}")) => "read",
            _ => "write",
        },
        // The dead-letter exchange of a queue, or the alternate exchange of an exchange.
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
            ("peek at queue 'q'", new),
        ] {
            let hint = missing_right(operation, said).unwrap();
            assert!(
                hint.starts_with("user 'u' needs read permission on queue 'q' in virtual host '/'"),
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
