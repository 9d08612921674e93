//! The table of all options: what becomes of each. The parser, `adit explain --options openvpn` and
//! `docs/openvpn-options.md` are made of it.

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// adit does what it says.
    Used,
    /// It makes no difference here, and nothing is said about it.
    Quiet,
    /// It is not carried out, and a note says why.
    Noted(&'static str),
    /// The profile is refused, and this is why.
    Refused(&'static str),
}

/// An option of a profile.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// How many parameters it takes at least.
    pub least: usize,
    /// How many parameters it takes at most.
    pub most: usize,
    /// What it is about.
    pub about: &'static str,
    /// Whether its content may stand in the profile, as `<name> … </name>`.
    pub inline: bool,
    /// Whether it may stand in a `<connection>` block.
    pub connection: bool,
}

const MANY: usize = 64;

const fn option(
    name: &'static str,
    treatment: Treatment,
    least: usize,
    most: usize,
    about: &'static str,
) -> OptionSpec {
    OptionSpec { name, treatment, least, most, about, inline: false, connection: false }
}

const fn used(name: &'static str, least: usize, most: usize, about: &'static str) -> OptionSpec {
    option(name, Treatment::Used, least, most, about)
}

const fn quiet(name: &'static str, least: usize, most: usize, about: &'static str) -> OptionSpec {
    option(name, Treatment::Quiet, least, most, about)
}

const fn noted(
    name: &'static str,
    least: usize,
    most: usize,
    about: &'static str,
    why: &'static str,
) -> OptionSpec {
    option(name, Treatment::Noted(why), least, most, about)
}

const fn refused(
    name: &'static str,
    least: usize,
    most: usize,
    about: &'static str,
    why: &'static str,
) -> OptionSpec {
    option(name, Treatment::Refused(why), least, most, about)
}

impl OptionSpec {
    const fn inline(mut self) -> Self {
        self.inline = true;
        self
    }

    const fn connection(mut self) -> Self {
        self.connection = true;
        self
    }
}

/// All options, by section.
#[rustfmt::skip]
pub const SECTIONS: &[(&str, &[OptionSpec])] = &[
    ("Servers and the way to them", &[
        used("remote", 1, 3, "a server: host, port, protocol").connection(),
        used("connection", 0, 0, "a block with a server and options of its own").inline(),
        used("proto", 1, 1, "udp, tcp-client or tcp, with 4 or 6 for one address family").connection(),
        used("proto-force", 1, 1, "use only the servers of this protocol"),
        used("port", 1, 1, "the port of servers that name none, and the local one").connection(),
        used("rport", 1, 1, "the port of servers that name none").connection(),
        used("lport", 1, 1, "the local UDP port; 0 lets the system choose").connection(),
        noted("local", 1, 1, "the local address to send from", "the system chooses the address by its routes"),
        quiet("bind", 0, 1, "bind to the local address and port"),
        quiet("nobind", 0, 0, "let the system choose the local port"),
        used("float", 0, 0, "accept authentic packets from another address of the server").connection(),
        used("remote-random", 0, 0, "shuffle the servers once"),
        used("remote-random-hostname", 0, 0, "put a random label before the server's name"),
        quiet("resolv-retry", 1, 1, "how long to retry name resolution; adit resolves again with every attempt"),
        quiet("preresolve", 0, 0, "resolve all names at the start"),
        quiet("persist-remote-ip", 0, 0, "keep the server's address over restarts"),
        quiet("persist-local-ip", 0, 0, "keep the local address over restarts"),
        used("connect-retry", 1, 2, "the pause between attempts, and what it may grow to").connection(),
        used("connect-retry-max", 1, 1, "how often each server is tried").connection(),
        used("connect-timeout", 1, 1, "how long to wait for a server's first answer").connection(),
        used("server-poll-timeout", 1, 1, "how long to wait for a server's first answer").connection(),
        used("http-proxy", 2, 4, "an HTTP proxy on the way, for TCP").connection(),
        used("http-proxy-user-pass", 0, 1, "user and password of the HTTP proxy").inline().connection(),
        used("http-proxy-option", 1, 3, "VERSION, AGENT or CUSTOM-HEADER of requests to the proxy").connection(),
        quiet("http-proxy-retry", 0, 0, "obsolete: retry the proxy"),
        quiet("http-proxy-timeout", 1, 1, "how long to wait for the proxy; connect-timeout covers it"),
        quiet("show-proxy-settings", 0, 2, "print the system's proxy settings"),
        used("socks-proxy", 1, 3, "a SOCKS 5 proxy on the way").connection(),
        quiet("socks-proxy-retry", 0, 0, "obsolete: retry the proxy"),
        used("explicit-exit-notify", 0, 1, "how often the end is told to the server, on UDP").connection(),
        quiet("multihome", 0, 0, "answer from the address that was called; for servers"),
        noted("mark", 1, 1, "mark packets for routing rules of Linux", "this needs privileges; adit needs no routing rules in userspace"),
        noted("bind-dev", 1, 1, "send through this network interface only", "this needs privileges; the system's routes decide"),
        quiet("passtos", 0, 0, "copy the TOS field to the outer packet"),
        quiet("sndbuf", 1, 1, "the size of the socket's send buffer; adit chooses it"),
        quiet("rcvbuf", 1, 1, "the size of the socket's receive buffer; adit chooses it"),
        quiet("socket-flags", 1, MANY, "TCP_NODELAY; adit always sets it"),
        quiet("tcp-nodelay", 0, 0, "TCP_NODELAY; adit always sets it"),
        noted("shaper", 1, 1, "limit the rate of sending", "adit does not limit rates"),
        quiet("mtu-disc", 1, 1, "path MTU discovery of the socket"),
        quiet("mtu-test", 0, 0, "measure the MTU after connecting"),
        used("session-timeout", 1, 1, "end the connection after this time"),
        used("inactive", 1, 2, "end the connection when too few bytes pass in a time"),
        used("ping", 1, 1, "send a ping when nothing was sent for this many seconds"),
        used("ping-restart", 1, 1, "connect again when nothing came for this many seconds"),
        used("ping-exit", 1, 1, "end when nothing came for this many seconds"),
        quiet("ping-timer-rem", 0, 0, "run the timers of ping only when a server is known"),
        used("keepalive", 2, 2, "short for ping and ping-restart"),
    ]),
    ("TLS and keys", &[
        used("client", 0, 0, "short for pull and tls-client"),
        used("tls-client", 0, 0, "take the client's part in TLS"),
        refused("tls-server", 0, 0, "take the server's part in TLS", "this is a server's configuration; adit is a client"),
        used("ca", 1, 1, "certificates of the authorities that are believed").inline(),
        used("capath", 1, 1, "a directory of authorities, under the names of `openssl rehash`"),
        used("cert", 1, 1, "our certificate, and those that lead to the authority").inline(),
        used("key", 1, 1, "our private key").inline(),
        used("extra-certs", 1, 1, "certificates that complete a chain").inline(),
        used("pkcs12", 1, 2, "a PKCS#12 archive with key, certificate and authorities").inline(),
        used("askpass", 0, 1, "the file with the password of the private key"),
        used("auth-nocache", 0, 0, "forget the password once a token of the server stands for it, where a person can be asked again"),
        used("crl-verify", 1, 2, "a list of revoked certificates, or a directory of their numbers").inline(),
        quiet("dh", 1, 1, "Diffie-Hellman parameters, of servers"),
        used("tls-auth", 1, 2, "authenticate control packets by this key").inline().connection(),
        used("key-direction", 1, 1, "which halves of the tls-auth key are ours").connection(),
        used("tls-crypt", 1, 1, "encrypt control packets by this key").inline().connection(),
        used("tls-crypt-v2", 1, 1, "encrypt control packets by a key of this client alone").inline().connection(),
        quiet("tls-crypt-v2-max-age", 1, 1, "how old client keys may be, for servers"),
        used("remote-cert-tls", 1, 1, "what the server's certificate must be meant for: server"),
        used("remote-cert-ku", 0, MANY, "key usages that the server's certificate must have one of"),
        used("remote-cert-eku", 1, 1, "an extended key usage that the server's certificate must have"),
        used("ns-cert-type", 1, 1, "the old form of remote-cert-tls"),
        used("verify-x509-name", 1, 2, "the name in the server's certificate"),
        used("tls-remote", 1, 1, "the old form of verify-x509-name"),
        used("peer-fingerprint", 1, 1, "SHA-256 of acceptable certificates of the server").inline(),
        used("verify-hash", 1, 2, "the hash of the certificate that issued the server's").inline(),
        quiet("verify-client-cert", 0, 1, "whether clients need certificates, for servers"),
        noted("x509-track", 1, 1, "export fields of certificates to scripts", "scripts are never run"),
        quiet("x509-username-field", 1, MANY, "which field names a client, for servers"),
        used("tls-version-min", 1, 2, "the least version of TLS; adit has 1.2 and 1.3"),
        used("tls-version-max", 1, 1, "the highest version of TLS"),
        used("tls-cipher", 1, 1, "the cipher suites of TLS 1.2"),
        used("tls-ciphersuites", 1, 1, "the cipher suites of TLS 1.3"),
        used("tls-groups", 1, 1, "the groups of the key exchange"),
        quiet("ecdh-curve", 1, 1, "the curve of the key exchange, of servers"),
        used("tls-cert-profile", 1, 1, "which signatures of certificates are acceptable"),
        used("tls-timeout", 1, 1, "when a control packet is sent again at the latest"),
        used("reneg-sec", 1, 2, "seconds until the keys are renewed"),
        used("reneg-bytes", 1, 1, "bytes until the keys are renewed"),
        used("reneg-pkts", 1, 1, "packets until the keys are renewed"),
        used("hand-window", 1, 1, "how long a key exchange may take"),
        used("tran-window", 1, 1, "how long the old keys stay in use"),
        quiet("single-session", 0, 0, "no new session after the first"),
        quiet("tls-exit", 0, 0, "end when TLS fails"),
        noted("tls-export-cert", 1, 1, "write the server's certificate to a directory", "nothing is written to disk"),
        noted("tls-verify", 1, MANY, "a script that judges certificates", "scripts are never run; remote-cert-tls and verify-x509-name check the server"),
        noted("keying-material-exporter", 2, 2, "export keys to plugins", "plugins are never loaded"),
        quiet("force-tls-key-material-export", 0, 0, "refuse peers without the newer derivation of keys"),
        refused("pkcs11-id", 1, 1, "a key on a smart card", "adit has no access to smart cards; use a certificate and key in files"),
        refused("pkcs11-id-management", 0, 0, "a key on a smart card", "adit has no access to smart cards; use a certificate and key in files"),
        refused("pkcs11-providers", 1, MANY, "a library for smart cards", "adit has no access to smart cards; use a certificate and key in files"),
        quiet("pkcs11-cert-private", 0, MANY, "access to the smart card's certificate"),
        quiet("pkcs11-pin-cache", 1, 1, "how long the smart card's PIN is kept"),
        quiet("pkcs11-private-mode", 0, MANY, "access to the smart card's key"),
        quiet("pkcs11-protected-authentication", 0, MANY, "the smart card's own PIN pad"),
        refused("cryptoapicert", 1, 1, "a key in the certificate store of Windows", "adit cannot read that store; use a certificate and key in files"),
        refused("management-external-key", 0, MANY, "a key behind the management interface", "adit has no management interface; use a key in a file"),
        refused("management-external-cert", 1, 1, "a certificate behind the management interface", "adit has no management interface; use a certificate in a file"),
        noted("engine", 0, 1, "a hardware engine of OpenSSL", "adit does not use OpenSSL"),
        noted("providers", 1, MANY, "providers of OpenSSL", "adit does not use OpenSSL"),
    ]),
    ("User, password and questions", &[
        used("auth-user-pass", 0, 1, "the server wants user and password; the file that has them").inline(),
        used("auth-retry", 1, 1, "what happens after a refused password; adit never repeats it"),
        used("static-challenge", 2, 3, "a question whose answer goes with the password"),
        noted("auth-token", 1, 1, "a token in place of the password", "tokens come from the server"),
        noted("auth-token-user", 1, 1, "the user name of the token", "tokens come from the server"),
        used("auth-federate", 0, 0, "log in by SAML, with the long strings of AWS Client VPN"),
        used("push-peer-info", 0, 0, "tell the server more about this client"),
        used("setenv", 1, MANY, "peer information (UV_…, IV_…), FORWARD_COMPATIBLE, opt; other variables are for scripts"),
        noted("setenv-safe", 2, 2, "a variable for scripts", "scripts are never run"),
    ]),
    ("The data channel", &[
        used("data-ciphers", 1, 1, "the ciphers to offer, in order of preference"),
        used("ncp-ciphers", 1, 1, "the old name of data-ciphers"),
        used("data-ciphers-fallback", 1, 1, "the cipher for servers that negotiate none"),
        used("cipher", 1, 1, "the cipher of servers before 2.4; appended to what is offered"),
        quiet("ncp-disable", 0, 0, "do not negotiate ciphers"),
        used("auth", 1, 1, "the digest of tls-auth and of CBC ciphers"),
        quiet("keysize", 1, 1, "the key size of ciphers with a choice of it"),
        used("comp-lzo", 0, 1, "LZO framing; nothing is ever compressed").connection(),
        used("compress", 0, 1, "compression framing; nothing is ever compressed").connection(),
        quiet("comp-noadapt", 0, 0, "how LZO adapts"),
        quiet("allow-compression", 1, 1, "whether compression is accepted; adit never compresses"),
        used("fragment", 1, 2, "split packets that are larger, on UDP").connection(),
        used("mssfix", 0, 2, "lower the segment size of TCP inside").connection(),
        used("tun-mtu", 1, 2, "the MTU inside").connection(),
        quiet("tun-mtu-extra", 1, 1, "room for larger packets"),
        quiet("tun-mtu-max", 1, 1, "the largest MTU that may be pushed"),
        quiet("link-mtu", 1, 1, "the MTU outside; tun-mtu and mssfix decide"),
        quiet("max-packet-size", 1, 1, "the largest control packet"),
        used("replay-window", 0, 2, "how many packets may come late"),
        quiet("mute-replay-warnings", 0, 0, "do not log repeated packets"),
        noted("replay-persist", 1, 1, "keep the replay state in a file", "nothing is written to disk"),
        refused("no-replay", 0, 0, "do not protect against repeated packets", "a connection without replay protection is not offered"),
        refused("no-iv", 0, 0, "do not use an initialisation vector", "servers since 2.5 refuse it, and it is not safe"),
        refused("secret", 1, 2, "a static key in place of TLS", "there is no TLS with a static key; ask for a profile with certificates (OpenVPN 2.7 refuses it too)"),
        used("key-method", 1, 1, "how keys are exchanged; only 2 is left"),
        quiet("prng", 1, 2, "the random number generator"),
        quiet("use-prediction-resistance", 0, 0, "reseed the random number generator"),
        quiet("disable-occ", 0, 0, "do not compare options with the server"),
        quiet("opt-verify", 0, 0, "end when options differ from the server's"),
        quiet("compat-mode", 1, 1, "behave like an older version"),
        quiet("disable-dco", 0, 0, "do not use the kernel's data channel"),
        quiet("fast-io", 0, 0, "send without asking whether the socket is ready"),
        quiet("tcp-queue-limit", 1, 1, "the queue of packets of a server"),
    ]),
    ("Addresses, routes and DNS", &[
        used("pull", 0, 0, "ask the server for options"),
        used("pull-filter", 2, 2, "accept, ignore or reject pushed options that begin with a text"),
        used("route-nopull", 0, 0, "take no routes and no DNS from the server"),
        used("dev", 1, 1, "the kind of device; only tun is possible"),
        used("dev-type", 1, 1, "the kind of device; only tun is possible"),
        quiet("dev-node", 1, 1, "the path of the device"),
        used("topology", 1, 1, "how addresses are laid out"),
        used("ifconfig", 2, 2, "our address and its mask or the other end"),
        used("ifconfig-ipv6", 1, 2, "our IPv6 address and the other end"),
        quiet("ifconfig-noexec", 0, 0, "leave the interface alone"),
        quiet("ifconfig-nowarn", 0, 0, "do not warn about addresses"),
        quiet("tun-ipv6", 0, 0, "obsolete: IPv6 is always there"),
        quiet("lladdr", 1, 1, "the Ethernet address of a tap device"),
        used("route", 1, 4, "a network or a host behind the server; names are resolved before connecting"),
        used("route-ipv6", 1, 3, "an IPv6 network behind the server"),
        quiet("route-gateway", 1, 1, "the gateway of routes; there is one way through a tunnel"),
        quiet("route-ipv6-gateway", 1, 1, "the IPv6 gateway of routes"),
        quiet("route-metric", 1, 1, "the metric of routes"),
        quiet("route-method", 1, 1, "how Windows adds routes"),
        quiet("route-delay", 0, 2, "wait before routes are added"),
        quiet("route-noexec", 0, 0, "leave routes to a script"),
        quiet("max-routes", 1, 1, "obsolete: how many routes may be pushed"),
        used("redirect-gateway", 0, MANY, "send everything through the tunnel"),
        used("redirect-private", 0, MANY, "like redirect-gateway, without a default route"),
        used("block-ipv6", 0, 0, "refuse IPv6 in place of sending it outside"),
        used("dhcp-option", 1, MANY, "a resolver or search domain: DNS, DNS6, DOMAIN, DOMAIN-SEARCH, ADAPTER_DOMAIN_SUFFIX"),
        used("dns", 2, MANY, "resolvers and search domains"),
        used("allow-pull-fqdn", 0, 0, "names in pushed routes: they are reported, not resolved"),
        quiet("allow-recursive-routing", 0, 0, "allow the server's own address inside the tunnel"),
        quiet("client-nat", 4, 4, "translate addresses of routes that clash"),
        quiet("block-outside-dns", 0, 0, "block other resolvers of Windows; programs under adit use the tunnel's"),
        quiet("register-dns", 0, 0, "register names in Windows"),
        quiet("dhcp-renew", 0, 0, "renew the address of a Windows adapter"),
        quiet("dhcp-release", 0, 0, "release the address of a Windows adapter"),
        quiet("dhcp-pre-release", 0, 0, "release the address of a Windows adapter"),
        quiet("ip-win32", 1, MANY, "how Windows sets addresses"),
        quiet("win-sys", 1, 1, "the system directory of Windows"),
        quiet("windows-driver", 1, 1, "the driver of Windows"),
        quiet("tap-sleep", 1, 1, "wait for a Windows adapter"),
        quiet("txqueuelen", 1, 1, "the queue of the device"),
        quiet("iproute", 1, 1, "the program that sets addresses"),
    ]),
    ("Reading of the profile", &[
        used("config", 1, 1, "read another file here"),
        used("cd", 1, 1, "the directory that file names are relative to"),
        used("ignore-unknown-option", 1, MANY, "options that may be unknown"),
        quiet("verb", 1, 1, "how much to log; -v of adit decides"),
        quiet("mute", 1, 1, "limit repeated log messages"),
        quiet("echo", 0, MANY, "a text for the log"),
        quiet("parameter", 0, MANY, "a text for the log"),
        quiet("errors-to-stderr", 0, 0, "where errors are logged"),
        quiet("suppress-timestamps", 0, 0, "log without times"),
        quiet("machine-readable-output", 0, 0, "log for programs"),
        quiet("nice", 1, 1, "the process's priority"),
        quiet("mlock", 0, 0, "keep memory from being swapped"),
        quiet("persist-tun", 0, 0, "keep the device over restarts; adit always does"),
        quiet("persist-key", 0, 0, "keep the keys over restarts; adit always does"),
        quiet("user", 1, 1, "the user to become"),
        quiet("group", 1, 1, "the group to become"),
        quiet("script-security", 1, 2, "which scripts may be run; adit runs none"),
        quiet("up-delay", 0, 0, "when up is run"),
        quiet("up-restart", 0, 0, "when up is run"),
        quiet("down-pre", 0, 0, "when down is run"),
        quiet("remap-usr1", 1, 1, "what a signal does"),
        quiet("pause-exit", 0, 0, "wait for a key at the end"),
        quiet("allow-nonadmin", 0, 1, "who may use a Windows adapter"),
        quiet("gremlin", 1, 1, "simulate a bad network"),
        quiet("memstats", 1, 1, "shared memory for statistics"),
        noted("up", 0, MANY, "a script that is run when the device is up", "scripts are never run"),
        noted("down", 0, MANY, "a script that is run when the device is down", "scripts are never run"),
        noted("route-up", 0, MANY, "a script that is run when routes are set", "scripts are never run"),
        noted("route-pre-down", 0, MANY, "a script that is run before routes are removed", "scripts are never run"),
        noted("ipchange", 0, MANY, "a script that is run when the server's address is known", "scripts are never run"),
        noted("auth-user-pass-verify", 0, MANY, "a script that is run to judge a password", "scripts are never run"),
        noted("client-connect", 0, MANY, "a script that is run when a client comes", "scripts are never run"),
        noted("client-disconnect", 0, MANY, "a script that is run when a client goes", "scripts are never run"),
        noted("client-crresponse", 0, MANY, "a script that is run to judge an answer", "scripts are never run"),
        noted("learn-address", 0, MANY, "a script that is run when an address is learnt", "scripts are never run"),
        noted("tls-crypt-v2-verify", 0, MANY, "a script that is run to judge a client key", "scripts are never run"),
        noted("plugin", 1, MANY, "a library that is loaded", "plugins are never loaded"),
        noted("log", 1, 1, "the log file", "adit logs to stderr; redirect that"),
        noted("log-append", 1, 1, "the log file", "adit logs to stderr; redirect that"),
        noted("syslog", 0, 1, "log to syslog", "adit logs to stderr; redirect that"),
        noted("daemon", 0, 1, "go to the background", "adit up --detach does this"),
        noted("inetd", 0, 2, "be started by inetd", "adit is started by itself"),
        noted("chroot", 1, 1, "change the root directory", "adit needs no root, and changes none"),
        noted("setcon", 1, 1, "an SELinux context", "adit needs no privileges that it would have to drop"),
        noted("status", 1, 2, "a file with the state", "adit status tells it"),
        quiet("status-version", 0, 1, "the form of the status file"),
        noted("writepid", 1, 1, "a file with the process's number", "adit up --json tells it"),
        noted("service", 1, 2, "a Windows event that ends the process", "adit down ends it"),
        quiet("tmp-dir", 1, 1, "a directory for temporary files"),
        noted("management", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-client", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-client-auth", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-client-group", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-client-pf", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-client-user", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-forget-disconnect", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-hold", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-log-cache", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-query-passwords", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-query-proxy", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-query-remote", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-signal", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
        noted("management-up-down", 0, MANY, "the management interface", "adit has no management interface; adit status and adit down do this"),
    ]),
    ("Of servers and of other programs", &[
        refused("mode", 1, 1, "server or p2p", "this is a server's configuration; adit is a client"),
        refused("server", 1, MANY, "addresses of a server", "this is a server's configuration; adit is a client"),
        refused("server-ipv6", 1, 1, "IPv6 addresses of a server", "this is a server's configuration; adit is a client"),
        refused("server-bridge", 0, MANY, "a bridging server", "this is a server's configuration; adit is a client"),
        noted("push", 0, MANY, "an option of servers", "only servers use it"),
        noted("push-remove", 0, MANY, "an option of servers", "only servers use it"),
        noted("push-reset", 0, MANY, "an option of servers", "only servers use it"),
        noted("ifconfig-pool", 0, MANY, "an option of servers", "only servers use it"),
        noted("ifconfig-pool-linear", 0, MANY, "an option of servers", "only servers use it"),
        noted("ifconfig-pool-persist", 0, MANY, "an option of servers", "only servers use it"),
        noted("ifconfig-ipv6-pool", 0, MANY, "an option of servers", "only servers use it"),
        noted("ifconfig-push", 0, MANY, "an option of servers", "only servers use it"),
        noted("ifconfig-ipv6-push", 0, MANY, "an option of servers", "only servers use it"),
        noted("iroute", 0, MANY, "an option of servers", "only servers use it"),
        noted("iroute-ipv6", 0, MANY, "an option of servers", "only servers use it"),
        noted("client-to-client", 0, MANY, "an option of servers", "only servers use it"),
        noted("client-config-dir", 0, MANY, "an option of servers", "only servers use it"),
        noted("ccd-exclusive", 0, MANY, "an option of servers", "only servers use it"),
        noted("client-cert-not-required", 0, MANY, "an option of servers", "only servers use it"),
        noted("auth-user-pass-optional", 0, MANY, "an option of servers", "only servers use it"),
        noted("username-as-common-name", 0, MANY, "an option of servers", "only servers use it"),
        noted("override-username", 0, MANY, "an option of servers", "only servers use it"),
        noted("compat-names", 0, MANY, "an option of servers", "only servers use it"),
        noted("no-name-remapping", 0, MANY, "an option of servers", "only servers use it"),
        noted("duplicate-cn", 0, MANY, "an option of servers", "only servers use it"),
        noted("max-clients", 0, MANY, "an option of servers", "only servers use it"),
        noted("max-routes-per-client", 0, MANY, "an option of servers", "only servers use it"),
        noted("stale-routes-check", 0, MANY, "an option of servers", "only servers use it"),
        noted("connect-freq", 0, MANY, "an option of servers", "only servers use it"),
        noted("connect-freq-initial", 0, MANY, "an option of servers", "only servers use it"),
        noted("hash-size", 0, MANY, "an option of servers", "only servers use it"),
        noted("bcast-buffers", 0, MANY, "an option of servers", "only servers use it"),
        noted("auth-gen-token", 0, MANY, "an option of servers", "only servers use it"),
        noted("auth-gen-token-secret", 0, MANY, "an option of servers", "only servers use it"),
        noted("port-share", 0, MANY, "an option of servers", "only servers use it"),
        noted("vlan-accept", 0, MANY, "an option of servers", "only servers use it"),
        noted("vlan-pvid", 0, MANY, "an option of servers", "only servers use it"),
        noted("vlan-tagging", 0, MANY, "an option of servers", "only servers use it"),
        noted("disable", 0, MANY, "an option of servers", "only servers use it"),
        noted("help", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("version", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("genkey", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("mktun", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("rmtun", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("test-crypto", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-ciphers", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-digests", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-engines", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-tls", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-curves", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-groups", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-gateway", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-adapters", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-net", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-net-up", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-valid-subnets", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("show-pkcs11-ids", 0, MANY, "a command", "it is a command of the program `openvpn`, not an option of a profile"),
        noted("peer-id", 0, MANY, "set by the server", "it is an option of pushes, not of profiles"),
        noted("protocol-flags", 0, MANY, "set by the server", "it is an option of pushes, not of profiles"),
        noted("key-derivation", 0, MANY, "set by the server", "it is an option of pushes, not of profiles"),
        noted("push-continuation", 0, MANY, "set by the server", "it is an option of pushes, not of profiles"),
    ]),
];

/// Every option.
pub fn all() -> impl Iterator<Item = &'static OptionSpec> {
    SECTIONS.iter().flat_map(|(_, options)| options.iter())
}

/// The option with this name.
pub fn find(name: &str) -> Option<&'static OptionSpec> {
    all().find(|option| option.name == name)
}

impl Treatment {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Quiet => "no effect",
            Self::Noted(_) => "left out",
            Self::Refused(_) => "refused",
        }
    }

    /// Why it is left out or refused.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Used | Self::Quiet => None,
            Self::Noted(why) | Self::Refused(why) => Some(why),
        }
    }
}

/// The table as a page in Markdown.
pub fn markdown() -> String {
    let mut page = String::from(
        "# OpenVPN options\n\nWhat becomes of every option of an OpenVPN profile. `adit explain --options openvpn` prints the same; the\n\
         table is that of the parser, and a test keeps this page equal to it.\n\n\
         * **used**: adit does what it says.\n\
         * **no effect**: it makes no difference here, and nothing is said about it.\n\
         * **left out**: it is not carried out, and `adit config check` says so with the reason.\n\
         * **refused**: the profile is refused at this line, with the reason.\n\n\
         Options may begin with `--`. Options marked with `<>` may hold their content in the profile, as\n\
         `<name> … </name>`. An option that is not in this table is left out with a warning, or refused with `--strict`;\n\
         `setenv opt`, `ignore-unknown-option` and `setenv FORWARD_COMPATIBLE 1` silence that.\n",
    );
    for (section, options) in SECTIONS {
        page.push_str(&format!("\n## {section}\n\n| option | | about |\n|---|---|---|\n"));
        for option in *options {
            let block = if option.inline { " <>" } else { "" };
            let why = option.treatment.reason().map_or(String::new(), |why| format!(" — {why}"));
            let about = option.about.replace('<', "\\<");
            page.push_str(&format!(
                "| `{}{block}` | {} | {about}{} |\n",
                option.name,
                option.treatment.word(),
                why.replace('<', "\\<")
            ));
        }
    }
    page
}

/// The name of an option that was probably meant.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name: String = name.chars().take(64).collect::<String>().to_lowercase();
    all()
        .map(|option| (strsim::damerau_levenshtein(&name, option.name), option.name))
        .filter(|(distance, known)| *distance <= 1 || *distance * 3 <= known.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}
