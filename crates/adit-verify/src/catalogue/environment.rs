//! Classes of the environment that adit runs in.

use super::{Blame, Class, class};
use crate::Exit;

pub(super) const CLASSES: &[Class] = &[
    class(
        "env.mode",
        Exit::Environment,
        Blame::Sandbox,
        "the mode {mode|asked for} cannot run here",
        &["Use --mode auto, which picks one that can.", "Run `adit doctor` for the reasons."],
        "A mode was demanded by name and its probe failed.",
    ),
    class(
        "env.proxy_mode",
        Exit::Ok,
        Blame::Sandbox,
        "programs are led through proxy variables only: {missing|what ignores them stays outside}",
        &["Allow seccomp user notification in the sandbox; `adit doctor` shows what is missing.", "Use --strict to refuse instead."],
        "Neither way of interception works here, so the program gets ALL_PROXY, HTTP_PROXY and HTTPS_PROXY. Programs that ignore them (psql, redis-cli, most database drivers), UDP and plain DNS lookups do not reach the network.",
    )
    .warning(),
    class(
        "env.front",
        Exit::Environment,
        Blame::Sandbox,
        "{target|the target} answers in the network, but not through the way that programs use",
        &[
            "Look at the evidence: it names the proxy, forward or resolver that fails.",
            "Check that nothing in the sandbox filters its loopback interface.",
            "Run `adit doctor`, and tell us if it finds nothing.",
        ],
        "A target is verified through the proxy, the forward, the TUN device or the interception that programs will use. Asked directly, the network reached it, so the fault lies between the program and adit.",
    )
    .retryable(),
    class(
        "env.no_tun",
        Exit::Environment,
        Blame::Sandbox,
        "there is no usable /dev/net/tun here",
        &["Nothing, unless you want --mode tun: the other modes do not need it.", "Docker: --device /dev/net/tun --cap-add NET_ADMIN."],
        "The device file is missing, cannot be opened, or the capability CAP_NET_ADMIN is not there.",
    )
    .note(),
    class(
        "env.no_userns",
        Exit::Environment,
        Blame::Sandbox,
        "user namespaces cannot be made here",
        &["Nothing, unless a mode needs them. The settings are kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns; in containers it is the seccomp profile."],
        "unshare(CLONE_NEWUSER) failed. Distributions and container run-times restrict it.",
    )
    .note(),
    class(
        "env.no_seccomp_notify",
        Exit::Environment,
        Blame::Sandbox,
        "seccomp user notification does not work here",
        &[
            "Use a kernel of version 5.9 or later, and a seccomp profile that allows seccomp(2).",
            "gVisor does not have it: use --mode env, proxies or forwards there.",
        ],
        "`exec` asks the kernel to hand over a program's socket calls (SECCOMP_RET_USER_NOTIF, SECCOMP_IOCTL_NOTIF_ADDFD). The probe in a child process failed.",
    )
    .note(),
    class(
        "env.no_ptrace",
        Exit::Environment,
        Blame::Sandbox,
        "ptrace does not work here",
        &["kernel.yama.ptrace_scope must be below 2, and the seccomp profile must allow ptrace(2)."],
        "Tracing even one's own child was refused.",
    )
    .note(),
    class(
        "env.egress_allowlist",
        Exit::TransportBlocked,
        Blame::Sandbox,
        "this sandbox lets only listed hosts through",
        &["Add {endpoint|the VPN server} to the sandbox's egress list.", "Some vendors open other hosts or UDP only in a higher plan."],
        "Some public hosts answer and others are cut off in the same way, which is the pattern of an egress list.",
    ),
    class(
        "env.proxy_required",
        Exit::TransportBlocked,
        Blame::Sandbox,
        "this sandbox reaches the outside only through an HTTP proxy",
        &["WireGuard is UDP and passes no HTTP proxy: allow UDP to {endpoint|the server}, or use a VPN that runs over TCP 443."],
        "Direct connections fail and HTTPS_PROXY or HTTP_PROXY is set.",
    ),
    class(
        "env.dns_broken",
        Exit::Environment,
        Blame::Sandbox,
        "this sandbox cannot resolve public names",
        &["Check /etc/resolv.conf.", "Write the VPN server's address instead of its name into Endpoint."],
        "Neither the server's name nor well-known names resolve with the sandbox's own resolver.",
    )
    .retryable(),
    class(
        "env.clock",
        Exit::Ok,
        Blame::Sandbox,
        "the clock of this machine says {now|a time}, which is before this binary was built",
        &["Set the clock; in a container or microVM, set the host's."],
        "A clock that is years off breaks TLS certificates and WireGuard's timestamps.",
    )
    .warning(),
    class(
        "env.fd_limit",
        Exit::Environment,
        Blame::Sandbox,
        "the limit of open files ({limit|ulimit -n}) is too low",
        &["Raise it: ulimit -n 4096, or --ulimit nofile=4096 for the container."],
        "Each connection takes up to three descriptors.",
    ),
    class(
        "env.port_in_use",
        Exit::Environment,
        Blame::Sandbox,
        "port {port|that was asked for} is in use here",
        &["Choose another port, or 0 for a free one.", "Find the owner: ss -lntup."],
        "A listening address (proxy, forward, WireGuard ListenPort) is taken by another process.",
    ),
    class(
        "env.listen",
        Exit::Environment,
        Blame::Sandbox,
        "{address|a local address} cannot be listened on",
        &["Look at the error in the evidence; ports below 1024 need a privilege that a sandbox rarely gives."],
        "A proxy, a forward or an exposed port could not be opened.",
    ),
    class(
        "env.readonly_fs",
        Exit::Environment,
        Blame::Sandbox,
        "{path|the state directory} cannot be written",
        &["Name a writable directory: --state-dir DIR or ADIT_STATE_DIR.", "One-shot commands need no state: use `adit exec` without `up`."],
        "The control socket, the lock and what must be restored after a crash live in the state directory.",
    ),
    class(
        "env.stdout",
        Exit::Environment,
        Blame::Sandbox,
        "the result cannot be written",
        &["Check the disk and the program that reads the output."],
        "Standard output, or the file that the result goes to, is full or closed.",
    ),
    class(
        "env.state_locked",
        Exit::Environment,
        Blame::Sandbox,
        "another adit is running with the state directory {path|}",
        &["See `adit status`; end it with `adit down`.", "Name another directory with --state-dir."],
        "One process owns a tunnel. The lock in the state directory is held by a live process.",
    ),
    class(
        "env.memory",
        Exit::Ok,
        Blame::Sandbox,
        "there is little memory for the buffers of connections",
        &["Give the container more: buffers take a quarter of its limit, 256 MiB at most."],
        "The limit of the control group or of the process (RLIMIT_AS) leaves less than 16 MiB for the buffers of all connections. They work, more slowly, and some hundred of them use it up.",
    )
    .warning(),
    class(
        "env.socket",
        Exit::Environment,
        Blame::Sandbox,
        "the system refuses a socket: {reason|an error}",
        &["Check the seccomp profile and the limits of the sandbox: `adit doctor`."],
        "A UDP or Unix socket could not be made. Sandboxes without any network interface refuse even that.",
    ),
    class(
        "env.daemon_gone",
        Exit::Lost,
        Blame::Unknown,
        "the running adit is gone",
        &["Start it again: adit up --detach.", "Its last words are in the log that `adit up` named."],
        "The control socket closed while a command was attached to it.",
    ),
    class(
        "env.not_running",
        Exit::Environment,
        Blame::User,
        "no adit is running for the profile {profile|}",
        &["Start it: adit up --detach.", "Or give a configuration, and the command runs a private session: --config FILE."],
        "The command attaches to a running `adit up`, and there is no live control socket.",
    ),
];
