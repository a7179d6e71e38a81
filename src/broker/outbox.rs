//! Frames that go to the broker past the client library.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amiquip::Channel;

/// Frames that go to the broker as they are, in order.
#[derive(Clone, Debug, Default)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    posted: Mutex<Posted>,
    /// Notified when all is taken, or never will be.
    taken: Condvar,
}

#[derive(Debug, Default)]
struct Posted {
    /// Whole frames, each time with the channel that they are for.
    frames: VecDeque<(u16, Vec<u8>)>,
    /// The stream is gone.
    is_closed: bool,
}

impl Outbox {
    /// Sends whole frames on `channel`, behind all that the library was asked to send on it before.
    ///
    /// # Errors
    /// As every operation of the library, if the channel or the connection is gone.
    pub fn post(&self, channel: &Channel, frames: Vec<u8>) -> Result<(), amiquip::Error> {
        self.put(channel.channel_id(), frames);
        // The library's thread sees nothing of the outbox: it is woken, and shown the place of these
        // frames among its own, by a frame that stands for them and never reaches the broker.
        channel.enable_publisher_confirms_nowait()
    }

    /// Adds frames that nothing stands for yet.
    pub fn put(&self, channel: u16, frames: Vec<u8>) {
        self.posted().frames.push_back((channel, frames));
    }

    /// Waits until everything is before what the library is asked to send from now on, on whatever
    /// channel; so long at most.
    pub fn settle(&self, at_most: Duration) {
        let is_waiting = |posted: &mut Posted| !posted.frames.is_empty() && !posted.is_closed;
        let shared = &self.0;
        drop(
            shared
                .taken
                .wait_timeout_while(self.posted(), at_most, is_waiting),
        );
    }

    /// Forgets what an earlier channel left behind.
    pub fn clear(&self) {
        self.posted().frames.clear();
    }

    /// The frames that come next on `channel`.
    pub fn take(&self, channel: u16) -> Option<Vec<u8>> {
        let mut posted = self.posted();
        let index = posted.frames.iter().position(|(of, _)| *of == channel)?;
        let taken = posted.frames.remove(index);
        if posted.frames.is_empty() {
            self.0.taken.notify_all();
        }
        taken.map(|(_, frames)| frames)
    }

    /// Nothing more will be taken.
    pub fn close(&self) {
        self.posted().is_closed = true;
        self.0.taken.notify_all();
    }

    fn posted(&self) -> MutexGuard<'_, Posted> {
        let posted = self.0.posted.lock();
        posted.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The channel of the stand-in for frames in the outbox: `confirm.select` that wants no answer, which
/// nothing else here sends.
pub fn stand_in(frame: &[u8]) -> Option<u16> {
    match *frame {
        [1, high, low, 0, 0, 0, 5, 0, 85, 0, 10, 1, ..] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}
