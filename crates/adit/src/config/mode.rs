//! How programs reach the network.

/// How programs reach the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Mode {
    /// The best that works here; `up` without --mode makes no device
    #[default]
    Auto,
    /// `up`: a network stack in the process, no device
    Userspace,
    /// `up`: a TUN device with routes and DNS, for every program
    Tun,
    /// `exec`: system calls are intercepted by seccomp
    Seccomp,
    /// `exec`: proxy variables in the program's environment, for programs that honour them
    Env,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Userspace, Self::Tun, Self::Seccomp, Self::Env];

    /// The word on the command line and in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Userspace => "userspace",
            Self::Tun => "tun",
            Self::Seccomp => "seccomp",
            Self::Env => "env",
        }
    }
}
