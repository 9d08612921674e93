//! Names of unmodified programs, through both backends. The program's own name server is a thread here; it needs
//! port 53 of a loopback address.

mod common;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Lab, backends};

/// A name server that answers every question with `192.0.2.1` and remembers the names.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    fn start(address: &str) -> io::Result<Self> {
        let socket = UdpSocket::bind((address, 53))?;
        let listener = TcpListener::bind((address, 53))?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let this = Self { address: socket.local_addr()?, asked: asked.clone() };
        let log = asked.clone();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&answer(&buffer[..len], &log), from).ok();
            }
        });
        thread::spawn(move || {
            use std::io::{Read, Write};
            while let Ok((mut stream, _)) = listener.accept() {
                let mut len = [0; 2];
                if stream.read_exact(&mut len).is_err() {
                    continue;
                }
                let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut message).ok();
                let reply = answer(&message, &asked);
                stream.write_all(&(reply.len() as u16).to_be_bytes()).ok();
                stream.write_all(&reply).ok();
            }
        });
        Ok(this)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody panicked").clone()
    }
}

fn answer(query: &[u8], log: &Mutex<Vec<String>>) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while query[at] != 0 {
        let len = usize::from(query[at]);
        name += &String::from_utf8_lossy(&query[at + 1..at + 1 + len]);
        name.push('.');
        at += 1 + len;
    }
    let is_a = query[at + 1..at + 3] == [0, 1];
    log.lock().expect("nobody panicked").push(name);
    let mut reply = query[..at + 5].to_vec();
    reply[2] = 0x81;
    reply[3] = 0x80;
    reply[6..12].copy_from_slice(&[0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    reply
}

/// A lab whose programs ask a server of ours; `None` where port 53 is closed to us.
fn lab(backend: adit_intercept::Backend, address: &str) -> Option<(Lab, NameServer)> {
    let server = match NameServer::start(address) {
        Ok(server) => server,
        Err(error) => {
            // Only root may be refused for a reason that CI must know of.
            let excused = std::env::var_os("CI").is_none() || !rustix::process::geteuid().is_root();
            assert!(excused, "port 53 of {address}: {error}");
            println!("SKIPPED 1 test: port 53 of {address}: {error}");
            return None;
        }
    };
    let lab = Lab::new(backend);
    // What this program's library reads; the supervisor is told of the same server.
    fs::write(&lab.options.resolv_conf, format!("nameserver {}\n", server.address.ip())).expect("a file");
    Some((lab, server))
}

/// Python that asks a server without the C library.
const ASK: &str = "
import socket, struct, sys
def question(name, record, id=0x1234):
    labels = b''.join(bytes([len(l)]) + l.encode() for l in name.split('.') if l) + b'\\0'
    return struct.pack('>HHHHHH', id, 0x0100, 1, 0, 0, 0) + labels + struct.pack('>HH', record, 1)
def summary(reply):
    id, flags, _, answers, _, _ = struct.unpack('>HHHHHH', reply[:12])
    last = socket.inet_ntoa(reply[-4:]) if answers else '-'
    return '%x rcode=%d answers=%d %s' % (id, flags & 15, answers, last)
def ask(server, name, record=1):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
    s.sendto(question(name, record), (server, 53)); reply, source = s.recvfrom(2000)
    assert source == (server, 53), source
    return summary(reply)
def ask_tcp(server, name, record=1):
    s = socket.create_connection((server, 53), 20); q = question(name, record)
    s.sendall(struct.pack('>H', len(q)) + q); f = s.makefile('rb')
    return summary(f.read(struct.unpack('>H', f.read(2))[0]))
";

#[test]
fn private_names_are_answered_inside_and_the_rest_by_the_programs_own_server() {
    let python = need!("python3");
    for (index, backend) in backends().into_iter().enumerate() {
        let address = format!("127.77.53.{}", 10 + index);
        let Some((lab, server)) = lab(backend, &address) else { return };
        let script = format!(
            "{ASK}
for f in (ask, ask_tcp):
    for n in ('db.internal', 'DB.Internal', 'db', 'nothing.internal', 'example.com', 'example.org'):
        print(n, f('{address}', n))
"
        );
        let output = lab.python(&python, &script).success();
        let once = "db.internal 1234 rcode=0 answers=1 10.77.0.5\n\
                    DB.Internal 1234 rcode=0 answers=1 10.77.0.5\n\
                    db 1234 rcode=0 answers=2 10.77.0.5\n\
                    nothing.internal 1234 rcode=3 answers=0 -\n\
                    example.com 1234 rcode=0 answers=1 192.0.2.1\n\
                    example.org 1234 rcode=0 answers=1 192.0.2.1\n";
        assert_eq!(output, format!("{once}{once}"));
        assert!(server.asked().iter().all(|name| name.starts_with("example.")), "{:?}", server.asked());
    }
}

#[test]
fn a_private_name_is_servfail_while_the_network_is_down_and_never_leaves() {
    let python = need!("python3");
    for (index, backend) in backends().into_iter().enumerate() {
        let address = format!("127.77.53.{}", 20 + index);
        let Some((mut lab, server)) = lab(backend, &address) else { return };
        lab.options.wait = std::time::Duration::from_millis(100);
        lab.network.take_down("wg.silent");
        let script = format!("{ASK}
print(ask('{address}', 'db.internal')); print(ask('{address}', '5.0.77.10.in-addr.arpa', 12)); print(ask('{address}', 'db'))");
        let output = lab.python(&python, &script).success();
        assert_eq!(output, "1234 rcode=2 answers=0 -\n".repeat(3));
        assert_eq!(server.asked(), Vec::<String>::new());
    }
}

#[test]
fn the_c_library_resolves_private_names_without_knowing() {
    let python = need!("python3");
    // The C library reads the machine's own file, whoever is named there.
    let conf =
        adit_intercept::wire::ResolvConf::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    for backend in backends() {
        let mut lab = Lab::new(backend);
        lab.options.resolv_conf = "/etc/resolv.conf".into();
        let script = "
import socket
print(sorted({a[4][0] for a in socket.getaddrinfo('db.internal', 5432)}))
s = socket.create_connection(('db.internal', 5432), 20); print(s.getpeername()[1]); s.send(b'by name'); print(s.recv(9))
";
        let outcome = lab.python(&python, script);
        assert_eq!(
            outcome.success(),
            "['10.77.0.5', 'fd77::5']\n5432\nb'by name'\n",
            "{backend}, nameservers {:?}",
            conf.servers
        );
    }
}

#[test]
fn tools_find_private_hosts_by_name() {
    for backend in backends() {
        let mut lab = Lab::new(backend);
        lab.options.resolv_conf = "/etc/resolv.conf".into();
        let curl = need!("curl");
        let output = lab.run([curl.as_os_str(), "-sS".as_ref(), "http://db.internal/".as_ref()]).success();
        assert_eq!(output, "hello");
        let outcome = lab.run([curl.as_os_str(), "-sS".as_ref(), "http://db.internal:1/".as_ref()]);
        assert_eq!(outcome.exit.code(), 7, "curl: could not connect");
        assert!(
            outcome.output.contains("refused") || outcome.output.contains("connect"),
            "{}",
            outcome.output
        );
        let getent = need!("getent");
        let output = lab.run([getent.as_os_str(), "ahostsv4".as_ref(), "db.internal".as_ref()]).success();
        assert!(output.starts_with("10.77.0.5"), "{output}");
        let dig = need!("dig");
        let output = lab.run([dig.as_os_str(), "+short".as_ref(), "db.internal".as_ref()]).success();
        assert_eq!(output, "10.77.0.5\n");
        let output = lab
            .run([dig.as_os_str(), "+short".as_ref(), "+tcp".as_ref(), "slow.internal".as_ref()])
            .success();
        assert_eq!(output, "10.77.0.6\n");
    }
}

#[test]
fn a_name_server_inside_the_network_is_asked_through_it() {
    // The script's network has no server at that address: the question must not be sent anywhere else.
    let python = need!("python3");
    for backend in backends() {
        let lab = Lab::new(backend);
        fs::write(&lab.options.resolv_conf, "nameserver 10.77.0.53\n").expect("a file");
        let script = format!(
            "{ASK}
print(ask('10.77.0.53', 'db.internal'))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.3)
s.sendto(question('example.com', 1), ('10.77.0.53', 53))
try: print(s.recv(100))
except TimeoutError: print('timeout')"
        );
        let output = lab.python(&python, &script).success();
        assert_eq!(output, "1234 rcode=0 answers=1 10.77.0.5\ntimeout\n");
    }
}
