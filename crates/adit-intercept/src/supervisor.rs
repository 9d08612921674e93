//! The supervisor: decides every system call that the filter hands over.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use adit_path::{Destination, Network};
use rustix::event::{PollFd, PollFlags};
use tokio::runtime::Handle as Runtime;

use crate::abi::Call;
use crate::census;
use crate::resolv::{ResolvConf, Watched};
use crate::sockaddr::{self, SockAddr};
use crate::sockets::{Handle, Sockets};
use crate::sys::listener::{Answer, Listener};
use crate::sys::socket;
use crate::tcp::Dials;
use crate::trapped::{Trapped, Trouble};
use crate::udp::{self, Associations};
use crate::{Backend, OnOpaque, Options};

/// The state that all threads and tasks of one supervised program share.
pub(crate) struct Supervisor {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) options: Options,
    pub(crate) runtime: Runtime,
    pub(crate) sockets: Sockets,
    pub(crate) dials: Dials,
    pub(crate) peers: Peers,
    pub(crate) errors: Errors,
    pub(crate) associations: Associations,
    resolv: Watched,
    listener: Arc<Listener>,
    namespace: (u64, u64),
    /// Who waits for the next request; the others work, or wait for their turn.
    turn: Mutex<()>,
    stop: OwnedFd,
}

/// Where a destination lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// The kernel's.
    Public,
    /// In the private network.
    Private(SocketAddr),
    /// A name server of the program.
    Resolver(SocketAddr),
}

/// The answer to a question that needs no waiting.
pub(crate) type Decision = Result<Answer, Trouble>;

impl Supervisor {
    pub(crate) fn new(
        network: Arc<dyn Network>,
        options: Options,
        backend: Backend,
        listener: Arc<Listener>,
        runtime: Runtime,
        stop: OwnedFd,
    ) -> io::Result<Self> {
        let meta = fs::metadata("/proc/self/ns/net")?;
        Ok(Self {
            network,
            resolv: Watched::new(&options.resolv_conf),
            options,
            runtime,
            sockets: Sockets::new(backend),
            dials: Dials::default(),
            peers: Peers::default(),
            errors: Errors::default(),
            associations: Associations::default(),
            listener,
            namespace: (meta.dev(), meta.ino()),
            turn: Mutex::new(()),
            stop,
        })
    }

    /// Decides system calls until no filtered task is left or `stop` is readable. Several threads run this: one
    /// waits while the others decide, so that a program whose memory cannot be read at once holds up one thread
    /// and not its siblings.
    pub(crate) fn serve(self: &Arc<Self>) {
        while let Some(trapped) = self.next() {
            let decided = catch_unwind(AssertUnwindSafe(|| self.decide(trapped)));
            if decided.is_err() {
                // The call has failed with EIO (see `Trapped`): closed, and visible.
                tracing::error!("deciding a system call panicked; the call was refused");
            }
        }
    }

    fn next(&self) -> Option<Trapped> {
        loop {
            let request = {
                let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                if !self.wait_for_request() {
                    return None;
                }
                self.listener.receive()
            };
            match request {
                Ok(request) => {
                    if let Ok(trapped) = Trapped::new(self.listener.clone(), request) {
                        return Some(trapped);
                    }
                }
                // The call was interrupted between the poll and here.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
                Err(error) => {
                    tracing::debug!(%error, "the listener ended");
                    return None;
                }
            }
        }
    }

    fn wait_for_request(&self) -> bool {
        loop {
            let mut fds =
                [PollFd::new(self.listener.fd(), PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match rustix::event::poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return false,
                Ok(_) => {}
            }
            if !fds[1].revents().is_empty() {
                return false;
            }
            if fds[0].revents().contains(PollFlags::IN) {
                return true;
            }
            if !fds[0].revents().is_empty() {
                return false;
            }
        }
    }

    fn decide(self: &Arc<Self>, trapped: Trapped) {
        let decision = match trapped.call {
            Call::Connect => return self.connect(trapped),
            Call::Socket => return self.socket(trapped),
            Call::GetPeerName => self.getpeername(&trapped),
            Call::GetSockOpt => self.pending_error(&trapped),
            Call::Listen => self.listen(&trapped),
            Call::Bind => self.bind(&trapped),
            Call::SendTo | Call::SendMsg | Call::SendMmsg => return crate::send::decide(self, trapped),
            Call::RecvFrom | Call::RecvMsg | Call::RecvMmsg | Call::RecvMmsgTime64 => {
                return crate::receive::decide(self, trapped);
            }
            Call::IoUringSetup | Call::Multiplexed => Ok(Answer::Errno(libc::ENOSYS)),
        };
        self.finish(trapped, decision);
    }

    pub(crate) fn finish(&self, trapped: Trapped, decision: Decision) {
        let answer = decision.unwrap_or_else(|trouble| self.refuse(&trapped, &trouble));
        trapped.answer(answer).ok();
    }

    /// What a system call gets that cannot be carried out.
    pub(crate) fn refuse(&self, trapped: &Trapped, trouble: &Trouble) -> Answer {
        match trouble {
            Trouble::Gone => Answer::Errno(libc::EINTR),
            Trouble::Errno(errno) => Answer::Errno(*errno),
            // What cannot reach anybody may run unseen.
            Trouble::Opaque(..) if !sends(trapped.call) => Answer::Continue,
            Trouble::Opaque(what, error) => match self.options.on_opaque {
                OnOpaque::Deny => {
                    let (command, tid, call) = (trapped.command(), trapped.tid, trapped.call);
                    match error.kind() {
                        io::ErrorKind::NotFound => tracing::warn!(
                            "{command}[{tid}]: {call:?} refused: its {what} was not made under supervision"
                        ),
                        _ => tracing::warn!(
                            "{command}[{tid}]: {call:?} refused: its {what} cannot be reached ({error}). A program \
                             that changes its user starts adit after the change"
                        ),
                    }
                    Answer::Errno(libc::EACCES)
                }
                OnOpaque::Allow => Answer::Continue,
            },
        }
    }

    /// Where an address lies, as the program means it.
    pub(crate) fn place(&self, to: SocketAddr) -> Place {
        if to.port() == 53 && self.resolv.current().is_server(to) {
            return Place::Resolver(to);
        }
        match is_local(to.ip()) {
            false if self.network.owns(&Destination::Address(to.ip())) => Place::Private(to),
            _ => Place::Public,
        }
    }

    /// What the program's `resolv.conf` says now.
    pub(crate) fn resolv_conf(&self) -> Arc<ResolvConf> {
        self.resolv.current()
    }

    /// Whether the caller lives in another network namespace: its sockets are none of ours.
    pub(crate) fn is_foreign(&self, trapped: &Trapped) -> Result<bool, Trouble> {
        Ok(trapped.namespace()? != self.namespace)
    }

    /// The address in two arguments: pointer and length.
    pub(crate) fn address(&self, trapped: &Trapped, pointer: u64, len: u64) -> Result<SockAddr, Trouble> {
        let len = len as u32 as i32;
        match usize::try_from(len) {
            Ok(len) if len <= sockaddr::MAX_LEN => Ok(SockAddr::parse(&trapped.read(pointer, len)?)),
            _ => Err(Trouble::Errno(libc::EINVAL)),
        }
    }

    fn connect(self: &Arc<Self>, trapped: Trapped) {
        match self.plan_connect(&trapped) {
            Ok(Some((place, six))) => self.connect_private(trapped, place, six),
            Ok(None) => {
                self.leave_to_kernel(&trapped);
                trapped.answer(Answer::Continue).ok();
            }
            Err(trouble) => self.finish(trapped, Err(trouble)),
        }
    }

    fn plan_connect(&self, trapped: &Trapped) -> Result<Option<(Place, bool)>, Trouble> {
        let (to, six) = match self.address(trapped, trapped.args[1], trapped.args[2])? {
            SockAddr::Inet { to, six } => (to, six),
            SockAddr::Unix { path } if is_name_service(&path) => return Err(Trouble::Errno(libc::ENOENT)),
            SockAddr::Unix { .. } | SockAddr::Unspecified { .. } | SockAddr::Other(_) | SockAddr::Short => {
                return Ok(None);
            }
        };
        let place = self.place(to);
        if place == Place::Public || self.is_foreign(trapped)? {
            return Ok(None);
        }
        Ok(Some((place, six)))
    }

    /// The kernel connects the socket: whatever was known of it is no longer true.
    fn leave_to_kernel(&self, trapped: &Trapped) {
        if self.sockets.is_empty() && self.peers.is_empty() {
            return;
        }
        if let Ok(Some(inode)) = trapped.inode(trapped.fd(0)) {
            self.peers.remove(inode);
            self.sockets.release_stream(inode);
        }
    }

    fn connect_private(self: &Arc<Self>, trapped: Trapped, place: Place, six: bool) {
        let handle = match self.sockets.handle(&trapped, trapped.fd(0)) {
            Ok(handle) => handle,
            Err(trouble) => {
                let decision = self.connected_already(&trapped).ok_or(trouble);
                return self.finish(trapped, decision);
            }
        };
        let option = |name| socket::option(&handle, libc::SOL_SOCKET, name).unwrap_or(-1);
        match (option(libc::SO_DOMAIN), option(libc::SO_TYPE)) {
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => {
                crate::tcp::connect(self, trapped, handle, place, six);
            }
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => {
                let decision = udp::connect(self, &handle, place, six).map(|()| Answer::Value(0));
                self.finish(trapped, decision);
            }
            // Raw sockets and other transports have no way into the network, and must not take another.
            (libc::AF_INET | libc::AF_INET6, _) => self.finish(trapped, Ok(Answer::Errno(libc::EACCES))),
            // Whatever it is, it does not reach the Internet.
            _ => self.finish(trapped, Ok(Answer::Continue)),
        }
    }

    /// A stream that was connected is no longer held; what the kernel would answer is known all the same.
    fn connected_already(&self, trapped: &Trapped) -> Option<Answer> {
        let inode = trapped.inode(trapped.fd(0)).ok().flatten()?;
        self.peers.tell(inode).map(|told| if told { Answer::Errno(libc::EISCONN) } else { Answer::Value(0) })
    }

    fn socket(&self, trapped: Trapped) {
        match self.plan_socket(&trapped) {
            Ok(Some(handle)) => {
                let close_on_exec = trapped.args[1] as i32 & libc::SOCK_CLOEXEC != 0;
                let result = trapped.answer_with_fd(handle.as_fd(), close_on_exec);
                self.sockets.installed(&handle, &result);
            }
            Ok(None) => self.finish(trapped, Ok(Answer::Continue)),
            Err(trouble) => self.finish(trapped, Err(trouble)),
        }
    }

    fn plan_socket(&self, trapped: &Trapped) -> Result<Option<Handle>, Trouble> {
        let [domain, kind, protocol] = [0, 1, 2].map(|index| trapped.args[index] as i32);
        let supported = match kind & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) {
            libc::SOCK_STREAM => matches!(protocol, 0 | libc::IPPROTO_TCP | libc::IPPROTO_MPTCP),
            libc::SOCK_DGRAM => matches!(protocol, 0 | libc::IPPROTO_UDP),
            _ => false,
        };
        if !supported || !matches!(domain, libc::AF_INET | libc::AF_INET6) || self.is_foreign(trapped)? {
            return Ok(None);
        }
        self.sockets
            .make(domain, kind, protocol)
            .transpose()
            .map_err(|error| Trouble::Errno(crate::sys::errno(&error)))
    }

    /// A listening socket is let go: its port must be free when the program ends.
    fn listen(&self, trapped: &Trapped) -> Decision {
        if let Some(inode) = trapped.inode(trapped.fd(0))? {
            self.sockets.release(inode);
        }
        Ok(Answer::Continue)
    }

    /// A port that only a kept copy holds is free for the program: the socket's own users have closed it.
    fn bind(&self, trapped: &Trapped) -> Decision {
        let port = match self.address(trapped, trapped.args[1], trapped.args[2]) {
            Ok(SockAddr::Inet { to, .. }) if to.port() != 0 => to.port(),
            Err(Trouble::Gone) => return Err(Trouble::Gone),
            // It is the kernel's to judge; nothing private is reached by binding.
            _ => return Ok(Answer::Continue),
        };
        let holding = self.sockets.holding(port, trapped.inode(trapped.fd(0)).ok().flatten());
        if !holding.is_empty()
            && let Some(live) = census::live_sockets()
        {
            for inode in holding.iter().filter(|inode| !live.contains(inode)) {
                self.forget(*inode);
            }
        }
        Ok(Answer::Continue)
    }

    /// The sockets about which anything is known.
    pub(crate) fn known_inodes(&self) -> HashSet<u64> {
        let mut known: HashSet<u64> = self.sockets.inodes().into_iter().collect();
        known.extend(self.dials.inodes());
        known.extend(self.associations.inodes());
        known.extend(self.peers.inodes());
        known.extend(self.errors.inodes());
        known
    }

    /// Lets go of everything about a socket that the program no longer has.
    pub(crate) fn forget(&self, inode: u64) {
        self.dials.abandon(inode);
        self.associations.remove(inode);
        self.peers.remove(inode);
        self.errors.take(inode);
        self.sockets.release(inode);
    }

    pub(crate) fn stop_fd(&self) -> &OwnedFd {
        &self.stop
    }

    fn getpeername(&self, trapped: &Trapped) -> Decision {
        if self.peers.is_empty() {
            return Ok(Answer::Continue);
        }
        let Some(inode) = trapped.inode(trapped.fd(0))? else { return Ok(Answer::Continue) };
        let Some(peer) = self.peers.get(inode) else { return Ok(Answer::Continue) };
        self.write_address(trapped, peer.address, peer.six, trapped.args[1], trapped.args[2])?;
        Ok(Answer::Value(0))
    }

    /// Writes an address as the kernel would: cut to the caller's buffer, with its full length.
    pub(crate) fn write_address(
        &self,
        trapped: &Trapped,
        address: SocketAddr,
        six: bool,
        pointer: u64,
        len_pointer: u64,
    ) -> Result<(), Trouble> {
        let bytes = sockaddr::write(address, six);
        let room = usize::try_from(trapped.read_u32(len_pointer)? as i32)
            .map_err(|_| Trouble::Errno(libc::EINVAL))?;
        if !trapped.is_valid() {
            return Err(Trouble::Gone);
        }
        trapped.write(pointer, &bytes[..bytes.len().min(room)])?;
        trapped.write(len_pointer, &(bytes.len() as u32).to_ne_bytes())
    }

    /// `getsockopt(SO_ERROR)`: the true reason where the loopback socket shows another.
    fn pending_error(&self, trapped: &Trapped) -> Decision {
        if self.errors.is_empty() {
            return Ok(Answer::Continue);
        }
        let Some(inode) = trapped.inode(trapped.fd(0))? else { return Ok(Answer::Continue) };
        let Some(errno) = self.errors.take(inode) else { return Ok(Answer::Continue) };
        let (pointer, len_pointer) = (trapped.args[3], trapped.args[4]);
        let room = trapped.read_u32(len_pointer)? as usize;
        if let Ok(handle) = self.sockets.handle(trapped, trapped.fd(0)) {
            // The kernel's own is read, and with that gone, as the program's would be.
            rustix::net::sockopt::socket_error(&handle).ok();
        }
        trapped.write(pointer, &errno.to_ne_bytes()[..room.min(4)])?;
        trapped.write(len_pointer, &(room.min(4) as u32).to_ne_bytes())?;
        Ok(Answer::Value(0))
    }
}

/// Whether a system call can reach a destination.
fn sends(call: Call) -> bool {
    match call {
        Call::Connect | Call::SendTo | Call::SendMsg | Call::SendMmsg | Call::Multiplexed => true,
        Call::Socket
        | Call::Bind
        | Call::Listen
        | Call::GetPeerName
        | Call::GetSockOpt
        | Call::RecvFrom
        | Call::RecvMsg
        | Call::RecvMmsg
        | Call::RecvMmsgTime64
        | Call::IoUringSetup => false,
    }
}

/// The addresses that never lie in a private network: this machine, the link, groups.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_link_local()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()
        }
    }
}

/// The sockets through which the C library would ask a name service of the machine instead of port 53.
fn is_name_service(path: &[u8]) -> bool {
    const PATHS: [&[u8]; 4] = [
        b"/run/systemd/resolve/io.systemd.Resolve",
        b"/var/run/systemd/resolve/io.systemd.Resolve",
        b"/run/nscd/socket",
        b"/var/run/nscd/socket",
    ];
    PATHS.contains(&path)
}

/// The true peers of connected sockets, by inode.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<HashMap<u64, Peer>>);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    address: SocketAddr,
    six: bool,
    /// A `connect` has returned 0; a further one is answered `EISCONN`.
    told: bool,
}

impl Peers {
    pub(crate) fn insert(&self, inode: u64, address: SocketAddr, six: bool) {
        let peer = Peer { address, six, told: false };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(inode, peer);
    }

    fn get(&self, inode: u64) -> Option<Peer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&inode).copied()
    }

    /// Notes that a `connect` of the socket returns 0; whether one has before. `None` if it has no peer.
    pub(crate) fn tell(&self, inode: u64) -> Option<bool> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get_mut(&inode).map(|peer| std::mem::replace(&mut peer.told, true))
    }

    pub(crate) fn remove(&self, inode: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&inode);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn inodes(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

/// Errors that a socket has not shown yet, by inode.
#[derive(Debug, Default)]
pub(crate) struct Errors(Mutex<HashMap<u64, i32>>);

impl Errors {
    pub(crate) fn insert(&self, inode: u64, errno: i32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(inode, errno);
    }

    pub(crate) fn take(&self, inode: u64) -> Option<i32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&inode)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn inodes(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}
