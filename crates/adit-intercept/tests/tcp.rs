//! TCP of unmodified programs, through both backends.

mod common;

use common::{BACKENDS, Lab};

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
    for backend in BACKENDS {
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
