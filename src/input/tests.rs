use super::*;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

fn request(arguments: &[&[u8]], format: InputFormat) -> InputOptions {
    InputOptions {
        arguments: arguments
            .iter()
            .map(|bytes| OsString::from_vec(bytes.to_vec()))
            .collect(),
        files: Vec::new(),
        format,
        count: 1,
        max_part_size: None,
        pace: None,
    }
}

fn read(request: InputOptions) -> Result<Vec<(Vec<u8>, String)>, Error> {
    let input = open(request, &Interrupt::default(), &Messenger::new(true))?;
    let mut items = Vec::new();
    for batch in input.batches.inner() {
        items.extend(
            batch?
                .into_iter()
                .map(|item| (item.envelope.body, item.place.to_string())),
        );
    }
    Ok(items)
}

fn file(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in");
    fs::write(&path, content).unwrap();
    (directory, path)
}

#[test]
fn each_argument_is_a_message_byte_for_byte() {
    let items = read(request(&[b"a\nb", b"", b"\xff\x01"], InputFormat::Whole)).unwrap();
    let bodies: Vec<_> = items.iter().map(|(body, _)| body.as_slice()).collect();
    assert_eq!(bodies, [&b"a\nb"[..], b"", b"\xff\x01"]);
    assert_eq!(items[2].1, "message 3");
}

#[test]
fn files_follow_the_arguments_and_all_is_repeated() {
    let (_directory, path) = file(b"x\ny\n");
    let all = InputOptions {
        files: vec![path.clone()],
        count: 2,
        ..request(&[b"a"], InputFormat::Delimited(b"\n".to_vec()))
    };
    let bodies: Vec<_> = read(all).unwrap().into_iter().map(|item| item.0).collect();
    assert_eq!(bodies, [b"a", b"x", b"y", b"a", b"x", b"y"]);
    let whole = InputOptions {
        files: vec![path.clone(), path],
        ..request(&[], InputFormat::Whole)
    };
    let items = read(whole).unwrap();
    assert_eq!(items.len(), 2);
    assert!(items[0].0 == b"x\ny\n" && items[0].1.starts_with("the message from /"));
}

#[test]
fn what_is_wrong_with_a_line_is_told_after_the_lines_before_it() {
    let (_directory, path) = file(b"{\"payload\":\"a\"}\n\n{\"payload\":\n");
    let input = InputOptions {
        files: vec![path],
        ..request(&[], InputFormat::JsonLines)
    };
    let input = open(input, &Interrupt::default(), &Messenger::new(true)).unwrap();
    let batches: Vec<_> = input.batches.inner().iter().collect();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0].as_ref().unwrap()[0].envelope.body, b"a");
    let error = batches[1].as_ref().unwrap_err().to_string();
    assert!(error.starts_with("line 3 of /"), "{error}");
}

#[test]
fn what_can_not_be_read_is_found_first() {
    let missing = |files| InputOptions {
        files,
        ..request(&[b"a"], InputFormat::Whole)
    };
    let error = read(missing(vec![PathBuf::from("/no/such")])).unwrap_err();
    assert_eq!(error.status().code(), 66);
    let error = read(missing(vec![PathBuf::from("/")])).unwrap_err();
    assert_eq!(error.status().code(), 66);
    let lines = InputFormat::Delimited(b"\n".to_vec());
    for request in [
        request(&[b"-", b"a", b"-"], InputFormat::Whole),
        request(&[b"a"], lines.clone()),
        InputOptions {
            count: 2,
            ..request(&[b"-"], lines)
        },
        InputOptions {
            count: 2,
            ..missing(vec![PathBuf::from(std::ffi::OsStr::from_bytes(
                b"/dev/null",
            ))])
        },
    ] {
        assert!(matches!(read(request), Err(Error::Usage(_))));
    }
}
