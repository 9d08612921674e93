//! Debian's `openvpn` as the server: keys, configurations, and the profiles that fit them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use super::laboratory::{Lab, peer};
use super::process::{Process, run};

const LIMIT: Duration = Duration::from_secs(20);
/// The next release among the peers.
const NEXT: &str = "openvpn-2.7";

/// How the control channel is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrap {
    None,
    Auth,
    Crypt,
    CryptV2,
}

/// One server and the client's profile for it: tests add lines to either.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    next: bool,
    tcp: bool,
    wrap: Wrap,
    cipher: &'static str,
    port: u16,
    identity: (String, String),
    client: (String, String),
    ca: String,
    pool: bool,
    lines: Vec<String>,
    profile: Vec<String>,
}

impl Server {
    /// A server on UDP with tls-crypt and AES-256-GCM, as most are today.
    pub(crate) fn new() -> Self {
        let pki = pki();
        Self {
            next: false,
            tcp: false,
            wrap: Wrap::Crypt,
            cipher: "AES-256-GCM",
            port: 1194,
            identity: pki.server.clone(),
            client: pki.client.clone(),
            ca: pki.authority.pem(),
            pool: true,
            lines: Vec::new(),
            profile: Vec::new(),
        }
    }

    /// The same by the next release of OpenVPN.
    pub(crate) fn next(mut self) -> Self {
        self.next = true;
        self
    }

    pub(crate) fn tcp(mut self, tcp: bool) -> Self {
        self.tcp = tcp;
        self
    }

    pub(crate) fn wrap(mut self, wrap: Wrap) -> Self {
        self.wrap = wrap;
        self
    }

    pub(crate) fn cipher(mut self, cipher: &'static str) -> Self {
        self.cipher = cipher;
        self
    }

    /// Another certificate and key of the server, in PEM.
    pub(crate) fn identity(mut self, identity: (String, String)) -> Self {
        self.identity = identity;
        self
    }

    /// Another certificate and key of the client, in PEM; both empty for none.
    pub(crate) fn client(mut self, client: (String, String)) -> Self {
        self.client = client;
        self
    }

    /// Another authority in the client's profile.
    pub(crate) fn ca(mut self, pem: String) -> Self {
        self.ca = pem;
        self
    }

    /// Without `server` and its kin: lines of the test's own say who gets which address.
    pub(crate) fn without_pool(mut self) -> Self {
        self.pool = false;
        self
    }

    /// Lines of the server's configuration.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        self.lines.push(lines.to_owned());
        self
    }

    /// Lines of the client's profile.
    pub(crate) fn profile(mut self, lines: &str) -> Self {
        self.profile.push(lines.to_owned());
        self
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.tcp
    }

    fn configuration(&self) -> String {
        let mut text = format!(
            "dev vpn0\ndev-type tun\nproto {}\nport {}\ndh none\nkeepalive 10 60\nverb 4\n\
             data-ciphers {}\npush \"route 10.77.0.0 255.255.0.0\"\npush \"route-ipv6 fd77::/64\"\n\
             push \"dhcp-option DNS 10.77.0.53\"\npush \"dhcp-option DOMAIN corp.internal\"\n\
             push \"dhcp-option DOMAIN-SEARCH internal\"\n",
            if self.tcp { "tcp-server" } else { "udp" },
            self.port,
            self.cipher
        );
        let lines = self.lines.join("\n");
        for (option, default) in [
            ("topology ", "topology subnet"),
            ("server ", "server 10.66.0.0 255.255.255.0"),
            ("server-ipv6 ", "server-ipv6 fd66::/64"),
        ] {
            if self.pool && !lines.lines().any(|line| line.starts_with(option)) {
                let _ = writeln!(text, "{default}");
            }
        }
        self.common(&mut text, true);
        inline(&mut text, "ca", &pki().authority.pem());
        inline(&mut text, "cert", &self.identity.0);
        inline(&mut text, "key", &self.identity.1);
        text + &lines + "\n"
    }

    /// The client's profile, whole in one text.
    pub(crate) fn ovpn(&self) -> String {
        let proto = if self.tcp { "tcp" } else { "udp" };
        let mut text =
            format!("client\ndev tun\nnobind\nremote-cert-tls server\ndata-ciphers {}\n", self.cipher);
        let own = self.profile.join("\n");
        if !own.lines().any(|line| line.starts_with("remote ")) {
            let _ = writeln!(text, "remote 192.0.2.1 {} {proto}", self.port);
        }
        self.common(&mut text, false);
        if !self.ca.is_empty() {
            inline(&mut text, "ca", &self.ca);
        }
        if !self.client.0.is_empty() {
            inline(&mut text, "cert", &self.client.0);
            inline(&mut text, "key", &self.client.1);
        }
        text + &own + "\n"
    }

    /// What both ends have: the keys of the wrap and the digest.
    fn common(&self, text: &mut String, server: bool) {
        let keys = &pki().keys;
        match self.wrap {
            Wrap::None => {}
            Wrap::Auth => {
                inline(text, "tls-auth", &keys.auth);
                let _ = writeln!(text, "key-direction {}", u8::from(!server));
            }
            Wrap::Crypt => inline(text, "tls-crypt", &keys.crypt),
            Wrap::CryptV2 => {
                inline(text, "tls-crypt-v2", if server { &keys.v2_server } else { &keys.v2_client })
            }
        }
        if self.wrap == Wrap::Auth || self.cipher.contains("CBC") {
            text.push_str("auth SHA256\n");
        }
    }
}

fn inline(text: &mut String, tag: &str, content: &str) {
    let _ = write!(text, "<{tag}>\n{}\n</{tag}>\n", content.trim_end());
}

impl Lab {
    /// A laboratory for servers of the next release, unless that is missing.
    pub(crate) fn build_next(test: &str, parts: &[super::Part]) -> Option<Self> {
        if !peer(NEXT).exists() {
            adit_tests::skip(test, &format!("{NEXT} is not installed"));
            return None;
        }
        Self::build(test, parts)
    }

    /// Starts a server of OpenVPN, in place of the one that ran.
    pub(crate) fn start_openvpn(&mut self, server: &Server) {
        let program = if server.next { peer(NEXT) } else { "openvpn".into() };
        let mut process = self.spawn_openvpn(server, self.server.command(program));
        process.wait_for("Initialization Sequence Completed", LIMIT);
        self.openvpn = Some(process);
    }

    /// The same with a server whose clock shows this time.
    pub(crate) fn start_openvpn_at(&mut self, server: &Server, time: &str) {
        let mut command = self.server.command("faketime");
        // faketime waits beside the program, which would outlive it.
        command.args([time, "setpriv", "--pdeathsig", "KILL", "openvpn"]);
        let mut process = self.spawn_openvpn(server, command);
        process.wait_for("Initialization Sequence Completed", LIMIT);
        self.openvpn = Some(process);
    }

    fn spawn_openvpn(&mut self, server: &Server, mut command: Command) -> Process {
        self.openvpn = None;
        let conf = self.dir.path().join("server.conf");
        fs::write(&conf, server.configuration()).unwrap();
        command.arg("--config").arg(conf).arg("--cd").arg(self.dir.path());
        Process::spawn("openvpn", command, &self.dir.logs())
    }

    /// The server that runs.
    pub(crate) fn openvpn(&mut self) -> &mut Process {
        self.openvpn.as_mut().expect("a server of OpenVPN runs")
    }

    /// Writes the client's profile to a file of its own; returns its path.
    pub(crate) fn ovpn(&self, server: &Server) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("corp{}.ovpn", NEXT.fetch_add(1, Ordering::Relaxed));
        self.write(&name, server.ovpn()).to_string_lossy().into_owned()
    }

    /// A script for the server, executable; returns its path.
    pub(crate) fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Joins from the client's namespace with Debian's `openvpn`, as root with a TUN device: proof that the server works.
    pub(crate) fn join_with_openvpn(&mut self, server: &Server) -> Process {
        let path = self.ovpn(server);
        let mut command = self.client.command("openvpn");
        command.args(["--config", &path, "--verb", "4"]);
        let mut process = Process::spawn("openvpn-client", command, &self.dir.logs());
        process.wait_for("Initialization Sequence Completed", LIMIT);
        self.client.set_resolv_conf("nameserver 10.77.0.53\nsearch corp.internal\n");
        process
    }
}

/// An authority for certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(common_name: &str) -> Self {
        let mut params = params(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key in PEM.
    pub(crate) fn issue(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// A list that revokes these serial numbers, in PEM.
    pub(crate) fn revoke(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| rcgen::RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params
}

/// What a server's certificate has: tests change it.
pub(crate) fn server_params() -> CertificateParams {
    let mut params = params("vpn.example.test");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

/// What a client's certificate has.
pub(crate) fn client_params() -> CertificateParams {
    let mut params = params("client1");
    params.serial_number = Some(SerialNumber::from(0x77));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Certificates and keys that all tests of this run share.
pub(crate) struct Pki {
    pub(crate) authority: Authority,
    pub(crate) server: (String, String),
    pub(crate) client: (String, String),
    pub(crate) keys: Keys,
}

/// The keys of the wraps, in their files' form.
pub(crate) struct Keys {
    pub(crate) auth: String,
    pub(crate) crypt: String,
    pub(crate) v2_server: String,
    pub(crate) v2_client: String,
    /// A client's key that another server issued.
    pub(crate) v2_foreign: String,
}

/// The certificates and keys of this run.
pub(crate) fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let authority = Authority::new("Laboratory");
        let (server, client) = (authority.issue(&server_params()), authority.issue(&client_params()));
        Pki { authority, server, client, keys: Keys::generate() }
    })
}

impl Keys {
    fn generate() -> Self {
        let dir = std::env::temp_dir().join(format!("adit-{}-keys-lab", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let generate = |arguments: &[&str], name: &str| {
            let mut command = Command::new("openvpn");
            run(command.args(arguments).arg(dir.join(name)), LIMIT).expect(0);
            read(name)
        };
        let auth = generate(&["--genkey", "secret"], "auth");
        let crypt = generate(&["--genkey", "secret"], "crypt");
        let v2 = |name: &str| {
            let server = generate(&["--genkey", "tls-crypt-v2-server"], name);
            let path = dir.join(name).to_string_lossy().into_owned();
            let issue = ["--tls-crypt-v2", &path, "--genkey", "tls-crypt-v2-client"];
            (server, generate(&issue, &format!("{name}-client")))
        };
        let (v2_server, v2_client) = v2("server");
        let (_, v2_foreign) = v2("another");
        let _ = fs::remove_dir_all(&dir);
        Self { auth, crypt, v2_server, v2_client, v2_foreign }
    }
}
