//! The messages of a connection, put together and applied.

use std::net::IpAddr;

use adit_tunnel::{NetConfig, Prefix};

use super::guard::Guard;
use super::item::{Item, Problem};
use super::network::Profile;
use super::notice::{Notice, NoticeKind, Notices};
use super::pushed::{Context, Pushed};
use super::{PushError, quote};
use crate::{Config, PullVerdict, Remote};

/// All messages of a push together have at most this many bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// What `PUSH_UPDATE` may change. `redirect-private` and `redirect-gateway` are one.
const UPDATABLE: [&str; 15] = [
    "block-ipv6",
    "block-outside-dns",
    "dhcp-option",
    "dns",
    "ifconfig",
    "ifconfig-ipv6",
    "keepalive",
    "redirect-gateway",
    "redirect-private",
    "route",
    "route-gateway",
    "route-ipv6",
    "route-metric",
    "topology",
    "tun-mtu",
];

/// What the server pushes over one connection, and what comes of it.
#[derive(Debug)]
pub struct Pull {
    profile: Profile,
    guard: Guard,
    notices: Notices,
    /// Options of messages after which more follow.
    reply: Partial,
    update: Partial,
    pushed: Option<Pushed>,
}

/// How far a push has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More messages follow.
    Partial,
    /// The first push is complete: [`Pull::pushed`] and [`Pull::net_config`] tell.
    Complete,
    /// A later push brought a token ([`Pushed::auth_token`]); nothing else of it counts.
    Token,
    /// A later push brought nothing.
    Unchanged,
    /// An update is complete: the network may be another.
    Updated,
}

#[derive(Debug, Default)]
struct Partial {
    options: Vec<String>,
    bytes: usize,
}

impl Partial {
    /// Adds the options of a message; returns all of them once no more follow.
    fn add(&mut self, text: &str) -> Result<Option<Vec<String>>, PushError> {
        self.bytes += text.len();
        if self.bytes > MAX_BYTES {
            *self = Self::default();
            return Err(PushError::TooLong { limit: MAX_BYTES });
        }
        let mut more = false;
        for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            match option.strip_prefix("push-continuation") {
                Some(number) => more = number.trim() == "2",
                None => self.options.push(option.to_owned()),
            }
        }
        Ok((!more).then(|| std::mem::take(self).options))
    }
}

impl Pull {
    /// Begins a connection to a server, whose address no push may take.
    pub fn new(config: &Config, remote: &Remote, server: Option<IpAddr>) -> Self {
        Self::from_profile(Profile::new(config, remote), server)
    }

    /// The same, from the part of a configuration that matters.
    pub fn from_profile(profile: Profile, server: Option<IpAddr>) -> Self {
        let mut guard = Guard::new(&profile.protected);
        if let Some(server) = server {
            guard.protect(Prefix::host(server.to_canonical()));
        }
        Self {
            profile,
            guard,
            notices: Notices::default(),
            reply: Partial::default(),
            update: Partial::default(),
            pushed: None,
        }
    }

    /// Takes the options of a `PUSH_REPLY`: what follows `PUSH_REPLY,`.
    ///
    /// # Errors
    /// [`PushError`]: the connection is not usable.
    pub fn reply(&mut self, text: &str) -> Result<Progress, PushError> {
        let Some(options) = self.reply.add(text)? else { return Ok(Progress::Partial) };
        if self.pushed.is_some() {
            return self.again(&options);
        }
        let mut pushed = Pushed::default();
        for text in options {
            if self.is_wanted(&text)? {
                self.apply(&mut pushed, &text)?;
            }
        }
        if let Some(ground) = Profile::refused_link(&pushed, &self.guard) {
            self.notices.add("ifconfig", NoticeKind::Refused(ground));
        }
        self.pushed = Some(pushed);
        Ok(Progress::Complete)
    }

    /// Takes the options of a `PUSH_UPDATE`: what follows `PUSH_UPDATE,`. All of an update is applied, or nothing.
    ///
    /// # Errors
    /// [`PushError::NotUpdatable`], and those of [`reply`](Self::reply): connect anew.
    pub fn update(&mut self, text: &str) -> Result<Progress, PushError> {
        let Some(options) = self.update.add(text)? else { return Ok(Progress::Partial) };
        let Some(mut pushed) = self.pushed.clone() else { return Ok(Progress::Unchanged) };
        let mut begun: Vec<String> = Vec::new();
        for text in options {
            let (remove, rest) = text.strip_prefix('-').map_or((false, text.as_str()), |rest| (true, rest));
            let (optional, option) = rest.strip_prefix('?').map_or((false, rest), |rest| (true, rest));
            let name = option.split_ascii_whitespace().next().unwrap_or_default();
            if !UPDATABLE.contains(&name) {
                if optional {
                    continue;
                }
                return Err(PushError::NotUpdatable { option: quote(option) });
            }
            if !self.is_wanted(option)? {
                continue;
            }
            let kind = if name == "redirect-private" { "redirect-gateway" } else { name };
            // The first of its kind discards what there was.
            if remove || !begun.iter().any(|begun| begun == kind) {
                pushed.discard(kind);
                begun.push(kind.to_owned());
            }
            if !remove {
                self.apply(&mut pushed, option)?;
            }
        }
        // What would leave no network is no update.
        self.profile.net_config(&pushed, &self.guard)?;
        self.pushed = Some(pushed);
        Ok(Progress::Updated)
    }

    /// What the server pushed, once it is complete.
    pub fn pushed(&self) -> Option<&Pushed> {
        self.pushed.as_ref()
    }

    /// The network, out of push and profile.
    ///
    /// # Errors
    /// [`PushError::NoAddress`].
    pub fn net_config(&self) -> Result<NetConfig, PushError> {
        let nothing = Pushed::default();
        self.profile.net_config(self.pushed.as_ref().unwrap_or(&nothing), &self.guard)
    }

    /// What people should know of the push, once each.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.notices.take()
    }

    /// How often the server asked for what no server gets, and how many notices were too many to keep.
    pub fn counts(&self) -> (u64, u64) {
        (self.notices.refused, self.notices.omitted)
    }

    /// A push after the first one: tokens alone are new in it.
    fn again(&mut self, options: &[String]) -> Result<Progress, PushError> {
        let mut found = Progress::Unchanged;
        for text in options {
            if !text.starts_with("auth-token") || !self.is_wanted(text)? {
                continue;
            }
            let Some(pushed) = &mut self.pushed else { continue };
            match Item::parse(text) {
                Ok(Item::AuthToken(token)) => pushed.auth_token = Some(token),
                Ok(Item::AuthTokenUser(user)) => pushed.auth_token_user = Some(user),
                _ => continue,
            }
            found = Progress::Token;
        }
        Ok(found)
    }

    /// Asks the profile's rules.
    fn is_wanted(&self, option: &str) -> Result<bool, PushError> {
        let rule = self.profile.filters.iter().find(|rule| option.starts_with(&rule.prefix));
        match rule.map(|rule| rule.verdict) {
            Some(PullVerdict::Ignore) => return Ok(false),
            Some(PullVerdict::Reject) => return Err(PushError::Rejected { option: quote(option) }),
            Some(PullVerdict::Accept) | None => {}
        }
        let name = option.split_ascii_whitespace().next().unwrap_or_default();
        let route = name.starts_with("route")
            || name.starts_with("redirect-")
            || matches!(name, "dhcp-option" | "dns" | "block-outside-dns" | "block-ipv6");
        Ok(!(self.profile.nopull && route))
    }

    fn apply(&mut self, pushed: &mut Pushed, text: &str) -> Result<(), PushError> {
        let item = match Item::parse(text) {
            Ok(item) => item,
            Err(problem) => {
                let name = text.split_ascii_whitespace().next().unwrap_or_default();
                // Without these there is no data channel, or one that the server does not mean.
                let vital = matches!(name, "peer-id" | "cipher" | "key-derivation" | "ifconfig");
                if vital && problem == Problem::Malformed {
                    return Err(PushError::Broken { option: quote(text) });
                }
                let kind = match problem {
                    Problem::Malformed => NoticeKind::Malformed,
                    Problem::Unknown => NoticeKind::Unknown,
                    Problem::NotPushable => NoticeKind::NotPushable,
                };
                self.notices.add(text, kind);
                return Ok(());
            }
        };
        let mut context =
            Context { guard: &self.guard, notices: &mut self.notices, ciphers: &self.profile.ciphers };
        pushed.apply(item, text, &mut context)
    }
}
