//! `--save`: a file for each message.

use std::fs::{self, DirEntry, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::{Output, OutputError, OutputFormat};
use crate::error::SaveFailure;
use crate::message::Message;

/// The number of digits of a file name. Names with leading zeros sort by number.
const DIGITS: usize = 12;

/// Saves each message in a file of its own, numbered in the order of arrival after the existing files.
///
/// A file is written under a temporary name, synchronized with the disk, and then linked under its own.
/// No file is ever overwritten, even if other processes write to the directory. The path of each file is
/// written to `out`.
#[derive(Debug)]
pub struct Directory<W: Write> {
    path: PathBuf,
    format: OutputFormat,
    out: BufWriter<W>,
    quiet: bool,
    next: u64,
    saved: u64,
    removed: usize,
}

impl<W: Write> Directory<W> {
    /// Creates the directory if it does not exist, and removes temporary files of killed processes. With
    /// `quiet`, no path is printed.
    pub fn open(path: &Path, format: OutputFormat, out: W, quiet: bool) -> io::Result<Self> {
        create(path)?;
        let removed = remove_abandoned(path)?;
        drop(TemporaryFile::create(path)?);
        Ok(Self {
            path: path.to_owned(),
            format,
            out: BufWriter::new(out),
            quiet,
            next: 1 + last_number(path)?,
            saved: 0,
            removed,
        })
    }

    /// Returns the number of temporary files that were removed.
    pub fn cleared(&self) -> usize {
        self.removed
    }

    fn save(&mut self, message: &Message) -> io::Result<PathBuf> {
        let mut temporary = TemporaryFile::create(&self.path)?;
        let mut file = BufWriter::new(&mut temporary.file);
        self.format.write(message, &mut file)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        drop(file);
        loop {
            let path = self.path.join(format!("{:0DIGITS$}", self.next));
            self.next += 1;
            // A hard link never replaces a file, unlike a renaming.
            match fs::hard_link(&temporary.path, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => return linked.map(|()| path),
            }
        }
    }

    fn failure(&self, source: io::Error) -> OutputError {
        OutputError::Save(SaveFailure {
            path: self.path.clone(),
            saved: self.saved,
            source,
        })
    }
}

/// Creates a directory and its parents, and synchronizes them with the disk.
fn create(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|path| !path.exists());
    let missing: Vec<_> = missing.map(Path::to_owned).collect();
    fs::create_dir_all(path)?;
    for path in missing {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => continue,
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Returns the highest number among the file names.
fn last_number(path: &Path) -> io::Result<u64> {
    let mut last = 0;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let is_number =
            |name: &&str| name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_digit());
        let number = name.to_str().filter(is_number);
        last = last.max(number.map_or(0, |name| name.parse().unwrap_or_default()));
    }
    Ok(last)
}

/// A file that is being written: hidden, with a unique name, and locked, so that the file of a killed process
/// can be recognized. Its temporary name is removed when this is dropped.
#[derive(Debug)]
struct TemporaryFile {
    path: PathBuf,
    file: File,
    /// `None` if the file system has no locks.
    _lock: Option<Flock<File>>,
}

/// The start of a temporary name. A random number of [`RANDOM_DIGITS`] hexadecimal digits follows.
const TEMPORARY_PREFIX: &str = ".hello-mq-";
const RANDOM_DIGITS: usize = 16;

impl TemporaryFile {
    fn create(directory: &Path) -> io::Result<Self> {
        loop {
            // Process ids are not unique across containers and hosts that share a directory.
            let random = RandomState::new().build_hasher().finish();
            let path = directory.join(format!("{TEMPORARY_PREFIX}{random:0RANDOM_DIGITS$x}"));
            // A new file is also not the target of a symbolic link.
            let file = match File::options().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            let lock = match lock(file.try_clone()?) {
                Ok(lock) => Some(lock),
                // Another process is removing it because it seemed abandoned.
                Err(Errno::EWOULDBLOCK) => continue,
                Err(_) => None,
            };
            if file.metadata()?.nlink() > 0 {
                return Ok(Self {
                    path,
                    file,
                    _lock: lock,
                });
            }
        }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // The next run removes a file that can't be removed now.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(file: File) -> Result<Flock<File>, Errno> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)
}

/// Removes the temporary files of processes that no longer exist, and returns their number.
fn remove_abandoned(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_temporary(&entry) && remove_if_abandoned(&entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_temporary(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let digits = name.as_bytes().strip_prefix(TEMPORARY_PREFIX.as_bytes());
    digits.is_some_and(|digits| {
        digits.len() == RANDOM_DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
    }) && entry.file_type().is_ok_and(|kind| kind.is_file())
}

fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    // It may have been replaced by a symbolic link or a named pipe.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::options()
        .write(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let _lock = lock(file)?;
    fs::remove_file(path)
}

impl<W: Write + Send> Output for Directory<W> {
    fn start(&mut self) -> Result<(), OutputError> {
        Ok(())
    }

    fn write(&mut self, message: &Message) -> Result<(), OutputError> {
        let path = self.save(message).map_err(|error| self.failure(error))?;
        self.saved += 1;
        if self.quiet {
            return Ok(());
        }
        self.out.write_all(path.as_os_str().as_bytes())?;
        Ok(self.out.write_all(b"\n")?)
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        // The names of the files have to be on the disk as well.
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| self.failure(error))?;
        Ok(self.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn message(body: &str) -> Message {
        Message {
            body: body.into(),
            ..Message::default()
        }
    }

    fn open(path: &Path) -> Directory<Vec<u8>> {
        Directory::open(path, OutputFormat::Body(Vec::new()), Vec::new(), false).unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_numbered_on_and_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        let mut first = open(&path);
        first.write(&message("a")).unwrap();
        let mut second = open(&path);
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

    #[test]
    fn what_a_killed_run_has_left_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        open(path).write(&message("a")).unwrap();
        // Killed between the link and the removal, and before it.
        let left = |digits| path.join(format!("{TEMPORARY_PREFIX}{digits}"));
        fs::hard_link(path.join("000000000001"), left("00000000000000aa")).unwrap();
        fs::write(left("00000000000000ab"), "half").unwrap();
        // A process that is still writing, and what only looks like such files.
        let alive = TemporaryFile::create(path).unwrap();
        fs::write(left("notes"), "kept").unwrap();
        symlink(path.join("000000000001"), left("00000000000000ac")).unwrap();
        let mut second = open(path);
        assert_eq!(second.cleared(), 2);
        second.write(&message("b")).unwrap();
        let name = alive.path.file_name().unwrap().to_str().unwrap();
        let mut expected = [
            ".hello-mq-00000000000000ac",
            name,
            ".hello-mq-notes",
            "000000000001",
            "000000000002",
        ];
        expected.sort_unstable();
        assert_eq!(names(path), expected);
        assert_eq!(fs::read_to_string(path.join("000000000001")).unwrap(), "a");
        drop(alive);
        assert_eq!(open(path).cleared(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_finished_is_removed_and_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let mut output = open(&path);
        output.write(&message("a")).unwrap();
        fs::remove_dir_all(&path).unwrap();
        let OutputError::Save(failure) = output.write(&message("b")).unwrap_err() else {
            panic!("it is not about the directory");
        };
        assert_eq!(failure.source.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            failure.to_string(),
            format!(
                "cannot save messages in {}: no such file or directory; 1 was saved",
                path.display()
            )
        );
    }

    #[test]
    fn a_name_that_is_a_number_of_another_kind_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["18446744073709551615", "7", "+00000000007", "000000000007x"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let mut output = open(directory.path());
        output.write(&message("a")).unwrap();
        assert!(directory.path().join("000000000001").exists());
    }
}
