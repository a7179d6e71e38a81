//! The bytes that the socket has not taken yet.

use std::io::{self, Write};

/// Bytes to be written, in order. Those that the socket takes at once are not copied.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    bytes: Vec<u8>,
    /// The number of `bytes` that are written.
    start: usize,
}

impl WriteBuffer {
    /// Returns the number of bytes to be written.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes bytes as far as `socket` takes them, and keeps the rest. Returns the number of bytes written.
    pub(crate) fn send(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        if self.is_empty() {
            sent = write(socket, bytes)?;
        }
        self.bytes.extend_from_slice(&bytes[sent..]);
        Ok(sent)
    }

    /// Writes the bytes kept as far as `socket` takes them. Returns the number of bytes written.
    pub(crate) fn flush(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        let sent = write(socket, &self.bytes[self.start..])?;
        self.start += sent;
        // Removing the written bytes moves the rest, so it is not done each time.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        Ok(sent)
    }
}

fn write(socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => sent += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket that takes this many bytes before it would block.
    struct Narrow(usize, Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.0);
            if length == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0 -= length;
            self.1.extend(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn bytes_are_written_in_order_whatever_the_socket_takes() {
        let parts: Vec<Vec<u8>> = (0..50).map(|n| vec![n; usize::from(n)]).collect();
        for width in 1..100 {
            let (mut socket, mut buffer) = (Narrow(0, Vec::new()), WriteBuffer::default());
            for part in &parts {
                socket.0 = width;
                buffer.send(&mut socket, part).unwrap();
            }
            while !buffer.is_empty() {
                socket.0 = width;
                buffer.flush(&mut socket).unwrap();
            }
            assert_eq!(socket.1, parts.concat());
        }
    }

    #[test]
    fn a_buffer_that_is_never_empty_does_not_grow() {
        let (mut socket, mut buffer) = (Narrow(50, Vec::new()), WriteBuffer::default());
        buffer.send(&mut socket, &[0; 100]).unwrap();
        for _ in 0..10_000 {
            buffer.send(&mut socket, &[0; 100]).unwrap();
            socket.0 = 100;
            buffer.flush(&mut socket).unwrap();
            assert!(!buffer.is_empty());
        }
        assert!(buffer.bytes.capacity() < 1000);
    }
}
