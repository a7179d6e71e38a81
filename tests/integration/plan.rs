//! The plan of a command is what runs: the frames that the broker gets are the operations that `--explain`
//! prints, in the same order and with the same arguments.
//!
//! What the two may differ in is said by [`Operation`], [`fold`] and [`Section::explains`], and nowhere else.

use std::collections::BTreeMap;

use crate::support::{Files, Hello, Proxy, hello, queue, read_frame, url};

/// An operation that `--explain` prints: `METHOD ARGUMENTS, when and why`.
#[derive(Debug)]
struct Operation {
    text: String,
    /// Whether it depends on what the broker says (`if …`).
    is_optional: bool,
    /// Whether it takes place for each message, or until something is known. A method that comes again and
    /// again is told once. What is compared takes as many declarations as there are differences.
    is_repeated: bool,
}

impl Operation {
    /// A line that names no method of AMQP, such as what is waited for, is none.
    fn read(line: &str) -> Option<Self> {
        let (text, when) = line.split_once(", ").unwrap_or((line, ""));
        let (class, _) = text.split_once('.')?;
        let is_method = class.bytes().all(|byte| byte.is_ascii_lowercase());
        is_method.then(|| Self {
            text: text.to_owned(),
            is_optional: is_conditional(when),
            is_repeated: when.contains("each")
                || when.contains("until")
                || text.ends_with("with arguments that create nothing"),
        })
    }
}

impl Operation {
    /// Whether a method is this one. The delivery mode of a message that is published again is not known before.
    fn is(&self, method: &str) -> bool {
        let rest = method.strip_prefix(&self.text);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(" delivery_mode="))
    }
}

fn is_conditional(when: &str) -> bool {
    when.starts_with("if ") || when.contains(", if ")
}

/// The operations of one connection.
#[derive(Debug, Default)]
struct Section {
    operations: Vec<Operation>,
    is_optional: bool,
}

impl Section {
    /// Splits what `--explain` prints. The lines of a connection beside the first begin with its name.
    fn read(explained: &str) -> Vec<Self> {
        let mut sections = BTreeMap::<_, Self>::new();
        for line in explained.lines() {
            let (name, line) = line.split_once(": ").unwrap_or(("", line));
            let is_new = !sections.contains_key(name);
            let section = sections.entry(name).or_default();
            section.is_optional |= is_new && is_conditional(line);
            section.operations.extend(Operation::read(line));
        }
        sections.into_values().collect()
    }

    /// Says how the methods that a connection saw differ from these operations, if they do.
    ///
    /// What is repeated may come at its place or later, among what follows.
    fn difference(&self, methods: &[String]) -> Option<String> {
        let mut place = 0;
        let mut seen = vec![false; self.operations.len()];
        for method in methods {
            let again = self.operations[..place]
                .iter()
                .position(|it| it.is_repeated && it.is(method));
            if let Some(index) = again {
                seen[index] = true;
                continue;
            }
            let Some(skipped) = self.operations[place..].iter().position(|it| it.is(method)) else {
                return Some(format!("{method} is not explained there"));
            };
            seen[place + skipped] = true;
            let missed = &self.operations[place..place + skipped];
            if let Some(missed) = missed.iter().find(|it| !it.is_optional && !it.is_repeated) {
                return Some(format!("{missed:?} does not come before {method}"));
            }
            place += skipped + 1;
        }
        let unseen = self
            .operations
            .iter()
            .zip(&seen)
            .find(|(operation, seen)| !operation.is_optional && !**seen);
        unseen.map(|(operation, _)| format!("{operation:?} does not come"))
    }
}

/// The fields of a method or of a content header.
struct Fields<'f>(&'f [u8]);

impl<'f> Fields<'f> {
    fn bytes(&mut self, length: usize) -> &'f [u8] {
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    fn number(&mut self, length: usize) -> u64 {
        let bytes = self.bytes(length).iter();
        bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn short(&mut self) -> String {
        let length = self.number(1);
        self.text(length)
    }

    fn text(&mut self, length: u64) -> String {
        let bytes = self.bytes(usize::try_from(length).unwrap());
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// A name in quotes. One that the broker has made up is empty.
    fn name(&mut self) -> String {
        let name = self.short();
        let is_made_up = name.starts_with("amq.gen-");
        format!("'{}'", if is_made_up { "" } else { &name })
    }

    fn flags(&mut self) -> [bool; 5] {
        let flags = self.number(1);
        [0, 1, 2, 3, 4].map(|bit| flags >> bit & 1 == 1)
    }

    fn table(&mut self) -> BTreeMap<String, String> {
        let length = self.number(4);
        let mut table = Fields(self.bytes(usize::try_from(length).unwrap()));
        let mut entries = BTreeMap::new();
        while !table.0.is_empty() {
            let name = table.short();
            let value = match table.number(1).to_be_bytes()[7] {
                b't' => (table.number(1) == 1).to_string(),
                b'I' => i32::from_be_bytes(table.bytes(4).try_into().unwrap()).to_string(),
                b'l' => i64::from_be_bytes(table.bytes(8).try_into().unwrap()).to_string(),
                b'V' => "void".to_owned(),
                b'S' => {
                    let length = table.number(4);
                    let text = table.text(length);
                    let is_word =
                        |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/#*".contains(&byte);
                    match text.as_str() {
                        word if !word.is_empty() && word.bytes().all(is_word) => text,
                        text => format!("'{text}'"),
                    }
                }
                kind => panic!("the type {}", char::from(kind)),
            };
            entries.insert(name, value);
        }
        entries
    }
}

fn listed(entries: BTreeMap<String, String>) -> String {
    let entries = entries
        .into_iter()
        .map(|(name, value)| format!(" {name}={value}"));
    entries.collect()
}

/// The rest of a declaration, after the name.
fn declaration(
    is_passive: bool,
    properties: &[(&str, String)],
    mut arguments: BTreeMap<String, String>,
) -> String {
    if is_passive {
        return " passive=true".to_owned();
    }
    // No value of RabbitMQ's arguments is void.
    if arguments.values().any(|value| value == "void") {
        return " with arguments that create nothing".to_owned();
    }
    arguments.extend(
        properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    listed(arguments)
}

/// A method as `--explain` prints it, from its frame's payload. Consumer and delivery tags, no-wait bits and
/// the reserved fields are not told.
fn method(payload: &[u8]) -> String {
    let mut fields = Fields(payload);
    let numbers = (fields.number(2), fields.number(2));
    if matches!(numbers.0, 40 | 50) || matches!(numbers, (60, 20 | 40 | 70)) {
        fields.number(2);
    }
    match numbers {
        (10, 50) => "connection.close".to_owned(),
        (40, 10) => {
            let (name, kind) = (fields.name(), fields.short());
            let [passive, durable, auto_delete, internal, _] = fields.flags();
            let properties = [
                ("type", kind),
                ("durable", durable.to_string()),
                ("auto_delete", auto_delete.to_string()),
                ("internal", internal.to_string()),
            ];
            let rest = declaration(passive, &properties, fields.table());
            format!("exchange.declare {name}{rest}")
        }
        (40, 20) => {
            let (name, [if_unused, ..]) = (fields.name(), fields.flags());
            format!("exchange.delete {name} if_unused={if_unused}")
        }
        (40, 30) | (50, 20) => {
            let method = match numbers.0 {
                40 => "exchange.bind exchange",
                _ => "queue.bind queue",
            };
            let [destination, source, key] = [(); 3].map(|()| fields.name());
            fields.flags();
            let arguments = listed(fields.table());
            format!("{method} {destination} to exchange {source} with {key}{arguments}")
        }
        (50, 10) => {
            let name = fields.name();
            let [passive, durable, exclusive, auto_delete, _] = fields.flags();
            let mut properties = vec![
                ("durable", durable.to_string()),
                ("auto_delete", auto_delete.to_string()),
            ];
            properties.extend(exclusive.then(|| ("exclusive", "true".to_owned())));
            let rest = declaration(passive, &properties, fields.table());
            format!("queue.declare {name}{rest}")
        }
        (50, 30) => format!("queue.purge {}", fields.name()),
        (50, 40) => {
            let (name, [if_unused, if_empty, ..]) = (fields.name(), fields.flags());
            format!("queue.delete {name} if_empty={if_empty} if_unused={if_unused}")
        }
        (60, 10) => {
            let (_size, count) = (fields.number(4), fields.number(2));
            format!("basic.qos prefetch_count={count}")
        }
        (60, 20) => {
            let (name, _tag) = (fields.name(), fields.short());
            let [_, no_ack, exclusive, ..] = fields.flags();
            let arguments = listed(fields.table());
            format!("basic.consume {name} no_ack={no_ack} exclusive={exclusive}{arguments}")
        }
        (60, 30) => "basic.cancel".to_owned(),
        (60, 40) => {
            let (exchange, key) = (fields.name(), fields.name());
            let [mandatory, ..] = fields.flags();
            format!("basic.publish exchange={exchange} routing_key={key} mandatory={mandatory}")
        }
        (60, 70) => {
            let (name, [no_ack, ..]) = (fields.name(), fields.flags());
            format!("basic.get {name} no_ack={no_ack}")
        }
        (60, 80) => "basic.ack".to_owned(),
        (60, 90) => {
            fields.number(8);
            format!("basic.reject requeue={}", fields.number(1) == 1)
        }
        (60, 120) => {
            fields.number(8);
            format!("basic.nack requeue={}", fields.flags()[1])
        }
        (85, 10) => "confirm.select".to_owned(),
        other => panic!("the method {other:?}"),
    }
}

/// The delivery mode in a content header.
fn delivery_mode(payload: &[u8]) -> u64 {
    let mut fields = Fields(payload);
    fields.bytes(12);
    let flags = fields.number(2);
    let has = |bit: u32| flags >> bit & 1 == 1;
    for bit in [15, 14] {
        has(bit).then(|| fields.short());
    }
    has(13).then(|| fields.table());
    if has(12) { fields.number(1) } else { 1 }
}

/// The methods of one connection.
///
/// Left out is what every connection has: the login, the answer to the broker's closing, and channels, which
/// are opened when something is done on them and again after a refusal.
fn fold(mut bytes: &[u8]) -> Vec<String> {
    let mut methods: Vec<String> = Vec::new();
    bytes = bytes.strip_prefix(b"AMQP\0\0\x09\x01").unwrap();
    while let Ok(frame) = read_frame(&mut bytes) {
        let payload = &frame[7..frame.len() - 1];
        match (frame[0], payload) {
            (1, [0, 10, 0, number, ..]) if *number != 50 => {}
            (1, [0, 20, ..]) => {}
            (1, payload) => methods.push(method(payload)),
            (2, payload) => {
                let mode = delivery_mode(payload).to_string();
                methods
                    .last_mut()
                    .unwrap()
                    .extend([" delivery_mode=", &mode]);
            }
            _ => {}
        }
    }
    methods
}

/// Runs each command line once with `--explain`, and once for good.
///
/// A row is the commands that come before, and the command line. In both, @Q, @R and @X are names of its own.
/// What follows `<` is standard input, and what follows `&` is run beside it, of `receive` when that waits.
fn check(rows: &[(&[&str], &str)]) {
    let proxy = Proxy::start(&url());
    let files = Files::new();
    for (before, row) in rows {
        let unique = ["@Q", "@R", "@X"].map(|name| (name, queue(&name[1..])));
        let with_names = |text: &str| {
            let text = text.replace("@PROXY", &proxy.url);
            let name = |text: String, (name, unique): &(_, String)| text.replace(name, unique);
            unique.iter().fold(text, name)
        };
        let config = files.write("config.toml", &with_names(CONFIGURATION));
        let command = |text: &str| -> Hello {
            let text = with_names(text);
            let (words, input) = text.split_once(" < ").unwrap_or((&text, ""));
            let words = words
                .split(' ')
                .map(|word| if word == "''" { "" } else { word });
            hello(words).env("HELLO_MQ_CONFIG", &config).stdin(input)
        };
        let succeed = |text: &str| {
            let outcome = command(text).run();
            assert_eq!(outcome.status(), 0, "{text}: {outcome:?}");
            outcome.stdout
        };
        for line in *before {
            succeed(line);
        }
        let (line, meanwhile) = row.split_once(" & ").unwrap_or((row, ""));
        let (verb, rest) = line.split_once(' ').unwrap();
        let explained = succeed(&format!("{verb} --explain {rest}"));
        let operations = match serde_json::from_str::<serde_json::Value>(&explained) {
            Ok(json) => {
                let operations = json["operations"].as_array().unwrap().iter();
                let lines: Vec<_> = operations.map(|it| it.as_str().unwrap()).collect();
                lines.join("\n")
            }
            Err(_) => explained.split_once("\n\n").unwrap().1.to_owned(),
        };
        // The reply-to of the rows' messages, and where their dead letters come from.
        let names = [
            ("REPLY-TO", "@R"),
            ("ROUTING-KEY", "@R"),
            ("'EXCHANGE'", "''"),
        ];
        let operations = names.iter().fold(operations, |text, (name, value)| {
            text.replace(name, &with_names(value))
        });
        let mut sections = Section::read(&operations);

        proxy.record();
        let mut running = command(line).env("HELLO_MQ_URL", &proxy.url).spawn();
        if !meanwhile.is_empty() {
            if verb == "receive" {
                running.expect("CTRL+C\n");
            }
            succeed(meanwhile);
        }
        let outcome = running.end();
        assert_eq!(outcome.status(), 0, "{line}: {outcome:?}");
        for bytes in proxy.record() {
            let methods = fold(&bytes);
            let differences: Vec<_> = sections.iter().map(|it| it.difference(&methods)).collect();
            match differences.iter().position(Option::is_none) {
                Some(index) => drop(sections.remove(index)),
                None => panic!(
                    "{line}: {differences:#?}\nexplained:\n{operations}\nseen:\n{}",
                    methods.join("\n")
                ),
            }
        }
        let missing: Vec<_> = sections.iter().filter(|it| !it.is_optional).collect();
        assert!(missing.is_empty(), "{line}: no connection did {missing:?}");
    }
}

/// Messages of queue @R that are rejected, and so in queue @Q.
const DEAD: &[&str] = &[
    "declare @Q",
    "declare @R --dead-letter-exchange= --dead-letter-routing-key=@Q",
    "send -r @R a b",
    "receive @R --no-declare -c 2 --on-failure reject -- false",
];

const CONFIGURATION: &str = r#"
[profiles.forgetful.receive]
auto_ack = true

[[exchanges]]
name = "@X-of-file"
type = "topic"
durable = true

[[exchanges]]
name = "@X-behind"
type = "fanout"
alternate_exchange = "amq.fanout"

[[queues]]
name = "@Q-durable"
durable = true
message_ttl = "1m"

[[queues]]
name = "@Q-quorum"
type = "quorum"

[[queues]]
name = "@Q-stream"
type = "stream"
arguments = { x-max-age = "1h" }

[[bindings]]
exchange = "@X-of-file"
queue = "@Q-durable"
routing_keys = ["a.*", "b"]

[[bindings]]
exchange = "@X-of-file"
destination_exchange = "@X-behind"
arguments = { x = 1 }
"#;

#[test]
fn declare_does_what_it_explains() {
    check(&[
        (&[], "declare @Q"),
        (
            &[],
            "declare @Q --durable --max-length 5 --dead-letter-exchange '' --overflow drop-head",
        ),
        (&[], "declare @Q --type quorum -o json"),
        (
            &[],
            "declare -e @X --exchange-type topic --durable --alternate-exchange amq.fanout",
        ),
        (
            &[],
            "declare @Q -e @X --exchange-type headers --bind '' --bind-argument x-match=any",
        ),
        (&[], "declare '' -e amq.direct --bind a --bind b"),
        (
            &["declare -e @X"],
            "declare -e @X --bind a --destination-exchange amq.fanout",
        ),
        (&[], "declare --all"),
        (&["declare --all"], "declare --all --check"),
        (&["declare @Q"], "declare @Q --check"),
        (
            &["declare @Q --max-length 5"],
            "declare @Q --max-length 5 --check",
        ),
        (
            &[],
            "declare -e amq.topic --exchange-type topic --durable --check -o json",
        ),
    ]);
}

#[test]
fn delete_and_purge_do_what_they_explain() {
    check(&[
        (&["declare @Q"], "delete @Q"),
        (&["send -q @Q a"], "delete @Q --if-unused --yes -o json"),
        (&["declare @Q"], "delete @Q --if-empty"),
        (&["declare -e @X"], "delete -e @X --if-unused"),
        (&["send -q @Q a"], "purge @Q"),
        (
            &["send -q @Q a b"],
            "purge @Q --where .payload==\"a\" --yes",
        ),
    ]);
}

#[test]
fn send_does_what_it_explains() {
    check(&[
        (&[], "send -q @Q a b c"),
        (&[], "send -q @Q -l --persistent < a\nb\n"),
        (&[], "send -q @Q-quorum --retry-for 1s a"),
        (&[], "send -e amq.topic -r a.b --allow-unroutable a"),
        (&["declare -e @X"], "send -e @X --allow-unroutable a"),
        (&["declare @Q"], "send -r @Q a"),
        (&["declare @Q"], "send -q @Q --no-declare a"),
        (&[], "send -q @Q --no-confirm a b"),
        (&[], "send -q @Q --jsonl < {\"payload\":\"a\"}"),
        (&["declare @Q"], "send --jsonl -r @Q < {\"payload\":\"a\"}"),
        (
            &[],
            "send -q @Q --jsonl --pace 2x < {\"payload\":\"a\",\"received_at\":\"2025-12-31T23:59:59Z\"}",
        ),
        (
            &[],
            "send -q @Q --reply-timeout 20s a & receive @Q -c 1 --reply -- cat",
        ),
    ]);
}

#[test]
fn receive_does_what_it_explains() {
    let two = &["send -q @Q a b"][..];
    check(&[
        (two, "receive @Q --idle-timeout 100ms"),
        (two, "receive @Q -c 1"),
        (two, "receive @Q -c 2 --prefetch 1"),
        (two, "receive @Q --drain"),
        (two, "receive @Q --drain --no-declare"),
        (two, "receive @Q --auto-ack --idle-timeout 100ms"),
        (two, "receive @Q --auto-ack -c 1"),
        (two, "receive @Q --exclusive --priority 5 --drain"),
        (
            two,
            "receive @Q --exclusive --no-declare --idle-timeout 100ms",
        ),
        (two, "receive @Q --drain --where .payload==\"a\""),
        (two, "receive @Q --drain --where true --map ."),
        (two, "receive @Q --peek"),
        (two, "receive @Q --peek -c 1 --no-declare"),
        (&["send -q @Q-quorum a"], "receive @Q-quorum -c 1"),
        (&["send -q @Q-quorum a"], "receive @Q-quorum --peek"),
        (&["send -q @Q-durable a"], "receive @Q-durable --drain"),
        (
            &["send -q @Q-durable a"],
            "receive @Q-durable --idle-timeout 100ms",
        ),
        (&["send -q @Q-stream a b"], "receive @Q-stream --drain"),
        (
            &["send -q @Q-stream a b"],
            "receive @Q-stream --drain --no-declare",
        ),
        (
            &["send -q @Q-stream a b"],
            "receive @Q-stream --drain --where .payload==\"b\"",
        ),
        (
            &["send -q @Q-stream a b"],
            "receive @Q-stream --stream-offset 1 -c 1",
        ),
        (
            &[],
            "receive -e amq.topic -r @R.# -r b -c 1 & send -e amq.topic -r @R.b a",
        ),
        (
            &["declare -e @X --exchange-type fanout"],
            "receive -e @X -c 1 & send -e @X a",
        ),
        (
            &["declare -e @X --exchange-type fanout"],
            "receive -e amq.topic -r @R.# -r b -e @X -e amq.direct -r @R -c 1 & send -e @X a",
        ),
    ]);
}

#[test]
fn receive_publishes_as_it_explains() {
    let requests = &["declare @R", "send -q @Q --reply-to @R a b"][..];
    check(&[
        (
            &["declare @R", "send -q @Q a b"],
            "receive @Q --drain --forward-to :@R",
        ),
        (
            &["declare @R", "send -q @Q --persistent a b"],
            "receive @Q -c 2 --no-reconnect --forward-to :@R --keep headers.CC --without app_id",
        ),
        (
            &["declare @Q", "send -q @R a b"],
            "receive @R --drain --forward-to :@Q --to-url @PROXY",
        ),
        (DEAD, "receive @Q --drain --replay"),
        (DEAD, "receive @Q -c 1 --replay=last --without app_id"),
        (DEAD, "receive @Q --drain --replay --dry-run"),
        (requests, "receive @Q -c 2 -- true"),
        (requests, "receive @Q --drain --jobs 2 -- true"),
        (requests, "receive @Q -c 2 --on-failure reject -- false"),
        (requests, "receive @Q -c 2 --reply -- cat"),
        // A command can't say what becomes of a message that the broker has forgotten.
        (requests, "receive @Q --drain --profile forgetful -- true"),
    ]);
}
