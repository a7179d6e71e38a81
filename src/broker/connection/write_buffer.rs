//! The bytes that the socket has not yet taken.

use std::io::{self, Write};

/// Bytes on their way out, in order. What the socket takes at once is never copied to here.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    bytes: Vec<u8>,
    /// How many of them are written.
    start: usize,
}

impl WriteBuffer {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes these bytes behind all that waits, as far as `socket` takes them; the rest waits. Returns
    /// how many bytes were written.
    ///
    /// # Errors
    /// Those of the socket, but for one that would block.
    pub fn send(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        if self.is_empty() {
            sent = write(socket, bytes)?;
        }
        self.bytes.extend_from_slice(&bytes[sent..]);
        Ok(sent)
    }

    /// Writes what waits, as far as `socket` takes it. Returns how many bytes were written.
    ///
    /// # Errors
    /// Those of the socket, but for one that would block.
    pub fn flush(&mut self, socket: &mut impl Write) -> io::Result<usize> {
        let sent = write(socket, &self.bytes[self.start..])?;
        self.start += sent;
        // Not each time, or much would be moved for little.
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

    /// A socket that takes so many bytes, and then would block.
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
    fn what_is_sent_leaves_in_order_however_little_is_taken() {
        let parts: Vec<Vec<u8>> = (0..50).map(|n| vec![n; usize::from(n)]).collect();
        for width in 1..100 {
            let (mut socket, mut outgoing) = (Narrow(0, Vec::new()), WriteBuffer::default());
            for part in &parts {
                socket.0 = width;
                outgoing.send(&mut socket, part).unwrap();
            }
            while !outgoing.is_empty() {
                socket.0 = width;
                outgoing.flush(&mut socket).unwrap();
            }
            assert_eq!(socket.1, parts.concat());
        }
    }

    #[test]
    fn what_is_never_empty_does_not_grow() {
        let (mut socket, mut outgoing) = (Narrow(50, Vec::new()), WriteBuffer::default());
        outgoing.send(&mut socket, &[0; 100]).unwrap();
        for _ in 0..10_000 {
            outgoing.send(&mut socket, &[0; 100]).unwrap();
            socket.0 = 100;
            outgoing.flush(&mut socket).unwrap();
            assert!(!outgoing.is_empty());
        }
        assert!(outgoing.bytes.capacity() < 1000);
    }
}
