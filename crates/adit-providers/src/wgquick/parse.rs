//! From lines to sections: which key stands where, and what its value is.

use adit_wireguard::PublicKey;

use super::line::{Line, Said, lines};
use super::{Hook, Interface, Peer, Supplied, Table, WgQuick, check, value};
use crate::{Place, Problem, Problems, SecretKey, placeholder};

const PARSE: &str = "wg.config.parse";

/// More sections than any real file has; a bound on what hostile text makes us keep.
const MAX_PEERS: usize = 4096;

/// After this many problems, further ones help nobody.
const MAX_PROBLEMS: usize = 20;

const INTERFACE_KEYS: [&str; 12] = [
    "PrivateKey",
    "ListenPort",
    "FwMark",
    "Address",
    "DNS",
    "MTU",
    "Table",
    "PreUp",
    "PostUp",
    "PreDown",
    "PostDown",
    "SaveConfig",
];
const PEER_KEYS: [&str; 5] = ["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"];

/// Keys of AmneziaWG, which changes the packets on the wire.
const AMNEZIA_KEYS: [&str; 22] = [
    "Jc",
    "Jmin",
    "Jmax",
    "S1",
    "S2",
    "S3",
    "S4",
    "H1",
    "H2",
    "H3",
    "H4",
    "I1",
    "I2",
    "I3",
    "I4",
    "I5",
    "J1",
    "J2",
    "J3",
    "Itime",
    "AdvancedSecurity",
    "Awg",
];

/// Whether a text looks like a wg-quick file: it has the head of a section of one.
pub fn looks_like(text: &str) -> bool {
    lines(text).any(|line| match line.said() {
        Said::Section(name) => name.eq_ignore_ascii_case("Interface") || name.eq_ignore_ascii_case("Peer"),
        Said::Nothing | Said::Pair { .. } | Said::Other => false,
    })
}

/// Whether a text gives a private or preshared key, so that it is for its owner's eyes only.
pub fn holds_secret(text: &str) -> bool {
    lines(text).any(|line| match line.said() {
        Said::Pair { key, value } => {
            let secret = ["PrivateKey", "PresharedKey"].iter().any(|name| name.eq_ignore_ascii_case(key));
            secret && !value.is_empty()
        }
        Said::Nothing | Said::Section(_) | Said::Other => false,
    })
}

#[derive(Clone, Copy)]
enum Section {
    None,
    Interface,
    Peer,
    /// The head was wrong and has been reported; its keys are not judged.
    Unknown,
}

/// What has been read so far. A value that could not be read counts as given, so that it is reported once.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
    pub(super) interface: Option<DraftInterface>,
    pub(super) peers: Vec<DraftPeer>,
}

pub(super) struct DraftInterface {
    pub(super) head: Place,
    pub(super) private_key: Option<SecretKey>,
    pub(super) private_key_given: bool,
    pub(super) address_given: bool,
    pub(super) values: Values,
    seen: Vec<&'static str>,
}

#[derive(Default)]
pub(super) struct Values {
    listen_port: Option<u16>,
    fwmark: Option<u32>,
    addresses: Vec<adit_tunnel::Prefix>,
    dns_servers: Vec<std::net::IpAddr>,
    dns_search: Vec<String>,
    mtu: Option<u16>,
    table: Table,
    hooks: Vec<Hook>,
    save_config: bool,
    /// `Table`, `FwMark` and the hooks, with their lines.
    pub(super) ignored: Vec<String>,
}

pub(super) struct DraftPeer {
    pub(super) head: Place,
    pub(super) public_key: Option<PublicKey>,
    pub(super) public_key_given: bool,
    pub(super) public_key_place: Option<Place>,
    pub(super) preshared_key: Option<SecretKey>,
    pub(super) allowed_ips: Vec<(adit_tunnel::Prefix, Place)>,
    pub(super) endpoint: Option<adit_tunnel::HostPort>,
    pub(super) endpoint_given: bool,
    persistent_keepalive: Option<u16>,
    seen: Vec<&'static str>,
}

pub(super) fn parse(text: &str, supplied: &Supplied) -> Result<WgQuick, Problems> {
    let mut draft = Draft::default();
    let mut section = Section::None;
    for line in lines(text) {
        if draft.problems.len() >= MAX_PROBLEMS {
            break;
        }
        match line.said() {
            Said::Nothing => {}
            Said::Section(name) => section = draft.open(&line, name),
            Said::Pair { key, value } => match section {
                Section::Interface => draft.interface_key(&line, key, value),
                Section::Peer => draft.peer_key(&line, key, value),
                Section::None => {
                    draft.problems.push(outside(&line, key));
                    section = Section::Unknown;
                }
                Section::Unknown => {}
            },
            Said::Other => draft.problems.push(
                Problem::new(PARSE, "this line is neither a [Section] nor KEY = VALUE")
                    .fix("write KEY = VALUE, or begin the line with # if it is a comment")
                    .at(line.place(line.content)),
            ),
        }
    }
    check::whole(&mut draft, supplied);
    finish(draft, supplied)
}

fn outside(line: &Line<'_>, key: &str) -> Problem {
    Problem::new(PARSE, format!("`{}` stands before any section", shown(key)))
        .fix("begin the file with [Interface]; it may be no wg-quick file at all")
        .at(line.place(key))
}

/// A word for a message. A long one is not shown: hostile text has no limits, and it may be a secret that stands
/// in the wrong place.
fn shown(word: &str) -> &str {
    if word.chars().count() <= 20 { word } else { "…" }
}

impl Draft {
    fn open(&mut self, line: &Line<'_>, name: &str) -> Section {
        let head = line.place(line.content);
        if name.eq_ignore_ascii_case("Interface") {
            if self.interface.is_none() {
                self.interface = Some(DraftInterface {
                    head,
                    private_key: None,
                    private_key_given: false,
                    address_given: false,
                    values: Values::default(),
                    seen: Vec::new(),
                });
            }
            return Section::Interface;
        }
        if name.eq_ignore_ascii_case("Peer") {
            if self.peers.len() >= MAX_PEERS {
                self.problems
                    .push(Problem::new(PARSE, format!("there are more than {MAX_PEERS} peers")).at(head));
                return Section::Unknown;
            }
            self.peers.push(DraftPeer {
                head,
                public_key: None,
                public_key_given: false,
                public_key_place: None,
                preshared_key: None,
                allowed_ips: Vec::new(),
                endpoint: None,
                endpoint_given: false,
                persistent_keepalive: None,
                seen: Vec::new(),
            });
            return Section::Peer;
        }
        let problem =
            Problem::new(PARSE, format!("[{}] is not a section of a wg-quick file", shown(name))).at(head);
        self.problems.push(match nearest(name, &["Interface", "Peer"]) {
            Some(near) => problem.fix(format!("write [{near}]")),
            None => problem.fix("a wg-quick file has one [Interface] and a [Peer] for every far side"),
        });
        Section::Unknown
    }

    fn interface_key(&mut self, line: &Line<'_>, key: &str, text: &str) {
        let Some(name) = known(key, &INTERFACE_KEYS) else {
            self.problems.push(unknown(line, key, "Interface", &INTERFACE_KEYS, "Peer", &PEER_KEYS));
            return;
        };
        let Some(interface) = &mut self.interface else { return };
        let once = !matches!(name, "Address" | "DNS" | "PreUp" | "PostUp" | "PreDown" | "PostDown");
        if once && interface.seen.contains(&name) {
            self.warnings.push(repeated(line, name, key));
        }
        interface.seen.push(name);
        if let Err(problem) = interface.set(line, name, text) {
            self.problems.push(placed(problem, line, name, text));
        }
    }

    fn peer_key(&mut self, line: &Line<'_>, key: &str, text: &str) {
        let Some(name) = known(key, &PEER_KEYS) else {
            self.problems.push(unknown(line, key, "Peer", &PEER_KEYS, "Interface", &INTERFACE_KEYS));
            return;
        };
        let Some(peer) = self.peers.last_mut() else { return };
        if name != "AllowedIPs" && peer.seen.contains(&name) {
            self.warnings.push(repeated(line, name, key));
        }
        peer.seen.push(name);
        if let Err(problem) = peer.set(line, name, text) {
            self.problems.push(placed(problem, line, name, text));
        }
    }
}

/// Adds the place of the value to a problem that has none, and hides secrets.
fn placed(problem: Problem, line: &Line<'_>, name: &str, text: &str) -> Problem {
    if problem.place.is_some() {
        problem
    } else if matches!(name, "PrivateKey" | "PresharedKey") {
        problem.at(line.secret_place(text))
    } else {
        problem.at(line.place(text))
    }
}

fn repeated(line: &Line<'_>, name: &str, key: &str) -> Problem {
    Problem::new("wg.config.repeated", format!("{name} stands here a second time; the last one counts"))
        .fix("delete the line that is not meant")
        .at(line.place(key))
}

fn known(key: &str, keys: &[&'static str]) -> Option<&'static str> {
    keys.iter().copied().find(|known| known.eq_ignore_ascii_case(key))
}

fn nearest(word: &str, words: &[&'static str]) -> Option<&'static str> {
    let word: String = word.chars().take(64).collect::<String>().to_ascii_lowercase();
    words
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &known.to_ascii_lowercase()), *known))
        .filter(|(distance, known)| *distance * 3 <= known.len() + 1)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn unknown(
    line: &Line<'_>,
    key: &str,
    here: &str,
    keys: &[&'static str],
    there: &str,
    others: &[&'static str],
) -> Problem {
    if let Some(name) = known(key, &AMNEZIA_KEYS) {
        return Problem::new(
            "wg.amnezia",
            format!("{name} belongs to AmneziaWG, another dialect of WireGuard"),
        )
        .fix("ask for an ordinary WireGuard configuration; the two do not understand each other")
        .at(line.place(key));
    }
    let place = line.place(key);
    if key.contains(|c: char| c.is_whitespace() || c == ':') || shown(key) != key {
        return Problem::new(PARSE, "this line is not KEY = VALUE").fix("write KEY = VALUE").at(place);
    }
    let problem = Problem::new(PARSE, format!("`{key}` is not a key of [{here}]")).at(place);
    if let Some(name) = known(key, others) {
        return problem.fix(format!("move {name} to the [{there}] section"));
    }
    match nearest(key, keys) {
        Some(near) => problem.fix(format!("write {near}")),
        None => problem.seen(format!("known keys: {}", keys.join(", "))).fix("delete the line"),
    }
}

impl DraftInterface {
    fn set(&mut self, line: &Line<'_>, name: &'static str, text: &str) -> Result<(), Problem> {
        // An error still counts as given: one problem a line is enough.
        self.private_key_given |= name == "PrivateKey";
        self.address_given |= name == "Address";
        let values = &mut self.values;
        match name {
            "PrivateKey" if text.is_empty() => self.private_key_given = false,
            "PrivateKey" => self.private_key = Some(value::key(name, text)?),
            _ if placeholder_in(text).is_some() => return Err(unfilled(name, text)),
            "ListenPort" => values.listen_port = Some(value::number(name, text, 65535)? as u16),
            "FwMark" => {
                values.fwmark = value::fwmark(text)?;
                values.ignored.push(format!("line {}: FwMark", line.number));
            }
            "Address" => {
                for part in parts(text) {
                    values.addresses.push(value::prefix(name, part).map_err(|p| p.at(line.place(part)))?);
                }
            }
            "DNS" => {
                for part in parts(text) {
                    match part.parse() {
                        Ok(server) => values.dns_servers.push(server),
                        Err(_) => {
                            values.dns_search.push(value::domain(part).map_err(|p| p.at(line.place(part)))?)
                        }
                    }
                }
            }
            "MTU" => values.mtu = Some(value::mtu(text)?),
            "Table" => {
                values.table = value::table(text);
                if values.table != Table::Auto {
                    values.ignored.push(format!("line {}: Table", line.number));
                }
            }
            "SaveConfig" => values.save_config = value::boolean(name, text)?,
            hook => {
                // The program alone is shown: the rest of a command may hold a secret.
                let program: String = text.split_whitespace().next().unwrap_or("").chars().take(32).collect();
                values.ignored.push(format!("line {}: {hook} ({program} …)", line.number));
                values.hooks.push(Hook { key: hook, command: text.to_owned(), line: line.number });
            }
        }
        Ok(())
    }
}

impl DraftPeer {
    fn set(&mut self, line: &Line<'_>, name: &'static str, text: &str) -> Result<(), Problem> {
        self.public_key_given |= name == "PublicKey";
        self.endpoint_given |= name == "Endpoint";
        match name {
            "PublicKey" => {
                let key = value::key(name, text)?;
                self.public_key = Some(PublicKey::from_bytes(*key.expose()));
                self.public_key_place = Some(line.place(text));
            }
            // `wg` reads an empty value as no key at all.
            "PresharedKey" if text.is_empty() => self.preshared_key = None,
            "PresharedKey" => self.preshared_key = Some(value::key(name, text)?),
            _ if placeholder_in(text).is_some() => return Err(unfilled(name, text)),
            "AllowedIPs" => {
                for part in parts(text) {
                    let place = line.place(part);
                    if part.starts_with('-') {
                        return Err(Problem::new(
                            PARSE,
                            "a `-` in front of a prefix removes it from a running interface",
                        )
                        .fix("delete it: there is nothing to remove from")
                        .at(place));
                    }
                    let bare = part.strip_prefix('+').unwrap_or(part);
                    let prefix = value::prefix(name, bare).map_err(|p| p.at(place.clone()))?;
                    self.allowed_ips.push((prefix.network(), place));
                }
            }
            "Endpoint" => self.endpoint = Some(value::endpoint(text)?),
            _ => self.persistent_keepalive = value::keepalive(text)?,
        }
        Ok(())
    }
}

/// Placeholders in values that are no keys: only the unmistakable forms.
fn placeholder_in(text: &str) -> Option<&str> {
    placeholder(text)
        .filter(|found| found.starts_with("{{") || found.starts_with("${") || found.starts_with('<'))
}

fn unfilled(name: &str, text: &str) -> Problem {
    let found: String = placeholder_in(text).unwrap_or(text).chars().take(64).collect();
    Problem::new("credential.placeholder", format!("{name} is the placeholder `{found}`"))
        .fix("the template was not filled in: check the name and where it is available")
}

/// The items of a comma-separated list; empty ones are skipped, as `wg-quick` does.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn finish(draft: Draft, supplied: &Supplied) -> Result<WgQuick, Problems> {
    let Draft { mut problems, mut warnings, interface, peers } = draft;
    let by_line = |problem: &Problem| problem.place.as_ref().map_or(usize::MAX, |place| place.line);
    problems.sort_by_key(by_line);
    warnings.sort_by_key(by_line);
    let Some(interface) = interface.filter(|_| problems.is_empty()) else { return Err(Problems(problems)) };
    let private_key = supplied.private_key.clone().or(interface.private_key);
    // `check::whole` has reported every key that is missing.
    let Some(private_key) = private_key else { return Err(Problems(problems)) };
    let sole = peers.len() == 1;
    let peers = peers.into_iter().filter_map(|peer| {
        Some(Peer {
            public_key: peer.public_key?,
            preshared_key: supplied.preshared_key.clone().filter(|_| sole).or(peer.preshared_key),
            allowed_ips: peer.allowed_ips.into_iter().map(|(prefix, _)| prefix).collect(),
            endpoint: peer.endpoint,
            persistent_keepalive: peer.persistent_keepalive,
            line: peer.head.line,
        })
    });
    let values = interface.values;
    Ok(WgQuick {
        interface: Interface {
            private_key,
            listen_port: values.listen_port,
            fwmark: values.fwmark,
            addresses: values.addresses,
            dns_servers: values.dns_servers,
            dns_search: values.dns_search,
            mtu: values.mtu,
            table: values.table,
            hooks: values.hooks,
            save_config: values.save_config,
        },
        peers: peers.collect(),
        warnings,
    })
}
