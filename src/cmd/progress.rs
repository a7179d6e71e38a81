//! The progress of a command, shown on a terminal while it takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::messenger::{Messenger, ProgressSnapshot, Speed};
use crate::text;

/// The time after which progress is shown.
const PROGRESS_DELAY: Duration = Duration::from_secs(1);

/// The figures that are shown beside the number of messages that are done.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// The number of messages that are under way or done.
    started: AtomicU64,
    /// The total size of the bodies that are done.
    bytes: AtomicU64,
    /// The speed at which messages are received that are then confirmed, if that is what is done.
    received: Option<Speed>,
}

impl Figures {
    /// Returns the number of messages that are under way or done.
    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }
}

/// Returns the beginning of the progress line.
type Describe = dyn Fn(&ProgressSnapshot, &Figures) -> String + Send + Sync;

/// The progress of one command.
pub(super) struct Progress {
    messenger: Messenger,
    /// The number of messages in all, where it is known.
    total: Option<u64>,
    describe: Arc<Describe>,
    figures: Arc<Figures>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    /// Progress is not wanted, or would not be seen.
    Off,
    Waiting,
    Begun(Instant),
    Shown,
}

impl Progress {
    /// Creates a progress that is shown if it `is_wanted` and standard error is a terminal.
    pub(super) fn new(
        messenger: &Messenger,
        is_wanted: bool,
        total: Option<u64>,
        describe: impl Fn(&ProgressSnapshot, &Figures) -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            total,
            describe: Arc::new(describe),
            figures: Arc::default(),
            stage: if is_wanted && messenger.can_show_progress() {
                Stage::Waiting
            } else {
                Stage::Off
            },
            messenger: messenger.clone(),
        }
    }

    /// Shows the speed at which messages are received beside the one at which they are confirmed.
    pub(super) fn of_received_and_confirmed(self) -> Self {
        let received = Some(Speed::default());
        let figures = Figures {
            received,
            ..Figures::default()
        };
        Self {
            figures: Arc::new(figures),
            ..self
        }
    }

    /// Begins to measure, at the first message.
    pub(super) fn begin(&mut self) {
        if matches!(self.stage, Stage::Waiting) {
            self.stage = Stage::Begun(Instant::now());
            self.messenger.begin_progress();
            if let Some(received) = &self.figures.received {
                received.begin();
            }
        }
    }

    /// Records that messages were received.
    pub(super) fn received(&self, messages: u64) {
        if let Some(received) = &self.figures.received {
            received.add(messages);
        }
    }

    /// Sets the number of messages that are `done`, the total size of their bodies, and the number of
    /// messages that were `started`.
    pub(super) fn advance(&mut self, done: u64, bytes: u64, started: u64) {
        let is_due = match self.stage {
            Stage::Shown => false,
            Stage::Begun(moment) if moment.elapsed() >= PROGRESS_DELAY => true,
            _ => return,
        };
        self.figures.bytes.store(bytes, Ordering::Relaxed);
        self.figures.started.store(started, Ordering::Relaxed);
        self.messenger.advance(done);
        if is_due {
            let (describe, figures) = (Arc::clone(&self.describe), Arc::clone(&self.figures));
            self.messenger.show_progress(self.total, move |snapshot| {
                describe(snapshot, &figures) + &describe_rate(snapshot, &figures)
            });
            self.stage = Stage::Shown;
        }
    }

    /// Removes the progress from the terminal.
    pub(super) fn end(&mut self) {
        if matches!(self.stage, Stage::Shown) {
            self.messenger.end_progress();
        }
        self.stage = Stage::Off;
    }
}

/// Formats a total (` of 500`), if it is known.
pub(super) fn of(total: Option<u64>) -> String {
    total
        .map(|total| format!(" of {total}"))
        .unwrap_or_default()
}

fn describe_rate(snapshot: &ProgressSnapshot, figures: &Figures) -> String {
    let left = snapshot.left.map(|left| {
        let left = text::rounded(Duration::from_secs(left.as_secs().max(1)));
        // Minutes matter little where there are days.
        let units: Vec<_> = left.split(' ').take(2).collect();
        format!(", {} left", units.join(" "))
    });
    let done = text::rate(snapshot.per_second);
    let speed = match &figures.received {
        None => format!("{done} messages/s"),
        Some(received) => {
            let received = text::rate(received.per_second());
            format!("received {received}/s, confirmed {done}/s")
        }
    };
    format!(
        ", {}, {speed}{}",
        text::size(figures.bytes.load(Ordering::Relaxed)),
        left.unwrap_or_default()
    )
}
