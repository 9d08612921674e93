//! How a program is run.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the supervisor reaches a socket of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// It takes a copy of the program's descriptor (`pidfd_getfd(2)`) when it needs one.
    GetFd,
    /// It makes the program's Internet sockets itself and puts them into the program
    /// (`SECCOMP_IOCTL_NOTIF_ADDFD`). Works where a container's profile denies `pidfd_getfd`.
    Inject,
}

impl Backend {
    /// The name in reports and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::GetFd => "getfd",
            Self::Inject => "inject",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of UDP is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UdpMode {
    /// `recvfrom` and `recvmsg` show the true source address, at the price of a detour for each.
    #[default]
    Full,
    /// Receiving stays the kernel's: it is faster, and an unconnected socket sees a loopback source address.
    Basic,
}

/// What is done with a system call whose arguments cannot be read, because the calling process has changed its
/// user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnOpaque {
    /// It fails with `EACCES`.
    #[default]
    Deny,
    /// It runs, wherever it goes: a private destination may leak to the public path.
    Allow,
}

/// Options of a [`Launcher`](crate::Launcher).
#[derive(Clone, Debug)]
pub struct Options {
    /// The backend; `None` probes for the first that works.
    pub backend: Option<Backend>,
    /// How much of UDP is carried.
    pub udp: UdpMode,
    /// What is done with system calls that cannot be read.
    pub on_opaque: OnOpaque,
    /// How long a private destination waits for a network that is not up, before `ENETUNREACH`.
    pub wait: Duration,
    /// Where the name servers of the program are listed.
    pub resolv_conf: PathBuf,
    /// Handle the signals of the terminal, forward others, adopt orphans and wait for every child that ends: for
    /// a process whose purpose is this program. A library that runs programs among other things says no.
    pub foreground: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backend: None,
            udp: UdpMode::default(),
            on_opaque: OnOpaque::default(),
            wait: Duration::from_secs(10),
            resolv_conf: "/etc/resolv.conf".into(),
            foreground: false,
        }
    }
}
