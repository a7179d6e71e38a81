//! How far the messages of a command have come, shown on a terminal while it takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::messenger::{Messenger, ProgressSnapshot};
use crate::text;

/// What takes no longer needs no progress.
const PROGRESS_DELAY: Duration = Duration::from_secs(1);

/// What is told beside the number of messages that are done.
#[derive(Debug, Default)]
pub struct Figures {
    /// How many messages are on their way or done.
    started: AtomicU64,
    /// How much of those that are done was body.
    bytes: AtomicU64,
}

impl Figures {
    /// How many messages are on their way or done.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }
}

/// The progress of one command.
pub struct Progress {
    messenger: Messenger,
    /// How many messages there are in all, where that is known.
    total: Option<u64>,
    /// The words that begin the line.
    tell: fn(&ProgressSnapshot, &Figures) -> String,
    figures: Arc<Figures>,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    /// Nobody would see it, or wants to.
    Unwanted,
    Waiting,
    Begun(Instant),
    Shown,
}

impl Progress {
    /// One that nobody sees, unless it `is_wanted` and standard error is a terminal.
    pub fn new(
        messenger: &Messenger,
        is_wanted: bool,
        total: Option<u64>,
        tell: fn(&ProgressSnapshot, &Figures) -> String,
    ) -> Self {
        Self {
            total,
            tell,
            figures: Arc::default(),
            stage: if is_wanted && messenger.can_show_progress() {
                Stage::Waiting
            } else {
                Stage::Unwanted
            },
            messenger: messenger.clone(),
        }
    }

    /// The first message is there.
    pub fn begin(&mut self) {
        if matches!(self.stage, Stage::Waiting) {
            self.stage = Stage::Begun(Instant::now());
            self.messenger.begin_progress();
        }
    }

    /// So many messages are done, whose bodies had so many bytes, of so many that were started.
    pub fn advance(&mut self, done: u64, bytes: u64, started: u64) {
        let is_due = match self.stage {
            Stage::Shown => false,
            Stage::Begun(moment) if moment.elapsed() >= PROGRESS_DELAY => true,
            _ => return,
        };
        self.figures.bytes.store(bytes, Ordering::Relaxed);
        self.figures.started.store(started, Ordering::Relaxed);
        self.messenger.advance(done);
        if is_due {
            let (tell, figures) = (self.tell, Arc::clone(&self.figures));
            self.messenger.show_progress(self.total, move |pace| {
                format!("{}, {}", tell(pace, &figures), rest(pace, &figures))
            });
            self.stage = Stage::Shown;
        }
    }

    /// Takes it away.
    pub fn end(&mut self) {
        if matches!(self.stage, Stage::Shown) {
            self.messenger.end_progress();
        }
        self.stage = Stage::Unwanted;
    }
}

/// ` of 500`, if that is known.
pub fn of(total: Option<u64>) -> String {
    total
        .map(|total| format!(" of {total}"))
        .unwrap_or_default()
}

fn rest(pace: &ProgressSnapshot, figures: &Figures) -> String {
    let left = pace.left.map(|left| {
        let left = text::rounded(Duration::from_secs(left.as_secs().max(1)));
        // Minutes matter little where there are days.
        let units: Vec<_> = left.split(' ').take(2).collect();
        format!(", {} left", units.join(" "))
    });
    format!(
        "{}, {} messages/s{}",
        text::size(figures.bytes.load(Ordering::Relaxed)),
        text::rate(pace.per_second),
        left.unwrap_or_default()
    )
}
