//! Datagrams over loopback, as a tunnel sends them but with nothing in them.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use super::{Figure, PACKET, cpu};

/// A packet in a data message (WireGuard paper §5.4.6).
const DATAGRAM: usize = PACKET + 32;
/// Datagrams in one call, where the kernel segments.
const SEGMENTS: usize = 44;
const BUFFER: usize = 64 * 1024;
/// Bytes under way at most: less than the socket's buffer, so that none are lost.
const WINDOW: u64 = 128 * 1024;

/// Sends datagrams from one socket of this machine to another for `time`, with segmentation offload where the kernel has
/// it. The CPU time is that of both ends.
///
/// # Errors
/// Of the system: no sockets, no threads.
pub fn loopback_udp(time: Duration) -> io::Result<Figure> {
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
    let to = receiver.local_addr()?;
    let (received, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (seen, stop) = (Arc::clone(&received), Arc::clone(&done));
    let sender = thread::Builder::new().name("adit-floor".to_owned()).spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let data = vec![0xab; DATAGRAM * SEGMENTS];
        let (work, mut sent) = (cpu::this_thread(), 0);
        while !stop.load(Ordering::Relaxed) {
            if sent - seen.load(Ordering::Relaxed).min(sent) > WINDOW {
                thread::yield_now();
                continue;
            }
            let segments = state.max_gso_segments().min(SEGMENTS);
            let contents = &data[..DATAGRAM * segments];
            let segment_size = (segments > 1).then_some(DATAGRAM);
            let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
            match state.try_send(UdpSockRef::from(&socket), &transmit) {
                Ok(()) => sent += contents.len() as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        io::Result::Ok(cpu::this_thread() - work)
    })?;
    let outcome = receive(&receiver, time, &received);
    done.store(true, Ordering::Relaxed);
    let sending = sender.join().map_err(|_| io::Error::other("the sender panicked"))??;
    let (wall, work) = outcome?;
    let datagrams = received.load(Ordering::Relaxed) / DATAGRAM as u64;
    Ok(Figure { bytes: datagrams * PACKET as u64, wall, cpu: work + sending })
}

/// Receives for `time`; returns how long that took, and the work.
fn receive(socket: &UdpSocket, time: Duration, received: &AtomicU64) -> io::Result<(Duration, Duration)> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    // The state made the socket non-blocking, for an event loop; here it waits.
    socket.set_nonblocking(false)?;
    let mut space = vec![0; BUFFER * BATCH_SIZE];
    let mut meta = [RecvMeta::default(); BATCH_SIZE];
    let (start, work) = (Instant::now(), cpu::this_thread());
    while start.elapsed() < time {
        let mut buffers: Vec<IoSliceMut<'_>> = space.chunks_exact_mut(BUFFER).map(IoSliceMut::new).collect();
        match state.recv(UdpSockRef::from(socket), &mut buffers[..1], &mut meta) {
            Ok(count) => {
                let bytes: usize = meta[..count].iter().map(|meta| meta.len).sum();
                received.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((start.elapsed(), cpu::this_thread() - work))
}
