//! A small assembler for seccomp filters (classic BPF, `Documentation/networking/filter.rst`).

use libc::sock_filter;

const LD_W_ABS: u16 = 0x20;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;

/// Offset of `seccomp_data.nr`.
const NR: u32 = 0;
/// Offset of `seccomp_data.arch`.
const ARCH: u32 = 4;
/// Offset of `seccomp_data.args`.
const ARGS: u32 = 16;

/// What a filter answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The kernel runs the system call.
    Allow,
    /// The supervisor decides.
    Notify,
    /// The system call fails with this error number.
    Errno(u16),
}

impl Verdict {
    /// The value of a `RET` instruction (`linux/seccomp.h`).
    pub(crate) fn value(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        }
    }
}

/// Instructions in order. Every method appends; a jump counts the instructions that it skips, so that the text
/// of a caller reads as the program runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assembler {
    code: Vec<sock_filter>,
}

impl Assembler {
    pub(crate) fn load_nr(&mut self) {
        self.push(LD_W_ABS, 0, 0, NR);
    }

    pub(crate) fn load_arch(&mut self) {
        self.push(LD_W_ABS, 0, 0, ARCH);
    }

    /// Loads the low half of an argument. Both supported byte orders are little-endian.
    pub(crate) fn load_arg_low(&mut self, index: u32) {
        self.push(LD_W_ABS, 0, 0, ARGS + 8 * index);
    }

    pub(crate) fn load_arg_high(&mut self, index: u32) {
        self.push(LD_W_ABS, 0, 0, ARGS + 8 * index + 4);
    }

    pub(crate) fn ret(&mut self, verdict: Verdict) {
        self.push(RET_K, 0, 0, verdict.value());
    }

    /// Answers with `verdict` if the loaded word equals `value`.
    pub(crate) fn ret_if_equal(&mut self, value: u32, verdict: Verdict) {
        self.push(JEQ_K, 0, 1, value);
        self.ret(verdict);
    }

    /// Answers with `verdict` unless the loaded word equals `value`.
    pub(crate) fn ret_unless_equal(&mut self, value: u32, verdict: Verdict) {
        self.push(JEQ_K, 1, 0, value);
        self.ret(verdict);
    }

    /// Answers with `verdict` if the loaded word is at least `value`, unsigned.
    pub(crate) fn ret_if_at_least(&mut self, value: u32, verdict: Verdict) {
        self.push(JGE_K, 0, 1, value);
        self.ret(verdict);
    }

    /// Runs `block` only if the loaded word equals `value`. The block may be of any length; what it leaves in
    /// the accumulator is not restored, so it ends in `ret`.
    pub(crate) fn when_equal(&mut self, value: u32, block: Self) {
        let len = u32::try_from(block.code.len()).expect("a filter has at most 4096 instructions");
        self.push(JEQ_K, 1, 0, value);
        self.push(JA, 0, 0, len);
        self.code.extend(block.code);
    }

    pub(crate) fn finish(self) -> Vec<sock_filter> {
        self.code
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.code.push(sock_filter { code, jt, jf, k });
    }
}

/// Runs a filter as the kernel would; `None` if the program is malformed.
#[cfg(test)]
pub(crate) fn interpret(program: &[sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> Option<u32> {
    let mut data = [0_u8; 64];
    data[0..4].copy_from_slice(&nr.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (index, arg) in args.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut pc, mut accumulator) = (0_usize, 0_u32);
    loop {
        let instruction = program.get(pc)?;
        pc += 1;
        let jump = |taken: bool| usize::from(if taken { instruction.jt } else { instruction.jf });
        match instruction.code {
            LD_W_ABS => {
                let at = instruction.k as usize;
                accumulator = u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?);
            }
            JA => pc += instruction.k as usize,
            JEQ_K => pc += jump(accumulator == instruction.k),
            JGE_K => pc += jump(accumulator >= instruction.k),
            RET_K => return Some(instruction.k),
            _ => return None,
        }
    }
}
