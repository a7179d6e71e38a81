//! A broker that falls silent: it hears everything, answers nothing, and yet its heart beats.
//!
//! It is a proxy to the real one. All that counts for it is whole frames, so it makes no difference
//! when bytes come, nor in what pieces.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::read_frame;

/// The numbers of a class and of one of its methods.
pub type Method = (u16, u16);

pub const CONNECTION_CLOSE: Method = (10, 50);
pub const CHANNEL_OPEN: Method = (20, 10);
pub const CHANNEL_CLOSE: Method = (20, 40);
pub const EXCHANGE_DECLARE: Method = (40, 10);
pub const EXCHANGE_DELETE: Method = (40, 20);
pub const EXCHANGE_BIND: Method = (40, 30);
pub const QUEUE_DECLARE: Method = (50, 10);
pub const QUEUE_BIND: Method = (50, 20);
pub const QUEUE_PURGE: Method = (50, 30);
pub const QUEUE_DELETE: Method = (50, 40);
pub const BASIC_QOS: Method = (60, 10);
pub const BASIC_CONSUME: Method = (60, 20);
pub const BASIC_CANCEL: Method = (60, 30);
pub const BASIC_PUBLISH: Method = (60, 40);
pub const BASIC_GET: Method = (60, 70);
const TUNE_OK: Method = (10, 31);

/// When a connection falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// When the client says this method for the n-th time.
    Asked(Method, usize),
    /// When the broker's n-th method would have to pass.
    Answer(usize),
}

/// What keeps the client from taking the silence for a dead connection.
const HEARTBEAT: &[u8] = b"\x08\0\0\0\0\0\0\xce";

/// How often it comes: far more often than any client wants it.
const INTERVAL: Duration = Duration::from_millis(300);

/// The kind of a frame that is a method.
const METHOD: u8 = 1;

/// A proxy each of whose connections falls silent at some moment.
pub struct Mute {
    pub url: String,
    silent_since: Arc<OnceLock<Instant>>,
}

impl Mute {
    pub fn start(broker: &str, moment: Moment) -> Self {
        let broker = broker
            .rsplit('@')
            .next()
            .unwrap()
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        let silent_since = Arc::new(OnceLock::new());
        let silent = Arc::clone(&silent_since);
        thread::spawn(move || {
            loop {
                let (Ok((client, _)), Ok(broker)) =
                    (listener.accept(), TcpStream::connect(&*broker))
                else {
                    continue;
                };
                // If it can't be served, it is closed.
                let _ = serve(client, broker, moment, &silent);
            }
        });
        Self { url, silent_since }
    }

    /// Its URL as hello-mq shows it.
    pub fn shown_url(&self) -> String {
        self.url.replace("amqp://", "amqp://guest@") + "/"
    }

    /// Since when the first of its connections is silent, if one is.
    pub fn silent_since(&self) -> Option<Instant> {
        self.silent_since.get().copied()
    }
}

/// What the threads of one connection know of it.
struct Line {
    moment: Moment,
    is_silent: AtomicBool,
    /// Whether heartbeats may be sent yet.
    is_tuned: AtomicBool,
    /// The way to the client. One frame at a time.
    client: Mutex<TcpStream>,
    /// When the first of all connections fell silent.
    silent_since: Arc<OnceLock<Instant>>,
}

/// Lets two messenger with each other from threads of their own.
fn serve(
    client: TcpStream,
    broker: TcpStream,
    moment: Moment,
    silent_since: &Arc<OnceLock<Instant>>,
) -> io::Result<()> {
    for socket in [&client, &broker] {
        socket.set_nodelay(true)?;
    }
    let line = Arc::new(Line {
        moment,
        is_silent: AtomicBool::new(false),
        is_tuned: AtomicBool::new(false),
        client: Mutex::new(client.try_clone()?),
        silent_since: Arc::clone(silent_since),
    });
    let (to_broker, from_broker) = (broker.try_clone()?, broker);
    let (lives, end) = mpsc::channel();
    thread::spawn({
        let line = Arc::clone(&line);
        move || {
            let _ = line.hear_client(&client, &to_broker);
            let _ = client.shutdown(Shutdown::Both);
            let _ = to_broker.shutdown(Shutdown::Both);
            // So the heart stops.
            drop(lives);
        }
    });
    thread::spawn({
        let line = Arc::clone(&line);
        move || {
            let _ = line.hear_broker(&from_broker);
            // Whether the broker is still there does not matter to one who hears nothing of it.
            if !line.is_silent() {
                let _ = line.client().shutdown(Shutdown::Both);
            }
        }
    });
    thread::spawn(move || line.beat(&end));
    Ok(())
}

impl Line {
    fn client(&self) -> MutexGuard<'_, TcpStream> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }

    fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
        self.silent_since.get_or_init(Instant::now);
    }

    /// Passes on what the client says, and from the silence on drops it.
    fn hear_client(&self, client: &TcpStream, mut broker: &TcpStream) -> io::Result<()> {
        let mut client = BufReader::new(client);
        let mut protocol_header = [0; 8];
        client.read_exact(&mut protocol_header)?;
        broker.write_all(&protocol_header)?;
        let mut times = 0;
        loop {
            let frame = read_frame(&mut client)?;
            let method = method(&frame);
            if method == Some(TUNE_OK) {
                self.is_tuned.store(true, Ordering::SeqCst);
            }
            if let Moment::Asked(awaited, time) = self.moment {
                times += usize::from(method == Some(awaited));
                if method == Some(awaited) && times == time {
                    self.fall_silent();
                }
            }
            if !self.is_silent() {
                broker.write_all(&frame)?;
            }
        }
    }

    /// Passes on what the broker says, and from the silence on drops it.
    fn hear_broker(&self, broker: &TcpStream) -> io::Result<()> {
        let mut broker = BufReader::new(broker);
        let mut methods = 0;
        loop {
            let frame = read_frame(&mut broker)?;
            methods += usize::from(method(&frame).is_some());
            if self.moment == Moment::Answer(methods) {
                self.fall_silent();
            }
            if !self.is_silent() {
                self.client().write_all(&frame)?;
            }
        }
    }

    /// Sends heartbeats while it is silent, until `end`.
    fn beat(&self, end: &Receiver<()>) {
        while end.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let beats = self.is_silent() && self.is_tuned.load(Ordering::SeqCst);
            if beats && self.client().write_all(HEARTBEAT).is_err() {
                return;
            }
        }
    }
}

/// The method that a frame is, if it is one.
fn method(frame: &[u8]) -> Option<Method> {
    match *frame {
        [METHOD, _, _, _, _, _, _, a, b, c, d, ..] => {
            Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
        }
        _ => None,
    }
}
