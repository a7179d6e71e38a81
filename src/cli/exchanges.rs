//! The exchanges of `receive`, each with the routing keys behind it on the command line.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};

use crate::topology::BoundExchange;
use crate::values::Name;

const EXCHANGE: &str = "exchange";
const ROUTING_KEY: &str = "routing_key";

/// The exchanges to listen to. One that is named twice has the routing keys of both places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchanges(pub Vec<BoundExchange>);

impl Args for Exchanges {
    fn augment_args(command: Command) -> Command {
        let option = |id| {
            Arg::new(id)
                .action(ArgAction::Append)
                .value_parser(value_parser!(Name))
                .help_heading("Queue")
        };
        command
            .arg(
                option(EXCHANGE)
                    .short('e')
                    .long("exchange")
                    .value_name("NAME")
                    .help(
                        "Listen to this exchange through a temporary queue, instead of receiving \
                         from a queue; may be repeated",
                    ),
            )
            .arg(
                option(ROUTING_KEY)
                    .short('r')
                    .long("routing-key")
                    .value_name("KEY")
                    .requires(EXCHANGE)
                    .help(
                        "Receive messages with this routing key from the --exchange before it; may \
                         be repeated, and is required for a direct exchange [default: #, which \
                         matches everything]",
                    ),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Exchanges {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut exchanges: Vec<(usize, BoundExchange)> = values(matches, EXCHANGE)
            .map(|(index, name)| (index, BoundExchange::new(name)))
            .collect();
        for (index, key) in values(matches, ROUTING_KEY) {
            let before = exchanges.partition_point(|(exchange, _)| *exchange < index);
            let position = match (before, exchanges.len()) {
                // With one exchange it is clear which is meant.
                (0, 1) => 0,
                (0, _) => return Err(without_exchange(&key)),
                (before, _) => before - 1,
            };
            exchanges[position].1.routing_keys.push(key);
        }
        let mut merged: Vec<BoundExchange> = Vec::new();
        for (_, exchange) in exchanges {
            match merged.iter_mut().find(|other| other.name == exchange.name) {
                Some(other) => other.routing_keys.extend(exchange.routing_keys),
                None => merged.push(exchange),
            }
        }
        Ok(Self(merged))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Returns the values of an option, with their positions on the command line.
fn values(matches: &ArgMatches, id: &'static str) -> impl Iterator<Item = (usize, String)> {
    let positions = matches.indices_of(id).into_iter().flatten();
    let values = matches.get_many::<Name>(id).into_iter().flatten();
    positions.zip(values.map(|name| name.as_str().to_owned()))
}

fn without_exchange(key: &str) -> Error {
    let key = crate::text::escape(key);
    Error::raw(
        ErrorKind::MissingRequiredArgument,
        format!(
            "--routing-key '{key}' is before the first --exchange; write it behind the --exchange that it \
             belongs to\n\nFor more information, try '--help'.\n"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::{Command, Verb, parse};
    use std::ffi::OsString;

    /// Returns the exchanges of a command line as `NAME:KEY,KEY`, or the error.
    fn exchanges(line: &str) -> Result<String, String> {
        let line = format!("hello-mq receive {line}");
        match parse(line.split(' ').map(OsString::from)) {
            Ok(cli) => match cli.command {
                Command::Verb(Verb::Receive(receive)) => {
                    let exchanges = receive.exchanges.0.iter().map(|exchange| {
                        format!("{}:{}", exchange.name, exchange.routing_keys.join(","))
                    });
                    Ok(exchanges.collect::<Vec<_>>().join(" "))
                }
                other => panic!("{other:?}"),
            },
            Err(exit) => Err(exit.text(crate::color::Paint::default()).to_owned()),
        }
    }

    #[test]
    fn a_routing_key_belongs_to_the_exchange_before_it() {
        for (line, expected) in [
            ("-e a", "a:"),
            ("-e a -r 1 -r 2", "a:1,2"),
            ("-r 1 -e a", "a:1"),
            ("-r 1 -e a -r 2", "a:1,2"),
            ("-e a -r 1 -r 2 -e b --routing-key=3 -e c", "a:1,2 b:3 c:"),
            ("-ea -r1 --exchange b -c 5 -r 2", "a:1 b:2"),
            ("-e a -r 1 -e b -r 2 -e a -r 3", "a:1,3 b:2"),
            ("-e a -e a -r 1", "a:1"),
        ] {
            assert_eq!(exchanges(line).as_deref(), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_routing_key_before_several_exchanges_belongs_to_none() {
        let error = exchanges("-r 1 -e a -e b").unwrap_err();
        assert!(
            error.starts_with("hello-mq: --routing-key '1' is before the first --exchange"),
            "{error}"
        );
        let error = exchanges("-r 1").unwrap_err();
        assert!(error.contains("--exchange <NAME>"), "{error}");
    }
}
