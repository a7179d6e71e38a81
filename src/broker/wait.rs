//! The one place where the broker modules wait.
//!
//! A wait ends when what it waits for has happened, at the user's interrupt, at a deadline, or when the
//! connection is closed. A long wait is announced once and goes on.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::messenger::Messenger;
use crate::ready;
use crate::waker::{Armed, Waker};

/// The time that the broker has for its last answers once the user wants to leave.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// The time without an answer after which a wait is announced.
const ANNOUNCE_WAIT_AFTER: Duration = Duration::from_secs(5);

/// A file that is read and written during a wait.
pub(crate) trait PollSource {
    /// Returns the file and the events to poll for; `None` for the waker and the time alone.
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)>;

    /// Returns when [`PollSource::process`] is due although the file is not ready.
    fn timer(&self) -> Option<Instant> {
        None
    }

    /// Reads and writes as far as that does not block, and does what is due.
    fn process(&mut self, is_ready: bool);

    /// Whether nothing more can come.
    fn is_closed(&self) -> bool {
        false
    }
}

/// No file: a wait for another thread.
impl PollSource for () {
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }

    fn process(&mut self, _: bool) {}
}

/// The reason why a wait ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    /// The user interrupted a wait of [`OnInterrupt::Return`].
    Interrupted,
    /// The wait's own deadline has passed.
    TimedOut,
    /// The broker's [`GRACE`] after the user's interrupt or time limit is over.
    GraceOver,
    /// The source is closed.
    Closed,
}

/// Measures how long the broker has been silent, over any number of waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SilenceTimer {
    since: Instant,
    limit: Duration,
    is_announced: bool,
}

impl SilenceTimer {
    /// Returns a timer that announces a silence longer than `limit`.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            since: Instant::now(),
            limit,
            is_announced: false,
        }
    }

    /// Starts anew, after an answer.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.limit);
    }

    fn announce_at(&self) -> Option<Instant> {
        let announce_at = self.since.checked_add(self.limit);
        announce_at.filter(|_| !self.is_announced)
    }
}

impl Default for SilenceTimer {
    fn default() -> Self {
        Self::new(ANNOUNCE_WAIT_AFTER)
    }
}

/// The effect of the user's interrupt on a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// Ends the wait at once.
    Return,
    /// Leaves the broker [`GRACE`], from the interrupt or from the beginning of the wait.
    Grace,
    /// Has no effect.
    Ignore,
}

/// Tells the user what is waited for when the broker has been silent for too long.
pub(crate) struct Announcement<'a> {
    pub(crate) timer: &'a mut SilenceTimer,
    pub(crate) text: &'a dyn Fn() -> String,
}

/// The conditions of a wait.
pub(crate) struct Wait<'a> {
    pub(crate) deadline: Option<Instant>,
    pub(crate) on_interrupt: OnInterrupt,
    /// `None` for a wait that the user asked for.
    pub(crate) announcement: Option<Announcement<'a>>,
}

/// Waits, and heeds the user's interrupt and time limit meanwhile.
#[derive(Debug)]
pub(crate) struct Waiter {
    waker: Waker,
    interrupt: Interrupt,
    /// The user's time limit (`--timeout`).
    deadline: Option<Instant>,
    messenger: Messenger,
    /// The bound of every wait, once one is set.
    give_up_at: Option<Instant>,
}

impl Waiter {
    /// Returns a waiter that heeds `interrupt`, and gives up [`GRACE`] after `deadline`.
    pub(crate) fn new(
        interrupt: &Interrupt,
        deadline: Option<Instant>,
        messenger: &Messenger,
    ) -> Result<Self, Error> {
        let waker = Waker::new().map_err(|source| Error::System {
            what: "create a socket pair",
            source,
        })?;
        interrupt.add_waker(&waker);
        Ok(Self {
            waker,
            interrupt: interrupt.clone(),
            deadline,
            messenger: messenger.clone(),
            give_up_at: None,
        })
    }

    /// Returns the waker with which another thread ends a wait.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.happened()
    }

    /// Whether the user's time limit has passed.
    pub(crate) fn is_time_up(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Bounds every wait to come. The earliest bound counts.
    pub(crate) fn give_up_within(&mut self, time: Duration) {
        let bound = Instant::now() + time;
        self.give_up_at = Some(self.give_up_at.map_or(bound, |other| other.min(bound)));
    }

    /// Processes `source` until `check` returns something, and returns that. `check` is called
    /// whenever the source may have changed or the waker was woken.
    pub(crate) fn wait<S: PollSource, T>(
        &mut self,
        source: &mut S,
        mut wait: Wait,
        mut check: impl FnMut(&mut S) -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let waker = self.waker.clone();
        let armed = waker.arm();
        let mut grace_end = None;
        loop {
            if self.interrupt.happened() {
                match wait.on_interrupt {
                    OnInterrupt::Return => return Err(WaitEnd::Interrupted),
                    OnInterrupt::Grace => {
                        grace_end.get_or_insert_with(|| Instant::now() + GRACE);
                    }
                    OnInterrupt::Ignore => {}
                }
            }
            if let Some(result) = check(source) {
                return Ok(result);
            }
            if source.is_closed() {
                return Err(WaitEnd::Closed);
            }
            let now = Instant::now();
            let has_passed = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
            if has_passed(wait.deadline) {
                return Err(WaitEnd::TimedOut);
            }
            let give_up_at = [self.give_up_at(), grace_end].into_iter().flatten().min();
            if has_passed(give_up_at) {
                return Err(WaitEnd::GraceOver);
            }
            let announce_at = wait.announcement.as_mut().and_then(|it| {
                if has_passed(it.timer.announce_at()) {
                    it.timer.is_announced = true;
                    self.messenger.note(&(it.text)());
                }
                it.timer.announce_at()
            });
            let timeouts = [wait.deadline, give_up_at, announce_at, source.timer()];
            let timeout = timeouts.into_iter().flatten().min();
            let is_ready = poll(&armed, source.interest(), timeout);
            source.process(is_ready);
        }
    }

    fn give_up_at(&self) -> Option<Instant> {
        let grace_end = self.deadline.map(|deadline| deadline + GRACE);
        [self.give_up_at, grace_end].into_iter().flatten().min()
    }
}

/// Waits for the file, the waker or the timeout, and says whether the file is ready.
fn poll(
    armed: &Armed,
    interest: Option<(BorrowedFd, PollFlags)>,
    timeout: Option<Instant>,
) -> bool {
    let (file, events) = interest.unwrap_or((armed.file(), PollFlags::empty()));
    let mut files = [
        PollFd::new(armed.file(), PollFlags::POLLIN),
        PollFd::new(file, events),
    ];
    // A socket that has failed would be ready whatever is polled for.
    let count = if events.is_empty() { 1 } else { 2 };
    ready::wait_for_any(&mut files[..count], timeout);
    let is_ready = |file: &PollFd| file.any() != Some(false);
    if is_ready(&files[0]) {
        armed.rearm();
    }
    count == 2 && is_ready(&files[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A source whose timer is always due, and that closes after this many calls of `process`.
    struct Countdown(u32);

    impl PollSource for Countdown {
        fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
            None
        }

        fn timer(&self) -> Option<Instant> {
            Some(Instant::now())
        }

        fn process(&mut self, _: bool) {
            self.0 -= 1;
        }

        fn is_closed(&self) -> bool {
            self.0 == 0
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn waiter(interrupt: &Interrupt, deadline: Option<Instant>) -> Waiter {
        Waiter::new(interrupt, deadline, &Messenger::new(true)).unwrap()
    }

    fn wait(on_interrupt: OnInterrupt, deadline: Option<Instant>) -> Wait<'static> {
        Wait {
            deadline,
            on_interrupt,
            announcement: None,
        }
    }

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn a_long_wait_is_announced_once_and_again_after_a_reset() {
        let mut waiter = waiter(&Interrupt::default(), None);
        let mut timer = SilenceTimer::new(HOUR);
        let announced = Cell::new(0);
        let mut announcements = |timer: &mut SilenceTimer| {
            let text = || {
                announced.set(announced.get() + 1);
                String::new()
            };
            let wait = Wait {
                announcement: Some(Announcement { timer, text: &text }),
                ..wait(OnInterrupt::Return, None)
            };
            let end = waiter.wait(&mut Countdown(5), wait, |_| None::<()>);
            assert_eq!(end, Err(WaitEnd::Closed));
            announced.take()
        };
        assert_eq!(announcements(&mut timer), 0);
        timer.since = ago(HOUR);
        assert_eq!(announcements(&mut timer), 1);
        assert_eq!(announcements(&mut timer), 0);
        // The broker answers, and is silent again.
        timer.reset();
        assert_eq!(announcements(&mut timer), 0);
        timer.since = ago(HOUR);
        assert_eq!(announcements(&mut timer), 1);
        // Never, whatever the clock says.
        assert_eq!(announcements(&mut SilenceTimer::new(Duration::MAX)), 0);
    }

    #[test]
    fn a_wait_returns_its_result_or_the_reason_for_none() {
        let interrupt = Interrupt::default();
        let mut waiter = waiter(&interrupt, None);
        let now = Some(Instant::now());
        let mut checks = 0;
        let result = waiter.wait(&mut Countdown(9), wait(OnInterrupt::Return, None), |_| {
            checks += 1;
            (checks == 4).then_some(checks)
        });
        assert_eq!(result, Ok(4));
        let mut ended = |on_interrupt, deadline, count| {
            waiter.wait(&mut Countdown(count), wait(on_interrupt, deadline), |_| {
                None::<()>
            })
        };
        assert_eq!(ended(OnInterrupt::Return, None, 3), Err(WaitEnd::Closed));
        assert_eq!(ended(OnInterrupt::Return, now, 3), Err(WaitEnd::TimedOut));
        assert_eq!(ended(OnInterrupt::Return, now, 0), Err(WaitEnd::Closed));
        interrupt.trigger();
        assert_eq!(
            ended(OnInterrupt::Return, now, 0),
            Err(WaitEnd::Interrupted)
        );
        assert_eq!(ended(OnInterrupt::Ignore, None, 3), Err(WaitEnd::Closed));
        assert_eq!(ended(OnInterrupt::Grace, now, 3), Err(WaitEnd::TimedOut));
        // A result counts even after the deadline.
        waiter.give_up_within(Duration::ZERO);
        let result = waiter.wait(&mut (), wait(OnInterrupt::Grace, now), |()| Some(5));
        assert_eq!(result, Ok(5));
        let ended = waiter.wait(&mut (), wait(OnInterrupt::Ignore, None), |()| None::<()>);
        assert_eq!(ended, Err(WaitEnd::GraceOver));
    }

    #[test]
    fn an_interrupt_bounds_each_wait_for_an_answer_and_no_other() {
        let interrupt = Interrupt::default();
        let mut waiter = waiter(&interrupt, None);
        interrupt.trigger();
        for _ in 0..2 {
            let start = Instant::now();
            let ended = waiter.wait(&mut (), wait(OnInterrupt::Grace, None), |()| None::<()>);
            assert_eq!(ended, Err(WaitEnd::GraceOver));
            assert!(start.elapsed() >= GRACE);
            // Other waits stay unbounded.
            assert_eq!(waiter.give_up_at(), None);
        }
    }

    #[test]
    fn the_earliest_bound_counts() {
        let in_an_hour = Instant::now() + HOUR;
        let mut waiter = waiter(&Interrupt::default(), Some(in_an_hour));
        assert!(!waiter.is_time_up());
        assert_eq!(waiter.give_up_at(), Some(in_an_hour + GRACE));
        waiter.give_up_within(HOUR / 2);
        let half = waiter.give_up_at().unwrap();
        assert!(half < in_an_hour);
        waiter.give_up_within(HOUR);
        assert_eq!(waiter.give_up_at(), Some(half));
        waiter.deadline = Some(ago(2 * GRACE));
        assert!(waiter.is_time_up());
        assert!(waiter.give_up_at().unwrap() < Instant::now());
        // After the user's time limit the broker has its grace.
        waiter.deadline = Some(Instant::now());
        assert!(waiter.is_time_up());
        assert!(waiter.give_up_at().unwrap() > waiter.deadline.unwrap());
    }
}
