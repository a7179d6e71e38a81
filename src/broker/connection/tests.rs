//! The connection, with a broker that the tests play, and whatever can happen in whatever order.

use super::super::frames::{HEARTBEAT_FRAME, LIBRARY, method_frame};
use super::super::peer::{close, content, delivery, pair, told};
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
const CONNECTION_FORCED: u16 = 320;

/// What comes of something that the broker says.
#[derive(Clone, Copy)]
enum Effect {
    Nothing,
    Arrives(&'static str),
    ForLibrary,
    ChannelClosed,
    Closed(u16),
}

/// A conversation in which the broker says everything that it can say, and goodbye in two ways.
fn conversation() -> Vec<(Vec<u8>, Effect)> {
    use Effect::{Arrives, ChannelClosed, Closed, ForLibrary, Nothing};
    let method = |method, arguments: &[u8]| method_frame(MESSAGES, method, arguments);
    let control = |method, arguments: &[u8]| method_frame(0, method, arguments);
    let returned = b"\x01\x38\x08NO_ROUTE\0\x01k";
    let got = b"\0\0\0\0\0\0\0\x07\0\0\x01k\0\0\0\x02";
    vec![
        (method((20, 11), b"\0\0\0\0"), Arrives("answered (20, 11)")),
        (
            method(frames::BASIC_QOS_OK, b""),
            Arrives("answered (60, 11)"),
        ),
        (
            method(frames::BASIC_CONSUME_OK, b"\x03tag"),
            Arrives("answered (60, 21)"),
        ),
        (
            delivery(1, b"hello"),
            Arrives("delivered 1 false '' 'k' 5 None"),
        ),
        (HEARTBEAT_FRAME.to_vec(), Nothing),
        (
            delivery(2, &[b'x'; 50]),
            Arrives("delivered 2 false '' 'k' 50 None"),
        ),
        (delivery(3, b""), Arrives("delivered 3 false '' 'k' 0 None")),
        (control(frames::CONNECTION_BLOCKED, b"\x06memory"), Nothing),
        (
            content(frames::BASIC_RETURN, returned, b"body"),
            Arrives("312 NO_ROUTE 0 false '' 'k' 4 None"),
        ),
        (
            method(frames::BASIC_NACK, b"\0\0\0\0\0\0\0\x01\0"),
            Arrives("Confirm { tag: 1, multiple: false, is_ack: false }"),
        ),
        (
            method(frames::BASIC_ACK, b"\0\0\0\0\0\0\0\x09\x01"),
            Arrives("Confirm { tag: 9, multiple: true, is_ack: true }"),
        ),
        (control(frames::CONNECTION_UNBLOCKED, b""), Nothing),
        (
            method_frame(LIBRARY, (50, 11), b"\x01q\0\0\0\0\0\0\0\0"),
            ForLibrary,
        ),
        (
            content(frames::BASIC_GET_OK, got, b"got"),
            Arrives("got 7 false '' 'k' 3 None"),
        ),
        (
            method(frames::BASIC_GET_EMPTY, b"\0"),
            Arrives("got nothing"),
        ),
        (
            method(frames::BASIC_CANCEL, b"\x03tag\x01"),
            Arrives("cancelled"),
        ),
        (
            method(frames::BASIC_CANCEL_OK, b"\x03tag"),
            Arrives("answered (60, 31)"),
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

/// The part of the conversation that ends with the first goodbye.
fn to_the_end(mut script: Vec<usize>) -> Vec<usize> {
    let is_last = |said: &usize| *said >= conversation().len() - 2;
    let last = script.iter().position(is_last);
    script.truncate(last.map_or(script.len(), |last| last + 1));
    script
}

/// Something that happens to a connection.
#[derive(Clone, Copy, Debug)]
enum TestEvent {
    /// The broker sends so many more bytes of what it has to say.
    Send(usize),
    HangUp,
    Reset,
    Interrupt,
    /// Another thread has done what it was asked for.
    Done,
    MayRead(bool),
    /// What is there is read.
    Turn,
    /// The owner waits.
    Wait {
        on_interrupt: OnInterrupt,
        /// The deadline has passed.
        is_late: bool,
        /// The time that the broker has for its last answers is over.
        is_given_up: bool,
    },
}

impl TestEvent {
    fn is_of_others(&self) -> bool {
        !matches!(self, Self::MayRead(_) | Self::Turn | Self::Wait { .. })
    }
}

#[derive(Clone, Debug, PartialEq)]
enum CallOutcome {
    Came(String),
    Interrupted,
    Late,
    Refused(u16),
    /// The connection is lost, with the broker's code for it.
    Lost(Option<u16>),
    /// It is lost, and the user does not want it any more.
    Left,
}

/// All but the owner of the connection.
struct Others {
    peer: Option<UnixStream>,
    unsent: VecDeque<u8>,
    interrupt: Interrupt,
    done: Sender<()>,
}

impl Others {
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
            // What was sent to it is unread.
            TestEvent::Reset => self.peer = None,
            TestEvent::Interrupt => self.interrupt.trigger(),
            TestEvent::Done => self.done.send(()).unwrap(),
            TestEvent::MayRead(_) | TestEvent::Turn | TestEvent::Wait { .. } => {}
        }
    }
}

/// What has to come of all that.
struct Model {
    unread: VecDeque<(Vec<u8>, Effect)>,
    /// How many bytes of it are sent.
    sent: usize,
    has_hung_up: bool,
    is_interrupted: bool,
    may_read: bool,
    done: usize,
    arrivals: VecDeque<&'static str>,
    for_library: Vec<u8>,
    is_refused: bool,
    /// Why nothing more comes.
    end: Option<CallOutcome>,
}

impl Model {
    fn act(&mut self, event: TestEvent) {
        match event {
            TestEvent::Send(length) if !self.has_hung_up => self.sent += length,
            TestEvent::HangUp | TestEvent::Reset => self.has_hung_up = true,
            TestEvent::Interrupt => self.is_interrupted = true,
            TestEvent::Done => self.done += 1,
            TestEvent::MayRead(may_read) => self.may_read = may_read,
            TestEvent::Turn => self.read(),
            TestEvent::Send(_) | TestEvent::Wait { .. } => {}
        }
    }

    fn read(&mut self) {
        if !self.may_read || self.end.is_some() {
            return;
        }
        while let Some((bytes, effect)) = self.unread.front() {
            let Some(rest) = self.sent.checked_sub(bytes.len()) else {
                break;
            };
            match effect {
                Effect::Nothing => {}
                Effect::Arrives(arrival) => self.arrivals.push_back(arrival),
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

    /// How a wait ends; `None` if it goes on until something happens.
    fn wait(&mut self, how: OnInterrupt, is_late: bool, is_given_up: bool) -> Option<CallOutcome> {
        if self.is_interrupted && how == OnInterrupt::Return {
            return Some(CallOutcome::Interrupted);
        }
        for _ in [
            "with what was read before",
            "and with what is there to be read",
        ] {
            if self.done > 0 {
                self.done -= 1;
                return Some(CallOutcome::Came("done".to_owned()));
            }
            if let Some(arrival) = self.arrivals.pop_front() {
                return Some(CallOutcome::Came(arrival.to_owned()));
            }
            if std::mem::take(&mut self.is_refused) {
                return Some(CallOutcome::Refused(NOT_FOUND));
            }
            if self.end.is_none() && is_late {
                return Some(CallOutcome::Late);
            }
            if is_given_up {
                self.end.get_or_insert(CallOutcome::Lost(None));
            }
            match &self.end {
                Some(CallOutcome::Lost(_)) if self.is_interrupted => {
                    return Some(CallOutcome::Left);
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

/// A connection on which the login is done and the channel for messages is open. What was posted
/// on that is still unread.
fn connection(interrupt: &Interrupt) -> (Connection, UnixStream) {
    let (stream, peer) = pair();
    let mut socket = Socket::new("amqp://test".to_owned(), stream, &Messenger::new(true));
    socket.logged_in(4096, 60);
    socket.open_channel();
    socket.post(&frames::ack(MESSAGES, 1, false));
    (Connection::new(waiter(interrupt), socket, 4096), peer)
}

struct ConnectionFixture {
    connection: Connection,
    done: Receiver<()>,
    others: Others,
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
            others: Others {
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
                may_read: true,
                done: 0,
                arrivals: VecDeque::new(),
                for_library: Vec::new(),
                is_refused: false,
                end: None,
            },
        }
    }

    fn act(&mut self, event: TestEvent) {
        self.others.act(event);
        let socket = &mut self.connection.socket;
        match event {
            TestEvent::MayRead(may_read) => socket.may_read = may_read,
            // The end shows in a turn of its own.
            TestEvent::Turn => (0..2).for_each(|_| socket.turn(true)),
            _ => {}
        }
        self.model.act(event);
    }

    /// Has everything happen, then the peer hang up, and all that came be taken; compares the end of
    /// each wait with the model's. If nothing ends a wait, the next event happens during it.
    fn play(mut self, events: &[TestEvent]) {
        let mut events = events.iter().copied().peekable();
        while let Some(event) = events.next() {
            self.act(event);
            let TestEvent::Wait {
                on_interrupt,
                is_late,
                is_given_up,
            } = event
            else {
                continue;
            };
            let (mut until, mut during) = (is_late.then(Instant::now), None);
            let was_interrupted = self.model.is_interrupted;
            let mut expected = self.model.wait(on_interrupt, is_late, is_given_up);
            if expected.is_none() {
                if let Some(next) = events.next_if(TestEvent::is_of_others) {
                    self.model.act(next);
                    expected = self.model.wait(on_interrupt, is_late, is_given_up);
                    // A thread may start later than in the second that is left to a broker then.
                    let is_in_hurry = was_interrupted && on_interrupt == OnInterrupt::Hurry;
                    if expected.is_some() && !is_in_hurry {
                        during = Some(next);
                    } else {
                        self.others.act(next);
                    }
                }
            }
            if expected.is_none() {
                until = Some(Instant::now() + Duration::from_millis(1));
            }
            let outcome = self.wait(on_interrupt, until, is_given_up, during);
            assert_eq!(outcome, expected.unwrap_or(CallOutcome::Late));
            // How far it has read by now is of no interest.
            self.act(TestEvent::Turn);
        }
        self.act(TestEvent::MayRead(true));
        self.act(TestEvent::HangUp);
        loop {
            let expected = self.model.wait(OnInterrupt::Ignore, false, false);
            let outcome = self.wait(OnInterrupt::Ignore, None, false, None);
            assert_eq!(Some(&outcome), expected.as_ref());
            if !matches!(
                outcome,
                CallOutcome::Came(_) | CallOutcome::Refused(NOT_FOUND)
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
        until: Option<Instant>,
        is_given_up: bool,
        during: Option<TestEvent>,
    ) -> CallOutcome {
        let Self {
            connection,
            done,
            others,
            ..
        } = self;
        // One whose grace has not begun.
        connection.waiter = waiter(&others.interrupt);
        done.wakes(connection.waiter.waker());
        if is_given_up {
            connection.waiter.leave_within(Duration::ZERO);
        }
        let mut looks = 0;
        let came = |socket: &mut Socket| {
            looks += 1;
            assert!(looks < 20, "it does not wait but look again and again");
            let done = done.try_recv().ok().map(|()| "done".to_owned());
            done.or_else(|| socket.arrival().as_ref().map(told))
        };
        let result = thread::scope(|scope| {
            if let Some(event) = during {
                scope.spawn(move || others.act(event));
            }
            let operation = || "test".to_owned();
            connection.wait(&operation, None, until, on_interrupt, came)
        });
        match result {
            Ok(WaitOutcome::Came(it)) => CallOutcome::Came(it),
            Ok(WaitOutcome::Interrupted) => CallOutcome::Interrupted,
            Ok(WaitOutcome::Late) => CallOutcome::Late,
            Err(Error::Refused { code, .. }) => CallOutcome::Refused(code),
            Err(Error::Lost { code, .. }) => CallOutcome::Lost(code),
            Err(Error::Interrupted(_)) => CallOutcome::Left,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Runs one case. If a wait of it does not end, that is found out.
fn watched(case: &str, run: impl FnOnce() + Send + 'static) {
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
    watched(&case, move || ConnectionFixture::new(&script).play(&events));
}

fn bytes(script: &[usize]) -> Vec<u8> {
    let conversation = conversation();
    let bytes = script.iter().map(|&at| conversation[at].0.as_slice());
    bytes.collect::<Vec<_>>().concat()
}

#[test]
fn a_conversation_is_understood_wherever_it_is_cut_and_whenever_it_ends() {
    let script = to_the_end((0..conversation().len()).collect());
    let length = bytes(&script).len();
    for cut in 0..=length {
        let sent = TestEvent::Send(cut);
        play(
            script.clone(),
            vec![sent, TestEvent::Turn, TestEvent::Send(length)],
        );
        play(script.clone(), vec![sent, TestEvent::HangUp]);
        play(script.clone(), vec![sent, TestEvent::Reset]);
    }
}

fn event() -> impl Strategy<Value = TestEvent> {
    let on_interrupt = prop_oneof![
        Just(OnInterrupt::Return),
        Just(OnInterrupt::Hurry),
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
        2 => any::<bool>().prop_map(TestEvent::MayRead),
        2 => Just(TestEvent::Turn),
        20 => wait.prop_map(|(on_interrupt, is_late, is_given_up)| TestEvent::Wait {
            on_interrupt,
            is_late,
            is_given_up,
        }),
    ]
}

/// What a broker that is none may say: anything at all, nearly the right thing, or frames that make
/// no sense.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    let nearly_right = changes.prop_map(|changes| {
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
        nearly_right,
        vec(frame, 0..8).prop_map(|frames| frames.concat()),
    ]
}

proptest! {
    #[test]
    fn a_wait_ends_as_it_has_to_whatever_happens_in_whatever_order(
        script in vec(0..conversation().len(), 0..12).prop_map(to_the_end),
        events in vec(event(), 0..30),
    ) {
        play(script, events);
    }

    #[test]
    fn whatever_comes_it_is_understood_or_refused(noise in noise()) {
        watched(&format!("{noise:?}"), move || {
            let (mut connection, mut peer) = connection(&Interrupt::default());
            peer.write_all(&noise).unwrap();
            heard(&mut peer);
            drop(peer);
            while connection.is_open() {
                let _ = wait(&mut connection, Socket::arrival);
            }
            let cause = connection.socket.cause;
            assert!(
                matches!(cause, Some(CloseCause::HungUp | CloseCause::NotAmqp | CloseCause::Closed(..) | CloseCause::Left)),
                "{cause:?}"
            );
        });
    }
}

fn wait<T>(
    connection: &mut Connection,
    came: impl FnMut(&mut Socket) -> Option<T>,
) -> Result<WaitOutcome<T>, Error> {
    let operation = || "test".to_owned();
    connection.wait(&operation, None, None, OnInterrupt::Ignore, came)
}

/// Waits until something was done.
fn turn(connection: &mut Connection) {
    let mut looks = 0;
    let came = |_: &mut Socket| {
        looks += 1;
        (looks == 2).then_some(())
    };
    assert!(matches!(wait(connection, came), Ok(WaitOutcome::Came(()))));
}

/// All that has come to the broker since it was asked last.
fn heard(peer: &mut UnixStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let _ = peer.read_to_end(&mut heard);
    heard
}

fn ago(seconds: u64) -> Instant {
    let time = Duration::from_secs(seconds);
    Instant::now().checked_sub(time).unwrap()
}

#[test]
fn a_heartbeat_is_sent_while_it_waits_if_nothing_else_is_to_be_written() {
    for may_read in [true, false] {
        let (mut connection, mut peer) = connection(&Interrupt::default());
        heard(&mut peer);
        connection.socket.may_read = may_read;
        connection.socket.heartbeat = HeartbeatTimer::new(10_000, ago(5000));
        turn(&mut connection);
        assert_eq!(heard(&mut peer), HEARTBEAT_FRAME);
        let next = connection.socket.heartbeat.due_at().unwrap();
        assert!(next > Instant::now());
        // So many bytes that the system does not take them all.
        let many = vec![7; 10_000_000];
        connection.socket.send(&many);
        connection.socket.heartbeat = HeartbeatTimer::new(10_000, ago(5000));
        turn(&mut connection);
        let mut all = Vec::new();
        while !connection.socket.outgoing.is_empty() {
            all.extend(heard(&mut peer));
            turn(&mut connection);
        }
        all.extend(heard(&mut peer));
        assert!(all == many, "{}", all.len());
    }
}

#[test]
fn a_peer_is_dead_if_nothing_came_for_two_heartbeats_and_something_could() {
    let scene = || {
        let (mut connection, peer) = connection(&Interrupt::default());
        connection.socket.heartbeat = HeartbeatTimer::new(10_000, ago(20_000));
        (connection, peer)
    };
    let (mut connection, _peer) = scene();
    let error = wait(&mut connection, Socket::arrival).unwrap_err();
    assert!(
        matches!(&error, Error::Lost { reason, .. }
            if reason == "no data from the broker for 20000s (two heartbeats)"),
        "{error:?}"
    );
    let (mut connection, mut peer) = scene();
    peer.write_all(&HEARTBEAT_FRAME).unwrap();
    turn(&mut connection);
    assert!(connection.is_open());
    let (mut connection, _peer) = scene();
    connection.socket.may_read = false;
    turn(&mut connection);
    connection.socket.may_read = true;
    assert!(connection.is_open());
    assert!(connection.socket.heartbeat.dead_at().unwrap() > Instant::now());
}

#[test]
fn the_channel_opens_with_what_is_posted_first_and_takes_nothing_when_it_is_closed() {
    let (mut connection, mut peer) = connection(&Interrupt::default());
    let open = method_frame(MESSAGES, frames::CHANNEL_OPEN, &[0]);
    let close_ok = method_frame(MESSAGES, frames::CHANNEL_CLOSE_OK, &[]);
    let ack = frames::ack(MESSAGES, 1, false);
    let opened = [open, ack.clone()].concat();
    assert_eq!(heard(&mut peer), opened);
    connection.socket.post(&ack);
    assert_eq!(heard(&mut peer), ack);
    connection.socket.open_channel();
    connection.socket.post(&ack);
    assert_eq!(heard(&mut peer), ack);
    let is_closed = |connection: &mut Connection, peer: &mut UnixStream| {
        connection.socket.post(&ack);
        assert!(!connection.socket.can_post() && heard(peer).is_empty());
    };
    // By the broker.
    peer.write_all(&close(MESSAGES, NOT_FOUND, "no")).unwrap();
    let refused = wait(&mut connection, Socket::arrival).unwrap_err();
    assert!(matches!(
        refused,
        Error::Refused {
            code: NOT_FOUND,
            ..
        }
    ));
    assert_eq!(heard(&mut peer), close_ok);
    is_closed(&mut connection, &mut peer);
    connection.socket.open_channel();
    connection.socket.post(&ack);
    assert_eq!(heard(&mut peer), opened);
    // By us; what comes before the answer is of no interest.
    peer.write_all(&[delivery(1, b"hello"), close_ok].concat())
        .unwrap();
    connection.close_channel().unwrap();
    let close = frames::close(MESSAGES, frames::CHANNEL_CLOSE);
    assert_eq!(heard(&mut peer), close);
    assert!(!connection.socket.has_arrival());
    is_closed(&mut connection, &mut peer);
}

#[test]
fn an_answer_is_found_behind_what_came_before_it() {
    let (mut connection, mut peer) = connection(&Interrupt::default());
    let answer = method_frame(MESSAGES, frames::BASIC_CONSUME_OK, b"\x03tag");
    peer.write_all(&[delivery(1, b"hello"), answer].concat())
        .unwrap();
    let answered = |socket: &mut Socket| socket.take_answer(frames::BASIC_CONSUME_OK).then_some(());
    connection.answer("consume", answered).unwrap();
    assert!(!connection.socket.take_answer(frames::BASIC_CONSUME_OK));
    assert!(connection.socket.has_message() && connection.socket.held() == 5);
    let arrival = connection.socket.arrival();
    assert!(matches!(arrival, Some(ChannelEvent::Delivered(_))));
}

#[test]
fn the_brokers_last_words_count_whatever_follows() {
    let goodbye = close(0, CONNECTION_FORCED, "bye");
    let is_heard = |connection: &mut Connection| {
        let message = wait(connection, Socket::arrival);
        assert!(matches!(
            message,
            Ok(WaitOutcome::Came(ChannelEvent::Delivered(_)))
        ));
        let lost = wait(connection, Socket::arrival).unwrap_err();
        assert!(
            matches!(&lost, Error::Lost { code: Some(CONNECTION_FORCED), reason, .. } if reason == "bye"),
            "{lost:?}"
        );
    };
    let said = [delivery(1, b"hello"), goodbye].concat();
    // What is no AMQP.
    let (mut first, mut peer) = connection(&Interrupt::default());
    peer.write_all(&[&said[..], b"garbage"].concat()).unwrap();
    is_heard(&mut first);
    // A failure to write, which is seen first.
    let (mut second, mut peer) = connection(&Interrupt::default());
    peer.write_all(&said).unwrap();
    drop(peer);
    second.socket.post(&HEARTBEAT_FRAME);
    assert!(!second.socket.can_post());
    is_heard(&mut second);
}

#[test]
fn a_farewell_lasts_until_it_is_answered_and_no_longer_than_it_may() {
    const HOUR: Duration = Duration::from_secs(3600);
    let scene = || {
        let (connection, mut peer) = connection(&Interrupt::default());
        heard(&mut peer);
        (connection, peer)
    };
    let (mut connection, mut peer) = scene();
    let close_ok = method_frame(0, frames::CONNECTION_CLOSE_OK, &[]);
    // What comes before the answer is of no interest.
    peer.write_all(&[delivery(1, b"hello"), close_ok].concat())
        .unwrap();
    connection.close(HOUR).unwrap();
    assert_eq!(heard(&mut peer), frames::close(0, frames::CONNECTION_CLOSE));
    assert!(!connection.is_open() && !connection.socket.has_arrival());
    let reason = |connection: &mut Connection, within| match connection.close(within) {
        Err(Error::Lost { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let (mut connection, _peer) = scene();
    assert_eq!(
        reason(&mut connection, Duration::ZERO),
        "the broker did not answer in time"
    );
    let (mut connection, peer) = scene();
    drop(peer);
    assert_eq!(
        reason(&mut connection, HOUR),
        "the broker closed it without giving a reason"
    );
}
