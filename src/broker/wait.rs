//! The one wait of this room. Whatever is waited for, a wait ends in one of five ways.
//!
//! It came; the user interrupts; a deadline passes; the connection ends; or nothing happens for a
//! while, which is announced once with what is waited for, and then the wait goes on.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};

use crate::error::Error;
use crate::interrupt::Interrupt;
use crate::messenger::Messenger;
use crate::ready;
use crate::waker::Waker;

/// The time that the broker has for its last answers once the user wants to leave.
pub const GRACE: Duration = Duration::from_secs(1);

/// The time without an answer after which a wait is announced.
const ANNOUNCE_WAIT_AFTER: Duration = Duration::from_secs(5);

/// A file that a wait keeps going: it reads and writes what it can, and keeps its own time.
pub trait PollSource {
    /// The file and what of it is waited for; `None` for nothing but the waker and the time.
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)>;

    /// When there is something to do although nothing comes; a moment in the past means at once.
    fn timer(&self) -> Option<Instant> {
        None
    }

    /// Does what there is to do. `is_ready` says whether the file is.
    fn turn(&mut self, is_ready: bool);

    /// Whether nothing more can come.
    fn is_over(&self) -> bool {
        false
    }
}

/// A wait for nothing but another thread.
impl PollSource for () {
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        None
    }

    fn turn(&mut self, _: bool) {}
}

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// The user interrupts, and the wait is one that reports it at once.
    Interrupted,
    /// The wait's own deadline has passed.
    Late,
    /// The user wants to leave, or has given a time, and the broker's [`GRACE`] is over.
    GaveUp,
    /// The source is over.
    Over,
}

/// The time that a wait lasts in silence, over as many calls of [`Waiter::wait`] as it takes.
#[derive(Clone, Copy, Debug)]
pub struct SilenceTimer {
    since: Instant,
    silence: Duration,
    is_announced: bool,
}

impl SilenceTimer {
    /// Announces a wait that lasts longer than this.
    pub fn new(silence: Duration) -> Self {
        Self {
            since: Instant::now(),
            silence,
            is_announced: false,
        }
    }

    /// Starts the time anew: the broker has answered.
    pub fn renew(&mut self) {
        *self = Self::new(self.silence);
    }

    fn announce_at(&self) -> Option<Instant> {
        let announce_at = self.since.checked_add(self.silence);
        announce_at.filter(|_| !self.is_announced)
    }
}

impl Default for SilenceTimer {
    fn default() -> Self {
        Self::new(ANNOUNCE_WAIT_AFTER)
    }
}

/// What the user's interrupt does to a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It ends the wait at once.
    Return,
    /// It leaves the broker [`GRACE`] for its answer, or as long from the beginning of the wait.
    Hurry,
    /// It is known, and something else ends the wait.
    Ignore,
}

/// What may end a wait, and how it is announced.
pub struct Wait<'a> {
    /// When it ends at the latest.
    pub until: Option<Instant>,
    /// What the user's interrupt does.
    pub on_interrupt: OnInterrupt,
    /// The announcement, and how long it has time; `None` where the user asked to wait for messages or
    /// for input, so that silence is what was asked for.
    pub announcement: Option<(&'a mut SilenceTimer, &'a dyn Fn() -> String)>,
}

/// The side of a wait that is the user's: who may end it, and who is told.
#[derive(Debug)]
pub struct Waiter {
    waker: Waker,
    interrupt: Interrupt,
    /// When everything ends (`--timeout`).
    until: Option<Instant>,
    messenger: Messenger,
    /// When the broker's time for last answers is over, once it has begun.
    leave_by: Option<Instant>,
}

impl Waiter {
    /// A waiter that can be interrupted, and that gives up [`GRACE`] after `until`.
    ///
    /// # Errors
    /// [`Error::System`] if the system has no more file descriptors.
    pub fn new(
        interrupt: &Interrupt,
        until: Option<Instant>,
        messenger: &Messenger,
    ) -> Result<Self, Error> {
        let waker = Waker::new().map_err(|source| Error::System {
            what: "create a socket pair",
            source,
        })?;
        interrupt.wakes(&waker);
        Ok(Self {
            waker,
            interrupt: interrupt.clone(),
            until,
            messenger: messenger.clone(),
            leave_by: None,
        })
    }

    /// What ends a wait for another thread.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Whether the user has interrupted.
    pub fn is_interrupted(&self) -> bool {
        self.interrupt.happened()
    }

    /// Whether the time that the user gave is over.
    pub fn is_late(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// When everything ends that the user has given a time for.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Bounds every wait from now on. The earliest bound counts.
    pub fn leave_within(&mut self, time: Duration) {
        let bound = Instant::now() + time;
        self.leave_by = Some(self.leave_by.map_or(bound, |other| other.min(bound)));
    }

    /// Keeps `source` going until `came` returns something, and returns that. `came` is asked again
    /// whenever the source may have changed or the waker was woken.
    ///
    /// # Errors
    /// The [`WaitEnd`] of the wait.
    pub fn wait<S: PollSource, T>(
        &mut self,
        source: &mut S,
        mut wait: Wait,
        mut came: impl FnMut(&mut S) -> Option<T>,
    ) -> Result<T, WaitEnd> {
        let waker = self.waker.clone();
        let armed = waker.arm();
        let mut hurry_by = None;
        loop {
            if self.interrupt.happened() {
                match wait.on_interrupt {
                    OnInterrupt::Return => return Err(WaitEnd::Interrupted),
                    OnInterrupt::Hurry => {
                        hurry_by.get_or_insert_with(|| Instant::now() + GRACE);
                    }
                    OnInterrupt::Ignore => {}
                }
            }
            if let Some(it) = came(source) {
                return Ok(it);
            }
            if source.is_over() {
                return Err(WaitEnd::Over);
            }
            let now = Instant::now();
            let has_come = |moment: Option<Instant>| moment.is_some_and(|moment| moment <= now);
            if has_come(wait.until) {
                return Err(WaitEnd::Late);
            }
            let give_up = [self.give_up_at(), hurry_by].into_iter().flatten().min();
            if has_come(give_up) {
                return Err(WaitEnd::GaveUp);
            }
            let announce_at = wait.announcement.as_mut().and_then(|(patience, text)| {
                if has_come(patience.announce_at()) {
                    patience.is_announced = true;
                    self.messenger.note(&text());
                }
                patience.announce_at()
            });
            let until = [wait.until, give_up, announce_at, source.timer()];
            let until = until.into_iter().flatten().min();
            let is_ready = {
                let interest = source.interest();
                let (file, flags) = interest.unwrap_or((armed.file(), PollFlags::empty()));
                let mut files = [
                    PollFd::new(armed.file(), PollFlags::POLLIN),
                    PollFd::new(file, flags),
                ];
                // A socket that has failed would be ready whatever is asked for.
                let count = if flags.is_empty() { 1 } else { 2 };
                ready::wait_for_any(&mut files[..count], until);
                let came = |file: &PollFd| file.any() != Some(false);
                if came(&files[0]) {
                    armed.rearm();
                }
                count == 2 && came(&files[1])
            };
            source.turn(is_ready);
        }
    }

    fn give_up_at(&self) -> Option<Instant> {
        let over = self.until.map(|until| until + GRACE);
        [self.leave_by, over].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A source that has something to do, without ever a pause, for so many turns, and is then over.
    struct Turns(u32);

    impl PollSource for Turns {
        fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
            None
        }

        fn timer(&self) -> Option<Instant> {
            Some(Instant::now())
        }

        fn turn(&mut self, _: bool) {
            self.0 -= 1;
        }

        fn is_over(&self) -> bool {
            self.0 == 0
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn waiter(interrupt: &Interrupt, until: Option<Instant>) -> Waiter {
        Waiter::new(interrupt, until, &Messenger::new(true)).unwrap()
    }

    fn wait(on_interrupt: OnInterrupt, until: Option<Instant>) -> Wait<'static> {
        Wait {
            until,
            on_interrupt,
            announcement: None,
        }
    }

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn a_wait_is_announced_once_when_it_has_lasted_and_again_when_it_is_renewed() {
        let mut waiter = waiter(&Interrupt::default(), None);
        let mut patience = SilenceTimer::new(HOUR);
        let announced = Cell::new(0);
        let mut announced_in_turns = |patience: &mut SilenceTimer| {
            let text = || {
                announced.set(announced.get() + 1);
                String::new()
            };
            let wait = Wait {
                announcement: Some((patience, &text)),
                ..wait(OnInterrupt::Return, None)
            };
            let end = waiter.wait(&mut Turns(5), wait, |_| None::<()>);
            assert_eq!(end, Err(WaitEnd::Over));
            announced.take()
        };
        assert_eq!(announced_in_turns(&mut patience), 0);
        patience.since = ago(HOUR);
        assert_eq!(announced_in_turns(&mut patience), 1);
        assert_eq!(announced_in_turns(&mut patience), 0);
        // The broker has answered, and is silent for long once more.
        patience.renew();
        assert_eq!(announced_in_turns(&mut patience), 0);
        patience.since = ago(HOUR);
        assert_eq!(announced_in_turns(&mut patience), 1);
        // Never, whatever the clock says.
        assert_eq!(announced_in_turns(&mut SilenceTimer::new(Duration::MAX)), 0);
    }

    #[test]
    fn it_ends_with_what_comes_or_with_why_it_does_not() {
        let interrupt = Interrupt::default();
        let mut waiter = waiter(&interrupt, None);
        let now = Some(Instant::now());
        let mut turns = 0;
        let came = waiter.wait(&mut Turns(9), wait(OnInterrupt::Return, None), |_| {
            turns += 1;
            (turns == 4).then_some(turns)
        });
        assert_eq!(came, Ok(4));
        let mut ended = |on_interrupt, until, turns| {
            waiter.wait(&mut Turns(turns), wait(on_interrupt, until), |_| None::<()>)
        };
        assert_eq!(ended(OnInterrupt::Return, None, 3), Err(WaitEnd::Over));
        assert_eq!(ended(OnInterrupt::Return, now, 3), Err(WaitEnd::Late));
        assert_eq!(ended(OnInterrupt::Return, now, 0), Err(WaitEnd::Over));
        interrupt.trigger();
        assert_eq!(
            ended(OnInterrupt::Return, now, 0),
            Err(WaitEnd::Interrupted)
        );
        assert_eq!(ended(OnInterrupt::Ignore, None, 3), Err(WaitEnd::Over));
        assert_eq!(ended(OnInterrupt::Hurry, now, 3), Err(WaitEnd::Late));
        // Although it is late and given up: what came counts.
        waiter.leave_within(Duration::ZERO);
        let came = waiter.wait(&mut (), wait(OnInterrupt::Hurry, now), |()| Some(5));
        assert_eq!(came, Ok(5));
        let ended = waiter.wait(&mut (), wait(OnInterrupt::Ignore, None), |()| None::<()>);
        assert_eq!(ended, Err(WaitEnd::GaveUp));
    }

    #[test]
    fn an_interrupt_leaves_the_broker_its_grace_in_each_wait_for_an_answer_and_bounds_no_other() {
        let interrupt = Interrupt::default();
        let mut waiter = waiter(&interrupt, None);
        interrupt.trigger();
        for _ in 0..2 {
            let start = Instant::now();
            let ended = waiter.wait(&mut (), wait(OnInterrupt::Hurry, None), |()| None::<()>);
            assert_eq!(ended, Err(WaitEnd::GaveUp));
            assert!(start.elapsed() >= GRACE);
            // What something else ends goes on for as long as that takes.
            assert_eq!(waiter.give_up_at(), None);
        }
    }

    #[test]
    fn the_earliest_bound_counts() {
        let in_an_hour = Instant::now() + HOUR;
        let mut waiter = waiter(&Interrupt::default(), Some(in_an_hour));
        assert!(!waiter.is_late());
        assert_eq!(waiter.give_up_at(), Some(in_an_hour + GRACE));
        waiter.leave_within(HOUR / 2);
        let half = waiter.give_up_at().unwrap();
        assert!(half < in_an_hour);
        waiter.leave_within(HOUR);
        assert_eq!(waiter.give_up_at(), Some(half));
        waiter.until = Some(ago(2 * GRACE));
        assert!(waiter.is_late());
        assert!(waiter.give_up_at().unwrap() < Instant::now());
        // What the user gave is not the wait's own deadline: the broker has a grace.
        waiter.until = Some(Instant::now());
        assert!(waiter.is_late());
        assert!(waiter.give_up_at().unwrap() > waiter.until.unwrap());
    }
}
