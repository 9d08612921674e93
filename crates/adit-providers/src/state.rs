//! A directory for what outlives a run. Without one nothing is written to disk.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::Problem;

/// No state is larger.
const LIMIT: u64 = 1024 * 1024;

/// An open state directory: 0700, ours, and locked against a second process until it is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    directory: File,
    /// Holds the lock.
    _lock: File,
}

impl StateDir {
    /// Opens the directory, and makes it if it is missing.
    ///
    /// # Errors
    ///
    /// It cannot be written (`env.readonly_fs`), is another user's or open to others
    /// (`credential.permissions`), or another process has it (`env.state_locked`).
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let failed = |error: io::Error| unusable(path, &error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let directory = File::open(path).map_err(failed)?;
        let metadata = directory.metadata().map_err(failed)?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !ours || metadata.mode() & 0o077 != 0 {
            return Err(Problem::new(
                "credential.permissions",
                format!("the state directory {} is not private", path.display()),
            )
            .seen(format!("owner {}, mode {:04o}", metadata.uid(), metadata.mode() & 0o7777))
            .fix("give a directory of its own: adit makes it with mode 0700")
            .fix(format!("or, if nothing else is in it: chmod 700 {}", path.display())));
        }
        let lock = create(&directory, "lock", OFlags::RDWR | OFlags::CREATE).map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), directory, _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(Problem::new(
                "env.state_locked",
                format!("another process uses the state directory {}", path.display()),
            )
            .fix("stop it (adit down), or give another --state-dir")),
            Err(error) => Err(unusable(path, &error.into())),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// It cannot be read, is a link, or is larger than a mebibyte.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.directory, checked(name)?, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        if file.take(LIMIT + 1).read_to_end(&mut bytes)? as u64 > LIMIT {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "a state file is larger than a mebibyte",
            ));
        }
        Ok(Some(bytes))
    }

    /// Writes a file: whole or not at all, also when the machine stops meanwhile.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let name = checked(name)?;
        let fresh = format!(".{name}.new");
        // A process that was killed while it wrote may have left one.
        let _ = unlinkat(&self.directory, fresh.as_str(), AtFlags::empty());
        let mut file = create(&self.directory, &fresh, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        renameat(&self.directory, fresh.as_str(), &self.directory, name)?;
        self.directory.sync_all()
    }

    /// Removes a file; one that is not there is fine.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.directory, checked(name)?, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn create(directory: &File, name: &str, flags: OFlags) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    let file = File::from(openat(directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?);
    // The umask can only take bits away, but a file that was there may have more.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Names are plain: lower-case letters, digits, `-`, `_` and dots inside.
fn checked(name: &str) -> io::Result<&str> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if !name.is_empty() && name.len() <= 64 && name.bytes().all(plain) && !name.starts_with('.') {
        return Ok(name);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no name of a state file"))
}

fn unusable(path: &Path, error: &io::Error) -> Problem {
    Problem::new("env.readonly_fs", format!("the state directory {} cannot be used", path.display()))
        .seen(error.to_string())
        .fix("give a directory that you may write to: --state-dir DIR")
        .fix("or leave --state-dir away: then nothing is kept on disk")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("adit-state-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn files_are_private_and_replaced_whole() {
        let path = fresh("files");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.read("last").unwrap(), None);
        state.write("last", b"one").unwrap();
        state.write("last", b"two").unwrap();
        assert_eq!(state.read("last").unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(fs::metadata(path.join("last")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        state.remove("last").unwrap();
        state.remove("last").unwrap();
        assert_eq!(state.read("last").unwrap(), None);
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let path = fresh("lock");
        let first = StateDir::open(&path).unwrap();
        assert_eq!(StateDir::open(&path).unwrap_err().class, "env.state_locked");
        drop(first);
        assert!(StateDir::open(&path).is_ok());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_directory_open_to_others_and_links_are_refused() {
        let path = fresh("open");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(StateDir::open(&path).unwrap_err().class, "credential.permissions");
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        let state = StateDir::open(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", path.join("link")).unwrap();
        assert!(state.read("link").is_err());
        for name in ["../x", "a/b", "", ".hidden", "UPPER"] {
            assert!(state.read(name).is_err() && state.write(name, b"").is_err(), "{name}");
        }
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_has_its_class() {
        let problem = StateDir::open(Path::new("/proc/adit-state")).unwrap_err();
        assert_eq!(problem.class, "env.readonly_fs");
        assert!(problem.fix[0].contains("--state-dir"));
    }
}
