//! `receive --replay`: dead letters go back to where they came from. `make test-rabbitmq4` runs these, too:
//! what a dead letter looks like differs by series.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Observer, broker_tool, hello, queue, shown_url, url};

/// Runs a command line whose words have no spaces, and returns what it prints.
fn run(line: &str) -> String {
    let outcome = hello(line.split(' ')).run();
    assert_eq!(outcome.status(), 0, "{line}: {outcome:?}");
    outcome.stdout
}

/// Rejects messages of a queue.
fn reject(queue: &str, messages: u32) {
    run(&format!(
        "receive --quiet --no-declare {queue} -c {messages} --on-failure reject -- false"
    ));
}

/// Replays a queue, and checks what is said.
fn replay(line: &str, stdout: &str, stderr: &str) {
    let outcome = hello(format!("receive --no-declare --replay{line}").split(' ')).run();
    assert_eq!(
        (
            outcome.status(),
            outcome.stdout.as_str(),
            outcome.stderr.as_str()
        ),
        (0, stdout, stderr),
        "{line}"
    );
}

/// Declares a queue for dead letters, and one whose messages die there.
fn declare(kind: &str) -> (String, String) {
    let (work, dead) = (queue("work"), queue("dead"));
    run(&format!("declare {dead} --durable --type {kind}"));
    let options = format!("--dead-letter-exchange= --dead-letter-routing-key={dead}");
    run(&format!(
        "declare {work} --durable --type {kind} {options} -e amq.topic --bind {work}.a --bind {work}.b"
    ));
    (work, dead)
}

#[test]
fn a_dead_letter_can_be_replayed_and_die_again() {
    for kind in ["classic", "quorum"] {
        let (work, dead) = declare(kind);
        let output = hello(["send", "-e", "amq.topic", "-r", &format!("{work}.a")])
            .args(["-H", &format!("CC:=[\"{work}.b\",\"{work}.none\"]")])
            .args(["-H", &format!("BCC:=[\"{work}.hidden\"]"), "-H", "k: v"])
            .args(["--app-id", "p", "--persistent", "--user-id", "guest"])
            .args(["1", "2", "3"])
            .run();
        assert_eq!(output.status(), 0, "{output:?}");
        run(&format!("send -q {dead} --no-declare alive"));
        let mut observer = Observer::new();
        for _ in 0..3 {
            // It is in the queue once, although two of its routing keys are bound.
            observer.settles_at(&work, 3);
            reject(&work, 3);
            observer.reaches(&dead, 4);
            replay(
                &format!(" --drain --dry-run {dead}"),
                &format!(
                    " [x] Would publish 3 messages to exchange 'amq.topic' with routing keys \
                     '{work}.a', '{work}.b', '{work}.none'\n \
                     [x] Would leave 1 message in queue '{dead}'\n"
                ),
                &format!("hello-mq: 1 message without a usable x-death stayed in queue '{dead}'\n"),
            );
            observer.reaches(&dead, 4);
            replay(
                &format!(" --drain {dead}"),
                " [x] Replayed 3 messages\n",
                &format!("hello-mq: 1 message without a usable x-death stayed in queue '{dead}'\n"),
            );
            observer.reaches(&dead, 1);
        }
        let printed = run(&format!(
            "receive --no-declare {work} --drain --format %s,%e,%r,%{{app_id}},%{{delivery_mode}},%{{user_id}},%h\\n"
        ));
        let lines: Vec<_> = ["1", "2", "3"]
            .iter()
            .map(|body| {
                format!(
                    "{body},amq.topic,{work}.a,p,2,guest,{{\"CC\":[\"{work}.b\",\"{work}.none\"],\"k\":\"v\"}}\n"
                )
            })
            .collect();
        assert_eq!(printed, lines.concat(), "{kind}");
        assert_eq!(observer.drain(&dead), ["alive"]);
    }
}

#[test]
fn the_first_or_the_last_death_says_where_it_goes() {
    let (work, retry) = declare("quorum");
    let dead = queue("dead");
    run(&format!("declare {dead} --durable"));
    run(&format!("delete {retry} --yes"));
    run(&format!(
        "declare {retry} --durable --message-ttl 1ms --dead-letter-exchange= --dead-letter-routing-key={dead}"
    ));
    let send_and_reject = || {
        run(&format!("send -e amq.topic -r {work}.a x"));
        reject(&work, 1);
        Observer::new().reaches(&dead, 1);
    };
    send_and_reject();
    replay(&format!(" -c 1 {dead}"), " [x] Replayed 1 message\n", "");
    let mut observer = Observer::new();
    observer.reaches(&work, 1);
    assert_eq!(observer.messages(&dead), 0);
    observer.drain(&work);

    send_and_reject();
    replay(
        &format!("=last --dry-run {dead}"),
        &format!(" [x] Would publish 1 message to queue '{retry}'\n"),
        "",
    );
    // There it expires at once, and may be back before the end.
    let outcome = hello(["receive", "--replay=last", "--drain", "--no-declare", &dead]).run();
    assert_eq!(outcome.stdout, " [x] Replayed 1 message\n", "{outcome:?}");
    observer.reaches(&dead, 1);
    replay(
        &format!("=first --dry-run {dead}"),
        &format!(" [x] Would publish 1 message to queue '{retry}'\n"),
        "",
    );
}

#[test]
fn what_dies_again_at_once_is_replayed_once() {
    let (dead, full) = (queue("dead"), queue("full"));
    run(&format!("declare {dead} --durable"));
    run(&format!(
        "declare {full} --durable --max-length 0 --dead-letter-exchange= --dead-letter-routing-key={dead}"
    ));
    run(&format!("send --quiet -q {full} --no-declare -c 1000 x"));
    let mut observer = Observer::new();
    observer.reaches(&dead, 1000);
    let outcome = hello(["receive", "--drain", "--replay", "--no-declare", &dead]).run();
    assert_eq!(
        outcome.stdout, " [x] Replayed 1000 messages\n",
        "{outcome:?}"
    );
    observer.reaches(&dead, 1000);
}

#[test]
fn a_message_that_would_come_again_stays() {
    let (dead, retry) = (queue("dead"), queue("retry"));
    for (name, other) in [(&dead, &retry), (&retry, &dead)] {
        run(&format!(
            "declare {name} --durable --dead-letter-exchange= --dead-letter-routing-key={other}"
        ));
    }
    run(&format!("send -q {dead} --no-declare a b"));
    reject(&dead, 2);
    reject(&retry, 1);
    replay(
        &format!(" --drain {dead}"),
        " [x] Replayed 0 messages\n",
        &format!("hello-mq: 1 message whose x-death leads to queue '{dead}' itself stayed there\n"),
    );
    replay(
        &format!("=last --drain {dead}"),
        " [x] Replayed 1 message\n",
        "",
    );
    replay(
        &format!(" --drain {retry}"),
        " [x] Replayed 1 message\n",
        &format!("hello-mq: 1 message without a usable x-death stayed in queue '{retry}'\n"),
    );
}

#[test]
fn the_user_id_of_another_user_is_left_out() {
    let (work, dead) = declare("classic");
    let other = queue("other");
    for line in [
        format!("add_user {other} pass"),
        format!("set_permissions {other} .* .* .*"),
    ] {
        broker_tool(&format!("rabbitmqctl -q {line}"));
    }
    let theirs = url().replace("guest:guest@", &format!("{other}:pass@"));
    for (user, url) in [(other.as_str(), theirs), ("guest", url())] {
        run(&format!(
            "send --url {url} -e amq.topic -r {work}.a --user-id {user} a b"
        ));
    }
    reject(&work, 4);
    hello([
        "receive",
        "--replay",
        "--keep",
        "user_id",
        "--no-declare",
        &dead,
    ])
    .run()
    .failed(76, &["user_id"]);
    replay(
        &format!(" -c 4 {dead}"),
        " [x] Replayed 4 messages\n",
        &format!(
            "hello-mq: left out user_id '{other}', which the broker accepts only from that user (--keep \
             user_id passes it on)\n"
        ),
    );
    assert_eq!(
        run(&format!(
            "receive --no-declare {work} --drain --format %s%{{user_id}},"
        )),
        "a,b,aguest,bguest,"
    );
    broker_tool(&format!("rabbitmqctl -q delete_user {other}"));
}

#[test]
fn what_can_not_be_replayed_stays() {
    let (work, dead) = declare("quorum");
    let exchange = queue("gone");
    run(&format!(
        "declare -e {exchange} --exchange-type fanout --durable"
    ));
    run(&format!(
        "declare --durable {work}-2 --dead-letter-exchange= --dead-letter-routing-key={dead} -e {exchange} --bind="
    ));
    run(&format!("send -e {exchange} -r k x"));
    reject(&format!("{work}-2"), 1);
    let failed = |status, parts: &[&str]| {
        hello(["receive", "--drain", "--replay", "--no-declare", &dead])
            .run()
            .failed(status, parts);
        Observer::new().reaches(&dead, 1);
    };
    run(&format!("delete {work}-2 --yes"));
    let target = format!("'{exchange}:k'");
    failed(67, &["returned message 1", &target, &shown_url()]);
    run(&format!("delete -e {exchange} --yes"));
    failed(67, &[&format!("no exchange '{exchange}'")]);
}

#[test]
fn some_dead_letters_are_replayed_and_the_others_stay() {
    let (work, dead) = declare("classic");
    for shop in ["7", "8"] {
        run(&format!("send -e amq.topic -r {work}.a -H shop:{shop} a b"));
    }
    reject(&work, 4);
    let choice = [
        "receive",
        "--no-declare",
        "--replay",
        "--drain",
        "--where",
        ".properties.headers.shop == \"7\"",
        "--without",
        "headers.shop",
        &dead,
    ];
    hello(choice).args(["--dry-run"]).run().printed(&format!(
        " [x] Would publish 2 messages to exchange 'amq.topic' with routing key '{work}.a'\n \
         [x] Would leave 2 messages in queue '{dead}'\n"
    ));
    hello(choice).run().printed(" [x] Replayed 2 messages\n");
    assert_eq!(Observer::new().drain(&dead), ["a", "b"]);
    assert_eq!(
        run(&format!(
            "receive --no-declare {work} --drain --format %s%h"
        )),
        "a{}b{}"
    );
}

#[test]
fn a_dry_run_of_forwarding_publishes_nothing() {
    let (from, to) = (queue("from"), queue("to"));
    for name in [&from, &to] {
        run(&format!("declare {name} --durable"));
    }
    run(&format!("send -q {from} --no-declare a b"));
    let target = format!(":{to}");
    hello([
        "receive",
        "--drain",
        "--forward-to",
        &target,
        "--dry-run",
        "--no-declare",
        &from,
    ])
    .run()
    .printed(&format!(" [x] Would publish 2 messages to queue '{to}'\n"));
    let mut observer = Observer::new();
    assert_eq!(observer.messages(&to), 0);
    observer.reaches(&from, 2);
    for options in [
        "--dry-run",
        "--dry-run -- true",
        "--replay --forward-to :q",
        "--replay --save d",
        "--replay -o json",
        "--replay --exchange amq.topic",
        "--replay=middle",
        "--without user_id -- true",
    ] {
        hello(format!("receive q {options}").split(' '))
            .run()
            .failed(64, &["--"]);
    }
}

#[test]
fn a_replay_that_is_killed_or_interrupted_loses_nothing() {
    const MESSAGES: u32 = 5000;
    for kind in ["classic", "quorum"] {
        let (work, dead) = (queue("work"), queue("dead"));
        run(&format!("declare {dead} --durable --type {kind}"));
        run(&format!("declare {work} --durable --type {kind}"));
        let death = |number: u32| {
            format!(
                "{{\"payload\":\"{number}\",\"routing_key\":\"{dead}\",\"properties\":{{\"headers\":{{\
                 \"x-death\":[{{\"exchange\":\"\",\"routing-keys\":[\"{work}\"]}}]}}}}}}\n"
            )
        };
        let lines: String = (0..MESSAGES).map(death).collect();
        hello(["send", "--jsonl", "--quiet"])
            .stdin(lines)
            .run()
            .printed("");
        let mut observer = Observer::new();
        for signal in [Signal::SIGKILL, Signal::SIGINT].repeat(3) {
            let replayed = observer.messages(&work);
            let line = ["receive", "--no-declare", "--replay", "--prefetch", "2"];
            let running = hello(line).args([&dead]).spawn();
            observer.reaches(&work, replayed + 1);
            running.stop(signal);
        }
        // What a killed one held is back a moment later.
        while observer.messages(&dead) + observer.messages(&work) < MESSAGES {
            thread::sleep(Duration::from_millis(20));
        }
        let (left, mut all) = (observer.drain(&dead), observer.drain(&work));
        assert!(!left.is_empty() && !all.is_empty(), "it was not stopped");
        all.extend(left);
        all.sort_by_key(|number| number.parse::<u32>().unwrap());
        all.dedup();
        let numbers: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).collect();
        assert_eq!(all, numbers, "{kind}");
    }
}
