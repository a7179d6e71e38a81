//! The stream to the broker: a socket that does not block, with or without TLS.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustls::ClientConnection;

/// A stream that does not block.
#[derive(Debug)]
pub(crate) enum BrokerStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl BrokerStream {
    /// Returns a TLS stream on a new socket. The handshake happens as it is read and written.
    pub(crate) fn tls(socket: TcpStream, connection: ClientConnection) -> Self {
        Self::Tls(Box::new(TlsStream::new(socket, connection)))
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.connection.is_handshaking(),
        }
    }

    /// Returns the first bytes of the peer's handshake. They reveal a peer that does not speak TLS.
    pub(crate) fn first_bytes(&self) -> &[u8] {
        match self {
            Self::Plain(_) => &[],
            Self::Tls(stream) => &stream.first_bytes,
        }
    }

    /// Returns the failure of TLS, if it has failed.
    pub(crate) fn tls_error(&self) -> Option<&rustls::Error> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.error.as_ref(),
        }
    }

    /// Whether TLS has bytes to write: records of its own, or the rest of encrypted data.
    pub(crate) fn wants_write(&self) -> bool {
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

    /// Writes what TLS wants to write, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// The size of a read from the socket. With rustls' own 4 KiB the system calls cost more than the
/// decryption.
const TLS_READ_SIZE: usize = 1 << 17;

/// The number of the peer's first bytes that are kept.
const FIRST_BYTES: usize = 8;

/// A socket with TLS on it.
///
/// When TLS fails, reading returns [`io::ErrorKind::InvalidData`], and `error` has the failure.
#[derive(Debug)]
pub(crate) struct TlsStream<S> {
    socket: S,
    connection: ClientConnection,
    /// The bytes that were read from the socket.
    buffer: Vec<u8>,
    /// The part of `buffer` that TLS has not processed.
    unprocessed: std::ops::Range<usize>,
    first_bytes: Vec<u8>,
    /// The number of bytes that TLS has encrypted, while the socket has not taken all of their ciphertext.
    pending: usize,
    error: Option<rustls::Error>,
}

impl<S: Read + Write> TlsStream<S> {
    fn new(socket: S, connection: ClientConnection) -> Self {
        Self {
            socket,
            connection,
            buffer: vec![0; TLS_READ_SIZE],
            unprocessed: 0..0,
            first_bytes: Vec::new(),
            pending: 0,
            error: None,
        }
    }

    /// Has TLS process what was read from the socket, after reading more if all of that is processed.
    /// Returns whether the peer has hung up.
    fn receive(&mut self) -> io::Result<bool> {
        if self.unprocessed.is_empty() {
            let length = self.socket.read(&mut self.buffer)?;
            if length == 0 {
                return Ok(true);
            }
            self.unprocessed = 0..length;
            if self.first_bytes.len() < FIRST_BYTES {
                let wanted = length.min(FIRST_BYTES - self.first_bytes.len());
                self.first_bytes.extend_from_slice(&self.buffer[..wanted]);
            }
        }
        let mut unprocessed = &self.buffer[self.unprocessed.clone()];
        let length = self.connection.read_tls(&mut unprocessed)?;
        self.unprocessed.start += length;
        let processed = self.connection.process_new_packets();
        // TLS may answer with a handshake message, an alert or a key update. What the socket does not take
        // now, `flush` writes later.
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.socket) {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        // `read` reports it after the plaintext that was received before it.
        self.error = processed.err();
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
                // The peer hung up without close_notify, which is harmless: AMQP ends with connection.close.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(read),
                Err(error) => return Err(error),
            }
            if self.error.is_some() {
                if read > 0 {
                    return Ok(read);
                }
                return Err(io::ErrorKind::InvalidData.into());
            }
            // The few bytes that may have arrived by now are not worth another system call.
            if read > 0 && self.unprocessed.is_empty() {
                return Ok(read);
            }
            match self.receive() {
                Ok(false) => {}
                Ok(true) => return Ok(read),
                // Reported by the next read.
                Err(_) if read > 0 => return Ok(read),
                Err(error) => return Err(error),
            }
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    /// Counts bytes as written once all of their ciphertext is written. Until then it returns `WouldBlock`,
    /// and has to be called again with the same bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending == 0 {
            self.pending = self.connection.writer().write(bytes)?;
        }
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
        }
        Ok(std::mem::take(&mut self.pending))
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
        /// The result of a read after that.
        end: io::Result<usize>,
        written: Vec<u8>,
        /// The number of bytes that it still takes.
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

    /// A stream and the broker's end of it.
    struct StreamFixture {
        stream: TlsStream<Memory>,
        broker: ServerConnection,
    }

    impl StreamFixture {
        /// Returns a stream after the handshake.
        fn new() -> Self {
            let mut fixture = Self::before_handshake();
            while fixture.stream.connection.is_handshaking() || fixture.broker.is_handshaking() {
                assert!(fixture.read_all().is_empty());
                fixture.received();
                let answer = fixture.ciphertext(b"");
                fixture.stream.socket.to_read.extend(answer);
            }
            assert!(fixture.read_all().is_empty());
            fixture
        }

        /// Returns a stream before the handshake.
        fn before_handshake() -> Self {
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

        /// Returns these bytes as a record from the broker.
        fn ciphertext(&mut self, bytes: &[u8]) -> Vec<u8> {
            self.broker.writer().write_all(bytes).unwrap();
            let mut record = Vec::new();
            while self.broker.wants_write() {
                self.broker.write_tls(&mut record).unwrap();
            }
            record
        }

        /// Reads from the stream until it would block.
        fn read_all(&mut self) -> Vec<u8> {
            self.stream.flush().unwrap();
            let mut all = Vec::new();
            let error = self.stream.read_to_end(&mut all).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            all
        }

        /// Returns what the broker has received.
        fn received(&mut self) -> Vec<u8> {
            let mut received = Vec::new();
            let written = std::mem::take(&mut self.stream.socket.written);
            let mut unread = written.as_slice();
            while !unread.is_empty() {
                self.broker.read_tls(&mut unread).unwrap();
                self.broker.process_new_packets().unwrap();
                let _ = self.broker.reader().read_to_end(&mut received);
            }
            received
        }
    }

    #[test]
    fn records_are_read_in_order_wherever_they_are_cut() {
        let mut fixture = StreamFixture::new();
        let records: Vec<Vec<u8>> = (1..6).map(|n| vec![n; usize::from(n) * 7]).collect();
        for cut in 0.. {
            let bytes: Vec<_> = records
                .iter()
                .flat_map(|record| fixture.ciphertext(record))
                .collect();
            let Some((first, second)) = bytes.split_at_checked(cut) else {
                break;
            };
            let mut all = Vec::new();
            for part in [first, second] {
                fixture.stream.socket.to_read.extend(part);
                all.extend(fixture.read_all());
            }
            assert_eq!(all, records.concat(), "{cut}");
        }
    }

    #[test]
    fn many_small_records_are_read_in_one_go_and_a_large_one_in_many() {
        let mut fixture = StreamFixture::new();
        let bytes: Vec<u8> = (0..5000).map(|n: u32| n.to_be_bytes()[3]).collect();
        let many: Vec<_> = bytes
            .iter()
            .map(|byte| fixture.ciphertext(&[*byte]))
            .collect();
        fixture.stream.socket.to_read.extend(many.concat());
        let mut buffer = vec![0; 2 * bytes.len()];
        assert_eq!(fixture.stream.read(&mut buffer).unwrap(), bytes.len());
        assert_eq!(buffer[..bytes.len()], bytes);
        let large = fixture.ciphertext(&bytes);
        fixture.stream.socket.to_read.extend(large);
        let mut all: Vec<u8> = Vec::new();
        while let Ok(length) = fixture.stream.read(&mut buffer[..999]) {
            all.extend(&buffer[..length]);
        }
        assert_eq!(all, bytes);
    }

    #[test]
    fn a_write_that_would_block_is_repeated_and_sent_once() {
        let mut fixture = StreamFixture::new();
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_be_bytes()[2]).collect();
        for width in [100, 1000, 70_000, usize::MAX] {
            for is_flushed in [false, true] {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    fixture.stream.socket.room = width;
                    if is_flushed {
                        fixture.stream.flush().unwrap();
                    }
                    match fixture.stream.write(rest) {
                        Ok(length) => rest = &rest[length..],
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                    }
                }
                assert!(fixture.received() == bytes, "{width}");
            }
        }
    }

    #[test]
    fn plaintext_before_a_failure_is_not_lost() {
        for failure in ["reset", "interrupted", "end", "farewell", "garbage"] {
            let mut fixture = StreamFixture::new();
            let last = fixture.ciphertext(b"the last");
            let memory = &mut fixture.stream.socket;
            memory.to_read.extend(last);
            match failure {
                "reset" => memory.end = Err(io::ErrorKind::ConnectionReset.into()),
                "interrupted" => memory.end = Err(io::ErrorKind::Interrupted.into()),
                "end" => memory.end = Ok(0),
                "farewell" => {
                    fixture.broker.send_close_notify();
                    let farewell = fixture.ciphertext(b"");
                    fixture.stream.socket.to_read.extend(farewell);
                }
                _ => memory.to_read.extend(b"\x17\x03\x03\0\x03bad"),
            }
            let mut buffer = [0; 100];
            let read = fixture.stream.read(&mut buffer);
            assert!(matches!(read, Ok(8)), "{failure}: {read:?}");
            assert_eq!(&buffer[..8], b"the last");
            let then = fixture.stream.read(&mut buffer);
            match failure {
                "farewell" => assert_eq!(then.unwrap(), 0),
                "garbage" => {
                    assert_eq!(then.unwrap_err().kind(), io::ErrorKind::InvalidData);
                    assert!(fixture.stream.error.is_some());
                }
                _ => {}
            }
        }
    }

    #[test]
    fn the_first_bytes_of_a_peer_without_tls_are_kept() {
        let mut fixture = StreamFixture::before_handshake();
        fixture
            .stream
            .socket
            .to_read
            .extend(b"HTTP/1.1 400 Bad Request");
        let error = fixture.stream.read(&mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(fixture.stream.error.is_some());
        assert_eq!(fixture.stream.first_bytes, b"HTTP/1.1");
    }
}
