//! Starting, ending and signalling programs, and programs in other languages.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_intercept::{Exit, LaunchFailure, Launcher, Program};
use common::{Lab, backends, network, tool};

#[test]
fn exit_codes_follow_the_shells_convention() {
    for backend in backends() {
        let lab = Lab::new(backend);
        let exit = |script: &str| {
            lab.spawn(&Program::new(["/bin/sh", "-c", script])).wait().expect("the program ends")
        };
        assert_eq!(exit("exit 7"), Exit::Code(7));
        assert_eq!(exit("kill -TERM $$"), Exit::Signal(15));
        assert_eq!(exit("kill -TERM $$").code(), 143);
        let launcher = Launcher::new(std::sync::Arc::new(network()), lab.options.clone());
        let failure =
            |program: &OsStr| launcher.spawn(&Program::new([program])).expect_err("it cannot start");
        assert_eq!(failure("/nowhere/program".as_ref()).exit_code(), 127);
        let file = lab.scratch.file("data");
        fs::write(&file, "no program").expect("a file");
        assert_eq!(failure(file.as_os_str()).exit_code(), 126);
        assert!(matches!(launcher.spawn(&Program::default()), Err(LaunchFailure::Empty)));
    }
}

#[test]
fn a_program_gets_its_own_environment_and_directory_and_no_descriptor_of_ours() {
    let lab = Lab::new(backends()[0]);
    let output = lab.scratch.file("output");
    let program = Program {
        argv: ["/bin/sh", "-c", "{ pwd; env; ls /proc/self/fd; } >output"].map(Into::into).to_vec(),
        env: vec![("ONLY".into(), "this".into())],
        cwd: Some(lab.scratch.0.clone()),
    };
    assert_eq!(lab.spawn(&program).wait().expect("the program ends"), Exit::Code(0));
    let text = fs::read_to_string(output).expect("its output");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], lab.scratch.0.to_str().expect("text"));
    assert!(lines.contains(&"ONLY=this"));
    assert!(!lines.iter().any(|line| line.starts_with("PATH=/") || line.starts_with("CARGO")), "{text}");
    // The same descriptors as without us: those of the standard streams, and what the test itself inherited.
    let descriptors: Vec<&str> = lines.iter().filter(|line| line.parse::<u32>().is_ok()).copied().collect();
    let mut plain = Command::new("/bin/sh");
    plain.args(["-c", "{ ls /proc/self/fd; } >output; cat output"]);
    let plain = plain.stdin(Stdio::inherit()).current_dir(&lab.scratch.0).output().expect("sh runs");
    assert_eq!(descriptors, String::from_utf8_lossy(&plain.stdout).lines().collect::<Vec<_>>());
}

#[test]
fn io_uring_does_not_exist_under_supervision() {
    let python = need!("python3");
    for backend in backends() {
        let script = "
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(425, 8, ctypes.create_string_buffer(256)), errno.errorcode[ctypes.get_errno()])
";
        assert_eq!(Lab::new(backend).python(&python, script).success(), "-1 ENOSYS\n");
    }
}

#[test]
fn the_end_of_supervision_closes_the_network_and_not_the_program() {
    let python = need!("python3");
    for backend in backends() {
        let lab = Lab::new(backend);
        let (ready, out) = (lab.scratch.file("ready"), lab.scratch.file("out"));
        rustix::fs::mknodat(rustix::fs::CWD, &ready, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a fifo");
        let script = lab.scratch.file("script.py");
        fs::write(
            &script,
            format!(
                "
import errno, os, socket, sys
s = socket.create_connection(('10.77.0.5', 5432)); t = socket.socket() ; k = socket.socket()
k.setblocking(False); k.connect_ex(('10.77.0.7', 1))
open({ready:?}, 'w').close(); open({ready:?}).close()
def fails(f):
    try: f(); return 'passed'
    except OSError as e: return errno.errorcode[e.errno]
print(fails(lambda: t.connect(('10.77.0.5', 5432))), fails(lambda: t.connect(('127.0.0.1', 1))), file=open({out:?}, 'w'))
"
            ),
        )
        .expect("a script");
        let running = lab.spawn(&Program::new([python.as_os_str(), script.as_os_str()]));
        drop(fs::File::open(&ready).expect("the program is ready"));
        let pid = running.pid();
        assert!(!running.wait_for_all(Some(Duration::ZERO)), "the program still runs");
        drop(running);
        drop(fs::OpenOptions::new().write(true).open(&ready).expect("the program goes on"));
        let pid = rustix::process::Pid::from_raw(pid);
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).expect("it ends");
        let text = fs::read_to_string(&out).expect("its output");
        assert_eq!(text, "ENOSYS ENOSYS\n", "{backend}");
    }
}

#[test]
fn what_a_program_leaves_behind_is_still_supervised() {
    let python = need!("python3");
    for backend in backends() {
        let lab = Lab::new(backend);
        let out = lab.scratch.file("out");
        let script = lab.scratch.file("script.py");
        fs::write(
            &script,
            format!(
                "
import os, socket, sys
read, write = os.pipe()
if os.fork(): os._exit(3)
os.setsid(); os.close(read)
s = socket.create_connection(('10.77.0.6', 5432)); print(s.getpeername(), file=open({out:?}, 'w'))
"
            ),
        )
        .expect("a script");
        let running = lab.spawn(&Program::new([python.as_os_str(), script.as_os_str()]));
        assert_eq!(running.wait().expect("the program ends"), Exit::Code(3));
        assert!(running.wait_for_all(Some(Duration::from_secs(20))), "its child ends");
        assert_eq!(fs::read_to_string(&out).expect("its output"), "('10.77.0.6', 5432)\n");
    }
}

const EPOLL_PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
static struct sockaddr_in to(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "10.77.0.6", &a.sin_addr);
    return a;
}
static void tcp(int port) {
    int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), e = epoll_create1(0), copy = dup(s);
    struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = s};
    epoll_ctl(e, EPOLL_CTL_ADD, s, &ev);
    struct sockaddr_in a = to(port), before = a;
    int r = connect(s, (struct sockaddr *)&a, sizeof a);
    printf("connect %d %d intact %d\n", r, errno == EINPROGRESS, !memcmp(&a, &before, sizeof a));
    int n;
    /* A socket that is not connected is writable and hung up; the edge that counts comes after connect. */
    do n = epoll_wait(e, &ev, 1, 20000); while (n == 1 && !(ev.events & EPOLLOUT));
    int error = -1; socklen_t len = sizeof error;
    getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &len);
    struct sockaddr_in peer; socklen_t peerlen = sizeof peer; char text[40] = "-";
    if (!getpeername(s, (struct sockaddr *)&peer, &peerlen)) inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text);
    printf("events %d error %d peer %s\n", n, error, text);
    char data[4] = {0};
    if (!error) { write(copy, "abc", 3); fcntl(s, F_SETFL, 0); read(s, data, 3); printf("data %s\n", data); }
    close(s); close(copy); close(e);
}
static void udp(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in a = to(7), from; memset(&from, 0, sizeof from);
    struct iovec out[2] = {{"he", 2}, {"llo", 3}};
    struct msghdr m = {.msg_name = &a, .msg_namelen = sizeof a, .msg_iov = out, .msg_iovlen = 2};
    printf("sendmsg %d\n", (int)sendmsg(s, &m, 0));
    char data[16] = {0}; struct iovec in = {data, sizeof data};
    struct msghdr r = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &in, .msg_iovlen = 1};
    int n = recvmsg(s, &r, 0); char text[40]; inet_ntop(AF_INET, &from.sin_addr, text, sizeof text);
    printf("recvmsg %d %s from %s:%d length %d\n", n, data, text, ntohs(from.sin_port), (int)r.msg_namelen);
}
int main(void) { setvbuf(stdout, 0, _IONBF, 0); tcp(5432); tcp(1); udp(); }
"#;

const EPOLL_OUTPUT: &str = "connect -1 1 intact 1\nevents 1 error 0 peer 10.77.0.6\ndata abc\n\
    connect -1 1 intact 1\nevents 1 error 111 peer -\nsendmsg 5\n\
    recvmsg 5 hello from 10.77.0.6:7 length 16\n";

#[test]
fn a_static_c_program_sees_what_a_real_network_would_show() {
    let cc = need!("cc");
    for backend in backends() {
        let lab = Lab::new(backend);
        let binary = lab.compile(&cc, EPOLL_PROGRAM, &["-static", "-D_GNU_SOURCE"]).expect("it compiles");
        assert_eq!(lab.run([binary.as_os_str()]).success(), EPOLL_OUTPUT, "{backend}");
    }
}

#[test]
fn a_32_bit_program_sees_the_same() {
    let cc = need!("cc");
    for backend in backends() {
        let lab = Lab::new(backend);
        let Some(binary) = lab.compile(&cc, EPOLL_PROGRAM, &["-m32", "-static", "-D_GNU_SOURCE"]) else {
            println!("SKIPPED 1 test: cc has no 32-bit library");
            return;
        };
        assert_eq!(lab.run([binary.as_os_str()]).success(), EPOLL_OUTPUT, "{backend}");
    }
}

/// i386 without a C library: the multiplexer of socket calls, from a 64-bit program through `int 0x80`.
const SOCKETCALL_PROGRAM: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <arpa/inet.h>
static long call(long nr, long a, long b, long c) {
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return (int)r;
}
int main(void) {
    unsigned *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    struct sockaddr_in *a = (void *)(p + 64);
    p[0] = AF_INET; p[1] = SOCK_STREAM; p[2] = 0;
    long s = call(102, 1, (long)p, 0);
    a->sin_family = AF_INET; a->sin_port = htons(5432); inet_pton(AF_INET, "10.77.0.5", &a->sin_addr);
    p[0] = s; p[1] = (long)a; p[2] = sizeof *a;
    long c = call(102, 3, (long)p, 0);
    memset(a, 0, sizeof *a); p[3] = sizeof *a; p[2] = (long)(p + 3);
    long g = call(102, 7, (long)p, 0);
    char text[40]; inet_ntop(AF_INET, &a->sin_addr, text, sizeof text);
    printf("%d %ld %ld %s\n", s >= 0, c, g, text);
    a->sin_port = htons(1);
    p[0] = AF_INET; p[1] = SOCK_STREAM; p[2] = 0; s = call(102, 1, (long)p, 0);
    printf("%ld\n", call(362, s, (long)a, sizeof *a));
}
"#;

#[test]
fn the_system_calls_of_i386_are_no_way_around() {
    let cc = need!("cc");
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    for backend in backends() {
        let lab = Lab::new(backend);
        let binary = lab.compile(&cc, SOCKETCALL_PROGRAM, &["-static"]).expect("it compiles");
        let outcome = lab.run([binary.as_os_str()]);
        if outcome.exit == Exit::Signal(11) {
            println!("SKIPPED 1 test: this kernel runs no 32-bit system calls");
            return;
        }
        assert_eq!(outcome.success(), "1 0 0 10.77.0.5\n-111\n", "{backend}");
    }
}

const GO_PROGRAM: &str = r#"package main
import ("fmt"; "io"; "net"; "time")
func main() {
    for _, to := range []string{"10.77.0.6:5432", "db.internal:5432", "10.77.0.6:1"} {
        c, err := net.DialTimeout("tcp", to, 20*time.Second)
        if err != nil { fmt.Println(err); continue }
        fmt.Fprint(c, "go"); c.(*net.TCPConn).CloseWrite()
        data, err := io.ReadAll(c); fmt.Println(c.RemoteAddr(), string(data), err)
    }
    u, _ := net.ListenPacket("udp4", ":0"); u.SetDeadline(time.Now().Add(20 * time.Second))
    to, _ := net.ResolveUDPAddr("udp4", "10.77.0.5:7"); u.WriteTo([]byte("udp"), to)
    b := make([]byte, 9); n, from, err := u.ReadFrom(b); fmt.Println(string(b[:n]), from, err)
}
"#;

#[test]
fn a_static_go_program_is_carried() {
    let go = need!("go");
    let lab = Lab::new(backends()[0]);
    let (code, binary) = (lab.scratch.file("main.go"), lab.scratch.file("gobinary"));
    fs::write(&code, GO_PROGRAM).expect("a file");
    let built = Command::new(go)
        .args(["build", "-o"])
        .arg(&binary)
        .arg(&code)
        .envs([("CGO_ENABLED", "0"), ("GO111MODULE", "off"), ("GOFLAGS", ""), ("GOTOOLCHAIN", "local")])
        .env(
            "GOCACHE",
            std::env::temp_dir().join(format!("adit-go-cache-{}", rustix::process::geteuid().as_raw())),
        )
        .env("HOME", &lab.scratch.0)
        .output()
        .expect("go runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    for backend in backends() {
        let mut lab = Lab::new(backend);
        lab.options.resolv_conf = "/etc/resolv.conf".into();
        let output = lab.run([binary.as_os_str()]).success();
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[0], "10.77.0.6:5432 go <nil>", "{backend}");
        assert!(["10.77.0.5:5432 go <nil>", "[fd77::5]:5432 go <nil>"].contains(&lines[1]), "{output}");
        assert_eq!(lines[2], "dial tcp 10.77.0.6:1: connect: connection refused");
        assert_eq!(lines[3], "udp 10.77.0.5:7 <nil>");
    }
}

/// Runs the rest of this test in a process of its own, because signals concern whole processes.
fn in_a_process(test: &str) -> Option<Command> {
    if std::env::var_os("ADIT_TEST_CHILD").is_some() {
        return None;
    }
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("ADIT_TEST_CHILD", "1");
    Some(command)
}

fn foreground(python: &Path, script: &str) -> Exit {
    let mut lab = Lab::new(backends()[0]);
    lab.options.foreground = true;
    let file = lab.scratch.file("script.py");
    fs::write(&file, script).expect("a script");
    lab.spawn(&Program::new([python.as_os_str(), file.as_os_str()])).wait().expect("the program ends")
}

/// Starts the test in a process group of its own, waits for the line `ready`, sends the signal, and returns what
/// was printed.
fn signalled(mut command: Command, signal: rustix::process::Signal, to_group: bool) -> String {
    use std::os::unix::process::CommandExt;
    let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().expect("a process");
    let mut out = child.stdout.take().expect("its output");
    let mut text = String::new();
    let mut byte = [0];
    while !text.contains("ready\n") {
        assert_ne!(out.read(&mut byte).expect("its output"), 0, "{text}");
        text.push(char::from(byte[0]));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process");
    let sent = match to_group {
        true => rustix::process::kill_process_group(pid, signal),
        false => rustix::process::kill_process(pid, signal),
    };
    sent.expect("the signal is sent");
    out.read_to_string(&mut text).expect("its output");
    assert!(child.wait().expect("it ends").success(), "{text}");
    let _ = out.as_fd();
    text
}

#[test]
fn an_interrupt_from_the_terminal_is_the_programs_own_during_a_held_connect() {
    let python = need!("python3");
    match in_a_process("an_interrupt_from_the_terminal_is_the_programs_own_during_a_held_connect") {
        Some(command) => {
            let text = signalled(command, rustix::process::Signal::INT, true);
            assert!(text.contains("interrupted\nexit Code(4)\n"), "{text}");
        }
        None => {
            let exit = foreground(
                &python,
                "
import os, socket
s = socket.socket()
try:
    print('ready', flush=True); s.connect(('10.77.0.7', 1))
except KeyboardInterrupt: print('interrupted', flush=True); os._exit(4)
",
            );
            println!("exit {exit:?}");
        }
    }
}

#[test]
fn a_termination_of_the_supervisor_is_passed_on() {
    let python = need!("python3");
    match in_a_process("a_termination_of_the_supervisor_is_passed_on") {
        Some(command) => {
            let text = signalled(command, rustix::process::Signal::TERM, false);
            assert!(text.contains("exit Signal(15)\n"), "{text}");
        }
        None => {
            let exit = foreground(
                &python,
                "
import signal
print('ready', flush=True)
while True: signal.pause()
",
            );
            println!("exit {exit:?}");
        }
    }
}

#[test]
fn a_killed_supervisor_leaves_its_program_without_a_network() {
    let python = need!("python3");
    match in_a_process("a_killed_supervisor_leaves_its_program_without_a_network") {
        Some(mut command) => {
            let mut child = command.stdout(Stdio::piped()).spawn().expect("a process");
            let mut out = child.stdout.take().expect("its output");
            let (mut text, mut byte) = (String::new(), [0]);
            while !text.contains("ready\n") {
                assert_ne!(out.read(&mut byte).expect("its output"), 0, "{text}");
                text.push(char::from(byte[0]));
            }
            child.kill().expect("it is killed");
            child.wait().expect("it ends");
            // The program holds the other end of the pipe until it is done.
            out.read_to_string(&mut text).expect("its output");
            assert!(text.contains("ready\nENOSYS\nENOSYS\n"), "{text}");
        }
        None => {
            foreground(
                &python,
                "
import errno, os, socket
t, parent = socket.socket(), os.getppid()
print('ready', flush=True)
while os.getppid() == parent: os.sched_yield()
for to in (('10.77.0.5', 5432), ('127.0.0.1', 1)):
    try: t.connect(to); print('connected', flush=True)
    except OSError as e: print(errno.errorcode[e.errno], flush=True)
",
            );
        }
    }
}

#[test]
fn psql_says_what_it_says_on_a_real_network() {
    let Some(psql) = tool("psql") else {
        assert!(std::env::var_os("CI").is_none(), "psql is missing");
        println!("SKIPPED 1 test: psql is missing");
        return;
    };
    for backend in backends() {
        let lab = Lab::new(backend);
        let arguments = ["-h", "10.77.0.5", "-p", "1", "-U", "nobody", "-c", "select 1"].map(OsStr::new);
        let outcome = lab.run([psql.as_os_str()].into_iter().chain(arguments));
        assert_eq!(outcome.exit, Exit::Code(2), "{}", outcome.output);
        assert!(outcome.output.contains("Connection refused"), "{}", outcome.output);
        assert!(outcome.output.contains("10.77.0.5"), "{}", outcome.output);
    }
}

#[test]
fn a_supervisor_that_cannot_be_dumped_supervises_all_the_same() {
    let python = need!("python3");
    match in_a_process("a_supervisor_that_cannot_be_dumped_supervises_all_the_same") {
        Some(mut command) => {
            let output = command.output().expect("a process");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        None => {
            adit_intercept::hygiene::deny_dumps().expect("prctl");
            for backend in [None, Some(backends()[0]), backends().last().copied()] {
                let mut lab = Lab::new(backends()[0]);
                lab.options.backend = backend;
                let script = "
import socket
s = socket.create_connection(('10.77.0.6', 5432)); print(s.getpeername()[0])
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'x', ('10.77.0.5', 7)); print(u.recvfrom(9)[1])
";
                assert_eq!(lab.python(&python, script).success(), "10.77.0.6\n('10.77.0.5', 7)\n");
            }
        }
    }
}

#[test]
fn a_process_that_cannot_be_read_is_refused_and_not_let_through() {
    let python = need!("python3");
    for backend in backends() {
        // Undumpable, the program is as opaque as one that has changed its user.
        let script = "
import ctypes, errno, socket
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
for to in (('10.77.0.5', 5432), l.getsockname()):
    try: socket.create_connection(to, 20); print('connected')
    except OSError as e: print(errno.errorcode[e.errno])
";
        let lab = Lab::new(backend);
        let output = lab.python(&python, script).success();
        // The capability to trace reads it all the same.
        let status = fs::read_to_string("/proc/self/status").expect("our own status");
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("capabilities");
        let traces = u64::from_str_radix(effective, 16).expect("a number") & 1 << 19 != 0;
        assert_eq!(output, if traces { "connected\nconnected\n" } else { "EACCES\nEACCES\n" }, "{backend}");
        assert_eq!(lab.network.connects().len(), usize::from(traces));
    }
}

#[test]
fn another_network_namespace_is_none_of_our_business() {
    let (python, unshare) = (need!("python3"), need!("unshare"));
    for backend in backends() {
        let lab = Lab::new(backend);
        let script = lab.scratch.file("script.py");
        let code = "
import errno, socket
try: socket.create_connection(('10.77.0.5', 5432), 20); print('connected')
except OSError as e: print(errno.errorcode[e.errno])
l = socket.socket(); print(l.connect_ex(('127.0.0.1', 1)) != 0)
";
        fs::write(&script, code).expect("a script");
        let root = rustix::process::geteuid().is_root();
        let flags = if root { "-n" } else { "-Urn" };
        let outcome = lab.run([unshare.as_os_str(), flags.as_ref(), python.as_os_str(), script.as_os_str()]);
        if outcome.output.starts_with("unshare:") {
            println!("SKIPPED 1 test: {}", outcome.output.trim());
            return;
        }
        assert_eq!(outcome.success(), "ENETUNREACH\nTrue\n", "{backend}");
        assert!(lab.network.connects().is_empty());
    }
}

#[test]
fn orphans_of_a_program_in_the_foreground_are_waited_for() {
    let python = need!("python3");
    match in_a_process("orphans_of_a_program_in_the_foreground_are_waited_for") {
        Some(mut command) => {
            let text = String::from_utf8(command.output().expect("a process").stdout).expect("text");
            assert!(text.contains("adopted\ngone\nexit Code(0)\n"), "{text}");
        }
        None => {
            let exit = foreground(
                &python,
                "
import os, time
read, write = os.pipe()
child = os.fork()
if child == 0:
    orphan = os.fork()
    if orphan == 0: os.close(read); os.read(0, 0) ; os._exit(0)
    os.write(write, b'%d' % orphan); os._exit(0)
orphan = int(os.read(read, 20)); os.waitpid(child, 0); os.close(write); os.read(read, 1)
print('adopted', flush=True)
deadline = time.monotonic() + 30
while os.path.exists('/proc/%d' % orphan) and time.monotonic() < deadline: time.sleep(0.05)
print('zombie' if os.path.exists('/proc/%d' % orphan) else 'gone', flush=True)
",
            );
            println!("exit {exit:?}");
        }
    }
}
