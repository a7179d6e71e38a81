//! Completion as people meet it: in real shells, for every option of every command.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};

use clap::{Arg, Command};
use clap_complete::env::{Elvish, EnvCompleter, Powershell};
use hello_mq::cli;
use hello_mq::completion::VARIABLE;
use hello_mq::message::Part;
use tempfile::TempDir;

use super::{compare, project};

const PROGRAM: &str = env!("CARGO_BIN_EXE_hello-mq");

const CONFIGURATION: &str = r#"
queue = "standard"

[profiles.staging]
url = "amqp://staging.example"
queue = "a queue"

[profiles."pro duction"]

[[exchanges]]
name = "events"

[[queues]]
name = "orders"

[[queues]]
name = "x:y"

[[bindings]]
exchange = "events"
queue = "bound"
"#;

const QUEUES: &[&str] = &["a queue", "bound", "orders", "standard", "x:y"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// A directory with files to complete, a configuration, and hello-mq on the path.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self { directory };
        for inner in ["bin", "home/.config/hello-mq", "work/sub"] {
            fs::create_dir_all(place.directory.path().join(inner)).unwrap();
        }
        fs::write(place.work().join("a file.txt"), "").unwrap();
        fs::write(
            place.home().join(".config/hello-mq/config.toml"),
            CONFIGURATION,
        )
        .unwrap();
        std::os::unix::fs::symlink(PROGRAM, place.bin().join("hello-mq")).unwrap();
        place
    }

    fn bin(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    fn home(&self) -> PathBuf {
        self.directory.path().join("home")
    }

    fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Process {
        let path = std::env::var("PATH").unwrap();
        let mut process = Process::new(program);
        process
            .args(arguments)
            .current_dir(self.work())
            .env("HOME", self.home())
            .env("PATH", format!("{}:{path}", self.bin().display()))
            .env("LC_ALL", "C.UTF-8")
            .env_remove("HELLO_MQ_CONFIG")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        process
    }

    /// What the shell offers for each line, without quotes and without what is typed already.
    fn complete(&self, shell: Shell, lines: &[String]) -> Vec<BTreeSet<String>> {
        let driver = |name| {
            project("tests/rendered/drivers")
                .join(name)
                .display()
                .to_string()
        };
        let script = |name| project("completions").join(name).display().to_string();
        let mut process = match shell {
            Shell::Bash => self.run("bash", &[&driver("bash.sh"), &script("hello-mq.bash")]),
            Shell::Fish => self.run("fish", &[&driver("fish.fish"), &script("hello-mq.fish")]),
            Shell::Zsh => self.run("zsh", &["-f", &driver("zsh.zsh"), &script("")]),
        };
        let mut child = process
            .spawn()
            .unwrap_or_else(|error| panic!("{shell:?}: {error}; scripts/setup shells"));
        let mut input = child.stdin.take().unwrap();
        let typed = lines.join("\n") + "\n";
        let writer = std::thread::spawn(move || input.write_all(typed.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{shell:?}: {said}"
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let blocks: Vec<_> = text.strip_suffix("==\n").unwrap().split("==\n").collect();
        assert_eq!(blocks.len(), lines.len(), "{shell:?}: {text}");
        blocks
            .iter()
            .zip(lines)
            .map(|(block, line)| {
                let offered = match shell {
                    Shell::Bash | Shell::Fish => block.lines().map(str::to_owned).collect(),
                    Shell::Zsh => shown_by_zsh(block, line),
                };
                let typed = line.rsplit(' ').next().unwrap();
                let known = match typed.split_once('=') {
                    Some((option, _)) => format!("{option}="),
                    None => String::new(),
                };
                offered
                    .iter()
                    .map(|word| word.replace('\\', ""))
                    .map(|word| word.strip_prefix(&known).unwrap_or(&word).to_owned())
                    .map(|word| word.trim_end_matches('/').to_owned())
                    .collect()
            })
            .collect()
    }

    /// What one shell offers for one line.
    fn offers(&self, shell: Shell, line: &str) -> BTreeSet<String> {
        self.complete(shell, &[line.to_owned()]).remove(0)
    }
}

/// The words of a list, or the one that was inserted.
fn shown_by_zsh(block: &str, line: &str) -> Vec<String> {
    let (screen, result) = block.trim_end_matches('\n').rsplit_once("\n=").unwrap();
    let mut rows: Vec<_> = screen.lines().skip(1).map(str::trim_end).collect();
    if rows.pop().is_some() {
        return rows
            .iter()
            .flat_map(|row| match row.split_once(" -- ") {
                Some((word, _)) => vec![word.trim().to_owned()],
                None => row
                    .split("  ")
                    .map(|word| word.trim().to_owned())
                    .filter(|word| !word.is_empty())
                    .collect(),
            })
            .collect();
    }
    let start = line.rfind(' ').unwrap() + 1;
    match result.get(start..) {
        Some(word) if result != line => vec![word.strip_suffix(' ').unwrap_or(word).to_owned()],
        _ => Vec::new(),
    }
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The values of an argument that can be known.
fn values(argument: &Arg) -> BTreeSet<String> {
    let words: Vec<_> = argument
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_owned())
        .collect();
    if !words.is_empty() {
        return words.into_iter().collect();
    }
    match argument.get_id().as_str() {
        "profile" | "to_profile" => set(&["pro duction", "staging"]),
        "queue" | "reply_to" | "name" => set(QUEUES),
        "exchange" | "alternate_exchange" | "dead_letter_exchange" | "destination_exchange" => {
            set(&["events"])
        }
        "forward_to" => QUEUES
            .iter()
            .map(|queue| format!(":{queue}"))
            .chain(["events:".to_owned()])
            .collect(),
        "exchange_type" => set(&["direct", "fanout", "topic", "headers"]),
        "stream_offset" => set(&["first", "last", "next"]),
        "pace" => set(&["recorded", "2x", "0.5x"]),
        "timestamp" => set(&["now"]),
        "without" => set(&Part::NAMES),
        "keep" => set(&["headers.CC", "headers.BCC"]),
        "save" => set(&["sub"]),
        "files" | "password_file" | "ca_file" | "cert_file" | "key_file" | "config" => {
            set(&["a file.txt", "sub"])
        }
        _ => BTreeSet::new(),
    }
}

/// Each line, and what is to be offered.
fn cases() -> Vec<(String, BTreeSet<String>)> {
    let mut cli = cli::command();
    cli.build();
    let mut cases = Vec::new();
    let commands: BTreeSet<_> = cli
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    cases.push(("hello-mq ".to_owned(), commands));
    cases.push(("hello-mq se".to_owned(), set(&["send"])));
    for command in cli.get_subcommands() {
        of_command(command, &mut cases);
    }
    let more: [(&str, &[&str]); 9] = [
        ("hello-mq receive --wai", &["--wait"]),
        ("hello-mq receive -q or", &["orders"]),
        ("hello-mq -q or", &["orders"]),
        ("hello-mq receive or", &["orders"]),
        ("hello-mq receive no-such-queue", &[]),
        ("hello-mq receive --output=js", &["json"]),
        ("hello-mq send -f su", &["sub"]),
        ("hello-mq receive orders -- hello-m", &["hello-mq"]),
        ("hello-mq receive orders -- cat su", &["sub"]),
    ];
    for (line, offered) in more {
        cases.push((line.to_owned(), set(offered)));
    }
    cases
}

fn of_command(command: &Command, cases: &mut Vec<(String, BTreeSet<String>)>) {
    let typed = format!("hello-mq {}", command.get_name());
    let longs = command.get_arguments().filter_map(Arg::get_long);
    let options: BTreeSet<_> = longs.map(|long| format!("--{long}")).collect();
    cases.push((format!("{typed} --"), options));
    for argument in command.get_arguments() {
        let takes_value = argument.get_num_args().unwrap().takes_values();
        match argument.get_long() {
            Some(long) if takes_value => {
                let next = if argument.is_require_equals_set() {
                    command.get_positionals().next().unwrap()
                } else {
                    argument
                };
                cases.push((format!("{typed} --{long} "), values(next)));
                let is_list = !argument.get_possible_values().is_empty();
                if is_list || ["queue", "profile", "config"].contains(&long) {
                    cases.push((format!("{typed} --{long}="), values(argument)));
                }
            }
            None if argument.get_index() == Some(1) && !values(argument).is_empty() => {
                cases.push((format!("{typed} "), values(argument)));
            }
            _ => {}
        }
    }
}

fn every_option_is_completed(shell: Shell) {
    let place = Place::new();
    let (lines, expected): (Vec<_>, Vec<_>) = cases().into_iter().unzip();
    let offered = place.complete(shell, &lines);
    for ((line, expected), offered) in lines.iter().zip(&expected).zip(&offered) {
        // Bash replaces only what stands behind a colon, and fish offers what else begins so.
        let expected: BTreeSet<_> = match (shell, line.as_str()) {
            (Shell::Fish, line) if line.contains(" -- ") => {
                assert!(
                    offered.is_superset(expected),
                    "{shell:?}: {line}: {offered:?}"
                );
                continue;
            }
            _ => expected.clone(),
        };
        assert_eq!(*offered, expected, "{shell:?}: {line}");
    }
}

#[test]
fn bash_completes_every_option() {
    every_option_is_completed(Shell::Bash);
}

#[test]
fn fish_completes_every_option() {
    every_option_is_completed(Shell::Fish);
}

#[test]
fn zsh_completes_every_option() {
    every_option_is_completed(Shell::Zsh);
}

#[test]
fn a_broken_configuration_is_not_mentioned() {
    let place = Place::new();
    fs::write(place.work().join("broken"), "queue = [").unwrap();
    for directory in [place.work(), place.home()] {
        fs::write(directory.join("other"), "queue = 'elsewhere'").unwrap();
    }
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        for (line, expected) in [
            ("hello-mq --config broken send -q ", set(&[])),
            ("hello-mq --config no-such-file receive -q ", set(&[])),
            ("hello-mq --config=broken send --profile ", set(&[])),
            ("hello-mq --config broken receive -o t", set(&["text"])),
            ("hello-mq send --config other -q ", set(&["elsewhere"])),
            ("hello-mq send --config=other -q ", set(&["elsewhere"])),
            ("hello-mq send --config ~/other -q ", set(&["elsewhere"])),
        ] {
            assert_eq!(place.offers(shell, line), expected, "{shell:?}: {line}");
        }
    }
}

/// A person at a terminal: hello-mq's own answer shows what the line became.
#[test]
fn what_bash_completes_can_be_run() {
    let place = Place::new();
    fs::write(place.work().join("a config.toml"), "queue = 'there'").unwrap();
    let shell = "bash --norc --noprofile -i";
    let mut child = place
        .run("script", &["-qec", shell, "/dev/null"])
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut answer = |typed: &str| {
        input.write_all(typed.as_bytes()).unwrap();
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(b"READY>") {
            assert_eq!(
                output.read(&mut byte).unwrap(),
                1,
                "{:?}",
                String::from_utf8_lossy(&seen)
            );
            seen.push(byte[0]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    };
    answer("PS1=READ; PS1+='Y>'\n");
    let script = project("completions/hello-mq.bash");
    answer(&format!("source '{}'\n", script.display()));
    for (typed, queue) in [
        ("hello-mq rec\t-q or\t--exp\t | grep ^queue\n", "orders"),
        ("hello-mq rec\t a\t--exp\t | grep ^queue\n", "a queue"),
        ("hello-mq rec\t--queue=x\t--exp\t | grep ^queue\n", "x:y"),
        ("hello-mq rec\t-q x:\t--exp\t | grep ^queue\n", "x:y"),
        ("hello-mq rec\t-q 'a q\t--exp\t | grep ^queue\n", "a queue"),
        (
            "hello-mq rec\t--profile st\t--exp\t | grep ^queue\n",
            "a queue",
        ),
        (
            "hello-mq rec\t--config=a\\ c\t--exp\t | grep ^queue\n",
            "there",
        ),
        (
            "hello-mq rec\t--config a\\ c\t--exp\t | grep ^queue\n",
            "there",
        ),
    ] {
        let shown = answer(typed);
        let line = shown.lines().find(|line| line.contains("  from "));
        let words = line.unwrap_or_else(|| panic!("{typed:?}: {shown}"));
        assert!(words.contains(&format!(" {queue} ")), "{typed:?}: {words}");
    }
    drop(input);
    child.wait().unwrap();
}

#[test]
fn the_scripts_of_other_shells_are_what_clap_makes_of_them() {
    let shells: [(&str, &dyn EnvCompleter); 2] =
        [("hello-mq.elv", &Elvish), ("hello-mq.ps1", &Powershell)];
    let mut rendered: Vec<_> = shells
        .iter()
        .map(|(name, shell)| {
            let mut script = Vec::new();
            shell
                .write_registration(VARIABLE, "hello-mq", "hello-mq", "hello-mq", &mut script)
                .unwrap();
            let script = String::from_utf8(script).unwrap();
            ((*name).to_owned(), format!("{}\n", script.trim()))
        })
        .collect();
    // These are written by hand, and ask hello-mq itself.
    for own in ["_hello-mq", "hello-mq.bash", "hello-mq.fish"] {
        let script = fs::read_to_string(project("completions").join(own)).unwrap();
        rendered.push((own.to_owned(), script));
    }
    compare("completions", &rendered);
}

/// Their scripts ask in this way.
#[test]
fn other_shells_are_answered() {
    let place = Place::new();
    for (shell, index) in [("elvish", Some("2")), ("powershell", None)] {
        let arguments = ["--", "hello-mq", "send", "--prof"];
        let mut process = place.run(PROGRAM, &arguments);
        process.env(VARIABLE, shell).env("_CLAP_IFS", "\n");
        if let Some(index) = index {
            process.env("_CLAP_COMPLETE_INDEX", index);
        }
        let output = process.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("--profile"), "{shell}: {text}");
    }
}

#[test]
fn hello_mq_prints_the_committed_files() {
    let print = |arguments: &[&str]| {
        let output = Process::new(PROGRAM).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let committed = |path: &str| fs::read_to_string(project(path)).unwrap();
    for (shell, file) in [
        ("bash", "hello-mq.bash"),
        ("zsh", "_hello-mq"),
        ("fish", "hello-mq.fish"),
        ("powershell", "hello-mq.ps1"),
        ("elvish", "hello-mq.elv"),
    ] {
        let script = committed(&format!("completions/{file}"));
        assert_eq!(print(&["completions", shell]), script);
    }
    assert_eq!(print(&["man"]), committed("man/hello-mq.1"));
    assert_eq!(print(&["man", "hello-mq"]), committed("man/hello-mq.1"));
    assert_eq!(
        print(&["man", "hello-mq.toml"]),
        committed("man/hello-mq.toml.5")
    );
    for command in cli::command().get_subcommands() {
        let name = command.get_name();
        let page = committed(&format!("man/hello-mq-{name}.1"));
        assert_eq!(print(&["man", name]), page);
    }
}
