//! How the supervisor reaches the program's sockets.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Backend;
use crate::sys::{errno, socket};
use crate::trapped::{Trapped, Trouble};

/// A socket of the program, held by the supervisor as well.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    fd: Arc<OwnedFd>,
    pub(crate) inode: u64,
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The sockets that [`Backend::Inject`] made and still holds. Holding one keeps its port: what is not needed any
/// more is let go as early as possible.
#[derive(Debug)]
pub(crate) struct Sockets {
    backend: Backend,
    kept: Mutex<HashMap<u64, Kept>>,
}

#[derive(Debug)]
struct Kept {
    fd: Arc<OwnedFd>,
    /// The program has it.
    installed: bool,
}

/// Beyond this many, sockets are the kernel's; such a socket cannot reach a private destination.
const MAX_KEPT: usize = 4096;

impl Sockets {
    pub(crate) fn new(backend: Backend) -> Self {
        Self { backend, kept: Mutex::default() }
    }

    /// The socket behind a descriptor of the calling program.
    pub(crate) fn handle(&self, trapped: &Trapped, fd: i32) -> Result<Handle, Trouble> {
        match self.backend {
            Backend::GetFd => {
                let fd = Arc::new(trapped.fetch(fd)?);
                let inode = socket::inode(&fd).map_err(|error| Trouble::Errno(errno(&error)))?;
                Ok(Handle { fd, inode })
            }
            Backend::Inject => {
                let inode = trapped.inode(fd)?.ok_or(Trouble::Errno(libc::EBADF))?;
                let fd = self.kept().get(&inode).map(|kept| kept.fd.clone());
                match fd {
                    Some(fd) => Ok(Handle { fd, inode }),
                    None => Err(Trouble::Opaque("socket", io::ErrorKind::NotFound.into())),
                }
            }
        }
    }

    /// Makes a socket for the program and keeps a copy; `None` leaves it to the kernel.
    pub(crate) fn make(&self, domain: i32, kind: i32, protocol: i32) -> Option<io::Result<Handle>> {
        if self.kept().len() >= MAX_KEPT {
            return None;
        }
        let made = socket::socket(domain, kind | libc::SOCK_CLOEXEC, protocol).and_then(|fd| {
            let inode = socket::inode(&fd)?;
            let fd = Arc::new(fd);
            self.kept().insert(inode, Kept { fd: fd.clone(), installed: false });
            Ok(Handle { fd, inode })
        });
        Some(made)
    }

    /// The program has a socket now, or never will.
    pub(crate) fn installed(&self, handle: &Handle, result: &Result<(), Trouble>) {
        let mut kept = self.kept();
        match (result, kept.get_mut(&handle.inode)) {
            (Ok(()), Some(kept)) => kept.installed = true,
            (Ok(()), None) => {}
            (Err(_), _) => drop(kept.remove(&handle.inode)),
        }
    }

    /// The kept sockets other than `inode` that hold a local port.
    pub(crate) fn holding(&self, port: u16, inode: Option<u64>) -> Vec<u64> {
        let kept = self.kept();
        let holds = |kept: &Kept| socket::local(&kept.fd).is_ok_and(|local| local.port() == port);
        kept.iter()
            .filter(|(other, kept)| Some(**other) != inode && kept.installed && holds(kept))
            .map(|(inode, _)| *inode)
            .collect()
    }

    pub(crate) fn inodes(&self) -> Vec<u64> {
        self.kept().keys().copied().collect()
    }

    /// Lets go of a socket.
    pub(crate) fn release(&self, inode: u64) {
        self.kept().remove(&inode);
    }

    /// Lets go of a stream socket that the kernel connects: closing it must end the connection.
    pub(crate) fn release_stream(&self, inode: u64) {
        let mut kept = self.kept();
        let is_stream = |kept: &Kept| {
            socket::option(&kept.fd, libc::SOL_SOCKET, libc::SO_TYPE)
                .is_ok_and(|kind| kind == libc::SOCK_STREAM)
        };
        if kept.get(&inode).is_some_and(is_stream) {
            kept.remove(&inode);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept().is_empty()
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<u64, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
