//! `--save`: a file for each message.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Form, Output};
use crate::message::Message;

/// How many digits a file's name has: enough for any number of messages to sort.
const DIGITS: usize = 12;

/// Files that are numbered in the order of arrival, on from those that are there.
///
/// A file is written under another name, synchronized with the disk, and then appears under its own,
/// whole. None is ever overwritten, whoever else writes into the directory. The path of each goes to
/// `out`.
#[derive(Debug)]
pub struct Directory<W: Write> {
    path: PathBuf,
    form: Form,
    out: BufWriter<W>,
    quiet: bool,
    next: u64,
}

impl<W: Write> Directory<W> {
    /// Makes the directory if it is not there. With `quiet`, no path is printed.
    ///
    /// # Errors
    /// Those of the system, so if it can't be written to.
    pub fn open(path: &Path, form: Form, out: W, quiet: bool) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        let directory = Self {
            path: path.to_owned(),
            form,
            out: BufWriter::new(out),
            quiet,
            next: 1 + last_number(path)?,
        };
        let probe = directory.aside();
        File::create(&probe)?;
        fs::remove_file(&probe)?;
        Ok(directory)
    }

    /// Where a file is written before it is whole: hidden, and no other process's.
    fn aside(&self) -> PathBuf {
        self.path.join(format!(".hello-mq-{}", std::process::id()))
    }

    fn save(&mut self, message: &Message) -> io::Result<PathBuf> {
        let aside = self.aside();
        let mut file = BufWriter::new(File::create(&aside)?);
        self.form.write(message, &mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        loop {
            let path = self.path.join(format!("{:0DIGITS$}", self.next));
            self.next += 1;
            // A link fails where a renaming would overwrite.
            match fs::hard_link(&aside, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => {
                    linked?;
                    fs::remove_file(&aside)?;
                    return Ok(path);
                }
            }
        }
    }
}

/// The highest number that is a file's name.
fn last_number(path: &Path) -> io::Result<u64> {
    let mut last = 0;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        last = last.max(number.unwrap_or_default());
    }
    Ok(last)
}

impl<W: Write + Send> Output for Directory<W> {
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, message: &Message) -> io::Result<()> {
        let path = self.save(message)?;
        if self.quiet {
            return Ok(());
        }
        self.out.write_all(path.as_os_str().as_bytes())?;
        self.out.write_all(b"\n")
    }

    fn flush(&mut self) -> io::Result<()> {
        // The names, too, must be on the disk.
        File::open(&self.path)?.sync_all()?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Message {
        Message {
            body: body.into(),
            ..Message::default()
        }
    }

    #[test]
    fn files_are_numbered_on_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        let open = || Directory::open(&path, Form::Body(Vec::new()), Vec::new(), false).unwrap();
        let mut first = open();
        first.write(&message("a")).unwrap();
        let mut second = open();
        second.write(&message("b")).unwrap();
        // Both count on from the same number.
        first.write(&message("c")).unwrap();
        first.flush().unwrap();
        let read = |number| fs::read_to_string(path.join(format!("{number:012}"))).unwrap();
        assert_eq!([read(1), read(2), read(3)], ["a", "b", "c"]);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3);
        let printed = String::from_utf8(first.out.into_inner().unwrap()).unwrap();
        assert!(printed.ends_with("new/000000000003\n"), "{printed}");
    }
}
