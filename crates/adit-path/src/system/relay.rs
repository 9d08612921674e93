//! Bytes between two stream sockets of the kernel.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

/// Bytes that wait for a socket, per direction.
const BUFFER: usize = 64 * 1024;

/// One direction.
struct Half {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    ended: bool,
    shut: bool,
}

impl Half {
    fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0, ended: false, shut: false }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Moves what can be moved now.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        loop {
            if self.is_empty() {
                if self.ended {
                    if !self.shut {
                        self.shut = true;
                        // A peer that is gone already shows at the next read.
                        let _ = shutdown(to, Shutdown::Write);
                    }
                    return Ok(());
                }
                match recv(from, &mut *self.buffer, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => self.ended = true,
                    Ok((n, _)) => (self.start, self.end) = (0, n),
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            match send(to, &self.buffer[self.start..self.end], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => self.start += n,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Moves bytes both ways on a thread until both directions have ended; a reset of one is a reset of the other.
pub(super) fn start(a: OwnedFd, b: OwnedFd) -> io::Result<()> {
    thread::Builder::new().name("adit-relay".to_owned()).spawn(move || run(&a, &b)).map(drop)
}

fn run(a: &OwnedFd, b: &OwnedFd) {
    let (mut there, mut back) = (Half::new(), Half::new());
    loop {
        if there.pump(a, b).is_err() || back.pump(b, a).is_err() {
            for socket in [a, b] {
                // Has no effect on sockets that are not TCP; those just close.
                let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
            }
            return;
        }
        if there.shut && back.shut {
            return;
        }
        let interest = |reads: &Half, writes: &Half| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, !reads.ended && reads.is_empty());
            flags.set(PollFlags::OUT, !writes.is_empty());
            flags
        };
        let mut fds = [
            PollFd::from_borrowed_fd(a.as_fd(), interest(&there, &back)),
            PollFd::from_borrowed_fd(b.as_fd(), interest(&back, &there)),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn bytes_and_their_end_pass_both_ways() {
        let (mut program, a) = UnixStream::pair().unwrap();
        let (mut target, b) = UnixStream::pair().unwrap();
        start(a.into(), b.into()).unwrap();
        program.write_all(b"question").unwrap();
        program.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        target.read_to_string(&mut text).unwrap();
        assert_eq!(text, "question");
        target.write_all(b"answer").unwrap();
        drop(target);
        text.clear();
        program.read_to_string(&mut text).unwrap();
        assert_eq!(text, "answer");
    }
}
