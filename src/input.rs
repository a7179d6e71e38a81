//! Where the messages to send come from, each with the place that names it in a report.

use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::OsStringExt;
use std::thread;

use crossbeam_channel::{bounded, select};

use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::message::{Outgoing, Place};
use crate::talk::Talk;

/// The messages of a command line: each argument is one, `-` is standard input, and so is no
/// argument at all.
///
/// # Errors
/// [`Error::Usage`] if standard input is wanted twice, [`Error::EmptyInput`] if it is empty,
/// [`Error::Input`] if it can't be read, [`Error::Interrupted`] if the user did not wait for it.
pub fn messages(
    arguments: Vec<OsString>,
    interrupt: &Interrupt,
    talk: Talk,
) -> Result<Vec<Outgoing>, Error> {
    let arguments = if arguments.is_empty() {
        vec![OsString::from("-")]
    } else {
        arguments
    };
    if arguments
        .iter()
        .filter(|argument| is_stdin(argument))
        .count()
        > 1
    {
        return Err(Error::Usage(
            "standard input ('-') can be sent only once".to_owned(),
        ));
    }
    let run = random_id();
    arguments
        .into_iter()
        .enumerate()
        .map(|(index, argument)| {
            let message_id = format!("{run}-{}", index + 1);
            Ok(if is_stdin(&argument) {
                Outgoing {
                    body: stdin(interrupt, talk)?,
                    message_id,
                    place: Place::StandardInput,
                }
            } else {
                Outgoing {
                    body: argument.into_vec(),
                    message_id,
                    place: Place::Argument(index + 1),
                }
            })
        })
        .collect()
}

/// A name that no other run of any hello-mq has: 128 bits of the standard library's random seeds.
fn random_id() -> String {
    let random = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

fn is_stdin(argument: &OsStr) -> bool {
    argument == "-"
}

fn stdin(interrupt: &Interrupt, talk: Talk) -> Result<Vec<u8>, Error> {
    if io::stdin().is_terminal() {
        talk.note("reading the message from the terminal; Ctrl+D on an empty line ends it");
    }
    // A read can't be interrupted, but whoever waits for it can turn away.
    let (sender, read) = bounded(1);
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let mut body = Vec::new();
            let result = io::stdin().lock().read_to_end(&mut body);
            let _ = sender.send(result.map(|_| body));
        })
        .map_err(Error::Input)?;
    let body = select! {
        recv(read) -> result => match result {
            Ok(result) => result.map_err(Error::Input)?,
            Err(_) => return Err(Error::Bug("the thread that reads standard input died".to_owned())),
        },
        recv(interrupt.receiver()) -> _ => {
            return Err(Error::Interrupted("while reading standard input; nothing was sent".to_owned()));
        }
    };
    if body.is_empty() {
        return Err(Error::EmptyInput);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&[u8]]) -> Result<Vec<Outgoing>, Error> {
        let interrupt = Interrupt::default();
        let arguments = arguments
            .iter()
            .map(|bytes| OsString::from_vec(bytes.to_vec()))
            .collect();
        messages(arguments, &interrupt, Talk::new(true))
    }

    #[test]
    fn each_argument_is_a_message_byte_for_byte() {
        let messages = of(&[b"a\nb", b"", b"\xff\x01"]).unwrap();
        let bodies: Vec<_> = messages
            .iter()
            .map(|message| message.body.as_slice())
            .collect();
        assert_eq!(bodies, [&b"a\nb"[..], b"", b"\xff\x01"]);
        assert_eq!(messages[2].place.to_string(), "message 3");
    }

    #[test]
    fn every_message_has_an_id_of_its_own() {
        let mut ids: Vec<_> = [of(&[b"a", b"a"]), of(&[b"a", b"a"])]
            .into_iter()
            .flat_map(Result::unwrap)
            .map(|message| message.message_id)
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4, "{ids:?}");
    }

    #[test]
    fn standard_input_can_be_sent_only_once() {
        assert!(matches!(of(&[b"-", b"a", b"-"]), Err(Error::Usage(_))));
    }
}
