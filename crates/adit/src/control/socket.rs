//! Where the control socket lies, and how it is kept private.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Longest path of a Unix socket on Linux, unix(7).
const MAX_PATH: usize = 107;
/// Connections that the kernel holds before the daemon accepts them.
const BACKLOG: i32 = 128;
/// How long a daemon that was killed may hold its lock.
const DYING: Duration = Duration::from_secs(1);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A daemon serves the socket already.
    #[error("`adit up` is already running for this profile{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Running {
        /// Its process, where it is known.
        pid: Option<u32>,
    },
    /// The name cannot be part of a path.
    #[error("`{0}` cannot name a control socket: use letters, digits, `.`, `_` and `-`")]
    BadName(String),
    /// The path is too long for a Unix socket.
    #[error("the path {} is longer than the {MAX_PATH} bytes of a Unix socket; set ADIT_SOCKET to a shorter one", .0.display())]
    TooLong(PathBuf),
    /// Somebody else could reach the directory.
    #[error("{} is not a directory of this user alone: {why}", .path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused.
    #[error("{}: {error}", .path.display())]
    Io {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SocketError + '_ {
    move |error| SocketError::Io { path: path.to_owned(), error }
}

/// The directories that may hold sockets of this user, the preferred one first: `$XDG_RUNTIME_DIR/adit` and
/// `/tmp/adit-UID`.
pub fn directories() -> Vec<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let owned = runtime.filter(|dir| fs::symlink_metadata(dir).is_ok_and(|meta| meta.uid() == uid));
    let fallback = PathBuf::from(format!("/tmp/adit-{uid}"));
    owned.map(|dir| dir.join("adit")).into_iter().chain([fallback]).collect()
}

/// Where the socket of a profile lies within a directory.
pub fn path_in(directory: &Path, profile: &str) -> Result<PathBuf, SocketError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if profile.is_empty() || profile.len() > 64 || profile.starts_with('.') || !profile.bytes().all(plain) {
        return Err(SocketError::BadName(profile.to_owned()));
    }
    Ok(directory.join(format!("{profile}.sock")))
}

/// The sockets in these directories with their profiles, dead ones included. Directories that others could
/// have prepared are passed over.
pub fn discover(directories: &[PathBuf]) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for directory in directories.iter().filter(|directory| check_directory(directory).is_ok()) {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "sock")
                && let Some(profile) = path.file_stem().and_then(|stem| stem.to_str())
            {
                found.push((profile.to_owned(), path.clone()));
            }
        }
    }
    found.sort();
    found
}

/// Makes the directory if it is missing; refuses one that others could have prepared.
pub fn prepare_directory(directory: &Path) -> Result<(), SocketError> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(directory)(error)),
        _ => check_directory(directory),
    }
}

/// Whether a directory belongs to this user alone. A symbolic link does not count as a directory.
pub fn check_directory(directory: &Path) -> Result<(), SocketError> {
    let meta = fs::symlink_metadata(directory).map_err(failed(directory))?;
    let unsafe_because = |why: String| Err(SocketError::Unsafe { path: directory.to_owned(), why });
    let uid = rustix::process::geteuid().as_raw();
    if !meta.is_dir() {
        return unsafe_because("it is no directory".to_owned());
    }
    if meta.uid() != uid {
        return unsafe_because(format!("it belongs to uid {}, not to {uid}", meta.uid()));
    }
    if meta.mode() & 0o077 != 0 {
        return unsafe_because(format!("its mode is {:04o}, not 0700", meta.mode() & 0o7777));
    }
    Ok(())
}

/// A control socket that this process serves. Its files are removed when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    lock_path: PathBuf,
    // Held for the life of the process: the kernel releases it however the process ends.
    _lock: File,
}

impl ControlSocket {
    /// Takes the place of a daemon at `path`: nobody else can until this value is dropped or the process ends.
    /// What a killed daemon left behind is replaced.
    pub fn claim(path: &Path) -> Result<Self, SocketError> {
        if path.as_os_str().as_bytes().len() > MAX_PATH {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = patient_lock(&lock_path, path)?;
        Ok(Self { path: path.to_owned(), lock_path, _lock: lock })
    }

    /// Where the socket lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Binds the socket with mode 0600.
    pub fn bind(&self) -> Result<UnixListener, SocketError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&self.path)(error)),
            _ => {}
        }
        bind(&self.path).map(UnixListener::from).map_err(|error| failed(&self.path)(error.into()))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Whoever comes next replaces what cannot be removed now.
        let _left_behind = fs::remove_file(&self.path);
        let _left_behind = fs::remove_file(&self.lock_path);
    }
}

fn bind(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file takes the socket's own mode when it is bound, so it is private from its first moment on.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Locks. A lock whose socket nobody serves belongs to a process that is starting or dying: a killed one closes
/// its descriptors in no particular order, and the lock may be the last.
fn patient_lock(lock_path: &Path, socket: &Path) -> Result<File, SocketError> {
    let began = Instant::now();
    loop {
        match lock(lock_path) {
            Err(SocketError::Running { .. })
                if began.elapsed() < DYING && UnixStream::connect(socket).is_err() =>
            {
                thread::sleep(DYING / 50);
            }
            outcome => return outcome,
        }
    }
}

/// Opens and locks the file that stands for a living daemon, and writes our process id into it.
fn lock(path: &Path) -> Result<File, SocketError> {
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32)
            .open(path)
            .map_err(failed(path))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(SocketError::Running { pid });
            }
            Err(error) => return Err(failed(path)(error.into())),
        }
        // A daemon that was just leaving may have removed the file between the two calls above.
        let ours = file.metadata().map_err(failed(path))?;
        if fs::symlink_metadata(path).is_ok_and(|meta| (meta.ino(), meta.dev()) == (ours.ino(), ours.dev())) {
            write_pid(&mut file).map_err(failed(path))?;
            return Ok(file);
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::control::testing::Scratch;

    #[test]
    fn a_socket_is_private_and_vanishes_with_its_owner() {
        let scratch = Scratch::new("private");
        let path = scratch.path().join("lab.sock");
        let socket = ControlSocket::claim(&path).unwrap();
        let _listener = socket.bind().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(socket);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_second_daemon_is_told_of_the_first() {
        let scratch = Scratch::new("second");
        let path = scratch.path().join("lab.sock");
        let first = ControlSocket::claim(&path).unwrap();
        let _served = first.bind().unwrap();
        match ControlSocket::claim(&path) {
            Err(SocketError::Running { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_killed_daemon_left_behind_is_replaced() {
        let scratch = Scratch::new("stale");
        let path = scratch.path().join("lab.sock");
        let dead = ControlSocket::claim(&path).unwrap();
        drop(dead.bind().unwrap());
        // The kernel closes the lock's descriptor, and nobody removes the files.
        let lock = dead._lock.try_clone().unwrap();
        rustix::fs::flock(&lock, FlockOperation::Unlock).unwrap();
        std::mem::forget(dead);
        assert!(UnixStream::connect(&path).is_err());
        let alive = ControlSocket::claim(&path).unwrap();
        let _listener = alive.bind().unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_daemon_that_is_dying_is_waited_for() {
        let scratch = Scratch::new("dying");
        let path = scratch.path().join("lab.sock");
        let dying = ControlSocket::claim(&path).unwrap();
        let waiting = thread::spawn(move || ControlSocket::claim(&path));
        drop(dying);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_directory_of_others_is_refused() {
        let scratch = Scratch::new("directory");
        let open = scratch.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(prepare_directory(&open), Err(SocketError::Unsafe { .. })));
        let link = scratch.path().join("link");
        symlink(scratch.path(), &link).unwrap();
        assert!(matches!(prepare_directory(&link), Err(SocketError::Unsafe { .. })));
        prepare_directory(&scratch.path().join("fresh")).unwrap();
    }

    #[test]
    fn a_lock_is_not_written_through_a_symbolic_link() {
        let scratch = Scratch::new("symlink");
        let victim = scratch.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, scratch.path().join("lab.sock.lock")).unwrap();
        let claimed = ControlSocket::claim(&scratch.path().join("lab.sock"));
        assert!(matches!(claimed, Err(SocketError::Io { .. })), "{claimed:?}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn profile_names_cannot_leave_the_directory() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "a\0b", "ü"] {
            assert!(matches!(path_in(Path::new("/tmp"), name), Err(SocketError::BadName(_))), "{name:?}");
        }
        assert_eq!(path_in(Path::new("/d"), "lab-1.x").unwrap(), Path::new("/d/lab-1.x.sock"));
    }

    #[test]
    fn sockets_are_discovered_by_profile() {
        let scratch = Scratch::new("discover");
        for name in ["b.sock", "a.sock", "a.sock.lock", "other"] {
            fs::write(scratch.path().join(name), "").unwrap();
        }
        let found = discover(&[scratch.path().to_owned(), PathBuf::from("/nonexistent")]);
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }
}
