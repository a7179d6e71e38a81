//! Text for the user: bytes from outside on one line and without control characters; sizes and times.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns a body as one line: valid UTF-8 as [`escape`]d text in single quotes, anything else as
/// `b'…'` with `\xNN` for each byte that is not printable ASCII.
pub fn quote(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) => format!("'{}'", escape(text)),
        Err(_) => {
            let mut line = String::with_capacity(body.len() + 3);
            line.push_str("b'");
            for &byte in body {
                push_byte(&mut line, byte);
            }
            line.push('\'');
            line
        }
    }
}

/// Returns the known word that is most similar to a word, if one is similar enough.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // The limit that clap has for similar options.
    const NEAR: f64 = 0.7;
    known
        .into_iter()
        .map(|known| (strsim::jaro(word, known), known))
        .filter(|(likeness, _)| *likeness > NEAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known)
}

/// Writes what [`quote`] returns, in chunks, so that the line of a long body is never in memory as a whole.
pub fn write_quoted(out: &mut impl io::Write, body: &[u8]) -> io::Result<()> {
    match std::str::from_utf8(body) {
        Ok(mut text) => {
            out.write_all(b"'")?;
            while !text.is_empty() {
                let end = (0..=text.len().min(ESCAPE_CHUNK))
                    .rev()
                    .find(|&end| text.is_char_boundary(end));
                let (piece, rest) = text.split_at(end.unwrap_or(text.len()));
                out.write_all(escape(piece).as_bytes())?;
                text = rest;
            }
        }
        Err(_) => {
            out.write_all(b"b'")?;
            for piece in body.chunks(ESCAPE_CHUNK) {
                let mut line = String::with_capacity(2 * ESCAPE_CHUNK);
                for &byte in piece {
                    push_byte(&mut line, byte);
                }
                out.write_all(line.as_bytes())?;
            }
        }
    }
    out.write_all(b"'")
}

/// Writes the items one by one, with a separator between them.
pub(crate) fn write_separated<'i, T: 'i, W: io::Write>(
    items: &'i [T],
    separator: &str,
    out: &mut W,
    write: impl Fn(&'i T, &mut W) -> io::Result<()>,
) -> io::Result<()> {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.write_all(separator.as_bytes())?;
        }
        write(item, out)?;
    }
    Ok(())
}

/// The number of bytes of a body that are escaped at a time.
const ESCAPE_CHUNK: usize = 8192;

/// Escapes `\`, `'`, newline, carriage return and tab as in Rust or Python, and every other
/// control, bidirectional, invisible or unassigned character as `\xNN` or `\u{NNNN}`. Of the spaces only
/// the ASCII space is kept, because the others look the same.
pub fn escape(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // Most text has long runs without escapes.
    let mut rest = text;
    loop {
        let (plain, after) = rest.split_at(plain_length(rest.as_bytes()));
        line.push_str(plain);
        let mut characters = after.chars();
        let Some(character) = characters.next() else {
            return line;
        };
        if character.is_ascii() {
            push_byte(&mut line, character as u8);
        } else if is_invisible(character) {
            let _ = write!(line, "\\u{{{:x}}}", u32::from(character));
        } else {
            line.push(character);
        }
        rest = characters.as_str();
    }
}

/// Returns the length of the start that needs no escapes.
fn plain_length(bytes: &[u8]) -> usize {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'\\' | b'\'');
    bytes.iter().take_while(|byte| is_plain(byte)).count()
}

/// Returns a broker's text on one line: runs of white space become one space, and other unprintable
/// characters are escaped.
pub fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    escape(&words.join(" ")).replace("\\'", "'")
}

/// Returns bytes for a terminal, escaped like [`escape`] except for `'`, and with `\xNN` for each byte that
/// is not UTF-8.
pub fn printable(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        line.push_str(&escape(chunk.valid()).replace("\\'", "'"));
        for &byte in chunk.invalid() {
            push_byte(&mut line, byte);
        }
    }
    line
}

/// Escapes invisible characters in a message to the user, in case a part from outside is not escaped yet.
pub fn visible(sentence: &str) -> Cow<'_, str> {
    if !sentence.contains(is_invisible) {
        return Cow::Borrowed(sentence);
    }
    let parts = sentence.split_inclusive(is_invisible).map(|part| {
        let last = part.chars().next_back().filter(|&c| is_invisible(c));
        let length = part.len() - last.map_or(0, char::len_utf8);
        let mut shown = part[..length].to_owned();
        if let Some(last) = last {
            shown.push_str(&escape(last.encode_utf8(&mut [0; 4])));
        }
        shown
    });
    Cow::Owned(parts.collect())
}

fn push_byte(line: &mut String, byte: u8) {
    let hex = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or_default();
    match byte {
        b'\\' => line.push_str("\\\\"),
        b'\'' => line.push_str("\\'"),
        b'\n' => line.push_str("\\n"),
        b'\r' => line.push_str("\\r"),
        b'\t' => line.push_str("\\t"),
        b' '..=b'~' => line.push(char::from(byte)),
        _ => line.extend(['\\', 'x', hex(byte >> 4), hex(byte & 15)]),
    }
}

/// Whether a character is invisible or has an unpredictable appearance.
pub fn is_invisible(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    // Default_Ignorable_Code_Point (Unicode Character Database, DerivedCoreProperties.txt) without Cf, Cc
    // and unassigned characters, which the standard library knows; and the blank Braille pattern.
    matches!(character,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}'
        | '\u{e0100}'..='\u{e01ef}')
        || is_unprintable(character)
}

/// Whether the standard library escapes a character in `Debug` output: the categories Cc, Cf, Cs, Co,
/// Cn, Zl, Zp and Zs.
///
/// Only `str::escape_debug` exposes this. It also escapes a combining mark at the start of a text, so a letter
/// precedes the character.
fn is_unprintable(character: char) -> bool {
    let mut buffer = [b'a', 0, 0, 0, 0];
    let length = character.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..=length])
        .is_ok_and(|text| text.escape_debug().nth(1) == Some('\\'))
}

/// Returns a text as one word for a shell. With invisible characters it has the form `$'…'`, which bash,
/// zsh and POSIX 2024 support.
pub fn shell(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    if !text.chars().any(is_invisible) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let mut word = "$'".to_owned();
    for character in text.chars() {
        match character {
            '\'' | '\\' => word.extend(['\\', character]),
            _ if is_invisible(character) => {
                // An octal escape has three digits at most, while \x extends over all that follow.
                for byte in character.to_string().bytes() {
                    let _ = write!(word, "\\{byte:03o}");
                }
            }
            _ => word.push(character),
        }
    }
    word.push('\'');
    word
}

/// Decodes the escapes `\n`, `\r`, `\t`, `\0`, `\\` and `\xNN`.
pub fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (byte, length) = match *rest {
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b't', ..] => (b'\t', 1),
            [b'0', ..] => (0, 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => return Err(UNKNOWN.to_owned()),
            },
            _ => return Err(UNKNOWN.to_owned()),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    Ok(bytes)
}

const UNKNOWN: &str = r"after a backslash one of n, r, t, 0, \ or xNN must follow";

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

/// Formats a duration in whole seconds, `3s` or `1m 12s`, or below a second in milliseconds, `120ms`.
pub fn rounded(duration: Duration) -> String {
    let whole = match duration.as_secs() {
        0 => Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or_default()),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(whole).to_string()
}

/// Writes a moment according to RFC 3339, in UTC with microseconds: `2025-12-31T23:59:59.123456Z`.
pub(crate) fn write_time(moment: SystemTime, out: &mut impl io::Write) -> io::Result<()> {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    // Without the formatter of the standard library, as each message as JSON has a time.
    let mut text = *b"0000-00-00T00:00:00.000000Z";
    put_digits(&mut text[..4], year);
    put_digits(&mut text[5..7], month);
    put_digits(&mut text[8..10], day);
    put_digits(&mut text[11..13], seconds / 3600);
    put_digits(&mut text[14..16], seconds / 60 % 60);
    put_digits(&mut text[17..19], seconds % 60);
    put_digits(&mut text[20..26], u64::from(since.subsec_micros()));
    out.write_all(&text)
}

/// Returns the year, month and day that begins this number of days after 1970
/// (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
fn date(days: u64) -> (u64, u64, u64) {
    // In this calendar a year begins with March, and each 400 years with a leap day have 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year_of_era + era * 400;
    match month {
        0..=9 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
}

/// Writes the last decimal digits of a number, as many as there is room for.
fn put_digits(room: &mut [u8], mut number: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
}

/// Formats a number of bytes: `512 B`, `16.0 MB`.
pub fn size(bytes: u64) -> String {
    const SIZE_UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // One decimal place is shown.
    #[allow(clippy::cast_precision_loss)]
    let mut size = bytes as f64 / 1000.0;
    let mut unit = 0;
    // A size that rounds to 1000.0 takes the next unit.
    while size >= 999.95 && unit + 1 < SIZE_UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", SIZE_UNITS[unit])
}

/// Formats a number per second.
pub fn rate(per_second: f64) -> String {
    if per_second < 9.95 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        assert_eq!(quote(b"Hello World!"), "'Hello World!'");
        assert_eq!(quote(b""), "''");
        assert_eq!(
            quote("Grüße, 日本語, नमस्ते, 🐇 e\u{301}".as_bytes()),
            "'Grüße, 日本語, नमस्ते, 🐇 e\u{301}'"
        );
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let written = |moment| {
            let mut out = Vec::new();
            write_time(moment, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let mut moments = vec![
            UNIX_EPOCH,
            UNIX_EPOCH + Duration::from_secs(253_402_300_799),
        ];
        // Each day of 500 years, at another time of the day.
        moments.extend((0..500 * 365).map(|day| {
            UNIX_EPOCH + Duration::from_secs(day * 86_400) + Duration::from_nanos(day * 473_111_999)
        }));
        for moment in moments {
            let expected = humantime::format_rfc3339_micros(moment).to_string();
            assert_eq!(written(moment), expected);
        }
        let before = UNIX_EPOCH.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(written(before), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn what_delimits_or_moves_the_cursor_is_escaped() {
        assert_eq!(quote(b"it's a \\ \n\r\t."), r"'it\'s a \\ \n\r\t.'");
        assert_eq!(quote(b"\0\x1b[2J\x7f"), r"'\x00\x1b[2J\x7f'");
        assert_eq!(quote("\u{85}\u{9b}".as_bytes()), r"'\u{85}\u{9b}'");
    }

    #[test]
    fn bidirectional_and_invisible_characters_are_escaped() {
        for character in "\u{202a}\u{202e}\u{2066}\u{2069}\u{200e}\u{61c}\u{200b}\u{200d}\u{ad}\u{feff}\u{2028}\u{2029}\
            \u{a0}\u{2003}\u{3000}\u{34f}\u{3164}\u{fe0f}\u{e0041}\u{e0101}\u{e000}\u{fffe}\u{10ffff}\u{2800}"
            .chars()
        {
            let shown = escape(&character.to_string());
            assert_eq!(shown, format!("\\u{{{:x}}}", u32::from(character)));
        }
    }

    #[test]
    fn what_is_not_utf8_is_shown_as_bytes() {
        assert_eq!(quote(b"\xff\xc3\xa9 a'\\\n"), r"b'\xff\xc3\xa9 a\'\\\n'");
    }

    #[test]
    fn a_line_written_in_pieces_is_the_same() {
        let long = "aé\u{202e}日🐇'".repeat(5000);
        let mut bytes = long.clone().into_bytes();
        for _ in 0..4 {
            for body in [long.as_bytes(), &bytes, b"", b"x"] {
                let mut out = Vec::new();
                write_quoted(&mut out, body).unwrap();
                assert!(out == quote(body).as_bytes());
            }
            bytes.remove(0);
            bytes.push(0xff);
        }
    }

    #[test]
    fn every_shown_line_is_printable_whatever_the_bytes() {
        for high in 0..=255_u8 {
            for low in 0..=255_u8 {
                let shown = quote(&[high, low, b'x']);
                assert!(shown.chars().all(|c| !c.is_control()), "{shown}");
            }
        }
    }

    #[test]
    fn sizes_have_the_unit_that_fits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (16_000_000, "16.0 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn bytes_for_a_terminal_are_plain_or_escaped() {
        let rows: [(&[u8], &str); 6] = [
            (b"order.created", "order.created"),
            ("Grüße, it's 日本".as_bytes(), "Grüße, it's 日本"),
            (b"\x1b[2J\x07\n", r"\x1b[2J\x07\n"),
            ("\u{9b}1m\u{202e}".as_bytes(), r"\u{9b}1m\u{202e}"),
            (b"a\xff\xc3 \xc3\xa9", r"a\xff\xc3 é"),
            (br"\x1b \'", r"\\x1b \\'"),
        ];
        for (bytes, shown) in rows {
            assert_eq!(printable(bytes), shown);
        }
    }

    #[test]
    fn a_sentence_shows_what_was_not_escaped_in_it() {
        for (sentence, shown) in [
            (r"queue 'it\'s' \x1b", r"queue 'it\'s' \x1b"),
            ("a\x1b[1m\nb\u{9b}", r"a\x1b[1m\nb\u{9b}"),
            ("", ""),
        ] {
            assert_eq!(visible(sentence), shown);
        }
    }

    #[test]
    fn a_brokers_text_of_several_lines_becomes_one() {
        assert_eq!(
            one_line(
                "INTERNAL_ERROR - Feature `x` is deprecated.\nIts use is  not 'permitted'\u{1b}"
            ),
            "INTERNAL_ERROR - Feature `x` is deprecated. Its use is not 'permitted'\\x1b"
        );
    }
}
