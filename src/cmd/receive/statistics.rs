//! What a `receive` has done so far: shown on a terminal while it takes long, and told in the end to
//! whom asks for it (`--stats`).

use std::time::{Duration, Instant};

use crate::broker::consume::Total;
use crate::cli;
use crate::cmd::progress::{Figures, Progress, of};
use crate::cmd::{Context, counted};
use crate::messenger::{Messenger, ProgressSnapshot};
use crate::output::Stdout;
use crate::text;

/// The statistics of one `receive`. Only what has left the queue for good counts, or with `--peek`, what
/// was shown.
pub struct ReceiveStatistics {
    messenger: Messenger,
    /// Whether it is told in the end.
    is_wanted: bool,
    /// Whether there was anything to count.
    is_open: bool,
    verb: &'static str,
    progress: Progress,
    total: Total,
    /// When the first message came, and when the last one was done.
    span: Option<(Instant, Instant)>,
}

impl ReceiveStatistics {
    pub fn new(arguments: &cli::Receive, context: &Context) -> Self {
        let (verb, told): (_, fn(&ProgressSnapshot, &Figures) -> String) =
            if arguments.forward_to.is_some() {
                ("forwarded", |pace, _| told("forwarded", pace))
            } else if arguments.peek {
                ("showed", |pace, _| told("showed", pace))
            } else {
                ("received", |pace, _| told("received", pace))
            };
        // Progress would be in the way of messages that are seen, and of what a command says.
        let is_seen = arguments.forward_to.is_none()
            && (!arguments.command.is_empty()
                || Stdout::open().is_ok_and(|stdout| stdout.may_be_seen()));
        Self {
            messenger: context.messenger.clone(),
            is_wanted: arguments.stats,
            is_open: false,
            verb,
            progress: Progress::new(&context.messenger, !is_seen, arguments.count, told),
            total: Total::default(),
            span: None,
        }
    }

    /// Marks that receiving has begun, so that even no messages are told.
    pub fn open(&mut self) {
        self.is_open = true;
    }

    /// A message came.
    pub fn came(&mut self, now: Instant) {
        if self.span.is_none() {
            self.span = Some((now, now));
            self.progress.begin();
        }
    }

    /// So much is done in all.
    pub fn update(&mut self, total: Total) {
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

    /// How many messages are done.
    pub fn messages(&self) -> u64 {
        self.total.messages
    }

    /// Takes the progress away.
    pub fn end_progress(&mut self) {
        self.progress.end();
    }

    /// Tells it, if that was asked for.
    pub fn tell(mut self) {
        self.end_progress();
        if self.is_wanted && self.is_open {
            let time = self.span.map(|(first, last)| last - first);
            let summary = summary(self.total, time.unwrap_or_default());
            self.messenger.result(&format!("{} {summary}", self.verb));
        }
    }
}

fn told(verb: &str, pace: &ProgressSnapshot) -> String {
    format!("{verb} {}{}", pace.done, of(pace.total))
}

/// What takes no longer was too short to tell a rate from it.
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
    // From one message to itself there is no time.
    if total.messages == 1 || time < INSTANT {
        return all;
    }
    // As exact as a rate has to be.
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
