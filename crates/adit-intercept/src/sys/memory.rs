//! The memory of another process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use super::count;

/// Reads up to `buffer.len()` bytes at `address` of a thread's memory; fewer if the rest is unmapped.
pub(crate) fn read(tid: i32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: `local` describes `buffer`, which is writable for the call; `remote` is an address in the other
    // process, which the kernel checks.
    let result = count(unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) });
    match result {
        Err(error) if forbidden(&error) => open(tid, false)?.read_at(buffer, address).map_err(fault),
        result => result,
    }
}

/// Writes `bytes` at `address` of a thread's memory.
pub(crate) fn write(tid: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
    // SAFETY: `local` describes `bytes`, from which the kernel only reads; `remote` is an address in the other
    // process, which the kernel checks.
    let result = count(unsafe { libc::process_vm_writev(tid, &raw const local, 1, &raw const remote, 1, 0) });
    match result {
        Err(error) if forbidden(&error) => open(tid, true)?.write_all_at(bytes, address).map_err(fault),
        Ok(written) if written < bytes.len() => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Container profiles of before 2021 deny `process_vm_readv` and not the file.
fn forbidden(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS))
}

fn open(tid: i32, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).open(format!("/proc/{tid}/mem"))
}

/// `/proc/PID/mem` answers `EIO` where memory is not mapped.
fn fault(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EIO) => io::Error::from_raw_os_error(libc::EFAULT),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_written_and_an_unmapped_address_faults() {
        let source = *b"hello";
        let mut buffer = [0; 5];
        let me = std::process::id() as i32;
        assert_eq!(read(me, source.as_ptr() as u64, &mut buffer).expect("own memory"), 5);
        assert_eq!(buffer, source);
        write(me, buffer.as_ptr() as u64, b"HE").expect("own memory");
        assert_eq!(std::hint::black_box(&buffer), b"HEllo");
        let error = read(me, 8, &mut [0; 4]).expect_err("page zero is not mapped");
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    }
}
