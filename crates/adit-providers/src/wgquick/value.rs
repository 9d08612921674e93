//! Values of single keys. An error is a problem without a place; the caller knows the line.

use std::net::{IpAddr, Ipv6Addr};

use adit_tunnel::{HostPort, Prefix};

use super::Table;
use crate::{Problem, SecretKey, placeholder};

const PARSE: &str = "wg.config.parse";

/// 32 bytes in base64. The value is not repeated in an error.
pub(super) fn key(name: &'static str, value: &str) -> Result<SecretKey, Problem> {
    if let Some(found) = placeholder(value) {
        return Err(Problem::new(
            "credential.placeholder",
            format!("{name} is the placeholder `{found}`, not a key"),
        )
        .fix("the template was not filled in: check the name of the secret and where it is available")
        .fix("or keep the key out of the file: --private-key file:PATH"));
    }
    if let Some(key) = SecretKey::from_base64(value) {
        return Ok(key);
    }
    let problem = Problem::new("wg.key.format", format!("{name} is not a WireGuard key"));
    let count = value.chars().count();
    let odd = value.chars().position(|c| !(c.is_ascii_alphanumeric() || c == '+' || c == '/' || c == '='));
    let hex = value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit());
    Err(if hex {
        problem
            .seen("it is 64 hexadecimal digits")
            .fix("convert it: echo KEY | xxd -r -p | base64 (in a shell that keeps no history)")
    } else if let Some(at) = odd {
        problem
            .seen(format!("character {} of {count} is not base64", at + 1))
            .fix("copy the key again; it is 44 characters and ends with =")
    } else if count != 44 {
        problem
            .seen(format!("it has {count} characters; 32 bytes in base64 are 44"))
            .fix("copy the whole key, including the = at its end")
    } else {
        problem.seen("it is no base64 of 32 bytes").fix("copy the key again; wg genkey makes a new one")
    })
}

/// A decimal number up to `max`.
pub(super) fn number(name: &str, value: &str, max: u32) -> Result<u32, Problem> {
    match value.parse::<u32>() {
        Ok(number) if number <= max && value.bytes().all(|b| b.is_ascii_digit()) => Ok(number),
        _ => Err(Problem::new(PARSE, format!("{name} is not a number from 0 to {max}"))
            .fix(format!("write a number, or delete the line to let adit choose {name}"))),
    }
}

/// `off`, a decimal or a `0x` hexadecimal number.
pub(super) fn fwmark(value: &str) -> Result<Option<u32>, Problem> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let parsed = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => value.parse(),
    };
    match parsed {
        Ok(mark) => Ok((mark != 0).then_some(mark)),
        Err(_) => Err(Problem::new(PARSE, "FwMark is not a number").fix("write off, 51820 or 0xca6c")),
    }
}

/// `auto`, `off`, or a routing table by number or name.
pub(super) fn table(value: &str) -> Table {
    if value.eq_ignore_ascii_case("auto") {
        Table::Auto
    } else if value.eq_ignore_ascii_case("off") {
        Table::Off
    } else {
        Table::Named
    }
}

/// 576 to 65535: what IPv4 demands of every link (RFC 791 §3.2).
pub(super) fn mtu(value: &str) -> Result<u16, Problem> {
    match number("MTU", value, 65535)? {
        number @ 576..=65535 => Ok(number as u16),
        _ => Err(Problem::new(PARSE, "MTU is smaller than 576, the least that IPv4 allows")
            .fix("1280 passes almost everywhere; 1420 is the default")),
    }
}

/// `true` or `false`.
pub(super) fn boolean(name: &str, value: &str) -> Result<bool, Problem> {
    if value.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err(Problem::new(PARSE, format!("{name} is neither true nor false")).fix("write false"))
    }
}

/// Seconds, or `off`.
pub(super) fn keepalive(value: &str) -> Result<Option<u16>, Problem> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    match number("PersistentKeepalive", value, 65535) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(seconds as u16)),
        Err(problem) => Err(Problem { fix: vec!["write off, or seconds like 25".to_owned()], ..problem }),
    }
}

/// An address with an optional prefix length.
pub(super) fn prefix(name: &str, text: &str) -> Result<Prefix, Problem> {
    text.parse().map_err(|error| {
        let problem = Problem::new(PARSE, format!("{name} holds `{text}`, which is no address prefix"))
            .seen(format!("{error}"));
        if text.contains(' ') {
            problem.fix("separate addresses by commas")
        } else {
            problem.fix("write an address and a length, like 10.8.0.2/24 or fd00::2/64")
        }
    })
}

/// A search domain, in lower case without dots at the ends; `None` if it is none.
pub(crate) fn search_domain(text: &str) -> Option<String> {
    domain(text).ok()
}

/// A search domain of `DNS`, in lower case without dots at the ends.
pub(super) fn domain(text: &str) -> Result<String, Problem> {
    let name = text.strip_prefix("~").unwrap_or(text).trim_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let address_like =
        name.bytes().all(|b| b.is_ascii_digit() || b == b'.' || b == b'/') || name.contains(':');
    if name.len() <= 253 && !address_like && name.split('.').all(label) {
        return Ok(name);
    }
    Err(Problem::new(PARSE, format!("DNS holds `{text}`, which is neither an address nor a search domain"))
        .fix("write servers and search domains, separated by commas: DNS = 10.8.0.1, corp.internal"))
}

/// `HOST:PORT`, `ADDRESS:PORT` or `[ADDRESS]:PORT`.
pub(super) fn endpoint(value: &str) -> Result<HostPort, Problem> {
    let bad = |why: &str| {
        Problem::new(PARSE, format!("Endpoint `{value}` cannot be read: {why}"))
            .fix("write HOST:PORT, like vpn.example.com:51820 or [2001:db8::1]:51820")
    };
    if let Some(rest) = value.strip_prefix('[') {
        let (host, tail) = rest.split_once(']').ok_or_else(|| bad("the `]` is missing"))?;
        let address = host.split('%').next().unwrap_or(host);
        address.parse::<Ipv6Addr>().map_err(|_| bad("what stands in brackets is no IPv6 address"))?;
        let port = tail.strip_prefix(':').ok_or_else(|| bad("the port is missing"))?;
        return Ok(HostPort {
            host: host.to_owned(),
            port: port_of(port).ok_or_else(|| bad_port(&bad, port))?,
        });
    }
    let (host, port) = value.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
    if value.parse::<Ipv6Addr>().is_ok() || host.contains(':') {
        return Err(bad("an IPv6 address stands in brackets"));
    }
    if host.is_empty() {
        return Err(bad("the host is missing"));
    }
    if host.parse::<IpAddr>().is_err() && !is_host_name(host) {
        return Err(bad("the host is neither an address nor a name"));
    }
    Ok(HostPort { host: host.to_owned(), port: port_of(port).ok_or_else(|| bad_port(&bad, port))? })
}

fn port_of(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

fn bad_port(bad: &dyn Fn(&str) -> Problem, port: &str) -> Problem {
    bad(if port.is_empty() { "the port is missing" } else { "the port is not a number from 1 to 65535" })
}

/// Letters, digits, `-`, `_` and dots; a name that ends in digits is a mistyped address.
fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let labels_fit = host.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b >= 0x80)
    });
    let last = host.rsplit('.').next().unwrap_or("");
    host.len() <= 253 && labels_fit && !last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_all_kinds_are_read() {
        for (text, host, port) in [
            ("vpn.example.com:51820", "vpn.example.com", 51820),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
            ("[fe80::1%eth0]:51820", "fe80::1%eth0", 51820),
            ("localhost:51820", "localhost", 51820),
        ] {
            assert_eq!(endpoint(text), Ok(HostPort { host: host.to_owned(), port }), "{text}");
        }
        for (text, why) in [
            ("vpn.example.com", "the port is missing"),
            ("vpn.example.com:", "the port is missing"),
            ("vpn.example.com:0", "the port is not a number"),
            ("vpn.example.com:+80", "the port is not a number"),
            ("2001:db8::1", "an IPv6 address stands in brackets"),
            ("2001:db8::1:51820", "an IPv6 address stands in brackets"),
            ("[2001:db8::1]", "the port is missing"),
            ("[2001:db8::1", "the `]` is missing"),
            ("[vpn]:1", "no IPv6 address"),
            (":51820", "the host is missing"),
            ("192.0.2.256:51820", "neither an address nor a name"),
            ("https://vpn.example.com:51820", "brackets"),
        ] {
            let problem = endpoint(text).unwrap_err();
            assert!(problem.summary.contains(why), "{text}: {}", problem.summary);
        }
    }

    #[test]
    fn a_bad_key_is_described_without_being_shown() {
        for (value, class, seen) in [
            ("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk", "wg.key.format", "it has 43 characters"),
            ("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBm*=", "wg.key.format", "character 43 of 44"),
            ("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBml=", "wg.key.format", "no base64 of 32 bytes"),
            ("abc", "wg.key.format", "it has 3 characters"),
            ("{{ vault.key }}", "credential.placeholder", ""),
        ] {
            let problem = key("PrivateKey", value).unwrap_err();
            assert_eq!(problem.class, class);
            assert!(problem.evidence.first().map_or("", |e| e).contains(seen), "{problem:?}");
            assert!(value.contains('{') || value.len() < 5 || !format!("{problem:?}").contains(&value[..20]));
        }
    }

    #[test]
    fn names_and_mistyped_addresses_are_told_apart_in_dns() {
        assert_eq!(domain("Corp.Internal."), Ok("corp.internal".to_owned()));
        assert_eq!(domain("~corp.internal"), Ok("corp.internal".to_owned()));
        for text in ["10.0.0.256", "10.0.0", "10.0.0.1/24", "fd00::g", "a..b", "a b", ""] {
            assert!(domain(text).is_err(), "{text}");
        }
    }
}
