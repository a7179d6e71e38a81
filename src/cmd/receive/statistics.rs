//! The statistics of a `receive`: its progress, shown on a terminal, and the summary of `--stats`.

use std::time::{Duration, Instant};

use crate::broker::consume::Total;
use crate::cli;
use crate::cmd::progress::{Figures, Progress, of};
use crate::cmd::{Context, counted};
use crate::messenger::{Messenger, ProgressSnapshot};
use crate::output::Stdout;
use crate::text;

/// The statistics of one `receive`. A message counts when it has left the queue for good, or with
/// `--peek`, when it was shown.
pub(super) struct ReceiveStatistics {
    messenger: Messenger,
    /// Whether a summary is wanted (`--stats`).
    is_wanted: bool,
    /// Whether receiving has begun.
    is_begun: bool,
    verb: &'static str,
    progress: Progress,
    total: Total,
    /// The moments at which the first message arrived and the last one was done.
    span: Option<(Instant, Instant)>,
}

impl ReceiveStatistics {
    pub(super) fn new(arguments: &cli::Receive, context: &Context) -> Self {
        let publishes = arguments.forward_to.is_some() || arguments.replay.is_some();
        let verb = if arguments.dry_run {
            "looked at"
        } else if arguments.replay.is_some() {
            "replayed"
        } else if publishes {
            "forwarded"
        } else if arguments.peek {
            "showed"
        } else {
            "received"
        };
        let describe = move |snapshot: &ProgressSnapshot, _: &Figures| {
            format!("{verb} {}{}", snapshot.done, of(snapshot.total))
        };
        // Progress would be mixed with messages on a terminal, and with what a command prints.
        let is_seen = !publishes
            && (!arguments.command.is_empty()
                || Stdout::open().is_ok_and(|stdout| stdout.may_be_seen()));
        let progress = Progress::new(&context.messenger, !is_seen, arguments.count, describe);
        Self {
            messenger: context.messenger.clone(),
            is_wanted: arguments.stats,
            is_begun: false,
            verb,
            progress: if publishes && !arguments.dry_run {
                progress.of_received_and_confirmed()
            } else {
                progress
            },
            total: Total::default(),
            span: None,
        }
    }

    /// Records that receiving has begun: from now on there is a summary, even of no messages.
    pub(super) fn begin(&mut self) {
        self.is_begun = true;
    }

    /// Records that messages arrived.
    pub(super) fn received(&mut self, now: Instant) {
        if self.span.is_none() {
            self.span = Some((now, now));
            self.progress.begin();
        }
    }

    /// Records that received messages were handed over.
    pub(super) fn handed_over(&self, messages: usize) {
        self.progress.received(messages as u64);
    }

    /// Sets the number and size of the messages that are done.
    pub(super) fn update(&mut self, total: Total) {
        if total == self.total {
            return;
        }
        self.total = total;
        if let Some((_, last)) = &mut self.span {
            *last = Instant::now();
        }
        let Total {
            messages, bytes, ..
        } = total;
        self.progress.advance(messages, bytes, messages);
    }

    /// Returns the number of messages that are done.
    pub(super) fn messages(&self) -> u64 {
        self.total.messages
    }

    /// Removes the progress from the terminal.
    pub(super) fn end_progress(&mut self) {
        self.progress.end();
    }

    /// Prints the summary, if it is wanted.
    pub(super) fn finish(mut self) {
        self.end_progress();
        if self.is_wanted && self.is_begun {
            let time = self.span.map(|(first, last)| last - first);
            let summary = summary(self.total, time.unwrap_or_default());
            self.messenger.result(&format!("{} {summary}", self.verb));
        }
    }
}

/// The longest time that is too short for a rate.
const INSTANT: Duration = Duration::from_millis(10);

fn summary(total: Total, time: Duration) -> String {
    let messages = counted(total.messages, "message");
    if total.messages == 0 {
        return messages;
    }
    let rejected = match total.rejected {
        0 => String::new(),
        rejected => format!(" ({rejected} rejected)"),
    };
    let seconds = time.as_secs_f64();
    let digits = if seconds < 1.0 { 2 } else { 1 };
    let all = format!(
        "{messages}{rejected}, {} in {seconds:.digits$} s",
        text::size(total.bytes)
    );
    // A single message has no rate.
    if total.messages == 1 || time < INSTANT {
        return all;
    }
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    let (messages, bytes) = (
        total.messages as f64 / seconds,
        (total.bytes as f64 / seconds).round() as u64,
    );
    format!(
        "{all} ({}/s, {}/s)",
        text::rate(messages),
        text::size(bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_where_there_is_one() {
        let of = |messages, bytes, rejected, milliseconds| {
            let total = Total {
                messages,
                bytes,
                rejected,
            };
            summary(total, Duration::from_millis(milliseconds))
        };
        assert_eq!(
            of(1_000_000, 16_000_000, 0, 12_300),
            "1000000 messages, 16.0 MB in 12.3 s (81301/s, 1.3 MB/s)"
        );
        assert_eq!(
            of(10, 5, 2, 20_000),
            "10 messages (2 rejected), 5 B in 20.0 s (0.5/s, 0 B/s)"
        );
        assert_eq!(of(0, 0, 0, 0), "0 messages");
        assert_eq!(of(1, 12, 0, 30), "1 message, 12 B in 0.03 s");
        assert_eq!(of(9, 12, 0, 9), "9 messages, 12 B in 0.01 s");
    }
}
