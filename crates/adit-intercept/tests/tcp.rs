//! TCP of unmodified programs, through both backends.

mod common;

use common::{Lab, backends};

const PRELUDE: &str = "
import socket, select, errno, time, os, sys, threading, signal
def name(e): return errno.errorcode.get(e, str(e))
def dial(host, port=5432, family=socket.AF_INET):
    s = socket.socket(family); s.settimeout(20); s.connect((host, port)); return s
def fails(host, port, family=socket.AF_INET):
    s = socket.socket(family); t = time.monotonic()
    try: s.connect((host, port)); return 'connected'
    except OSError as e: return name(e.errno)
def later(host, port, family=socket.AF_INET):
    s = socket.socket(family); s.setblocking(False)
    e = select.epoll(); e.register(s, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
    first = s.connect_ex((host, port))
    events = e.poll(20)
    return name(first), events[0][1] if events else 0, name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)), s
";

fn each_backend(script: &str, check: impl Fn(&str)) {
    let python = need!("python3");
    for backend in backends() {
        println!("backend {backend}");
        let lab = Lab::new(backend);
        check(&lab.python(&python, &format!("{PRELUDE}{script}")).success());
    }
}

#[test]
fn a_blocking_program_talks_to_a_private_host() {
    let script = "
s = dial('10.77.0.5')
print(s.getpeername()); s.sendall(b'hello'); print(s.recv(100))
s.shutdown(socket.SHUT_WR); print(s.recv(100))
s = dial('10.77.0.6'); s.sendall(b'slow'); print(s.recv(100))
";
    each_backend(script, |output| {
        assert_eq!(output, "('10.77.0.5', 5432)\nb'hello'\nb''\nb'slow'\n");
    });
}

#[test]
fn a_blocking_connect_reports_the_networks_own_errors() {
    let script = "
print(fails('10.77.0.5', 1), fails('10.77.0.6', 1), fails('10.77.0.5', 82), fails('10.77.0.6', 81))
s = socket.socket(); s.settimeout(0.3)
try: s.connect(('10.77.0.7', 1))
except TimeoutError: print('timeout')
";
    each_backend(script, |output| {
        assert_eq!(output, "ECONNREFUSED ECONNREFUSED EHOSTUNREACH ENETUNREACH\ntimeout\n");
    });
}

#[test]
fn an_epoll_registration_from_before_connect_sees_success_and_failure() {
    let script = "
first, events, error, s = later('10.77.0.6', 5432)
print(first, events == select.EPOLLOUT, error, s.getpeername())
first, events, error, s = later('10.77.0.6', 1)
print(first, bool(events & select.EPOLLERR), bool(events & select.EPOLLHUP), error)
first, events, error, s = later('10.77.0.6', 80)
print(first, bool(events & select.EPOLLERR), error)
";
    each_backend(script, |output| {
        assert_eq!(
            output,
            "EINPROGRESS True 0 ('10.77.0.6', 5432)\nEINPROGRESS True True ECONNREFUSED\n\
             EINPROGRESS True EHOSTUNREACH\n"
        );
    });
}

#[test]
fn options_and_copies_from_before_connect_stay_in_force() {
    let script = "
s = socket.socket()
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1); s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
copy = s.dup(); s.connect(('10.77.0.5', 5432))
print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
print(s.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE), s.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL))
copy.send(b'through the copy'); print(s.recv(100))
try: s.connect(('10.77.0.5', 5432))
except OSError as e: print(name(e.errno))
";
    each_backend(script, |output| {
        assert_eq!(output, "1 1\n1 6\nb'through the copy'\nEISCONN\n");
    });
}

#[test]
fn ipv6_and_mapped_addresses_are_carried() {
    let script = "
for host in ('fd77::5', '::ffff:10.77.0.5'):
    s = dial(host, 5432, socket.AF_INET6); print(s.getpeername()[:2]); s.send(b'x'); print(s.recv(1))
    print(fails(host, 1, socket.AF_INET6))
s = socket.socket(socket.AF_INET6); s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
print(name(s.connect_ex(('::ffff:10.77.0.5', 5432))))
first, events, error, s = later('fd77::6', 1, socket.AF_INET6); print(first, error)
";
    each_backend(script, |output| {
        assert_eq!(
            output,
            "('fd77::5', 5432)\nb'x'\nECONNREFUSED\n('::ffff:10.77.0.5', 5432)\nb'x'\nECONNREFUSED\n\
             ENETUNREACH\nEINPROGRESS ECONNREFUSED\n"
        );
    });
}

#[test]
fn a_reset_by_the_target_is_a_reset_for_the_program() {
    let script = "
try: print(dial('10.77.0.5', 81).recv(10))
except OSError as e: print(name(e.errno))
";
    each_backend(script, |output| assert_eq!(output, "ECONNRESET\n"));
}

#[test]
fn a_second_connect_while_the_first_is_under_way_is_told_so() {
    let script = "
s = socket.socket(); s.setblocking(False)
print(name(s.connect_ex(('10.77.0.6', 5432))), name(s.connect_ex(('10.77.0.6', 5432))))
select.select([], [s], [], 20)
print(name(s.connect_ex(('10.77.0.6', 5432))), name(s.connect_ex(('10.77.0.6', 5432))))
";
    each_backend(script, |output| assert_eq!(output, "EINPROGRESS EALREADY\n0 EISCONN\n"));
}

#[test]
fn success_is_told_once_however_early_the_program_asks() {
    // Asking without a pause meets the moment in which the handshake is complete and the socket still held.
    let script = "
seen = set()
for _ in range(20):
    s = socket.socket(); s.setblocking(False)
    code = s.connect_ex(('10.77.0.6', 5432))
    while code in (errno.EINPROGRESS, errno.EALREADY): code = s.connect_ex(('10.77.0.6', 5432))
    time.sleep(0.005); seen.add((name(code), name(s.connect_ex(('10.77.0.6', 5432))))); s.close()
print(seen)
";
    each_backend(script, |output| assert_eq!(output, "{('0', 'EISCONN')}\n"));
}

#[test]
fn data_in_the_syn_is_refused_so_that_programs_connect_first() {
    let script = "
s = socket.socket(); MSG_FASTOPEN = 0x20000000
try: s.sendto(b'early', MSG_FASTOPEN, ('10.77.0.5', 5432))
except OSError as e: print(e.errno)
s.setsockopt(socket.IPPROTO_TCP, 30, 1); s.connect(('10.77.0.5', 5432)); s.send(b'late'); print(s.recv(10))
";
    each_backend(script, |output| assert_eq!(output, "95\nb'late'\n"));
}

#[test]
fn two_hundred_connections_are_made_at_the_same_time() {
    let script = "
import asyncio
async def one(n):
    reader, writer = await asyncio.open_connection('10.77.0.6', 5432)
    writer.write(b'%d' % n); writer.write_eof(); answer = await reader.read(); writer.close()
    return answer == b'%d' % n
async def main():
    start = time.monotonic()
    print(all(await asyncio.gather(*map(one, range(200)))), time.monotonic() - start < 10)
asyncio.run(main())
";
    each_backend(script, |output| assert_eq!(output, "True True\n"));
}

#[test]
fn threads_and_children_are_supervised_too() {
    let script = "
out = []
threads = [threading.Thread(target=lambda: out.append(fails('10.77.0.5', 5432))) for _ in range(20)]
for t in threads: t.start()
for t in threads: t.join()
print(set(out))
sys.stdout.flush()
if os.fork() == 0:
    print(dial('10.77.0.5').getpeername()); sys.stdout.flush()
    os.execvp('/bin/sh', ['sh', '-c', sys.executable + ' -c \"import socket; s = socket.create_connection((\\'10.77.0.5\\', 5432)); print(s.getpeername())\"'])
os.wait()
# A socket that crosses fork, and one that is handed over.
a, b = socket.socketpair()
if os.fork() == 0:
    s = socket.socket(); socket.send_fds(a, [b'x'], [s.fileno()]); os._exit(0)
_, fds, _, _ = socket.recv_fds(b, 1, 1); os.wait()
s = socket.socket(fileno=fds[0]); s.connect(('10.77.0.5', 5432)); print(s.getpeername())
";
    each_backend(script, |output| {
        let peer = "('10.77.0.5', 5432)\n";
        assert_eq!(output, format!("{{'connected'}}\n{peer}{peer}{peer}"));
    });
}

#[test]
fn loopback_and_unix_sockets_stay_the_kernels() {
    let script = "
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()
s = dial('127.0.0.1', l.getsockname()[1]); print(s.getpeername() == l.getsockname())
print(fails('127.0.0.1', 1))
u = socket.socket(socket.AF_UNIX)
print(name(u.connect_ex('/nowhere')), name(u.connect_ex('/run/nscd/socket')))
print(name(u.connect_ex('/run/systemd/resolve/io.systemd.Resolve')))
";
    each_backend(script, |output| assert_eq!(output, "True\nECONNREFUSED\nENOENT ENOENT\nENOENT\n"));
}

#[test]
fn a_network_that_is_down_is_waited_for_and_never_bypassed() {
    let python = need!("python3");
    for backend in backends() {
        let mut lab = Lab::new(backend);
        lab.options.wait = std::time::Duration::from_millis(300);
        lab.network.take_down("wg.silent");
        let output = lab.python(&python, &format!("{PRELUDE}print(fails('10.77.0.5', 5432))")).success();
        assert_eq!(output, "ENETUNREACH\n");
        lab.options.wait = std::time::Duration::from_secs(30);
        let network = lab.network.clone();
        let revived = std::thread::spawn(move || {
            let dials = network.connects().len();
            while network.connects().len() == dials {
                std::thread::yield_now();
            }
            network.set_status(|status| status.phase = adit_path::Phase::Up);
        });
        let output = lab.python(&python, &format!("{PRELUDE}print(fails('10.77.0.5', 5432))")).success();
        revived.join().expect("the network comes back");
        assert_eq!(output, "connected\n");
    }
}

#[test]
fn a_signal_interrupts_a_held_connect_and_the_connection_goes_on() {
    let script = "
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(time.monotonic()))
start = time.monotonic(); signal.setitimer(signal.ITIMER_REAL, 0.05)
s = socket.socket(); s.connect(('10.77.0.6', 5432))
print(len(seen), seen[0] - start < 0.14, time.monotonic() - start > 0.14)
s.send(b'after the signal'); print(s.recv(100))
seen.clear(); signal.setitimer(signal.ITIMER_REAL, 0.05)
print(fails('10.77.0.6', 1), len(seen))
def stop(*_): raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop); signal.setitimer(signal.ITIMER_REAL, 0.1)
try: fails('10.77.0.7', 1)
except KeyboardInterrupt: print('interrupted')
";
    each_backend(script, |output| {
        assert_eq!(output, "1 True True\nb'after the signal'\nECONNREFUSED 1\ninterrupted\n");
    });
}

#[test]
fn a_servers_port_is_free_as_soon_as_it_has_ended() {
    let script = "
import subprocess
server = '''
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((\"127.0.0.1\", int(sys.argv[1]))); s.listen()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind((\"127.0.0.1\", int(sys.argv[1])))
b = socket.socket(); b.bind((\"127.0.0.1\", int(sys.argv[1]) + 1))
'''
def free(kind, port):
    with socket.socket(socket.AF_INET, kind) as s:
        try: s.bind(('127.0.0.1', port)); return True
        except OSError: return False
stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
# Below the ports that the system gives out by itself: another program would take one in between.
port = next(p for p in range(20000 + os.getpid() % 5000 * 2, 32000, 2) if free(stream, p) and free(datagram, p) and free(stream, p + 1))
for _ in range(3): print(subprocess.run([sys.executable, '-c', server, str(port)]).returncode)
";
    each_backend(script, |output| assert_eq!(output, "0\n0\n0\n"));
}

#[test]
fn a_socket_that_is_closed_while_it_connects_lets_go_of_everything() {
    let script = "
s = socket.socket(); s.setblocking(False); print(name(s.connect_ex(('10.77.0.6', 5432)))); s.close()
for _ in range(50): dial('10.77.0.5').close()
print('done')
";
    each_backend(script, |output| assert_eq!(output, "EINPROGRESS\ndone\n"));
}

#[test]
fn a_program_that_ends_its_side_at_once_still_gets_its_answer() {
    // The relay may see the end of the stream before it has looked at its own handshake.
    let script = "
good = 0
for _ in range(100):
    s = socket.socket(); s.setblocking(False); s.connect_ex(('10.77.0.5', 5432))
    e = select.epoll(); e.register(s, select.EPOLLOUT); e.poll(20)
    s.send(b'x'); s.shutdown(socket.SHUT_WR); s.settimeout(20); good += s.recv(10) == b'x'
print(good)
";
    each_backend(script, |output| assert_eq!(output, "100\n"));
}
