//! Proxies on the way to the server: each a real one, as its users set it up.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::failures::fails;
use super::ways::{counter, goes_on};
use super::{BOTH_WAYS, LIMIT, PEER, reaches};
use crate::support::{Lab, Part, Process, Server, run, wait_until};

const PARTS: &[Part] = &[Part::OpenVpn, Part::Names];
/// The machine that all proxies run on.
const HOST: &str = "192.0.2.80";
const LOGIN: &str = "u1\np1\n";
const WRONG: &str = "u1\nwrong\n";

/// Waits until something listens on a port of the proxies' machine.
fn listens(lab: &Lab, port: u16) {
    let at: SocketAddr = format!("{HOST}:{port}").parse().unwrap();
    wait_until("the proxy listens", LIMIT, || {
        lab.server.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok())
    });
}

/// `http-proxy` with options, and user and password inside the profile.
fn through_http(server: &Server, port: u16, options: &str, login: &str) -> Server {
    let inside = format!("<http-proxy-user-pass>\n{login}</http-proxy-user-pass>");
    server.clone().profile(&format!("http-proxy {HOST} {port} {options}\n{inside}"))
}

/// `socks-proxy` with user and password in a file.
fn through_socks(lab: &Lab, server: &Server, port: u16, login: &str) -> Server {
    let file = lab.write("proxy-login", login);
    server.clone().profile(&format!("socks-proxy {HOST} {port} {}", file.display()))
}

#[test]
fn tinyproxy_and_microsocks_carry_the_connection() {
    let Some(mut lab) = Lab::build("openvpn_proxies", PARTS) else { return };
    let server = Server::new().tcp(true);
    lab.start_openvpn(&server);
    let conf = format!(
        "Port 8888\nListen {HOST}\nAllow 192.0.2.0/24\nBasicAuth u1 p1\nConnectPort 1194\nMaxClients 10\nUser nobody\n"
    );
    let conf = lab.write("tinyproxy.conf", conf);
    let mut http = lab.server.command("tinyproxy");
    http.arg("-d").arg("-c").arg(&conf);
    lab.spawn("tinyproxy", http);
    let mut socks = lab.server.command("microsocks");
    socks.args(["-i", HOST, "-p", "1080", "-u", "u1", "-P", "p1"]);
    lab.spawn("microsocks", socks);
    listens(&lab, 8888);
    listens(&lab, 1080);
    reaches(&lab, &through_http(&server, 8888, "auto", LOGIN), &[], PEER);
    reaches(&lab, &through_socks(&lab, &server, 1080, LOGIN), &[], PEER);

    let seen = fails(&lab, &through_http(&server, 8888, "auto", WRONG), "ovpn.http_proxy", 21);
    assert!(seen.contains("does not accept our login"), "{seen}");
    let seen = fails(&lab, &through_socks(&lab, &server, 1080, WRONG), "ovpn.socks_proxy", 21);
    assert!(seen.contains("does not accept our login"), "{seen}");
    // It has no relay for datagrams, which Debian's client would wait for in silence.
    let datagrams = Server::new().profile("server-poll-timeout 4");
    let seen = fails(&lab, &through_socks(&lab, &datagrams, 1080, LOGIN), "ovpn.socks_proxy", 21);
    assert!(seen.contains("does not do what it was asked for"), "{seen}");
    fails(&lab, &server.profile(&format!("http-proxy {HOST} 8889")), "ovpn.http_proxy", 21);
}

/// Starts squid with these lines about logins.
fn start_squid(lab: &mut Lab, port: u16, auth: &str) {
    let run = lab.dir.path().join(format!("squid{port}"));
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(65534), Some(65534)).unwrap();
    let dir = run.display();
    let conf = format!(
        "http_port {HOST}:{port}\npid_filename {dir}/pid\ncoredump_dir {dir}\ncache deny all\n\
         access_log none\ncache_log {dir}/log\nlogfile_rotate 0\ncache_effective_user nobody\npinger_enable off\n\
         netdb_filename none\nshutdown_lifetime 0 seconds\nvisible_hostname proxy.example.test\n\
         {auth}\nacl known proxy_auth REQUIRED\nhttp_access allow CONNECT known\nhttp_access deny all\n"
    );
    let conf = lab.write(&format!("squid{port}.conf"), conf);
    let mut squid = lab.server.command("squid");
    squid.arg("-N").arg("-f").arg(conf);
    // Each would have the same name in shared memory.
    squid.arg("-n").arg(format!("adit{}x{port}", std::process::id()));
    lab.spawn(&format!("squid{port}"), squid);
    listens(lab, port);
}

#[test]
fn squid_is_given_a_digest_and_its_ntlm_is_told() {
    let Some(mut lab) = Lab::build("openvpn_squid", PARTS) else { return };
    let server = Server::new().tcp(true);
    lab.start_openvpn(&server);
    let passwords = lab.write("digest", "u1:p1\n");
    let helpers = "/usr/lib/squid";
    let digest = format!(
        "auth_param digest program {helpers}/digest_file_auth {}\nauth_param digest realm lab\n\
         auth_param digest children 1",
        passwords.display()
    );
    start_squid(&mut lab, 3128, &digest);
    reaches(&lab, &through_http(&server, 3128, "auto", LOGIN), &[], BOTH_WAYS);
    reaches(&lab, &through_http(&server, 3128, "stdin digest", LOGIN), &[], PEER);
    let seen = fails(&lab, &through_http(&server, 3128, "auto", WRONG), "ovpn.http_proxy", 21);
    assert!(seen.contains("407"), "{seen}");

    let ntlm = format!("auth_param ntlm program {helpers}/ntlm_fake_auth\nauth_param ntlm children 1");
    start_squid(&mut lab, 3129, &ntlm);
    let seen = fails(&lab, &through_http(&server, 3129, "auto", LOGIN), "ovpn.http_proxy", 21);
    assert!(seen.contains("its methods are none of ours: NTLM"), "{seen}");
}

/// Dante, which knows the users of its system: of one that has a single user, `u1`.
fn dante(lab: &Lab) -> Process {
    let hash =
        run(std::process::Command::new("openssl").args(["passwd", "-6", "p1"]), LIMIT).expect(0).text();
    let users = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nu1:x:1001:1001::/:/bin/false\n";
    let passwd = lab.write("passwd", users);
    let shadow = lab.write("shadow", format!("u1:{hash}:19000::::::\n"));
    let conf = format!(
        "logoutput: stdout\ninternal: {HOST} port = 1081\nexternal: 192.0.2.80\nsocksmethod: username\n\
         clientmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n\
         client pass {{ from: 192.0.2.0/24 to: 0.0.0.0/0 }}\n\
         socks pass {{\n from: 0.0.0.0/0 to: 0.0.0.0/0\n command: connect udpassociate udpreply\n log: error\n}}\n"
    );
    let conf = lab.write("danted.conf", conf);
    let resolv = lab.write("resolv", "nameserver 192.0.2.53\n");
    let mounts = [(passwd, "passwd"), (shadow, "shadow"), (resolv, "resolv.conf")];
    let mounts = mounts.map(|(path, name)| format!("mount --bind {} /etc/{name}", path.display()));
    // Its processes outlive the first of them: a namespace ends all with the shell.
    let script = format!("set -e\n{}\ndanted -f {}\nexit", mounts.join("\n"), conf.display());
    let mut command = lab.server.command("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    let process = Process::spawn("danted", command, &lab.dir.logs());
    listens(lab, 1081);
    process
}

#[test]
fn dante_relays_streams_and_datagrams_and_connections_survive_its_restart() {
    let Some(mut lab) = Lab::build("openvpn_dante", PARTS) else { return };
    let mut proxy = dante(&lab);
    for tcp in [true, false] {
        let server = Server::new().tcp(tcp).profile("server-poll-timeout 4");
        lab.start_openvpn(&server);
        reaches(&lab, &through_socks(&lab, &server, 1081, LOGIN), &[], BOTH_WAYS);
        assert!(lab.openvpn().printed().contains(HOST), "the server sees the proxy alone");
        let seen = fails(&lab, &through_socks(&lab, &server, 1081, WRONG), "ovpn.socks_proxy", 21);
        assert!(seen.contains("does not accept our login"), "{seen}");
    }
    // The server's name is the proxy's to resolve.
    let named = Server::new().profile("remote vpn.example.test 1194 udp");
    reaches(&lab, &through_socks(&lab, &named, 1081, LOGIN), &[], PEER);

    let server = Server::new().server("keepalive 2 20");
    lab.start_openvpn(&server);
    let counter = counter(&lab, &through_socks(&lab, &server, 1081, LOGIN));
    proxy.signal(rustix::process::Signal::KILL);
    proxy.wait(LIMIT);
    let proxy = dante(&lab);
    goes_on(&counter, 20, LIMIT);
    wait_until("why it was away is told", LIMIT, || counter.printed().contains("[ovpn.socks_proxy]"));
    drop((counter, proxy));
}
