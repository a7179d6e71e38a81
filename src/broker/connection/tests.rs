//! Tests of the connection, with the broker's end in the test, and events in any order.

use super::super::frames::{HEARTBEAT_FRAME, LIBRARY, method_frame};
use super::super::peer::{close, content, delivery, describe, pair};
use super::*;
use crate::interrupt::Interrupt;
use crate::waker::{self, Receiver, Sender};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

const NOT_FOUND: u16 = 404;
const NOT_ALLOWED: u16 = 530;

/// The effect of a frame that the broker sends.
#[derive(Clone, Copy)]
enum Effect {
    Nothing,
    Event(&'static str),
    ForLibrary,
    ChannelClosed,
    Closed(u16),
}

/// Returns every kind of frame that the broker sends, with its effect. The last two close the connection.
fn conversation() -> Vec<(Vec<u8>, Effect)> {
    use Effect::{ChannelClosed, Closed, Event, ForLibrary, Nothing};
    let method = |method, arguments: &[u8]| method_frame(MESSAGES, method, arguments);
    let control = |method, arguments: &[u8]| method_frame(0, method, arguments);
    let returned = b"\x01\x38\x08NO_ROUTE\0\x01k";
    let got = b"\0\0\0\0\0\0\0\x07\0\0\x01k\0\0\0\x02";
    vec![
        (method((20, 11), b"\0\0\0\0"), Event("answered (20, 11)")),
        (
            method(frames::BASIC_QOS_OK, b""),
            Event("answered (60, 11)"),
        ),
        (
            method(frames::BASIC_CONSUME_OK, b"\x03tag"),
            Event("answered (60, 21)"),
        ),
        (
            delivery(1, b"hello"),
            Event("delivered 1 false '' 'k' 5 None"),
        ),
        (HEARTBEAT_FRAME.to_vec(), Nothing),
        (
            delivery(2, &[b'x'; 50]),
            Event("delivered 2 false '' 'k' 50 None"),
        ),
        (delivery(3, b""), Event("delivered 3 false '' 'k' 0 None")),
        (control(frames::CONNECTION_BLOCKED, b"\x06memory"), Nothing),
        (
            content(frames::BASIC_RETURN, returned, b"body"),
            Event("312 NO_ROUTE 0 false '' 'k' 4 None"),
        ),
        (
            method(frames::BASIC_NACK, b"\0\0\0\0\0\0\0\x01\0"),
            Event("Confirm { tag: 1, multiple: false, is_ack: false }"),
        ),
        (
            method(frames::BASIC_ACK, b"\0\0\0\0\0\0\0\x09\x01"),
            Event("Confirm { tag: 9, multiple: true, is_ack: true }"),
        ),
        (control(frames::CONNECTION_UNBLOCKED, b""), Nothing),
        (
            method_frame(LIBRARY, (50, 11), b"\x01q\0\0\0\0\0\0\0\0"),
            ForLibrary,
        ),
        (
            content(frames::BASIC_GET_OK, got, b"got"),
            Event("got 7 false '' 'k' 3 None"),
        ),
        (method(frames::BASIC_GET_EMPTY, b"\0"), Event("got nothing")),
        (
            method(frames::BASIC_CANCEL, b"\x03tag\x01"),
            Event("cancelled"),
        ),
        (
            method(frames::BASIC_CANCEL_OK, b"\x03tag"),
            Event("answered (60, 31)"),
        ),
        (close(LIBRARY, NOT_FOUND, "no"), ForLibrary),
        (close(MESSAGES, NOT_FOUND, "no"), ChannelClosed),
        (
            close(0, CONNECTION_FORCED, "bye"),
            Closed(CONNECTION_FORCED),
        ),
        (close(0, NOT_ALLOWED, "no"), Closed(NOT_ALLOWED)),
    ]
}

/// Cuts a script off after the first close of the connection.
fn until_closed(mut script: Vec<usize>) -> Vec<usize> {
    let is_last = |at: &usize| *at >= conversation().len() - 2;
    let last = script.iter().position(is_last);
    script.truncate(last.map_or(script.len(), |last| last + 1));
    script
}

/// Something that happens to a connection.
#[derive(Clone, Copy, Debug)]
enum TestEvent {
    /// The broker sends this many more bytes of the script.
    Send(usize),
    HangUp,
    Reset,
    Interrupt,
    /// Another thread reports.
    Done,
    Reading(bool),
    /// The socket is processed.
    Process,
    /// The owner waits.
    Wait {
        on_interrupt: OnInterrupt,
        /// Whether the deadline has passed.
        is_timed_out: bool,
        /// Whether the time for last answers is over.
        is_grace_over: bool,
    },
}

impl TestEvent {
    fn is_external(&self) -> bool {
        !matches!(self, Self::Reading(_) | Self::Process | Self::Wait { .. })
    }
}

#[derive(Clone, Debug, PartialEq)]
enum CallOutcome {
    Ready(String),
    Interrupted,
    TimedOut,
    Refused(u16),
    /// The connection is lost, with the broker's reply code.
    Lost(Option<u16>),
    /// It is lost after the user's interrupt.
    LostInterrupted,
}

/// The broker, the user and another thread.
struct External {
    peer: Option<UnixStream>,
    unsent: VecDeque<u8>,
    interrupt: Interrupt,
    done: Sender<()>,
}

impl External {
    fn act(&mut self, event: TestEvent) {
        match event {
            TestEvent::Send(length) => {
                let length = length.min(self.unsent.len());
                let bytes: Vec<_> = self.unsent.drain(..length).collect();
                if let Some(peer) = &mut self.peer {
                    peer.write_all(&bytes).unwrap();
                }
            }
            TestEvent::HangUp => {
                if let Some(mut peer) = self.peer.take() {
                    let _ = peer.read_to_end(&mut Vec::new());
                }
            }
            // The socket is closed with unread bytes.
            TestEvent::Reset => self.peer = None,
            TestEvent::Interrupt => self.interrupt.trigger(),
            TestEvent::Done => self.done.send(()).unwrap(),
            TestEvent::Reading(_) | TestEvent::Process | TestEvent::Wait { .. } => {}
        }
    }
}

/// The expected state of the connection.
struct Model {
    unread: VecDeque<(Vec<u8>, Effect)>,
    /// The number of its bytes that are sent.
    sent: usize,
    has_hung_up: bool,
    is_interrupted: bool,
    is_reading: bool,
    done: usize,
    events: VecDeque<&'static str>,
    for_library: Vec<u8>,
    is_refused: bool,
    end: Option<CallOutcome>,
}

impl Model {
    fn act(&mut self, event: TestEvent) {
        match event {
            TestEvent::Send(length) if !self.has_hung_up => self.sent += length,
            TestEvent::HangUp | TestEvent::Reset => self.has_hung_up = true,
            TestEvent::Interrupt => self.is_interrupted = true,
            TestEvent::Done => self.done += 1,
            TestEvent::Reading(is_reading) => self.is_reading = is_reading,
            TestEvent::Process => self.read(),
            TestEvent::Send(_) | TestEvent::Wait { .. } => {}
        }
    }

    fn read(&mut self) {
        if !self.is_reading || self.end.is_some() {
            return;
        }
        while let Some((bytes, effect)) = self.unread.front() {
            let Some(rest) = self.sent.checked_sub(bytes.len()) else {
                break;
            };
            match effect {
                Effect::Nothing => {}
                Effect::Event(event) => self.events.push_back(event),
                Effect::ForLibrary => self.for_library.extend(bytes),
                Effect::ChannelClosed => self.is_refused = true,
                Effect::Closed(NOT_ALLOWED) => self.end = Some(CallOutcome::Refused(NOT_ALLOWED)),
                Effect::Closed(code) => self.end = Some(CallOutcome::Lost(Some(*code))),
            }
            self.sent = rest;
            self.unread.pop_front();
        }
        if self.has_hung_up {
            self.end.get_or_insert(CallOutcome::Lost(None));
        }
    }

    /// Returns the outcome of a wait; `None` if it goes on.
    fn wait(
        &mut self,
        on_interrupt: OnInterrupt,
        is_timed_out: bool,
        is_grace_over: bool,
    ) -> Option<CallOutcome> {
        if self.is_interrupted && on_interrupt == OnInterrupt::Return {
            return Some(CallOutcome::Interrupted);
        }
        for _ in ["with what was read before", "and with what can be read"] {
            if self.done > 0 {
                self.done -= 1;
                return Some(CallOutcome::Ready("done".to_owned()));
            }
            if let Some(event) = self.events.pop_front() {
                return Some(CallOutcome::Ready(event.to_owned()));
            }
            if std::mem::take(&mut self.is_refused) {
                return Some(CallOutcome::Refused(NOT_FOUND));
            }
            if self.end.is_none() && is_timed_out {
                return Some(CallOutcome::TimedOut);
            }
            if is_grace_over {
                self.end.get_or_insert(CallOutcome::Lost(None));
            }
            match &self.end {
                Some(CallOutcome::Lost(_)) if self.is_interrupted => {
                    return Some(CallOutcome::LostInterrupted);
                }
                Some(end) => return Some(end.clone()),
                None => self.read(),
            }
        }
        None
    }
}

fn waiter(interrupt: &Interrupt) -> Waiter {
    Waiter::new(interrupt, None, &Messenger::new(true)).unwrap()
}

/// Returns a connection after the login, with frames on the open channel that the peer has yet to read.
fn connection(interrupt: &Interrupt) -> (Connection, UnixStream) {
    let (stream, peer) = pair();
    let mut socket = Socket::new("amqp://test".to_owned(), stream, &Messenger::new(true));
    socket.finish_login(u16::MAX, 4096, 60);
    socket.open_channel();
    socket.send_on_channel(&frames::ack(MESSAGES, 1, false));
    (Connection::new(waiter(interrupt), socket, 4096), peer)
}

struct ConnectionFixture {
    connection: Connection,
    done: Receiver<()>,
    external: External,
    model: Model,
}

impl ConnectionFixture {
    fn new(script: &[usize]) -> Self {
        let conversation = conversation();
        let script: VecDeque<_> = script.iter().map(|&at| conversation[at].clone()).collect();
        let interrupt = Interrupt::default();
        let (connection, peer) = connection(&interrupt);
        let (sender, receiver) = waker::unbounded();
        Self {
            connection,
            done: receiver,
            external: External {
                peer: Some(peer),
                unsent: script.iter().flat_map(|(bytes, _)| bytes.clone()).collect(),
                interrupt,
                done: sender,
            },
            model: Model {
                unread: script,
                sent: 0,
                has_hung_up: false,
                is_interrupted: false,
                is_reading: true,
                done: 0,
                events: VecDeque::new(),
                for_library: Vec::new(),
                is_refused: false,
                end: None,
            },
        }
    }

    fn act(&mut self, event: TestEvent) {
        self.external.act(event);
        let socket = &mut self.connection.socket;
        match event {
            TestEvent::Reading(is_reading) => socket.is_reading = is_reading,
            // The end of the stream takes a call of its own.
            TestEvent::Process => (0..2).for_each(|_| socket.process(true)),
            _ => {}
        }
        self.model.act(event);
    }

    /// Runs all events, then has the peer hang up, and compares the outcome of each wait with the
    /// model's. If nothing ends a wait, the next event happens during it.
    fn play(mut self, events: &[TestEvent]) {
        let mut events = events.iter().copied().peekable();
        while let Some(event) = events.next() {
            self.act(event);
            let TestEvent::Wait {
                on_interrupt,
                is_timed_out,
                is_grace_over,
            } = event
            else {
                continue;
            };
            let (mut deadline, mut during) = (is_timed_out.then(Instant::now), None);
            let was_interrupted = self.model.is_interrupted;
            let mut expected = self.model.wait(on_interrupt, is_timed_out, is_grace_over);
            if expected.is_none() {
                if let Some(next) = events.next_if(TestEvent::is_external) {
                    self.model.act(next);
                    expected = self.model.wait(on_interrupt, is_timed_out, is_grace_over);
                    // The thread may start after the grace period of such a wait.
                    let is_in_grace = was_interrupted && on_interrupt == OnInterrupt::Grace;
                    if expected.is_some() && !is_in_grace {
                        during = Some(next);
                    } else {
                        self.external.act(next);
                    }
                }
            }
            if expected.is_none() {
                deadline = Some(Instant::now() + Duration::from_millis(1));
            }
            let outcome = self.wait(on_interrupt, deadline, is_grace_over, during);
            assert_eq!(outcome, expected.unwrap_or(CallOutcome::TimedOut));
            // Both read everything sent.
            self.act(TestEvent::Process);
        }
        self.act(TestEvent::Reading(true));
        self.act(TestEvent::HangUp);
        loop {
            let expected = self.model.wait(OnInterrupt::Ignore, false, false);
            let outcome = self.wait(OnInterrupt::Ignore, None, false, None);
            assert_eq!(Some(&outcome), expected.as_ref());
            if !matches!(
                outcome,
                CallOutcome::Ready(_) | CallOutcome::Refused(NOT_FOUND)
            ) {
                break;
            }
        }
        let mut for_library = Vec::new();
        self.connection.socket.take_library_frames(&mut for_library);
        assert_eq!(for_library, self.model.for_library);
    }

    fn wait(
        &mut self,
        on_interrupt: OnInterrupt,
        deadline: Option<Instant>,
        is_grace_over: bool,
        during: Option<TestEvent>,
    ) -> CallOutcome {
        let Self {
            connection,
            done,
            external,
            ..
        } = self;
        // Its grace period has not begun.
        connection.waiter = waiter(&external.interrupt);
        done.add_waker(connection.waiter.waker());
        if is_grace_over {
            connection.waiter.give_up_within(Duration::ZERO);
        }
        let mut checks = 0;
        let check = |socket: &mut Socket| {
            checks += 1;
            assert!(checks < 20, "it polls without waiting");
            let done = done.try_recv().ok().map(|()| "done".to_owned());
            done.or_else(|| socket.next_event().as_ref().map(describe))
        };
        let result = thread::scope(|scope| {
            if let Some(event) = during {
                scope.spawn(move || external.act(event));
            }
            let operation = || "test".to_owned();
            connection.wait(&operation, None, deadline, on_interrupt, check)
        });
        match result {
            Ok(WaitOutcome::Ready(it)) => CallOutcome::Ready(it),
            Ok(WaitOutcome::Interrupted) => CallOutcome::Interrupted,
            Ok(WaitOutcome::TimedOut) => CallOutcome::TimedOut,
            Err(Error::Refused { code, .. }) => CallOutcome::Refused(code),
            Err(Error::Lost { code, .. }) => CallOutcome::Lost(code),
            Err(Error::Interrupted(_)) => CallOutcome::LostInterrupted,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Runs one case, and fails if it does not end.
fn with_timeout(case: &str, run: impl FnOnce() + Send + 'static) {
    let (sender, end) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let _ends_with_this = sender;
        run();
    });
    let end = end.recv_timeout(Duration::from_secs(10));
    assert_eq!(end, Err(RecvTimeoutError::Disconnected), "no end of {case}");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn play(script: Vec<usize>, events: Vec<TestEvent>) {
    let case = format!("{script:?} {events:?}");
    with_timeout(&case, move || ConnectionFixture::new(&script).play(&events));
}

fn bytes(script: &[usize]) -> Vec<u8> {
    let conversation = conversation();
    let bytes = script.iter().map(|&at| conversation[at].0.as_slice());
    bytes.collect::<Vec<_>>().concat()
}

#[test]
fn all_frames_are_handled_wherever_the_bytes_are_cut() {
    let script = until_closed((0..conversation().len()).collect());
    let length = bytes(&script).len();
    for cut in 0..=length {
        let sent = TestEvent::Send(cut);
        play(
            script.clone(),
            vec![sent, TestEvent::Process, TestEvent::Send(length)],
        );
        play(script.clone(), vec![sent, TestEvent::HangUp]);
        play(script.clone(), vec![sent, TestEvent::Reset]);
    }
}

fn event() -> impl Strategy<Value = TestEvent> {
    let on_interrupt = prop_oneof![
        Just(OnInterrupt::Return),
        Just(OnInterrupt::Grace),
        Just(OnInterrupt::Ignore)
    ];
    let rarely = || proptest::bool::weighted(0.1);
    let wait = (on_interrupt, rarely(), rarely());
    prop_oneof![
        10 => (0..150_usize).prop_map(TestEvent::Send),
        1 => Just(TestEvent::HangUp),
        1 => Just(TestEvent::Reset),
        2 => Just(TestEvent::Interrupt),
        4 => Just(TestEvent::Done),
        2 => any::<bool>().prop_map(TestEvent::Reading),
        2 => Just(TestEvent::Process),
        20 => wait.prop_map(|(on_interrupt, is_timed_out, is_grace_over)| TestEvent::Wait {
            on_interrupt,
            is_timed_out,
            is_grace_over,
        }),
    ]
}

/// Returns what a peer that is no broker may send: any bytes, nearly valid ones, or senseless frames.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    let nearly_valid = changes.prop_map(|changes| {
        let mut bytes = bytes(&(0..conversation().len()).collect::<Vec<_>>());
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    });
    let methods = [
        frames::BASIC_DELIVER,
        frames::BASIC_RETURN,
        frames::BASIC_GET_OK,
        frames::BASIC_ACK,
        frames::CHANNEL_CLOSE,
        frames::CONNECTION_CLOSE,
        frames::CONNECTION_BLOCKED,
    ];
    let frame = (
        prop::sample::select(vec![frames::METHOD, frames::HEADER, frames::BODY]),
        0..3_u16,
        prop::sample::select(methods.to_vec()),
        vec(any::<u8>(), 0..40),
    );
    let frame = frame.prop_map(|(kind, channel, method, payload)| {
        let mut frame = method_frame(channel, method, &payload);
        frame[0] = kind;
        frame
    });
    prop_oneof![
        vec(any::<u8>(), 0..300),
        nearly_valid,
        vec(frame, 0..8).prop_map(|frames| frames.concat()),
    ]
}

proptest! {
    #[test]
    fn a_wait_ends_as_expected_after_any_events(
        script in vec(0..conversation().len(), 0..12).prop_map(until_closed),
        events in vec(event(), 0..30),
    ) {
        play(script, events);
    }

    #[test]
    fn any_bytes_are_handled_or_refused(noise in noise()) {
        with_timeout(&format!("{noise:?}"), move || {
            let (mut connection, mut peer) = connection(&Interrupt::default());
            peer.write_all(&noise).unwrap();
            received(&mut peer);
            drop(peer);
            while connection.is_open() {
                let _ = wait(&mut connection, Socket::next_event);
            }
            let cause = connection.socket.close_cause;
            assert!(
                matches!(cause, Some(CloseCause::HungUp | CloseCause::NotAmqp | CloseCause::ClosedByBroker(_) | CloseCause::CloseOk)),
                "{cause:?}"
            );
        });
    }
}

fn wait<T>(
    connection: &mut Connection,
    check: impl FnMut(&mut Socket) -> Option<T>,
) -> Result<WaitOutcome<T>, Error> {
    let operation = || "test".to_owned();
    connection.wait(&operation, None, None, OnInterrupt::Ignore, check)
}

/// Waits until the socket was processed once.
fn process(connection: &mut Connection) {
    let mut checks = 0;
    let check = |_: &mut Socket| {
        checks += 1;
        (checks == 2).then_some(())
    };
    assert!(matches!(
        wait(connection, check),
        Ok(WaitOutcome::Ready(()))
    ));
}

/// Returns the bytes that the broker has received since the last call.
fn received(peer: &mut UnixStream) -> Vec<u8> {
    let mut received = Vec::new();
    let _ = peer.read_to_end(&mut received);
    received
}

fn ago(seconds: u64) -> Instant {
    let time = Duration::from_secs(seconds);
    Instant::now().checked_sub(time).unwrap()
}

#[test]
fn a_heartbeat_is_sent_during_a_wait_if_nothing_else_is_to_be_written() {
    for is_reading in [true, false] {
        let (mut connection, mut peer) = connection(&Interrupt::default());
        received(&mut peer);
        connection.socket.is_reading = is_reading;
        connection.socket.heartbeat = HeartbeatTimer::new(10_000, ago(5000));
        process(&mut connection);
        assert_eq!(received(&mut peer), HEARTBEAT_FRAME);
        let next = connection.socket.heartbeat.due_at().unwrap();
        assert!(next > Instant::now());
        // More bytes than the system takes at once.
        let many = vec![7; 10_000_000];
        connection.socket.send(&many);
        connection.socket.heartbeat = HeartbeatTimer::new(10_000, ago(5000));
        process(&mut connection);
        let mut all = Vec::new();
        while !connection.socket.outgoing.is_empty() {
            all.extend(received(&mut peer));
            process(&mut connection);
        }
        all.extend(received(&mut peer));
        assert!(all == many, "{}", all.len());
    }
}

#[test]
fn a_peer_is_dead_after_two_intervals_of_silence() {
    let fixture = || {
        let (mut connection, peer) = connection(&Interrupt::default());
        connection.socket.heartbeat = HeartbeatTimer::new(10_000, ago(20_000));
        (connection, peer)
    };
    let (mut connection, _peer) = fixture();
    let error = wait(&mut connection, Socket::next_event).unwrap_err();
    assert!(
        matches!(&error, Error::Lost { reason, .. }
            if reason == "no data from the broker for 20000s (two heartbeats)"),
        "{error:?}"
    );
    let (mut connection, mut peer) = fixture();
    peer.write_all(&HEARTBEAT_FRAME).unwrap();
    process(&mut connection);
    assert!(connection.is_open());
    let (mut connection, _peer) = fixture();
    connection.socket.is_reading = false;
    process(&mut connection);
    connection.socket.is_reading = true;
    assert!(connection.is_open());
    assert!(connection.socket.heartbeat.dead_at().unwrap() > Instant::now());
}

#[test]
fn the_channel_opens_with_the_first_frames_and_takes_none_after_its_close() {
    let (mut connection, mut peer) = connection(&Interrupt::default());
    let open = method_frame(MESSAGES, frames::CHANNEL_OPEN, &[0]);
    let close_ok = method_frame(MESSAGES, frames::CHANNEL_CLOSE_OK, &[]);
    let ack = frames::ack(MESSAGES, 1, false);
    let opened = [open, ack.clone()].concat();
    assert_eq!(received(&mut peer), opened);
    connection.socket.send_on_channel(&ack);
    assert_eq!(received(&mut peer), ack);
    connection.socket.open_channel();
    connection.socket.send_on_channel(&ack);
    assert_eq!(received(&mut peer), ack);
    let is_closed = |connection: &mut Connection, peer: &mut UnixStream| {
        connection.socket.send_on_channel(&ack);
        assert!(!connection.socket.is_channel_usable() && received(peer).is_empty());
    };
    // Closed by the broker.
    peer.write_all(&close(MESSAGES, NOT_FOUND, "no")).unwrap();
    let refused = wait(&mut connection, Socket::next_event).unwrap_err();
    assert!(matches!(
        refused,
        Error::Refused {
            code: NOT_FOUND,
            ..
        }
    ));
    assert_eq!(received(&mut peer), close_ok);
    is_closed(&mut connection, &mut peer);
    connection.socket.open_channel();
    connection.socket.send_on_channel(&ack);
    assert_eq!(received(&mut peer), opened);
    // Closed by the client. Events before the answer are dropped.
    peer.write_all(&[delivery(1, b"hello"), close_ok].concat())
        .unwrap();
    connection.close_channel().unwrap();
    let close = frames::close(MESSAGES, frames::CHANNEL_CLOSE);
    assert_eq!(received(&mut peer), close);
    assert!(!connection.socket.has_event());
    is_closed(&mut connection, &mut peer);
}

#[test]
fn an_answer_is_found_after_other_events() {
    let (mut connection, mut peer) = connection(&Interrupt::default());
    let answer = method_frame(MESSAGES, frames::BASIC_CONSUME_OK, b"\x03tag");
    peer.write_all(&[delivery(1, b"hello"), answer].concat())
        .unwrap();
    let answered = |socket: &mut Socket| socket.take_answer(frames::BASIC_CONSUME_OK);
    connection.wait_for_answer("consume", answered).unwrap();
    assert_eq!(
        connection.socket.take_answer(frames::BASIC_CONSUME_OK),
        None
    );
    assert!(
        connection.socket.last_received().is_some() && connection.socket.delivered_bytes() == 5
    );
    let event = connection.socket.next_event();
    assert!(matches!(event, Some(ChannelEvent::Delivered(_))));
}

#[test]
fn the_brokers_reason_counts_whatever_follows() {
    let connection_close = close(0, CONNECTION_FORCED, "bye");
    let reason_counts = |connection: &mut Connection| {
        let message = wait(connection, Socket::next_event);
        assert!(matches!(
            message,
            Ok(WaitOutcome::Ready(ChannelEvent::Delivered(_)))
        ));
        let lost = wait(connection, Socket::next_event).unwrap_err();
        assert!(
            matches!(&lost, Error::Lost { code: Some(CONNECTION_FORCED), reason, .. } if reason == "bye"),
            "{lost:?}"
        );
    };
    let sent = [delivery(1, b"hello"), connection_close].concat();
    // Bytes that are not AMQP.
    let (mut first, mut peer) = connection(&Interrupt::default());
    peer.write_all(&[&sent[..], b"garbage"].concat()).unwrap();
    reason_counts(&mut first);
    // A failed write, before the read.
    let (mut second, mut peer) = connection(&Interrupt::default());
    peer.write_all(&sent).unwrap();
    drop(peer);
    second.socket.send_on_channel(&HEARTBEAT_FRAME);
    assert!(!second.socket.is_channel_usable());
    reason_counts(&mut second);
}

#[test]
fn a_close_waits_for_its_answer_timeout_its_time() {
    const HOUR: Duration = Duration::from_secs(3600);
    let fixture = || {
        let (connection, mut peer) = connection(&Interrupt::default());
        received(&mut peer);
        (connection, peer)
    };
    let (mut connection, mut peer) = fixture();
    let close_ok = method_frame(0, frames::CONNECTION_CLOSE_OK, &[]);
    // Events before the answer are dropped.
    peer.write_all(&[delivery(1, b"hello"), close_ok].concat())
        .unwrap();
    connection.close(HOUR).unwrap();
    assert_eq!(
        received(&mut peer),
        frames::close(0, frames::CONNECTION_CLOSE)
    );
    assert!(!connection.is_open() && !connection.socket.has_event());
    let reason = |connection: &mut Connection, timeout| match connection.close(timeout) {
        Err(Error::Lost { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let (mut connection, _peer) = fixture();
    assert_eq!(
        reason(&mut connection, Duration::ZERO),
        "the broker did not answer in time"
    );
    let (mut connection, peer) = fixture();
    drop(peer);
    assert_eq!(
        reason(&mut connection, HOUR),
        "the broker closed it without giving a reason"
    );
}

#[test]
fn deliveries_of_several_channels_are_settled_on_theirs() {
    let (mut connection, mut peer) = connection(&Interrupt::default());
    let on = |channel: u16, mut frames: Vec<u8>| {
        frames::set_channel(&mut frames, channel);
        frames
    };
    let socket = &mut connection.socket;
    let tags = |socket: &mut Socket| {
        socket.process(true);
        let events = std::iter::from_fn(|| socket.next_event());
        let tag = |event| match event {
            ChannelEvent::Delivered(content) | ChannelEvent::Got(Some(content)) => {
                Some(content.tag)
            }
            _ => None,
        };
        events.filter_map(tag).collect::<Vec<_>>()
    };
    let first = [delivery(1, b"a"), delivery(2, &[b'b'; 50])].concat();
    peer.write_all(&first).unwrap();
    assert_eq!(tags(socket), [1, 2]);
    // Channel 2 is the library's.
    socket.open_next_channel();
    let got = content(
        frames::BASIC_GET_OK,
        b"\0\0\0\0\0\0\0\x02\0\0\x01k\0\0\0\x02",
        b"d",
    );
    peer.write_all(&on(3, [delivery(1, b"c"), got].concat()))
        .unwrap();
    assert_eq!(tags(socket), [3, 4]);
    socket.open_next_channel();
    peer.write_all(&on(4, delivery(1, &[b'e'; 50]))).unwrap();
    assert_eq!(tags(socket), [5]);
    let ack = |channel, tag| frames::ack(channel, tag, true);
    let one = |channel, tag| frames::reject(channel, tag, false);
    let sent = |socket: &mut Socket, peer: &mut UnixStream| {
        socket.send(&HEARTBEAT_FRAME);
        let mut bytes = Vec::new();
        while !bytes.ends_with(&HEARTBEAT_FRAME) {
            let mut buffer = [0; 4096];
            let length = peer.read(&mut buffer).unwrap();
            bytes.extend_from_slice(&buffer[..length]);
        }
        bytes.truncate(bytes.len() - HEARTBEAT_FRAME.len());
        bytes
    };
    sent(socket, &mut peer);
    socket.settle([1, 2, 3, 5], one);
    assert_eq!(
        sent(socket, &mut peer),
        [one(1, 1), one(1, 2), one(3, 1), one(4, 1)].concat()
    );
    for (last, expected) in [
        (1, vec![ack(1, 1)]),
        (2, vec![ack(1, 2)]),
        (3, vec![ack(1, 0), ack(3, 1)]),
        (4, vec![ack(1, 0), ack(3, 2)]),
        (5, vec![ack(1, 0), ack(3, 0), ack(4, 1)]),
        (0, vec![ack(1, 0), ack(3, 0), ack(4, 0)]),
    ] {
        socket.settle_up_to(last, ack);
        assert_eq!(sent(socket, &mut peer), expected.concat(), "{last}");
    }
    // Requests go to the last channel, which is opened with the first.
    socket.open_next_channel();
    socket.send_on_channel(&frames::qos(MESSAGES, 7));
    let open = method_frame(5, frames::CHANNEL_OPEN, &[0]);
    let request = on(5, frames::qos(MESSAGES, 7));
    assert_eq!(sent(socket, &mut peer), [open, request].concat());
    // The broker may close any of them.
    peer.write_all(&on(3, close(MESSAGES, NOT_FOUND, "gone")))
        .unwrap();
    socket.process(true);
    let answer = method_frame(3, frames::CHANNEL_CLOSE_OK, &[]);
    assert_eq!(sent(socket, &mut peer), answer);
    assert!(!socket.is_channel_usable() && socket.is_closed());
}
