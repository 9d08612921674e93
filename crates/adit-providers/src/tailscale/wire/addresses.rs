//! Addresses, prefixes and names as the control server writes them.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use adit_tailscale::netmap::{Addresses, RegionId, Resolver};
use adit_tunnel::Prefix;

/// The texts that can be read; the others are named in the log.
pub(super) fn parsed<T: FromStr>(what: &'static str, texts: Option<Vec<String>>) -> Vec<T> {
    let read = |text: String| match text.parse() {
        Ok(value) => Some(value),
        Err(_) => {
            tracing::warn!(what, text, "a value of the control server cannot be read and is left out");
            None
        }
    };
    texts.unwrap_or_default().into_iter().filter_map(read).collect()
}

/// A set of a filter rule: `*`, a prefix, an address, `a-b`, or `cap:NAME`; `bits` is the older way to write a prefix.
pub(super) fn set(text: &str, bits: Option<i64>) -> Option<Addresses> {
    if text == "*" {
        return Some(Addresses::Any);
    }
    if let Some(capability) = text.strip_prefix("cap:") {
        return Some(Addresses::Capability(capability.to_owned()));
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
        return (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Addresses::Range(first, last));
    }
    match bits {
        Some(bits) => {
            let prefix = Prefix::new(text.parse().ok()?, u8::try_from(bits).ok()?)?;
            Some(Addresses::Prefix(prefix))
        }
        None => text.parse().ok().map(Addresses::Prefix),
    }
}

/// A name in lower case without a dot at the end.
pub(super) fn name(text: Option<String>) -> String {
    text.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase()
}

/// The number of a region; what does not fit is none, as in the reference.
pub(super) fn region(number: Option<i64>) -> RegionId {
    RegionId(number.and_then(|number| u16::try_from(number).ok()).unwrap_or(0))
}

/// The region of the older form: `127.3.3.40:REGION`.
pub(super) fn legacy_region(text: &str) -> Option<i64> {
    text.strip_prefix("127.3.3.40:")?.parse().ok()
}

/// A resolver: an address with or without a port, or a URL.
pub(super) fn resolver(text: &str) -> Option<Resolver> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Resolver::Plain(SocketAddr::new(address, 53)));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Resolver::Plain(address));
    }
    (!text.is_empty()).then(|| Resolver::Other(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_rules_have_five_forms() {
        let prefix = |text: &str| Addresses::Prefix(text.parse().unwrap());
        assert_eq!(set("*", None), Some(Addresses::Any));
        assert_eq!(set("10.0.0.0/8", None), Some(prefix("10.0.0.0/8")));
        assert_eq!(set("fd7a::1", None), Some(prefix("fd7a::1/128")));
        assert_eq!(set("10.0.0.0", Some(8)), Some(prefix("10.0.0.0/8")));
        assert_eq!(set("cap:https://x", None), Some(Addresses::Capability("https://x".to_owned())));
        let range = set("100.64.0.0-100.115.91.255", None);
        assert_eq!(range, Some(Addresses::Range([100, 64, 0, 0].into(), [100, 115, 91, 255].into())));
        for wrong in ["", "x", "1.2.3.4-::1", "2.0.0.0-1.0.0.0", "10.0.0.0/33", "-"] {
            assert_eq!(set(wrong, None), None, "{wrong}");
        }
        assert_eq!(set("10.0.0.0", Some(40)), None);
    }

    #[test]
    fn regions_and_resolvers_have_older_forms() {
        assert_eq!(legacy_region("127.3.3.40:901"), Some(901));
        assert_eq!(legacy_region("10.0.0.1:1"), None);
        assert_eq!(region(Some(70_000)), RegionId(0));
        assert_eq!(resolver("10.0.0.53"), Some(Resolver::Plain("10.0.0.53:53".parse().unwrap())));
        assert_eq!(resolver("[fd00::53]:5353"), Some(Resolver::Plain("[fd00::53]:5353".parse().unwrap())));
        let url = "https://dns.example/x?a&b";
        assert_eq!(resolver(url), Some(Resolver::Other(url.to_owned())));
        assert_eq!(resolver(""), None);
    }
}
