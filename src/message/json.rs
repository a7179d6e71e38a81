//! A JSON reader for envelopes, which may be incomplete.
//!
//! Envelopes need exact whole numbers, repeated keys, a body that is not copied, and a limit on the memory
//! for everything else, which no library provides together.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// A JSON value. Objects keep the order of their keys, and repeated keys.
#[derive(Debug, PartialEq)]
pub enum Json<'l> {
    Null,
    Bool(bool),
    /// A number without a fraction and an exponent.
    Number(i128),
    Double(f64),
    Text(Cow<'l, str>),
    Array(Vec<Json<'l>>),
    Object(Vec<(Cow<'l, str>, Json<'l>)>),
}

impl Json<'_> {
    pub fn double(&self) -> Option<f64> {
        match self {
            Self::Double(number) => Some(*number),
            // hello-mq writes a double with a fraction, so this is a number of others.
            #[allow(clippy::cast_precision_loss)]
            Self::Number(number) => Some(*number as f64),
            _ => None,
        }
    }
}

/// The reason why a value can't be read.
#[derive(Debug, PartialEq)]
pub enum JsonError {
    /// The text is valid, but ends too early.
    Truncated,
    /// The text is wrong, whatever follows.
    Invalid(String),
}

impl From<String> for JsonError {
    fn from(problem: String) -> Self {
        Self::Invalid(problem)
    }
}

/// The maximum depth of nested arrays and objects.
const JSON_MAX_DEPTH: usize = 128;

/// The maximum cost in bytes of the values that are kept. AMQP carries them in one frame, of 128 KiB unless
/// the broker's operator allows more.
const JSON_MAX_COST: usize = 1 << 20;

/// The minimum cost of a value, which limits the number of small ones.
const JSON_MIN_COST: usize = 8;

/// The maximum number of bytes for a byte of text: `\u0000`.
const ESCAPE: usize = 6;

/// A string as it is written, without its quotes.
#[derive(Debug)]
pub struct RawString<'l> {
    text: &'l str,
    start: usize,
    has_escapes: bool,
}

impl RawString<'_> {
    /// Returns the position in the line.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }
}

/// A reader of JSON text.
pub struct JsonReader<'l> {
    bytes: &'l [u8],
    at: usize,
    /// The cost that is still allowed.
    left: usize,
    depth: usize,
}

impl<'l> JsonReader<'l> {
    pub fn new(bytes: &'l [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            left: JSON_MAX_COST,
            depth: 0,
        }
    }

    /// Returns the error for the current position.
    fn wrong(&self, what: &str) -> JsonError {
        JsonError::Invalid(not_json(what, self.at))
    }

    /// Skips white space, and returns the next byte without consuming it.
    pub fn peek(&mut self) -> Result<u8, JsonError> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(byte) => return Ok(*byte),
                None => return Err(JsonError::Truncated),
            }
        }
    }

    /// Checks that nothing follows.
    pub fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(self.wrong("trailing characters")),
        }
    }

    /// Charges the cost of a value of this number of bytes.
    fn charge(&mut self, bytes: usize) -> Result<(), JsonError> {
        let left = self.left.checked_sub(bytes.max(JSON_MIN_COST));
        self.left = left.ok_or_else(too_large)?;
        Ok(())
    }

    /// Reads an object. `entry` gets each key, and reads its value.
    pub fn object(
        &mut self,
        mut entry: impl FnMut(&mut Self, Cow<'l, str>) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.items(b'}', |reader| {
            if reader.peek()? != b'"' {
                return Err(reader.wrong("expected a key in quotes"));
            }
            let key = reader.text()?;
            if reader.peek()? != b':' {
                return Err(reader.wrong("expected ':' after the key"));
            }
            reader.at += 1;
            entry(reader, key)
        })
    }

    /// Reads the items between brackets, of which the first is next.
    fn items(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        if self.depth == JSON_MAX_DEPTH {
            return Err(self.wrong(&format!("nested deeper than {JSON_MAX_DEPTH}")));
        }
        self.depth += 1;
        self.at += 1;
        if self.peek()? != close {
            loop {
                item(self)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    byte if byte == close => break,
                    _ => {
                        let close = char::from(close);
                        return Err(self.wrong(&format!("expected ',' or '{close}'")));
                    }
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// Reads a value.
    pub fn value(&mut self) -> Result<Json<'l>, JsonError> {
        Ok(match self.peek()? {
            b'"' => Json::Text(self.text()?),
            b'[' => {
                self.charge(0)?;
                let mut values = Vec::new();
                self.items(b']', |reader| {
                    values.push(reader.value()?);
                    Ok(())
                })?;
                Json::Array(values)
            }
            b'{' => {
                self.charge(0)?;
                let mut entries = Vec::new();
                self.object(|reader, key| {
                    entries.push((key, reader.value()?));
                    Ok(())
                })?;
                Json::Object(entries)
            }
            _ => self.simple()?,
        })
    }

    /// Skips a value. Its strings may have any length.
    pub fn skip(&mut self) -> Result<(), JsonError> {
        match self.peek()? {
            b'"' => {
                self.raw()?;
                self.charge(0)
            }
            b'[' => {
                self.charge(0)?;
                self.items(b']', Self::skip)
            }
            b'{' => {
                self.charge(0)?;
                self.object(|reader, _| reader.skip())
            }
            _ => self.simple().map(drop),
        }
    }

    /// Reads a number, a boolean or `null`.
    fn simple(&mut self) -> Result<Json<'l>, JsonError> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'n' => self.word("null", Json::Null),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            _ => Err(self.wrong("expected a value")),
        }
    }

    fn word(&mut self, word: &str, value: Json<'l>) -> Result<Json<'l>, JsonError> {
        self.charge(0)?;
        let rest = &self.bytes[self.at..];
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(value)
        } else if word.as_bytes().starts_with(rest) {
            Err(JsonError::Truncated)
        } else {
            Err(self.wrong("expected a value"))
        }
    }

    fn number(&mut self) -> Result<Json<'l>, JsonError> {
        let start = self.at;
        if self.bytes[start] == b'-' {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut is_whole = true;
        if self.bytes.get(self.at) == Some(&b'.') {
            is_whole = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            is_whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        let digits = &self.bytes[start..self.at];
        self.charge(digits.len())?;
        // The digits are ASCII.
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        if is_whole && digits != "-0" {
            let number = digits.parse().map(Json::Number);
            return number.map_err(|_| JsonError::Invalid(not_in_64_bits(digits)));
        }
        match digits.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Json::Double(number)),
            _ => Err(self.wrong("number out of range")),
        }
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.bytes[self.at..];
        let others = rest.iter().position(|byte| !byte.is_ascii_digit());
        match others {
            Some(0) => return Err(self.wrong("expected a digit")),
            // A number without a digit is incomplete.
            None if rest.is_empty() => return Err(JsonError::Truncated),
            others => self.at += others.unwrap_or(rest.len()),
        }
        if rest.len() > JSON_MAX_COST && others.is_none() {
            return Err(too_large());
        }
        Ok(())
    }

    /// Reads a string to keep.
    fn text(&mut self) -> Result<Cow<'l, str>, JsonError> {
        let start = self.at;
        let raw = match self.raw() {
            // The string is already too long.
            Err(JsonError::Truncated) if (self.bytes.len() - start) / ESCAPE > self.left => {
                return Err(too_large());
            }
            raw => raw?,
        };
        if !raw.has_escapes {
            self.charge(raw.text.len())?;
            return Ok(Cow::Borrowed(raw.text));
        }
        self.charge(raw.text.len() / ESCAPE)?;
        let mut text = raw.text.as_bytes().to_vec();
        let length = unescape(&mut text).map_err(|(at, what)| {
            self.at = raw.start + at;
            self.wrong(what)
        })?;
        text.truncate(length);
        let text = String::from_utf8(text).map_err(|_| self.wrong("invalid UTF-8"))?;
        Ok(Cow::Owned(text))
    }

    /// Reads a string, whose first quote is next, without decoding its escapes.
    pub fn raw(&mut self) -> Result<RawString<'l>, JsonError> {
        let start = self.at + 1;
        let mut end = start;
        let mut has_escapes = false;
        loop {
            let rest = self.bytes.get(end..).ok_or(JsonError::Truncated)?;
            end += memchr2(b'"', b'\\', rest).ok_or(JsonError::Truncated)?;
            if self.bytes[end] == b'"' {
                break;
            }
            has_escapes = true;
            end += 2;
        }
        let text = &self.bytes[start..end];
        // Scanning the whole text is faster than searching for the first one.
        if text.iter().copied().min().is_some_and(|byte| byte < b' ') {
            let at = text.iter().position(|byte| *byte < b' ');
            self.at = start + at.unwrap_or_default();
            return Err(self.wrong("unescaped control character"));
        }
        let text = std::str::from_utf8(text).map_err(|error| {
            self.at = start + error.valid_up_to();
            self.wrong("invalid UTF-8")
        })?;
        self.at = end + 1;
        Ok(RawString {
            text,
            start,
            has_escapes,
        })
    }
}

/// Returns the error for text that is not JSON.
pub fn not_json(what: &str, at: usize) -> String {
    format!("is not JSON: {what} (column {})", at + 1)
}

fn too_large() -> JsonError {
    JsonError::Invalid(format!(
        "has more than {} MiB of properties and headers, which AMQP can't carry",
        JSON_MAX_COST >> 20
    ))
}

pub fn not_in_64_bits(number: impl std::fmt::Display) -> String {
    format!("{number} does not fit in 64 bits")
}

/// Decodes the escapes of a string in place, and returns the new length, or the position of an error.
pub fn unescape(text: &mut [u8]) -> Result<usize, (usize, &'static str)> {
    let (mut read, mut written) = (0, 0);
    while let Some(next) = memchr::memchr(b'\\', &text[read..]) {
        text.copy_within(read..read + next, written);
        (read, written) = (read + next, written + next);
        let wrong = |what| (read, what);
        let simple = match text.get(read + 1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(same @ (b'"' | b'\\' | b'/')) => *same,
            Some(b'u') => {
                let unit = |at| unit(text.get(at..)?);
                let first = unit(read).ok_or(wrong("invalid escape"))?;
                let second = unit(read + ESCAPE);
                let units = [first, second.unwrap_or(0)];
                let is_pair = (0xd800..0xdc00).contains(&first);
                let units = if is_pair { &units[..] } else { &units[..1] };
                let Some(Ok(character)) = char::decode_utf16(units.iter().copied()).next() else {
                    return Err(wrong("lone surrogate"));
                };
                read += units.len() * ESCAPE;
                written += character.encode_utf8(&mut text[written..]).len();
                continue;
            }
            _ => return Err(wrong("invalid escape")),
        };
        text[written] = simple;
        (read, written) = (read + 2, written + 1);
    }
    text.copy_within(read.., written);
    Ok(written + text.len() - read)
}

/// Returns the UTF-16 code unit of the escape at the start of a text, such as `\u00e9`.
fn unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(json: &[u8]) -> Result<Json<'_>, JsonError> {
        let mut reader = JsonReader::new(json);
        let value = reader.value()?;
        reader.end()?;
        Ok(value)
    }

    /// As `serde_json` has it, which is right but for large whole numbers and keys that stand twice.
    fn same(json: &Json) -> serde_json::Value {
        match json {
            Json::Null => serde_json::Value::Null,
            Json::Bool(value) => (*value).into(),
            Json::Number(number) => match i64::try_from(*number) {
                Ok(number) => number.into(),
                Err(_) => u64::try_from(*number).unwrap().into(),
            },
            Json::Double(number) => (*number).into(),
            Json::Text(text) => text.clone().into(),
            Json::Array(values) => values.iter().map(same).collect(),
            Json::Object(entries) => entries
                .iter()
                .map(|(key, value)| (key.clone().into_owned(), same(value)))
                .collect(),
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            "[\u{0}-\u{20}\"\\\\é🐇]{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                proptest::collection::btree_map(".{0,5}", inner, 0..5)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_another_writes_is_read(json in any_json(), is_pretty: bool) {
            let text = if is_pretty {
                serde_json::to_vec_pretty(&json).unwrap()
            } else {
                serde_json::to_vec(&json).unwrap()
            };
            prop_assert_eq!(same(&read(&text).unwrap()), json);
            // Its beginning is not wrong, it only ends too early, unless it is a number.
            for end in 0..text.len() {
                let cut = read(&text[..end]);
                prop_assert!(
                    matches!(cut, Err(JsonError::Truncated) | Ok(Json::Number(_) | Json::Double(_))),
                    "{:?} {:?}", cut, String::from_utf8_lossy(&text[..end])
                );
            }
        }

        #[test]
        fn what_is_json_and_what_is_not_is_as_another_has_it(
            text in r#"(\[|\]|\{|\}|"|:|,|\\u|\\|d8|dc|00|[-+.eEa0-9x/\t ]|true|false|null){0,12}"#,
        ) {
            let ours = read(text.as_bytes());
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
        }
    }

    #[test]
    fn a_whole_number_is_what_it_is_or_refused() {
        fn number(text: &str) -> Result<Json<'_>, JsonError> {
            read(text.as_bytes())
        }
        for whole in [i128::from(u64::MAX), i128::from(i64::MIN), i128::MAX, 0] {
            assert_eq!(number(&whole.to_string()), Ok(Json::Number(whole)));
        }
        assert_eq!(number("-0"), Ok(Json::Double(-0.0)));
        let long = "1".repeat(40);
        let expected = format!("{long} does not fit in 64 bits");
        assert_eq!(number(&long), Err(JsonError::Invalid(expected)));
    }

    #[test]
    fn what_would_take_much_memory_is_refused_before_it_ends() {
        for (begin, repeated) in [
            ("[", "1,"),
            ("[", "null,"),
            ("[", "[],"),
            ("[", "\"\","),
            ("[", "{\"\":1},"),
            ("[\"", "a"),
            ("[\"", "\\n"),
            ("{\"", "a"),
            ("", "1"),
            ("1.", "1"),
        ] {
            let text = format!("{begin}{}", repeated.repeat(8 << 20));
            assert_eq!(read(text.as_bytes()), Err(too_large()), "{begin}{repeated}");
            let text = format!("{begin}{}", repeated.repeat(100));
            let fault = read(text.as_bytes());
            assert!(fault != Err(too_large()), "{begin}{repeated}: {fault:?}");
        }
        let deep = "[".repeat(200);
        let fault = read(deep.as_bytes());
        assert!(
            matches!(fault, Err(JsonError::Invalid(why)) if why.contains("nested deeper than 128"))
        );
    }
}
