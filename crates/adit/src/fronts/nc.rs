//! Standard input and output as a connection, for `ProxyCommand` and pipes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use super::dial::{DialFailure, Dialer, Dialled};
use super::target::Target;

const BUFFER: usize = 64 * 1024;

/// Why a connection on standard input and output ended early.
#[derive(Debug, thiserror::Error)]
pub enum NcError {
    /// The target was not reached.
    #[error(transparent)]
    Dial(#[from] DialFailure),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Connects to the target and relays until it closes. The end of `input` half-closes the connection. `input`
/// may still be read by its thread when this returns: a program ends then.
pub async fn netcat(
    dialer: &Dialer,
    target: &Target,
    mut input: impl Read + Send + 'static,
    mut output: impl Write + Send + 'static,
) -> Result<(), NcError> {
    let ours = match dialer.dial(target).await? {
        Dialled::Inside(flow) => {
            let (ours, theirs) = UnixStream::pair()?;
            flow.attach(theirs.into())?;
            ours
        }
        // The system calls of a connected stream are the same for every family.
        Dialled::Outside(stream) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            UnixStream::from(OwnedFd::from(stream))
        }
    };
    let mut reader = ours.try_clone()?;
    thread::spawn(move || {
        let mut writer = &ours;
        // A target that takes no more bytes ends the other direction in its own time.
        let _ended = copy(&mut input, &mut writer);
        let _ended = ours.shutdown(Shutdown::Write);
    });
    let received = tokio::task::spawn_blocking(move || copy(&mut reader, &mut output));
    Ok(received.await.map_err(io::Error::other)??)
}

/// Copies and flushes what each read brings, so that an interactive user waits for nothing.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
