//! UDP of unmodified programs, through both backends.

mod common;

use common::{Lab, backends};

fn each_backend(script: &str, expected: &str) {
    let python = need!("python3");
    for backend in backends() {
        println!("backend {backend}");
        let output = Lab::new(backend).python(&python, script).success();
        assert_eq!(output, expected, "{backend}");
    }
}

#[test]
fn a_connected_socket_talks_and_knows_its_peer() {
    each_backend(
        "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
s.connect(('10.77.0.5', 7)); print(s.getpeername())
s.send(b'one'); print(s.recv(100)); s.send(b'two'); print(s.recvfrom(100))
",
        "('10.77.0.5', 7)\nb'one'\n(b'two', ('10.77.0.5', 7))\n",
    );
}

#[test]
fn an_unconnected_socket_sees_the_true_source_of_each_datagram() {
    each_backend(
        "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
s.sendto(b'near', ('10.77.0.5', 7)); print(s.recvfrom(100))
s.sendto(b'far', ('10.77.0.6', 7)); print(s.recvfrom(100))
print(s.sendmsg([b'a', b'', b'b'], [], 0, ('10.77.0.5', 7)))
data, control, flags, source = s.recvmsg(100); print(data, flags, source)
buffers = bytearray(1), bytearray(5)
s.sendto(b'parts', ('10.77.0.5', 7)); n, _, _, source = s.recvmsg_into(buffers); print(n, buffers, source)
s.sendto(b'cut off', ('10.77.0.5', 7)); print(s.recvfrom(3))
",
        "(b'near', ('10.77.0.5', 7))\n(b'far', ('10.77.0.6', 7))\n2\nb'ab' 0 ('10.77.0.5', 7)\n\
         5 (bytearray(b'p'), bytearray(b'arts\\x00')) ('10.77.0.5', 7)\n(b'cut', ('10.77.0.5', 7))\n",
    );
}

#[test]
fn a_blocking_receive_from_before_the_answer_gets_it() {
    each_backend(
        "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'slow', ('10.77.0.6', 7)); print(s.recvfrom(100))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, (0).to_bytes(8, 'little') + (200000).to_bytes(8, 'little'))
try: s.recvfrom(100)
except BlockingIOError: print('EAGAIN')
s.setblocking(False)
try: s.recvfrom(100)
except BlockingIOError: print('EAGAIN')
",
        "(b'slow', ('10.77.0.6', 7))\nEAGAIN\nEAGAIN\n",
    );
}

#[test]
fn both_address_families_are_carried() {
    each_backend(
        "
import socket
for to in ('fd77::5', '::ffff:10.77.0.5'):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(20)
    s.sendto(b'six', (to, 7)); print(s.recvfrom(100)[1][:2])
    s.connect((to, 7)); print(s.getpeername()[:2]); s.send(b'seven'); print(s.recv(100))
",
        "('fd77::5', 7)\n('fd77::5', 7)\nb'seven'\n\
         ('::ffff:10.77.0.5', 7)\n('::ffff:10.77.0.5', 7)\nb'seven'\n",
    );
}

#[test]
fn a_relay_takes_nothing_from_other_sockets() {
    each_backend(
        "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(20)
s.connect(('10.77.0.5', 7))
row = [line.split() for line in open('/proc/net/udp')][1:]
mine = s.getsockname()[1]
relay = [r[1] for r in row if int(r[2].split(':')[1], 16) == mine][0]
ip, port = relay.split(':')
relay = socket.inet_ntoa(bytes.fromhex(ip)[::-1]), int(port, 16)
intruder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); intruder.settimeout(0.3)
intruder.sendto(b'let me in', relay)
try: print(intruder.recv(100))
except (TimeoutError, ConnectionRefusedError): print('nothing')
",
        "nothing\n",
    );
}

#[test]
fn loopback_and_public_datagrams_stay_the_kernels() {
    each_backend(
        "
import socket
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(('127.0.0.1', 0)); a.settimeout(20)
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.settimeout(20)
b.sendto(b'private', ('10.77.0.5', 7)); b.recvfrom(100)
b.sendto(b'hello', a.getsockname()); data, source = a.recvfrom(100); print(data)
a.sendto(b'back', source); data, source = b.recvfrom(100); print(data, source == a.getsockname())
",
        "b'hello'\nb'back' True\n",
    );
}

#[test]
fn several_datagrams_in_one_call_go_out_and_come_in_with_their_sources() {
    each_backend(
        "
import ctypes, socket, time
libc = ctypes.CDLL(None, use_errno=True)
class Iov(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
class Msg(ctypes.Structure): _fields_ = [('name', ctypes.c_void_p), ('namelen', ctypes.c_uint32),
    ('iov', ctypes.c_void_p), ('iovlen', ctypes.c_size_t), ('control', ctypes.c_void_p),
    ('controllen', ctypes.c_size_t), ('flags', ctypes.c_int)]
class Mmsg(ctypes.Structure): _fields_ = [('hdr', Msg), ('len', ctypes.c_uint32)]
def address(ip): return (socket.AF_INET).to_bytes(2, 'little') + (7).to_bytes(2, 'big') + socket.inet_aton(ip) + bytes(8)
def messages(parts):
    keep, array = [], (Mmsg * len(parts))()
    for slot, (name, data) in zip(array, parts):
        name, data = ctypes.create_string_buffer(name, 16), ctypes.create_string_buffer(data, max(len(data), 1))
        iov = Iov(ctypes.addressof(data), len(data.raw)); keep += [name, data, iov]
        slot.hdr = Msg(ctypes.addressof(name), 16, ctypes.addressof(iov), 1, None, 0, 0)
    return array, keep
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out, keep = messages([(address('10.77.0.5'), b'near'), (address('10.77.0.6'), b'farther'), (address('10.77.0.5'), b'x')])
print(libc.sendmmsg(s.fileno(), out, 3, 0), [m.len for m in out])
got = []
while len(got) < 3:
    into, keep = messages([(bytes(16), bytes(64))] * 4)
    n = libc.recvmmsg(s.fileno(), into, 4, 0x10000, None)
    assert n > 0, ctypes.get_errno()
    for m, name, data in zip(into[:n], keep[0::3], keep[1::3]):
        got.append((data.raw[:m.len], socket.inet_ntoa(name.raw[4:8]), int.from_bytes(name.raw[2:4], 'big')))
print(sorted(got))
",
        "3 [4, 7, 1]\n\
         [(b'farther', '10.77.0.6', 7), (b'near', '10.77.0.5', 7), (b'x', '10.77.0.5', 7)]\n",
    );
}
