//! System call numbers and structure layouts of the architectures whose programs can run here.

/// `AUDIT_ARCH_*` of `linux/audit.h`.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;

/// An instruction set as seccomp names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86, run by an x86_64 kernel.
    I386,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm, run by an aarch64 kernel.
    Arm,
}

impl Arch {
    /// The architectures whose programs run on this machine, the native one first.
    #[cfg(target_arch = "x86_64")]
    pub const HERE: &'static [Self] = &[Self::X86_64, Self::I386];
    /// The architectures whose programs run on this machine, the native one first.
    #[cfg(target_arch = "aarch64")]
    pub const HERE: &'static [Self] = &[Self::Aarch64, Self::Arm];
    /// The architectures whose programs run on this machine: none is known.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const HERE: &'static [Self] = &[];

    /// The architecture with this `AUDIT_ARCH_*` value.
    pub fn from_audit(value: u32) -> Option<Self> {
        [Self::X86_64, Self::I386, Self::Aarch64, Self::Arm].into_iter().find(|arch| arch.audit() == value)
    }

    /// Its `AUDIT_ARCH_*` value.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 => X86_64,
            Self::I386 => I386,
            Self::Aarch64 => AARCH64,
            Self::Arm => ARM,
        }
    }

    /// The width of a pointer, in bytes.
    pub fn pointer(self) -> usize {
        match self {
            Self::X86_64 | Self::Aarch64 => 8,
            Self::I386 | Self::Arm => 4,
        }
    }

    /// The system calls of interest with their numbers.
    pub(crate) fn numbers(self) -> &'static [(u32, Call)] {
        match self {
            Self::X86_64 => &[
                (41, Call::Socket),
                (42, Call::Connect),
                (44, Call::SendTo),
                (45, Call::RecvFrom),
                (46, Call::SendMsg),
                (47, Call::RecvMsg),
                (49, Call::Bind),
                (50, Call::Listen),
                (52, Call::GetPeerName),
                (55, Call::GetSockOpt),
                (299, Call::RecvMmsg),
                (307, Call::SendMmsg),
                (425, Call::IoUringSetup),
            ],
            Self::I386 => &[
                (102, Call::Multiplexed),
                (337, Call::RecvMmsg),
                (345, Call::SendMmsg),
                (359, Call::Socket),
                (361, Call::Bind),
                (362, Call::Connect),
                (363, Call::Listen),
                (365, Call::GetSockOpt),
                (368, Call::GetPeerName),
                (369, Call::SendTo),
                (370, Call::SendMsg),
                (371, Call::RecvFrom),
                (372, Call::RecvMsg),
                (417, Call::RecvMmsgTime64),
                (425, Call::IoUringSetup),
            ],
            Self::Aarch64 => &[
                (198, Call::Socket),
                (200, Call::Bind),
                (201, Call::Listen),
                (203, Call::Connect),
                (205, Call::GetPeerName),
                (206, Call::SendTo),
                (207, Call::RecvFrom),
                (209, Call::GetSockOpt),
                (211, Call::SendMsg),
                (212, Call::RecvMsg),
                (243, Call::RecvMmsg),
                (269, Call::SendMmsg),
                (425, Call::IoUringSetup),
            ],
            Self::Arm => &[
                (281, Call::Socket),
                (282, Call::Bind),
                (283, Call::Connect),
                (284, Call::Listen),
                (287, Call::GetPeerName),
                (290, Call::SendTo),
                (292, Call::RecvFrom),
                (295, Call::GetSockOpt),
                (296, Call::SendMsg),
                (297, Call::RecvMsg),
                (365, Call::RecvMmsg),
                (374, Call::SendMmsg),
                (417, Call::RecvMmsgTime64),
                (425, Call::IoUringSetup),
            ],
        }
    }

    /// The system call with this number, if it is of interest.
    pub(crate) fn call(self, nr: u32) -> Option<Call> {
        self.numbers().iter().find(|(number, _)| *number == nr).map(|(_, call)| *call)
    }
}

/// A system call of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    Socket,
    Bind,
    Connect,
    Listen,
    GetPeerName,
    GetSockOpt,
    SendTo,
    SendMsg,
    SendMmsg,
    RecvFrom,
    RecvMsg,
    RecvMmsg,
    /// `recvmmsg` with a 64-bit time on a 32-bit architecture.
    RecvMmsgTime64,
    /// i386's multiplexer of all the socket calls.
    Multiplexed,
    IoUringSetup,
}

impl Call {
    /// The operations of `socketcall(2)` that are of interest (`linux/net.h`).
    pub(crate) const SOCKETCALLS: &'static [(u32, Self)] = &[
        (1, Self::Socket),
        (2, Self::Bind),
        (3, Self::Connect),
        (4, Self::Listen),
        (7, Self::GetPeerName),
        (11, Self::SendTo),
        (12, Self::RecvFrom),
        (15, Self::GetSockOpt),
        (16, Self::SendMsg),
        (17, Self::RecvMsg),
        (19, Self::RecvMmsg),
        (20, Self::SendMmsg),
    ];

    pub(crate) fn from_socketcall(operation: u64) -> Option<Self> {
        Self::SOCKETCALLS.iter().find(|(number, _)| u64::from(*number) == operation).map(|(_, call)| *call)
    }
}

/// A `struct iovec` of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it starts.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// A `struct msghdr` of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageHeader {
    /// Where the address is; 0 for none.
    pub name: u64,
    /// Its length.
    pub name_len: u32,
    /// Where the array of pieces is.
    pub pieces: u64,
    /// How many pieces.
    pub piece_count: u64,
    /// Where the control messages are; 0 for none.
    pub control: u64,
    /// Their length.
    pub control_len: u64,
}

impl MessageHeader {
    /// The size of a `struct msghdr`, in bytes.
    pub fn size(arch: Arch) -> usize {
        7 * arch.pointer()
    }

    /// Where `msg_namelen` is within the structure.
    pub fn name_len_offset(arch: Arch) -> u64 {
        arch.pointer() as u64
    }

    /// Where `msg_controllen` is within the structure.
    pub fn control_len_offset(arch: Arch) -> u64 {
        5 * arch.pointer() as u64
    }

    /// Where `msg_flags` is within the structure.
    pub fn flags_offset(arch: Arch) -> u64 {
        6 * arch.pointer() as u64
    }

    /// The distance of two elements of an array of `struct mmsghdr`; `msg_len` stands at [`size`](Self::size).
    pub fn stride(arch: Arch) -> usize {
        8 * arch.pointer()
    }

    /// Reads the structure; `None` if the bytes are too few.
    pub fn parse(bytes: &[u8], arch: Arch) -> Option<Self> {
        let word = |index: usize| word(bytes, index, arch);
        Some(Self {
            name: word(0)?,
            // The upper half of the word is padding on a 64-bit architecture.
            name_len: word(1)? as u32,
            pieces: word(2)?,
            piece_count: word(3)?,
            control: word(4)?,
            control_len: word(5)?,
        })
        .filter(|_| bytes.len() >= Self::size(arch))
    }
}

/// Reads an array of `struct iovec`; an incomplete last element is ignored.
pub fn parse_pieces(bytes: &[u8], arch: Arch) -> Vec<Piece> {
    bytes
        .chunks_exact(2 * arch.pointer())
        .filter_map(|piece| Some(Piece { base: word(piece, 0, arch)?, len: word(piece, 1, arch)? }))
        .collect()
}

/// The word at `index` of an array of the architecture's `unsigned long`.
pub(crate) fn word(bytes: &[u8], index: usize, arch: Arch) -> Option<u64> {
    let width = arch.pointer();
    let bytes = bytes.get(index * width..(index + 1) * width)?;
    Some(match *bytes {
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => u64::from_le_bytes(bytes.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_header_of_either_width_is_read() {
        let words: [u64; 7] = [0x1000, 0xdead_0000_0010, 0x2000, 2, 0x3000, 24, 0];
        let wide: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let narrow: Vec<u8> = words.iter().flat_map(|word| (*word as u32).to_le_bytes()).collect();
        let expected = MessageHeader {
            name: 0x1000,
            name_len: 16,
            pieces: 0x2000,
            piece_count: 2,
            control: 0x3000,
            control_len: 24,
        };
        assert_eq!(MessageHeader::parse(&wide, Arch::X86_64), Some(expected));
        assert_eq!(MessageHeader::parse(&narrow, Arch::I386), Some(expected));
        assert_eq!(MessageHeader::parse(&wide[..55], Arch::X86_64), None);
        assert_eq!(MessageHeader::parse(&narrow[..27], Arch::I386), None);
    }

    #[test]
    fn the_native_numbers_are_those_of_the_c_library() {
        let native = Arch::HERE[0];
        for (number, call) in [
            (libc::SYS_connect, Call::Connect),
            (libc::SYS_socket, Call::Socket),
            (libc::SYS_sendto, Call::SendTo),
            (libc::SYS_recvfrom, Call::RecvFrom),
            (libc::SYS_sendmsg, Call::SendMsg),
            (libc::SYS_recvmsg, Call::RecvMsg),
            (libc::SYS_sendmmsg, Call::SendMmsg),
            (libc::SYS_recvmmsg, Call::RecvMmsg),
            (libc::SYS_bind, Call::Bind),
            (libc::SYS_listen, Call::Listen),
            (libc::SYS_getpeername, Call::GetPeerName),
            (libc::SYS_getsockopt, Call::GetSockOpt),
            (libc::SYS_io_uring_setup, Call::IoUringSetup),
        ] {
            assert_eq!(native.call(number as u32), Some(call), "{call:?}");
        }
    }
}
