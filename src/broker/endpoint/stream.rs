//! The stream to the broker: a socket that does not block, with or without TLS on it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustls::ClientConnection;

/// A stream that does not block.
#[derive(Debug)]
pub enum BrokerStream {
    /// A socket as it is.
    Plain(TcpStream),
    /// A socket on which TLS is spoken.
    Tls(Box<TlsStream<TcpStream>>),
}

impl BrokerStream {
    /// TLS on a socket on which nothing was said yet. It shakes hands as it is read and written.
    pub fn over_tls(socket: TcpStream, connection: ClientConnection) -> Self {
        Self::Tls(Box::new(TlsStream::new(socket, connection)))
    }

    /// Whether TLS is still to shake hands.
    pub fn is_handshaking(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.connection.is_handshaking(),
        }
    }

    /// The first bytes that the peer sent in the handshake, by which one that speaks no TLS is known.
    pub fn first_bytes(&self) -> &[u8] {
        match self {
            Self::Plain(_) => &[],
            Self::Tls(stream) => &stream.first,
        }
    }

    /// Whether there is something to read that the file does not tell of, after less was read than there
    /// was room for: why nothing more can be.
    pub fn has_more(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.failed.is_some(),
        }
    }

    /// Whether something waits to be written that nobody has given to it.
    pub fn has_to_write(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.connection.wants_write(),
        }
    }
}

impl AsFd for BrokerStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.socket.as_fd(),
        }
    }
}

impl Read for BrokerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for BrokerStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Writes what waits that nobody has given to it, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// How many bytes are read from the socket at a time. By itself the library reads 4 KiB, and the calls
/// cost more than the decryption.
const TLS_READ_SIZE: usize = 1 << 17;

/// How many of the peer's first bytes are kept.
const FIRST: usize = 8;

/// A socket on which TLS is spoken.
#[derive(Debug)]
pub struct TlsStream<S> {
    socket: S,
    connection: ClientConnection,
    /// What was read from the socket.
    buffer: Vec<u8>,
    /// Which part of it TLS has not yet seen.
    unseen: std::ops::Range<usize>,
    first: Vec<u8>,
    /// How many bytes were taken whose ciphertext is not yet all on its way.
    taken: usize,
    /// Why nothing more can be understood.
    failed: Option<rustls::Error>,
}

impl<S: Read + Write> TlsStream<S> {
    fn new(socket: S, connection: ClientConnection) -> Self {
        Self {
            socket,
            connection,
            buffer: vec![0; TLS_READ_SIZE],
            unseen: 0..0,
            first: Vec::new(),
            taken: 0,
            failed: None,
        }
    }

    /// Gives TLS what was read from the socket, and reads more if there is nothing left. Returns
    /// whether the peer has hung up.
    fn receive(&mut self) -> io::Result<bool> {
        if self.unseen.is_empty() {
            let length = self.socket.read(&mut self.buffer)?;
            if length == 0 {
                return Ok(true);
            }
            self.unseen = 0..length;
            if self.first.len() < FIRST {
                let wanted = length.min(FIRST - self.first.len());
                self.first.extend_from_slice(&self.buffer[..wanted]);
            }
        }
        let mut unseen = &self.buffer[self.unseen.clone()];
        let seen = self.connection.read_tls(&mut unseen)?;
        self.unseen.start += seen;
        let processed = self.connection.process_new_packets();
        // The handshake, an alert, or an answer to a change of keys. If it has to wait, it goes when the
        // socket takes it.
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        // What came before that counts.
        self.failed = processed.err();
        Ok(false)
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        loop {
            match self.connection.reader().read(&mut buffer[read..]) {
                Ok(0) => return Ok(read),
                Ok(length) => {
                    read += length;
                    if read == buffer.len() {
                        return Ok(read);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that hangs up without TLS's farewell: AMQP has its own.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(read),
                Err(error) => return Err(error),
            }
            if let Some(failed) = &self.failed {
                if read > 0 {
                    return Ok(read);
                }
                return Err(io::Error::other(failed.clone()));
            }
            // The socket tells of what comes next. To ask it costs more than what it may have.
            if read > 0 && self.unseen.is_empty() {
                return Ok(read);
            }
            match self.receive() {
                Ok(false) => {}
                Ok(true) => return Ok(read),
                // What came before that counts.
                Err(_) if read > 0 => return Ok(read),
                Err(error) => return Err(error),
            }
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    /// Bytes count as written when all of their ciphertext is: until then it would block, and the
    /// same bytes are to be offered again.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.taken == 0 {
            self.taken = self.connection.writer().write(bytes)?;
        }
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
        }
        Ok(std::mem::take(&mut self.taken))
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::ring;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
    use std::collections::VecDeque;
    use std::sync::Arc;

    /// A socket in memory that does not block.
    struct Memory {
        to_read: VecDeque<u8>,
        /// What is found behind that.
        end: io::Result<usize>,
        written: Vec<u8>,
        /// How many bytes more it takes.
        room: usize,
    }

    fn would_block() -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    impl Read for Memory {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.to_read.read(buffer)? {
                0 => std::mem::replace(&mut self.end, would_block()),
                length => Ok(length),
            }
        }
    }

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.room);
            if length == 0 {
                return would_block();
            }
            self.room -= length;
            self.written.write(&bytes[..length])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A stream, and the broker's end of it.
    struct StreamFixture {
        stream: TlsStream<Memory>,
        broker: ServerConnection,
    }

    impl StreamFixture {
        /// Both ends have shaken hands.
        fn new() -> Self {
            let mut scene = Self::strangers();
            while scene.stream.connection.is_handshaking() || scene.broker.is_handshaking() {
                assert!(scene.read_all().is_empty());
                scene.heard();
                let answer = scene.ciphertext(b"");
                scene.stream.socket.to_read.extend(answer);
            }
            assert!(scene.read_all().is_empty());
            scene
        }

        /// Nothing is said yet.
        fn strangers() -> Self {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap().der().clone();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let provider = Arc::new(ring::default_provider());
            let broker = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key)
                .unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(certificate).unwrap();
            let client = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = "localhost".try_into().unwrap();
            let client = ClientConnection::new(Arc::new(client), name).unwrap();
            let socket = Memory {
                to_read: VecDeque::new(),
                end: would_block(),
                written: Vec::new(),
                room: usize::MAX,
            };
            Self {
                stream: TlsStream::new(socket, client),
                broker: ServerConnection::new(Arc::new(broker)).unwrap(),
            }
        }

        /// A record with these bytes from the broker.
        fn ciphertext(&mut self, bytes: &[u8]) -> Vec<u8> {
            self.broker.writer().write_all(bytes).unwrap();
            let mut record = Vec::new();
            while self.broker.wants_write() {
                self.broker.write_tls(&mut record).unwrap();
            }
            record
        }

        /// What comes out of the stream until it would block.
        fn read_all(&mut self) -> Vec<u8> {
            self.stream.flush().unwrap();
            let mut all = Vec::new();
            let error = self.stream.read_to_end(&mut all).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            all
        }

        /// What has come to the broker.
        fn heard(&mut self) -> Vec<u8> {
            let mut heard = Vec::new();
            let written = std::mem::take(&mut self.stream.socket.written);
            let mut unread = written.as_slice();
            while !unread.is_empty() {
                self.broker.read_tls(&mut unread).unwrap();
                self.broker.process_new_packets().unwrap();
                let _ = self.broker.reader().read_to_end(&mut heard);
            }
            heard
        }
    }

    #[test]
    fn records_come_out_in_order_wherever_they_are_cut() {
        let mut scene = StreamFixture::new();
        let records: Vec<Vec<u8>> = (1..6).map(|n| vec![n; usize::from(n) * 7]).collect();
        for cut in 0.. {
            let bytes: Vec<_> = records
                .iter()
                .flat_map(|record| scene.ciphertext(record))
                .collect();
            let Some((first, second)) = bytes.split_at_checked(cut) else {
                break;
            };
            let mut all = Vec::new();
            for part in [first, second] {
                scene.stream.socket.to_read.extend(part);
                all.extend(scene.read_all());
            }
            assert_eq!(all, records.concat(), "{cut}");
        }
    }

    #[test]
    fn many_small_records_are_read_in_one_go_and_a_large_one_in_many() {
        let mut scene = StreamFixture::new();
        let bytes: Vec<u8> = (0..5000).map(|n: u32| n.to_be_bytes()[3]).collect();
        let many: Vec<_> = bytes
            .iter()
            .map(|byte| scene.ciphertext(&[*byte]))
            .collect();
        scene.stream.socket.to_read.extend(many.concat());
        let mut buffer = vec![0; 2 * bytes.len()];
        assert_eq!(scene.stream.read(&mut buffer).unwrap(), bytes.len());
        assert_eq!(buffer[..bytes.len()], bytes);
        let large = scene.ciphertext(&bytes);
        scene.stream.socket.to_read.extend(large);
        let mut all: Vec<u8> = Vec::new();
        while let Ok(length) = scene.stream.read(&mut buffer[..999]) {
            all.extend(&buffer[..length]);
        }
        assert_eq!(all, bytes);
    }

    #[test]
    fn what_would_block_is_offered_again_and_leaves_once_and_in_order() {
        let mut scene = StreamFixture::new();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_be_bytes()[2]).collect();
        for width in [100, 1000, 70_000, usize::MAX] {
            for is_flushed in [false, true] {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    scene.stream.socket.room = width;
                    if is_flushed {
                        scene.stream.flush().unwrap();
                    }
                    match scene.stream.write(rest) {
                        Ok(length) => rest = &rest[length..],
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                }
                assert!(scene.heard() == bytes, "{width}");
            }
        }
    }

    #[test]
    fn what_came_before_a_failure_is_not_lost() {
        for failure in ["reset", "interrupted", "end", "farewell", "garbage"] {
            let mut scene = StreamFixture::new();
            let words = scene.ciphertext(b"last words");
            let memory = &mut scene.stream.socket;
            memory.to_read.extend(words);
            match failure {
                "reset" => memory.end = Err(io::ErrorKind::ConnectionReset.into()),
                "interrupted" => memory.end = Err(io::ErrorKind::Interrupted.into()),
                "end" => memory.end = Ok(0),
                "farewell" => {
                    scene.broker.send_close_notify();
                    let farewell = scene.ciphertext(b"");
                    scene.stream.socket.to_read.extend(farewell);
                }
                _ => memory.to_read.extend(b"\x17\x03\x03\0\x03bad"),
            }
            let mut buffer = [0; 100];
            let read = scene.stream.read(&mut buffer);
            assert!(matches!(read, Ok(10)), "{failure}: {read:?}");
            assert_eq!(&buffer[..10], b"last words");
            let then = scene.stream.read(&mut buffer);
            match failure {
                "farewell" => assert_eq!(then.unwrap(), 0),
                "garbage" => {
                    let error = then.unwrap_err();
                    assert!(error.get_ref().unwrap().is::<rustls::Error>(), "{error:?}");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn a_stranger_is_known_by_its_first_bytes() {
        let mut scene = StreamFixture::strangers();
        scene
            .stream
            .socket
            .to_read
            .extend(b"HTTP/1.1 400 Bad Request");
        let error = scene.stream.read(&mut [0; 100]).unwrap_err();
        assert!(error.get_ref().unwrap().is::<rustls::Error>(), "{error:?}");
        assert_eq!(scene.stream.first, b"HTTP/1.1");
    }
}
