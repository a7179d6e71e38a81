//! Splitting a stream of bytes at a delimiter.

use memchr::memmem::Finder;

/// Splits a stream of bytes into the pieces between delimiters. The last piece may lack a delimiter.
#[derive(Debug)]
pub struct Splitter {
    finder: Finder<'static>,
    /// The beginning of the next piece.
    rest: Vec<u8>,
    /// The number of bytes of `rest` that are known to contain no complete delimiter.
    searched: usize,
}

impl Splitter {
    /// Returns a splitter for a delimiter of one or more bytes.
    pub fn new(delimiter: &[u8]) -> Self {
        Self {
            finder: Finder::new(delimiter).into_owned(),
            rest: Vec::new(),
            searched: 0,
        }
    }

    /// Takes the next bytes, and passes each complete piece to `take`.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(Vec<u8>)) {
        let length = self.finder.needle().len();
        let mut bytes = bytes;
        if !self.rest.is_empty() {
            // Only the first piece can begin in `rest`; all others are copied from `bytes` directly.
            let before = self.rest.len();
            self.rest.extend_from_slice(bytes);
            let Some(end) = self.finder.find(&self.rest[self.searched..]) else {
                self.remember();
                return;
            };
            let end = self.searched + end;
            bytes = &bytes[end + length - before..];
            self.rest.truncate(end);
            take(std::mem::take(&mut self.rest));
        }
        let mut start = 0;
        for end in self.finder.find_iter(bytes) {
            take(bytes[start..end].to_vec());
            start = end + length;
        }
        self.rest.extend_from_slice(&bytes[start..]);
        self.remember();
    }

    /// Returns the beginning of the piece that is not complete yet.
    pub(crate) fn beginning(&self) -> &[u8] {
        &self.rest
    }

    /// Returns the last piece, if no delimiter ended it.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        Some(self.rest).filter(|rest| !rest.is_empty())
    }

    fn remember(&mut self) {
        // A delimiter may have begun in the last bytes.
        self.searched = (self.rest.len() + 1).saturating_sub(self.finder.needle().len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(input: &[u8], delimiter: &[u8], size: usize) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::new(delimiter);
        let mut pieces = Vec::new();
        for chunk in input.chunks(size) {
            splitter.feed(chunk, |piece| pieces.push(piece));
        }
        pieces.extend(splitter.finish());
        pieces
    }

    /// The expected result, computed in the simplest way.
    fn expected(input: &[u8], delimiter: &[u8]) -> Vec<Vec<u8>> {
        let (mut pieces, mut piece, mut at) = (Vec::new(), Vec::new(), 0);
        while at < input.len() {
            if input[at..].starts_with(delimiter) {
                pieces.push(std::mem::take(&mut piece));
                at += delimiter.len();
            } else {
                piece.push(input[at]);
                at += 1;
            }
        }
        if !piece.is_empty() {
            pieces.push(piece);
        }
        pieces
    }

    #[test]
    fn lines_are_what_stands_between_line_breaks() {
        for size in 1..10 {
            assert_eq!(pieces(b"", b"\n", size), Vec::<Vec<u8>>::new());
            assert_eq!(pieces(b"a\n\nb", b"\n", size), [&b"a"[..], b"", b"b"]);
            assert_eq!(pieces(b"a\r\n\0\n", b"\n", size), [&b"a\r"[..], b"\0"]);
            assert_eq!(pieces(b"\n", b"\n", size), [b""]);
        }
    }

    #[test]
    fn a_delimiter_of_several_bytes_is_found_wherever_it_is_cut() {
        for size in 1..12 {
            assert_eq!(
                pieces(b"one--two---three-", b"--", size),
                [&b"one"[..], b"two", b"-three-"]
            );
            assert_eq!(pieces(b"aab", b"ab", size), [b"a"]);
        }
    }

    #[test]
    fn long_pieces_stay_whole() {
        let mut input = vec![b'x'; 200_000];
        input.push(b'\n');
        input.extend(vec![b'y'; 100_000]);
        for size in [1000, 65_536, 1_000_000] {
            let pieces = pieces(&input, b"\n", size);
            assert_eq!(
                pieces.iter().map(Vec::len).collect::<Vec<_>>(),
                [200_000, 100_000]
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn every_input_is_cut_alike_at_every_boundary(
            input in proptest::collection::vec(0..3u8, 0..60),
            delimiter in proptest::collection::vec(0..3u8, 1..4),
            size in 1..20usize,
        ) {
            proptest::prop_assert_eq!(
                pieces(&input, &delimiter, size),
                expected(&input, &delimiter)
            );
        }
    }
}
