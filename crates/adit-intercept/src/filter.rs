//! The seccomp filter: which system calls the supervisor decides.

use libc::sock_filter;

use crate::abi::{Arch, Call};
use crate::bpf::{Assembler, Verdict};
use crate::{Backend, UdpMode};

/// The x32 ABI marks its numbers with this bit; its calls would escape the table of x86_64.
const X32_BIT: u32 = 0x4000_0000;

/// Builds the filter for every architecture whose programs run on this machine.
pub(crate) fn program(backend: Backend, udp: UdpMode) -> Vec<sock_filter> {
    program_for(Arch::HERE, backend, udp)
}

fn program_for(arches: &[Arch], backend: Backend, udp: UdpMode) -> Vec<sock_filter> {
    let mut filter = Assembler::default();
    filter.load_arch();
    for &arch in arches {
        filter.when_equal(arch.audit(), block(arch, backend, udp));
    }
    // An instruction set without a table could connect unseen.
    filter.ret(Verdict::Errno(libc::ENOSYS as u16));
    filter.finish()
}

fn block(arch: Arch, backend: Backend, udp: UdpMode) -> Assembler {
    let mut block = Assembler::default();
    block.load_nr();
    if arch == Arch::X86_64 {
        block.ret_if_at_least(X32_BIT, Verdict::Errno(libc::ENOSYS as u16));
    }
    for &(number, call) in arch.numbers() {
        if let Some(body) = body(call, backend, udp) {
            block.when_equal(number, body);
        }
    }
    block.ret(Verdict::Allow);
    block
}

/// What is decided of one system call; `None` leaves it to the kernel.
fn body(call: Call, backend: Backend, udp: UdpMode) -> Option<Assembler> {
    let mut body = Assembler::default();
    match call {
        Call::Connect | Call::SendMsg | Call::SendMmsg | Call::GetPeerName => {}
        Call::Socket => {
            if backend != Backend::Inject {
                return None;
            }
            body.load_arg_low(0);
            body.ret_if_equal(libc::AF_INET as u32, Verdict::Notify);
            body.ret_unless_equal(libc::AF_INET6 as u32, Verdict::Allow);
        }
        // A retained descriptor keeps a port; only injected sockets are retained.
        Call::Bind | Call::Listen => {
            if backend != Backend::Inject {
                return None;
            }
        }
        Call::SendTo => with_address(&mut body),
        Call::RecvFrom => {
            if udp != UdpMode::Full {
                return None;
            }
            with_address(&mut body);
        }
        Call::RecvMsg | Call::RecvMmsg | Call::RecvMmsgTime64 => {
            if udp != UdpMode::Full {
                return None;
            }
        }
        Call::GetSockOpt => {
            body.load_arg_low(1);
            body.ret_unless_equal(libc::SOL_SOCKET as u32, Verdict::Allow);
            body.load_arg_low(2);
            body.ret_unless_equal(libc::SO_ERROR as u32, Verdict::Allow);
        }
        Call::Multiplexed => {
            body.load_arg_low(0);
            for &(operation, call) in Call::SOCKETCALLS {
                // The arguments lie in memory, which a filter cannot read: the supervisor looks at them.
                if self::body(call, backend, udp).is_some() {
                    body.ret_if_equal(operation, Verdict::Notify);
                }
            }
            body.ret(Verdict::Allow);
        }
        Call::IoUringSetup => body.ret(Verdict::Errno(libc::ENOSYS as u16)),
    }
    body.ret(Verdict::Notify);
    Some(body)
}

/// `sendto` and `recvfrom` without an address (`send`, `recv`) are the kernel's.
fn with_address(body: &mut Assembler) {
    body.load_arg_low(4);
    body.ret_unless_equal(0, Verdict::Notify);
    body.load_arg_high(4);
    body.ret_if_equal(0, Verdict::Allow);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::interpret;

    const X86: &[Arch] = &[Arch::X86_64, Arch::I386];
    const ARM: &[Arch] = &[Arch::Aarch64, Arch::Arm];

    fn verdict(arches: &[Arch], backend: Backend, udp: UdpMode, arch: Arch, nr: u32, args: [u64; 6]) -> u32 {
        let program = program_for(arches, backend, udp);
        assert!(program.len() <= 4096, "the kernel's limit");
        interpret(&program, arch.audit(), nr, args).expect("the program ends in a verdict")
    }

    fn x86(backend: Backend, nr: u32, args: [u64; 6]) -> u32 {
        verdict(X86, backend, UdpMode::Full, Arch::X86_64, nr, args)
    }

    const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    #[test]
    fn connect_is_decided_by_the_supervisor_on_every_architecture() {
        for (arches, arch, number) in [
            (X86, Arch::X86_64, 42),
            (X86, Arch::I386, 362),
            (ARM, Arch::Aarch64, 203),
            (ARM, Arch::Arm, 283),
        ] {
            for backend in [Backend::GetFd, Backend::Inject] {
                assert_eq!(verdict(arches, backend, UdpMode::Full, arch, number, [3; 6]), NOTIFY);
            }
        }
    }

    #[test]
    fn send_and_recv_without_an_address_stay_the_kernels() {
        for number in [44, 45] {
            assert_eq!(x86(Backend::GetFd, number, [3, 1, 1, 0, 0, 0]), ALLOW);
            assert_eq!(x86(Backend::GetFd, number, [3, 1, 1, 0, 0x1000, 16]), NOTIFY);
            assert_eq!(x86(Backend::GetFd, number, [3, 1, 1, 0, 0x7f00_0000_0000, 16]), NOTIFY);
        }
    }

    #[test]
    fn sockets_are_injected_only_for_the_internet_and_only_by_the_backend_that_needs_it() {
        assert_eq!(x86(Backend::Inject, 41, [2, 1, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(x86(Backend::Inject, 41, [10, 1, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(x86(Backend::Inject, 41, [1, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(x86(Backend::GetFd, 41, [2, 1, 0, 0, 0, 0]), ALLOW);
        for number in [49, 50] {
            assert_eq!(x86(Backend::Inject, number, [3; 6]), NOTIFY);
            assert_eq!(x86(Backend::GetFd, number, [3; 6]), ALLOW);
        }
    }

    #[test]
    fn basic_udp_leaves_receiving_to_the_kernel() {
        for number in [45, 47, 299] {
            let args = [3, 1, 1, 0, 0x1000, 0x2000];
            assert_eq!(
                verdict(X86, Backend::GetFd, UdpMode::Basic, Arch::X86_64, number, args),
                ALLOW,
                "{number}"
            );
            assert_eq!(x86(Backend::GetFd, number, args), NOTIFY, "{number}");
        }
    }

    #[test]
    fn only_the_pending_error_of_a_socket_is_trapped_among_options() {
        assert_eq!(x86(Backend::GetFd, 55, [3, 1, 4, 0x1000, 0x2000, 0]), NOTIFY);
        assert_eq!(x86(Backend::GetFd, 55, [3, 1, 3, 0x1000, 0x2000, 0]), ALLOW);
        assert_eq!(x86(Backend::GetFd, 55, [3, 6, 4, 0x1000, 0x2000, 0]), ALLOW);
    }

    #[test]
    fn io_uring_and_x32_and_unknown_instruction_sets_do_not_exist() {
        assert_eq!(x86(Backend::GetFd, 425, [8, 0x1000, 0, 0, 0, 0]), ENOSYS);
        assert_eq!(x86(Backend::GetFd, X32_BIT | 42, [3; 6]), ENOSYS);
        let program = program_for(X86, Backend::GetFd, UdpMode::Full);
        assert_eq!(interpret(&program, Arch::Aarch64.audit(), 203, [3; 6]), Some(ENOSYS));
    }

    #[test]
    fn the_i386_multiplexer_is_trapped_by_operation() {
        let socketcall = |backend, operation| {
            let args = [operation, 0x1000, 0, 0, 0, 0];
            verdict(X86, backend, UdpMode::Full, Arch::I386, 102, args)
        };
        for operation in [3, 7, 11, 12, 15, 16, 17, 19, 20] {
            assert_eq!(socketcall(Backend::GetFd, operation), NOTIFY, "{operation}");
        }
        for operation in [1, 2, 4] {
            assert_eq!(socketcall(Backend::GetFd, operation), ALLOW, "{operation}");
            assert_eq!(socketcall(Backend::Inject, operation), NOTIFY, "{operation}");
        }
        assert_eq!(socketcall(Backend::Inject, 5), ALLOW, "accept");
    }

    #[test]
    fn everything_else_is_the_kernels() {
        for number in (0..600).filter(|nr| Arch::X86_64.call(*nr).is_none()) {
            assert_eq!(x86(Backend::Inject, number, [u64::MAX; 6]), ALLOW, "{number}");
        }
    }
}
