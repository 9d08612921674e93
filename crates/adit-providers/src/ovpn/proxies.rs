//! Proxies on the way to a server: `http-proxy`, `http-proxy-option`, `socks-proxy`.

use adit_openvpn::Credentials;
use adit_tunnel::HostPort;

use super::lex::Directive;
use super::login;
use super::read::{Reading, shown};
use super::servers::unfilled;
use crate::placeholder;

/// An HTTP proxy, while it is read.
#[derive(Clone, Debug)]
pub(super) struct Http {
    pub(super) proxy: HostPort,
    pub(super) credentials: Option<Credentials>,
    pub(super) digest_only: bool,
}

fn proxy(at: &Directive, port: u64, reading: &mut Reading<'_>) -> Option<HostPort> {
    let host = at.arg(0)?.to_owned();
    if placeholder(&host).is_some() {
        reading.problems.push(at.problem(Some(0), unfilled("the proxy's name", &host)));
        return None;
    }
    let port = if at.args.len() > 1 { reading.number(at, 1, 1, 65535)? } else { port };
    Some(HostPort { host, port: port as u16 })
}

pub(super) fn http(at: &Directive, reading: &mut Reading<'_>) -> Option<Http> {
    let proxy = proxy(at, 8080, reading)?;
    let mut http = Http { proxy, credentials: None, digest_only: false };
    match at.arg(2) {
        None | Some("auto" | "none") => {}
        Some("auto-nct") => http.digest_only = true,
        // The credentials come from <http-proxy-user-pass>; there is nobody to type them.
        Some("stdin") => {}
        Some(_) => {
            let content = reading.content(at, 2, "the proxy's user and password", true)?;
            http.credentials = Some(login::of_proxy(at, &content, reading)?);
        }
    }
    match at.arg(3).map(str::to_ascii_lowercase).as_deref() {
        None | Some("basic" | "none") => {}
        Some("digest") => http.digest_only = true,
        Some("ntlm" | "ntlm2") => {
            reading.refused(
                at,
                Some(3),
                "the proxy wants NTLM, which adit does not have",
                "ask for a proxy with basic or digest authentication",
            );
            return None;
        }
        Some(other) => {
            let summary = format!("there is no authentication `{}` of proxies", shown(other));
            reading.wrong(at, Some(3), &summary, "write basic or digest");
            return None;
        }
    }
    Some(http)
}

pub(super) fn socks(at: &Directive, reading: &mut Reading<'_>) -> Option<(HostPort, Option<Credentials>)> {
    let proxy = proxy(at, 1080, reading)?;
    let credentials = match at.arg(2) {
        None | Some("stdin") => None,
        Some(_) => {
            let content = reading.content(at, 2, "the proxy's user and password", true)?;
            Some(login::of_proxy(at, &content, reading)?)
        }
    };
    Some((proxy, credentials))
}

pub(super) fn header(at: &Directive, headers: &mut Vec<(String, String)>, reading: &mut Reading<'_>) {
    let kind = at.arg(0).unwrap_or("").to_ascii_uppercase();
    let found = match (kind.as_str(), at.arg(1), at.arg(2)) {
        ("VERSION", Some(_), None) => return,
        ("AGENT", Some(agent), None) => ("User-Agent".to_owned(), agent.to_owned()),
        ("CUSTOM-HEADER", Some(name), Some(value)) => (name.to_owned(), value.to_owned()),
        ("CUSTOM-HEADER", Some(line), None) => match line.split_once(':') {
            Some((name, value)) => (name.trim().to_owned(), value.trim().to_owned()),
            None => (line.to_owned(), String::new()),
        },
        _ => {
            return reading.wrong(
                at,
                Some(0),
                "this is no option of an HTTP proxy",
                "write AGENT NAME, or CUSTOM-HEADER NAME VALUE",
            );
        }
    };
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if found.0.is_empty() || !found.0.bytes().all(token) || found.1.chars().any(char::is_control) {
        return reading.wrong(
            at,
            Some(1),
            "this is no header line of HTTP",
            "write CUSTOM-HEADER NAME VALUE",
        );
    }
    if headers.len() < 32 {
        headers.push(found);
    }
}
