//! A profile in words: what it is, what adit will do with it, and what it needs. No secret is among them.

use std::time::Duration;

use adit_openvpn::{
    Algorithm, Cipher, Compression, Direction, KeyUsage, MssFix, NameCheck, PullVerdict, Remote, TlsVersion,
    Transport, Via, Wrap,
};

use super::Ovpn;
use super::data::cipher_name;
use super::identity;
use super::keys::KeyMaterial;
use super::kind::{self, Clues, ServerKind};

/// A fact about a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is about: a word that stays the same.
    pub key: &'static str,
    /// One or several statements.
    pub values: Vec<String>,
}

impl Ovpn {
    /// What kind of server it looks like, and what tells it.
    pub fn kind(&self) -> (ServerKind, &'static str) {
        let name = &self.tls.trust.name;
        kind::guess(&Clues {
            hosts: self.remotes.iter().map(|remote| remote.host.host.as_str()).collect(),
            metadata: &self.metadata,
            seen: &self.seen,
            federate: self.login.federate,
            tcp: self.remotes.iter().all(|remote| remote.transport == Transport::Tcp),
            wrapped: self.remotes.iter().any(|remote| !matches!(remote.wrap, Wrap::None)),
            encrypted_key: matches!(&self.tls.key, Some((KeyMaterial::Encrypted(_), _))),
            subject: matches!(name, Some(NameCheck::Subject(_))),
            named: matches!(name, Some(NameCheck::Name(_))),
        })
    }

    /// The facts, in the order in which a connection meets them.
    pub fn explain(&self) -> Vec<Fact> {
        let mut facts = Facts(Vec::new());
        let (kind, why) = self.kind();
        facts.add("kind", [format!("{kind} (by {why})")]);
        facts.add("about", kind.note().map(str::to_owned));
        facts.add("name", self.friendly_name().map(str::to_owned));
        self.way(&mut facts);
        self.trust(&mut facts);
        self.login(&mut facts);
        self.channel(&mut facts);
        self.inside(&mut facts);
        facts.0
    }

    fn way(&self, facts: &mut Facts) {
        facts.add("servers", self.remotes.iter().map(server));
        let mut order = Vec::new();
        if self.servers.random {
            order.push("shuffled once".to_owned());
        }
        let of = |transport| self.remotes.iter().any(|remote| remote.transport == transport);
        if of(Transport::Udp) && of(Transport::Tcp) {
            order.push("TCP is called as well while UDP stays silent".to_owned());
        }
        if self.servers.float {
            order.push("the server may change its address (float)".to_owned());
        }
        if let Some(rounds) = self.servers.retry.rounds {
            order.push(format!("each is tried {rounds} times at most"));
        }
        facts.add("order", order);
        let mut wraps: Vec<String> = self.remotes.iter().map(|remote| wrap(&remote.wrap)).collect();
        wraps.dedup();
        facts.add("wrap", wraps);
    }

    fn trust(&self, facts: &mut Facts) {
        let tls = &self.tls;
        let version = |version| if version == TlsVersion::V13 { "1.3" } else { "1.2" };
        let mut offers = vec![if tls.min == tls.max {
            format!("TLS {}", version(tls.min))
        } else {
            format!("TLS {} or {}", version(tls.min), version(tls.max))
        }];
        offers.extend(
            [&tls.suites_12, &tls.suites_13, &tls.groups]
                .into_iter()
                .filter(|l| !l.is_empty())
                .map(|l| l.join(", ")),
        );
        facts.add("tls", offers);
        let mut authorities: Vec<String> = tls.trust.roots.iter().map(certificate).collect();
        if tls.pkcs12.is_some() && authorities.is_empty() && tls.trust.fingerprints.is_empty() {
            authorities.push("those of the PKCS#12 archive".to_owned());
        }
        facts.add("authorities", authorities);
        facts.add("checks", checks(&tls.trust));
    }

    fn login(&self, facts: &mut Facts) {
        let tls = &self.tls;
        let certificate = match (&tls.key, &tls.pkcs12) {
            (Some((key, _)), _) => {
                let leaf = tls.chain.first().map_or("none".to_owned(), certificate);
                match key {
                    KeyMaterial::Plain(_) => leaf,
                    KeyMaterial::Encrypted(_) => format!("{leaf}; {}", self.password()),
                }
            }
            (None, Some(_)) => format!("in the PKCS#12 archive; {}", self.password()),
            (None, None) => "none".to_owned(),
        };
        facts.add("certificate", [certificate]);
        let login = &self.login;
        let user = match &login.found {
            Some(found) if found.password.is_some() => {
                Some(format!("user `{}`, with the profile's password", found.username))
            }
            Some(found) => {
                Some(format!("user `{}`; the password is needed: --auth-user-pass", found.username))
            }
            None if login.wanted => Some("user and password are needed: --auth-user-pass".to_owned()),
            None if login.federate => Some("in a browser (SAML)".to_owned()),
            None => None,
        };
        let mut ways: Vec<String> = user.into_iter().collect();
        if login.nocache && !ways.is_empty() {
            ways.push("the password is forgotten once a token of the server stands for it".to_owned());
        }
        facts.add("login", ways);
        facts.add(
            "question",
            login
                .challenge
                .iter()
                .map(|challenge| format!("`{}`: --challenge, --challenge-cmd or --totp", challenge.text)),
        );
        facts.add("peer-info", login.peer_info.iter().map(|(key, value)| format!("{key}={value}")));
    }

    fn password(&self) -> &'static str {
        match self.tls.askpass {
            Some(_) => "its password stands in a file of the profile",
            None => "its password is needed: --key-pass",
        }
    }

    fn channel(&self, facts: &mut Facts) {
        let cbc =
            |cipher: &Cipher| matches!(cipher, Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc);
        let mut ciphers: Vec<String> =
            self.data_ciphers.iter().map(|cipher| cipher_name(*cipher).to_owned()).collect();
        if self.data_ciphers.iter().chain(&self.fallback_cipher).any(cbc)
            && let Some(algorithm) = self.algorithm
        {
            ciphers.push(format!("CBC with {}", digest(algorithm)));
        }
        facts.add("ciphers", ciphers);
        facts.add("fallback", self.fallback_cipher.map(|cipher| cipher_name(cipher).to_owned()));
        let mut framings: Vec<_> = self
            .remotes
            .iter()
            .filter_map(|remote| match remote.compression {
                Compression::None => None,
                Compression::Lzo => Some("one byte for LZO; nothing is compressed".to_owned()),
                Compression::Stub => Some("one byte (stub); nothing is compressed".to_owned()),
                Compression::StubV2 => Some("stub-v2; nothing is compressed".to_owned()),
            })
            .collect();
        framings.sort();
        framings.dedup();
        facts.add("framing", framings);
        let mut sizes = Vec::new();
        let mut own: Vec<String> = self
            .remotes
            .iter()
            .flat_map(|remote| {
                let mss = match remote.mssfix {
                    MssFix::Default => None,
                    MssFix::Off => Some("mssfix 0".to_owned()),
                    MssFix::Payload(size) => Some(format!("mssfix {size}")),
                    MssFix::Mtu(size) => Some(format!("mssfix {size} mtu")),
                    MssFix::Fixed(size) => Some(format!("mssfix {size} fixed")),
                };
                let fragment = remote.fragment.map(|size| format!("fragment {size}"));
                let mtu = Some(remote.tun_mtu).filter(|mtu| *mtu != 1500);
                mtu.map(|mtu| format!("tun-mtu {mtu}")).into_iter().chain(mss).chain(fragment)
            })
            .collect();
        own.sort();
        own.dedup();
        sizes.extend(own);
        facts.add("sizes", sizes);
        facts.add("timers", self.timers());
    }

    fn timers(&self) -> Vec<String> {
        let data = &self.data;
        let seconds = |time: Duration| time.as_secs();
        let mut timers = Vec::new();
        match seconds(data.reneg_interval) {
            0 => timers.push("no renewal of keys by ourselves".to_owned()),
            3600 => {}
            time => timers.push(format!("new keys every {time} s")),
        }
        let optional = [
            ("ping", data.ping),
            ("ping-restart", data.ping_restart),
            ("ping-exit", data.ping_exit),
            ("session-timeout", data.session_timeout),
            ("inactive", data.inactive.map(|(time, _)| time)),
        ];
        timers.extend(optional.into_iter().filter_map(|(name, time)| match seconds(time?) {
            0 => Some(format!("no {name}")),
            time => Some(format!("{name} {time} s")),
        }));
        let changed = [
            ("hand-window", data.hand_window, 60),
            ("tran-window", data.tran_window, 3600),
            ("tls-timeout", data.tls_timeout, 2),
        ];
        timers.extend(
            changed
                .into_iter()
                .filter(|(_, time, usual)| seconds(*time) != *usual)
                .map(|(name, time, _)| format!("{name} {} s", seconds(time))),
        );
        if data.replay_window != 64 {
            timers.push(format!("replay-window {}", data.replay_window));
        }
        if let Some(notify) =
            self.remotes.iter().map(|remote| remote.exit_notify).max().filter(|times| *times > 0)
        {
            timers.push(format!("explicit-exit-notify {notify}"));
        }
        timers
    }

    fn inside(&self, facts: &mut Facts) {
        let net = &self.net;
        facts.add("addresses", self.addresses.iter().map(ToString::to_string));
        let outside = |outside: bool| if outside { " stays outside" } else { "" };
        let networks = net.routes.iter().map(|route| format!("{}{}", route.prefix, outside(route.outside)));
        let names = net.route_names.iter().map(|route| {
            let around = if route.length == 32 { String::new() } else { format!("/{}", route.length) };
            format!("{}{around}{}, by its address", route.host, outside(route.outside))
        });
        facts.add("routes", networks.chain(names));
        let dns = &self.dns;
        let mut names: Vec<String> = dns.servers.iter().map(ToString::to_string).collect();
        names.extend(dns.search.iter().map(|domain| format!("search {domain}")));
        names.extend(dns.routes.iter().map(|route| {
            let servers: Vec<_> = route.servers.iter().map(ToString::to_string).collect();
            format!("{} at {}", route.suffix, servers.join(", "))
        }));
        facts.add("dns", names);
        let mut pushes = Vec::new();
        if !net.pull {
            pushes.push("nothing is asked of the server".to_owned());
        }
        if net.route_nopull {
            pushes.push("no routes and no DNS".to_owned());
        }
        if net.block_ipv6 {
            pushes.push("IPv6 is refused".to_owned());
        }
        pushes.extend(net.filters.iter().map(|filter| {
            let verdict = match filter.verdict {
                PullVerdict::Accept => "accept",
                PullVerdict::Ignore => "ignore",
                PullVerdict::Reject => "end at",
            };
            format!("{verdict} `{}`", filter.prefix)
        }));
        facts.add("pushes", pushes);
    }
}

struct Facts(Vec<Fact>);

impl Facts {
    fn add(&mut self, key: &'static str, values: impl IntoIterator<Item = String>) {
        // Names and questions of the profile must not reach a terminal as commands.
        let plain = |value: String| value.chars().filter(|c| !c.is_control()).collect();
        let values: Vec<String> = values.into_iter().map(plain).collect();
        if !values.is_empty() {
            self.0.push(Fact { key, values });
        }
    }
}

fn server(remote: &Remote) -> String {
    let transport = match remote.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    let family = remote.family.map_or(String::new(), |family| family.to_string());
    let mut text = format!("{transport}{family} {}", remote.host);
    if remote.random_hostname {
        text.push_str(", with a random label before the name");
    }
    if let Some(port) = remote.local_port {
        text.push_str(&format!(", from port {port}"));
    }
    match &remote.via {
        None => {}
        Some(Via::Http { proxy, credentials, .. }) => {
            text.push_str(&format!(", through the HTTP proxy {proxy}"));
            text.push_str(if credentials.is_some() { " with a password" } else { "" });
        }
        Some(Via::Socks { proxy, credentials }) => {
            text.push_str(&format!(", through the SOCKS proxy {proxy}"));
            text.push_str(if credentials.is_some() { " with a password" } else { "" });
        }
    }
    if remote.connect_timeout != Duration::from_secs(120) {
        text.push_str(&format!(", given up after {} s", remote.connect_timeout.as_secs()));
    }
    text
}

fn wrap(wrap: &Wrap) -> String {
    match wrap {
        Wrap::None => "none".to_owned(),
        Wrap::Auth { direction, algorithm, .. } => {
            let direction = match direction {
                Direction::Normal => "direction 0",
                Direction::Inverse => "direction 1",
                Direction::Both => "one key for both directions",
            };
            format!("tls-auth, {}, {direction}", digest(*algorithm))
        }
        Wrap::Crypt(_) => "tls-crypt".to_owned(),
        Wrap::CryptV2 { wrapped, .. } => format!("tls-crypt-v2, {} bytes for the server", wrapped.len()),
    }
}

fn digest(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Md5 => "MD5",
        Algorithm::Sha1 => "SHA1",
        Algorithm::Sha224 => "SHA224",
        Algorithm::Sha256 => "SHA256",
        Algorithm::Sha384 => "SHA384",
        Algorithm::Sha512 => "SHA512",
    }
}

fn checks(trust: &adit_openvpn::Trust) -> Vec<String> {
    let mut checks: Vec<String> = trust
        .usage
        .iter()
        .map(|usage| match usage {
            KeyUsage::Server => "it is a server's (remote-cert-tls)".to_owned(),
            KeyUsage::NetscapeServer => "it is a server's (ns-cert-type)".to_owned(),
            KeyUsage::Bits(bits) => {
                let bits: Vec<_> = bits.iter().map(|bits| format!("{bits:02x}")).collect();
                format!("key usage {}", bits.join(" or "))
            }
            KeyUsage::Extended(name) => format!("extended key usage {name}"),
        })
        .collect();
    checks.extend(trust.name.as_ref().map(|name| match name {
        NameCheck::Subject(subject) => format!("its subject is `{subject}`"),
        NameCheck::Name(name) => format!("its name is `{name}`"),
        NameCheck::Prefix(prefix) => format!("its name begins with `{prefix}`"),
    }));
    if !trust.fingerprints.is_empty() {
        checks.push(format!("its fingerprint is one of {}", trust.fingerprints.len()));
    }
    if trust.issuer_hash.is_some() {
        checks.push("its issuer has the given hash".to_owned());
    }
    if !trust.crls.is_empty() {
        checks.push(format!("it is in none of {} lists of revoked certificates", trust.crls.len()));
    }
    if trust.modern {
        checks.push("no signature has SHA-1".to_owned());
    }
    checks
}

fn certificate(der: &rustls_pki_types::CertificateDer<'static>) -> String {
    match identity::parse(der) {
        Some(parsed) => {
            format!("{}, until {}", parsed.subject(), date(parsed.validity().not_after.timestamp()))
        }
        None => "damaged".to_owned(),
    }
}

/// A day of the calendar out of seconds since 1970.
fn date(seconds: i64) -> String {
    match x509_parser::time::ASN1Time::from_timestamp(seconds).map(|time| time.to_datetime().date()) {
        Ok(date) => date.to_string(),
        Err(_) => "an odd date".to_owned(),
    }
}
