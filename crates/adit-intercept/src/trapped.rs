//! A system call that waits for the supervisor, and what may be learnt of its caller.

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::abi::{self, Arch, Call};
use crate::sys::listener::{Answer, Listener, Request};
use crate::sys::{errno, memory};

/// A system call that waits. Dropped without an answer, it fails with `EIO`: nothing ever hangs, and nothing
/// passes unseen.
#[derive(Debug)]
pub(crate) struct Trapped {
    listener: Arc<Listener>,
    id: u64,
    answered: bool,
    pub(crate) tid: i32,
    pub(crate) arch: Arch,
    pub(crate) call: Call,
    pub(crate) args: [u64; 6],
}

/// Why a system call is not carried out.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It was interrupted, or its thread is gone: there is nobody to answer.
    Gone,
    /// It fails as the kernel would let it fail.
    Errno(i32),
    /// It cannot be looked into.
    Opaque(&'static str, io::Error),
}

impl Trapped {
    /// Makes sense of a request; `Err` is the answer to one that does not concern us.
    pub(crate) fn new(listener: Arc<Listener>, request: Request) -> Result<Self, Trouble> {
        let arch = Arch::from_audit(request.arch);
        let mut this = Self {
            listener,
            id: request.id,
            answered: false,
            tid: request.tid,
            arch: arch.unwrap_or(Arch::X86_64),
            call: Call::IoUringSetup,
            args: request.args,
        };
        // The filter hands over nothing that the tables do not know.
        let Some(call) = arch.and_then(|arch| arch.call(request.nr)) else {
            this.answer(Answer::Errno(libc::ENOSYS)).ok();
            return Err(Trouble::Gone);
        };
        this.call = call;
        if call == Call::Multiplexed
            && let Err(trouble) = this.unpack_socketcall()
        {
            this.answer(Answer::Errno(match trouble {
                Trouble::Errno(errno) => errno,
                Trouble::Gone | Trouble::Opaque(..) => libc::EACCES,
            }))
            .ok();
            return Err(trouble);
        }
        Ok(this)
    }

    /// Replaces `socketcall(2)` by the call that it stands for.
    fn unpack_socketcall(&mut self) -> Result<(), Trouble> {
        let call = Call::from_socketcall(self.args[0]).ok_or(Trouble::Errno(libc::ENOSYS))?;
        let mut bytes = [0; 24];
        // The array is as long as the call's argument list; what lies behind it is not used.
        let len =
            memory::read(self.tid, self.args[1], &mut bytes).map_err(|error| trouble(error, "memory"))?;
        for index in 0..6 {
            self.args[index] = abi::word(&bytes[..len], index, self.arch).unwrap_or(0);
        }
        self.call = call;
        Ok(())
    }

    /// Answers. `Err` means that the system call was interrupted or its thread killed.
    pub(crate) fn answer(mut self, answer: Answer) -> Result<(), Trouble> {
        self.answered = true;
        self.listener.answer(self.id, answer).map_err(|_| Trouble::Gone)
    }

    /// Puts a copy of `fd` into the program as the result.
    pub(crate) fn answer_with_fd(mut self, fd: BorrowedFd<'_>, close_on_exec: bool) -> Result<(), Trouble> {
        match self.listener.answer_with_fd(self.id, fd, close_on_exec) {
            Ok(()) => {
                self.answered = true;
                Ok(())
            }
            Err(error) => {
                // The program has no room for another descriptor (`EMFILE`), or is gone.
                self.answer(Answer::Errno(errno(&error)))?;
                Err(Trouble::Gone)
            }
        }
    }

    /// Whether the system call still waits: what was read of the program so far is the caller's own then.
    pub(crate) fn is_valid(&self) -> bool {
        self.listener.is_valid(self.id)
    }

    /// The number by which the kernel knows the waiting call.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The descriptor in an argument: the kernel looks at its low half only.
    pub(crate) fn fd(&self, index: usize) -> i32 {
        self.args[index] as i32
    }

    /// Reads exactly `len` bytes of the program.
    pub(crate) fn read(&self, address: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        let mut bytes = vec![0; len];
        match memory::read(self.tid, address, &mut bytes) {
            Ok(read) if read == len => Ok(bytes),
            Ok(_) => Err(Trouble::Errno(libc::EFAULT)),
            Err(error) => Err(trouble(error, "memory")),
        }
    }

    /// Reads a 32-bit number of the program.
    pub(crate) fn read_u32(&self, address: u64) -> Result<u32, Trouble> {
        let bytes = self.read(address, 4)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes)))
    }

    /// Writes bytes into the program.
    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Trouble> {
        memory::write(self.tid, address, bytes).map_err(|error| trouble(error, "memory"))
    }

    /// The inode of the socket behind a descriptor; `None` if it is no socket or not open.
    pub(crate) fn inode(&self, fd: i32) -> Result<Option<u64>, Trouble> {
        match fs::read_link(format!("/proc/{}/fd/{fd}", self.tid)) {
            Ok(target) => Ok(parse_socket_link(target.as_os_str().as_encoded_bytes())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(trouble(error, "descriptors")),
        }
    }

    /// The network namespace of the caller, as device and inode.
    pub(crate) fn namespace(&self) -> Result<(u64, u64), Trouble> {
        let meta = fs::metadata(format!("/proc/{}/ns/net", self.tid))
            .map_err(|error| trouble(error, "network namespace"))?;
        Ok((meta.dev(), meta.ino()))
    }

    /// A copy of the program's descriptor.
    pub(crate) fn fetch(&self, fd: i32) -> Result<OwnedFd, Trouble> {
        let copy = self.pidfd().and_then(|pidfd| Ok(pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())?));
        if !self.is_valid() {
            return Err(Trouble::Gone);
        }
        copy.map_err(|error| match error.raw_os_error() {
            Some(libc::EBADF) => Trouble::Errno(libc::EBADF),
            Some(libc::EMFILE | libc::ENFILE) => Trouble::Errno(libc::ENOBUFS),
            _ => trouble(error, "descriptors"),
        })
    }

    fn pidfd(&self) -> io::Result<OwnedFd> {
        /// `PIDFD_THREAD` of `linux/pidfd.h`, since Linux 6.9.
        const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
        let pid = |raw| Pid::from_raw(raw).ok_or(io::Error::from_raw_os_error(libc::ESRCH));
        match pidfd_open(pid(self.tid)?, THREAD) {
            Err(rustix::io::Errno::INVAL) => Ok(pidfd_open(pid(self.thread_group()?)?, PidfdFlags::empty())?),
            result => Ok(result?),
        }
    }

    fn thread_group(&self) -> io::Result<i32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.tid))?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
            .ok_or(io::Error::from_raw_os_error(libc::ESRCH))
    }

    /// The name of the program, for a log line.
    pub(crate) fn command(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.tid)).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Trapped {
    fn drop(&mut self) {
        if !self.answered {
            self.listener.answer(self.id, Answer::Errno(libc::EIO)).ok();
        }
    }
}

/// The inode in the target of a `/proc/PID/fd/N` link.
pub(crate) fn parse_socket_link(target: &[u8]) -> Option<u64> {
    let digits = target.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn trouble(error: io::Error, what: &'static str) -> Trouble {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => Trouble::Gone,
        Some(libc::EFAULT) => Trouble::Errno(libc::EFAULT),
        _ => Trouble::Opaque(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_link_of_a_socket_has_an_inode() {
        assert_eq!(parse_socket_link(b"socket:[4711]"), Some(4711));
        assert_eq!(parse_socket_link(b"pipe:[4711]"), None);
        assert_eq!(parse_socket_link(b"/tmp/socket:[1]"), None);
        assert_eq!(parse_socket_link(b"socket:[]"), None);
    }
}
