//! Content encodings: compressed bodies.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use flate2::{Compression, bufread};

/// An encoding of a body, as named by its content_encoding
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentEncoding {
    /// RFC 1952.
    Gzip,
    /// The format of zlib (RFC 1950), or deflate without it (RFC 1951), which some senders mean by the name.
    Deflate,
    /// RFC 8878.
    Zstd,
}

/// The largest decoded body: the largest message of RabbitMQ 3, unless it is configured otherwise.
const MAX_DECODED_SIZE: usize = 128 << 20;

/// The decoded size from which on a body is checked as a whole before there is memory for it.
const MAX_UNCHECKED_SIZE: usize = 1 << 20;

/// The number of bytes that are decoded at a time.
const CHUNK_SIZE: usize = 8 << 10;

/// The reason why a body can't be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is not in this encoding, damaged or truncated.
    #[error("not valid {0}: {1}")]
    Invalid(ContentEncoding, io::Error),
    /// Something follows the encoded body.
    #[error("not valid {0}: more bytes follow its end")]
    Trailing(ContentEncoding),
    /// It is too large.
    #[error("more than {} MiB when decoded", MAX_DECODED_SIZE >> 20)]
    TooLarge,
}

impl ContentEncoding {
    /// The names of all encodings.
    pub const NAMES: [&str; 3] = ["gzip", "deflate", "zstd"];

    /// Whether a body begins like one in this encoding. Deflate without the format of zlib can't be told
    /// from anything else.
    pub fn is_likely(self, body: &[u8]) -> bool {
        match self {
            Self::Gzip => body.starts_with(&[0x1f, 0x8b]),
            Self::Deflate => is_zlib(body),
            Self::Zstd => body.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]),
        }
    }

    /// Decodes a body.
    ///
    /// # Errors
    /// Fails if the body is not in this encoding from its first byte to its last, or larger than 128 MiB.
    pub fn decode(self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut decoded = Vec::new();
        let size = self.read(body, |chunk| {
            if decoded.len() < MAX_UNCHECKED_SIZE {
                decoded.extend_from_slice(chunk);
            }
        })?;
        if decoded.len() < size {
            decoded = Vec::with_capacity(size);
            self.read(body, |chunk| decoded.extend_from_slice(chunk))?;
        }
        Ok(decoded)
    }

    /// Decodes a body piece by piece, and returns its decoded size.
    fn read(self, body: &[u8], mut take: impl FnMut(&[u8])) -> Result<usize, DecodeError> {
        let invalid = |error| DecodeError::Invalid(self, error);
        let mut rest = body;
        let mut decoder: Box<dyn Read + '_> = match self {
            Self::Gzip => Box::new(bufread::MultiGzDecoder::new(&mut rest)),
            Self::Deflate if is_zlib(body) => Box::new(bufread::ZlibDecoder::new(&mut rest)),
            Self::Deflate => Box::new(bufread::DeflateDecoder::new(&mut rest)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(&mut rest).map_err(invalid)?),
        };
        let mut chunk = [0; CHUNK_SIZE];
        let mut size = 0;
        loop {
            let length = decoder.read(&mut chunk).map_err(invalid)?;
            if length == 0 {
                break;
            }
            size += length;
            if size > MAX_DECODED_SIZE {
                return Err(DecodeError::TooLarge);
            }
            take(&chunk[..length]);
        }
        drop(decoder);
        if rest.is_empty() {
            Ok(size)
        } else {
            Err(DecodeError::Trailing(self))
        }
    }

    /// Encodes a body.
    pub fn encode(self, body: &[u8]) -> io::Result<Vec<u8>> {
        let level = Compression::default();
        let mut encoded = Vec::new();
        match self {
            Self::Gzip => bufread::GzEncoder::new(body, level).read_to_end(&mut encoded)?,
            Self::Deflate => bufread::ZlibEncoder::new(body, level).read_to_end(&mut encoded)?,
            Self::Zstd => return zstd::encode_all(body, zstd::DEFAULT_COMPRESSION_LEVEL),
        };
        Ok(encoded)
    }
}

/// Whether a body begins with a header of zlib (RFC 1950, section 2.2).
fn is_zlib(body: &[u8]) -> bool {
    match *body {
        [method, flags, ..] => {
            method & 0x0f == 8 && method >> 4 <= 7 && u16::from_be_bytes([method, flags]) % 31 == 0
        }
        _ => false,
    }
}

impl fmt::Display for ContentEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        })
    }
}

impl FromStr for ContentEncoding {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "deflate" => Ok(Self::Deflate),
            "zstd" => Ok(Self::Zstd),
            _ => Err("is none of gzip, deflate and zstd".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [ContentEncoding; 3] = [
        ContentEncoding::Gzip,
        ContentEncoding::Deflate,
        ContentEncoding::Zstd,
    ];

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_and_nothing_else(
            body in proptest::collection::vec(any::<u8>(), 0..3000),
            noise in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            for encoding in ALL {
                let encoded = encoding.encode(&body).unwrap();
                prop_assert!(encoding.is_likely(&encoded));
                prop_assert_eq!(&encoding.decode(&encoded).unwrap(), &body);
                for end in [1, encoded.len() / 2, encoded.len() - 1] {
                    prop_assert!(encoding.decode(&encoded[..end]).is_err(), "{} {}", encoding, end);
                }
                let trailing = [encoded.as_slice(), b"\nmore"].concat();
                prop_assert!(encoding.decode(&trailing).is_err(), "{}", encoding);
                let _ = encoding.decode(&noise);
            }
        }
    }

    #[test]
    fn a_damaged_body_is_an_error() {
        for encoding in ALL {
            let mut encoded = encoding.encode(&b"some text, ".repeat(10)).unwrap();
            // In the check sum, or for zstd, which has none by default, in the header.
            let at = match encoding {
                ContentEncoding::Gzip => encoded.len() - 7,
                ContentEncoding::Deflate => encoded.len() - 1,
                ContentEncoding::Zstd => 4,
            };
            encoded[at] ^= 0xff;
            let error = encoding.decode(&encoded).unwrap_err().to_string();
            assert!(error.starts_with(&format!("not valid {encoding}: ")));
        }
    }

    #[test]
    fn several_members_and_frames_are_decoded() {
        for encoding in [ContentEncoding::Gzip, ContentEncoding::Zstd] {
            let parts = [&b"one, "[..], b"", b"two"].map(|part| encoding.encode(part).unwrap());
            assert_eq!(encoding.decode(&parts.concat()).unwrap(), b"one, two");
        }
    }

    #[test]
    fn deflate_needs_no_zlib() {
        let mut raw = Vec::new();
        bufread::DeflateEncoder::new(&b"tea"[..], Compression::default())
            .read_to_end(&mut raw)
            .unwrap();
        assert_eq!(ContentEncoding::Deflate.decode(&raw).unwrap(), b"tea");
        assert!(!ContentEncoding::Deflate.is_likely(&raw));
        raw.push(0);
        assert!(ContentEncoding::Deflate.decode(&raw).is_err());
    }

    #[test]
    fn large_bodies_are_decoded_and_larger_ones_refused() {
        let large = vec![7; 3 * MAX_UNCHECKED_SIZE];
        for encoding in ALL {
            let encoded = encoding.encode(&large).unwrap();
            assert_eq!(encoding.decode(&encoded).unwrap(), large);
        }
        let zeros = |size: usize| zstd::encode_all(io::repeat(0).take(size as u64), 1).unwrap();
        let largest = ContentEncoding::Zstd.decode(&zeros(MAX_DECODED_SIZE));
        assert_eq!(largest.unwrap().len(), MAX_DECODED_SIZE);
        let bomb = zeros(200 << 20);
        assert!(bomb.len() < 20_000, "{}", bomb.len());
        let error = ContentEncoding::Zstd.decode(&bomb).unwrap_err();
        assert_eq!(error.to_string(), "more than 128 MiB when decoded");
    }

    #[test]
    fn an_encoding_has_its_name() {
        for (name, encoding) in ContentEncoding::NAMES.iter().zip(ALL) {
            assert_eq!(name.parse(), Ok(encoding));
            assert_eq!(encoding.to_string(), *name);
        }
        assert_eq!("X-GZip".parse(), Ok(ContentEncoding::Gzip));
        for other in ["", "gzip, zstd", "utf-8", "identity", "br"] {
            assert!(other.parse::<ContentEncoding>().is_err(), "{other}");
        }
    }
}
