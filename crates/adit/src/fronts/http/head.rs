//! Heads of requests and responses, as pure functions over bytes.

use httparse::Status;

use super::body::Framing;
use crate::fronts::target::{Target, TargetError};

/// The longest head in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

/// Why bytes are no head that this proxy serves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The bytes do not parse.
    #[error("the head does not parse: {0}")]
    Malformed(String),
    /// The head exceeds [`MAX_HEAD`].
    #[error("the head exceeds {MAX_HEAD} bytes")]
    TooLong,
    /// A request for this server in place of a proxy.
    #[error("this is a proxy: `{0}` is neither CONNECT HOST:PORT nor an absolute http:// URL")]
    NotProxied(String),
    /// Only `http:` is proxied in plain; everything else needs CONNECT.
    #[error("`{0}:` is not proxied in plain; use CONNECT")]
    Scheme(String),
    /// The authority is no target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The length of the body is given twice or differently: a smuggled request, or a broken client.
    #[error("the length of the body is ambiguous")]
    AmbiguousLength,
}

/// How a request reaches its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `CONNECT`: a tunnel.
    Tunnel,
    /// A plain request; this head in origin form goes to the target.
    Plain {
        /// The head, ready to be sent.
        head: Vec<u8>,
        /// How its body ends.
        framing: Framing,
        /// Whether the method is HEAD, whose response has no body.
        is_head: bool,
    },
}

/// A request of a proxy's client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Where to.
    pub target: Target,
    /// How.
    pub route: Route,
    /// Whether the client keeps the connection for a further request.
    pub keep_alive: bool,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<Vec<u8>>,
}

/// The head of a response, made ready for the client but for the `Connection` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// The status line and the fields, each with its line end.
    pub lines: Vec<u8>,
    /// How the body ends.
    pub framing: Framing,
}

/// Reads a request's head and how many bytes it takes; `None` if more are needed.
pub fn parse_request(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let used = match request.parse(bytes).map_err(|error| HeadError::Malformed(error.to_string()))? {
        Status::Complete(used) if used <= MAX_HEAD => used,
        Status::Partial if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(HeadError::TooLong),
    };
    let (Some(method), Some(uri), Some(version)) = (request.method, request.path, request.version) else {
        return Err(HeadError::Malformed("the request line is incomplete".to_owned()));
    };
    let fields = Fields(request.headers);
    let authorization = fields.first("proxy-authorization").map(<[u8]>::to_vec);
    let keep_alive = fields.keeps_alive(version);
    let (target, route) = if method == "CONNECT" {
        (Target::parse(uri, None)?, Route::Tunnel)
    } else {
        let (target, authority, path) = split_absolute(uri)?;
        let framing = fields.framing()?.unwrap_or(Framing::Empty);
        let mut head = format!("{method} {path} HTTP/1.{version}\r\nHost: {authority}\r\n").into_bytes();
        fields.write_end_to_end(&mut head, &["host"]);
        head.extend_from_slice(b"Via: 1.1 adit\r\nConnection: close\r\n\r\n");
        (target, Route::Plain { head, framing, is_head: method == "HEAD" })
    };
    Ok(Some((Head { target, route, keep_alive, authorization }, used)))
}

/// Reads a response's head and how many bytes it takes; `None` if more are needed.
pub fn parse_response(bytes: &[u8], is_head: bool) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let used = match response.parse(bytes).map_err(|error| HeadError::Malformed(error.to_string()))? {
        Status::Complete(used) if used <= MAX_HEAD => used,
        Status::Partial if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(HeadError::TooLong),
    };
    let Some(status) = response.code else {
        return Err(HeadError::Malformed("the status line is incomplete".to_owned()));
    };
    let fields = Fields(response.headers);
    let framing = match status {
        _ if is_head => Framing::Empty,
        100..200 | 204 | 304 => Framing::Empty,
        _ => fields.framing()?.unwrap_or(Framing::UntilClose),
    };
    let mut lines = format!("HTTP/1.1 {status:03} {}\r\n", response.reason.unwrap_or_default()).into_bytes();
    fields.write_end_to_end(&mut lines, &[]);
    lines.extend_from_slice(b"Via: 1.1 adit\r\n");
    Ok(Some((ResponseHead { status, lines, framing }, used)))
}

/// Splits `http://AUTHORITY/PATH`; user information is dropped (RFC 9110 §4.2.4).
fn split_absolute(uri: &str) -> Result<(Target, String, String), HeadError> {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Err(HeadError::NotProxied(uri.chars().take(80).collect()));
    };
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(HeadError::Scheme(scheme.chars().take(20).collect()));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let target = Target::parse(authority, Some(80))?;
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((target, authority.to_owned(), path))
}

struct Fields<'h>(&'h [httparse::Header<'h>]);

/// Fields of one connection, besides those that `Connection` names (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

impl Fields<'_> {
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    fn first(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// Whether a list field contains a token, in any case.
    fn lists(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }

    fn keeps_alive(&self, version: u8) -> bool {
        let says = |token| self.lists("connection", token) || self.lists("proxy-connection", token);
        version == 1 && !says("close")
    }

    /// How the body ends, where the fields say so (RFC 9112 §6.3). What two parties could read differently is
    /// an error.
    fn framing(&self) -> Result<Option<Framing>, HeadError> {
        let mut lengths = self.values("content-length").map(|value| {
            let text = std::str::from_utf8(value).ok().map(str::trim)?;
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
        });
        let mut codings = self.values("transfer-encoding");
        match (lengths.next(), codings.next()) {
            (None, None) => Ok(None),
            (None, Some(coding)) if codings.next().is_none() => {
                let chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
                if chunked { Ok(Some(Framing::Chunked)) } else { Err(HeadError::AmbiguousLength) }
            }
            (Some(Some(length)), None) if lengths.all(|other| other == Some(length)) => {
                Ok(Some(if length == 0 { Framing::Empty } else { Framing::Length(length) }))
            }
            _ => Err(HeadError::AmbiguousLength),
        }
    }

    fn write_end_to_end(&self, out: &mut Vec<u8>, except: &[&str]) {
        for field in self.0 {
            let name = field.name.to_ascii_lowercase();
            let named =
                self.lists("connection", &name) && name != "transfer-encoding" && name != "content-length";
            if HOP_BY_HOP.contains(&name.as_str()) || except.contains(&name.as_str()) || named {
                continue;
            }
            out.extend_from_slice(field.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Head, HeadError> {
        let (head, used) = parse_request(text.as_bytes())?.expect("the head is complete");
        assert_eq!(used, text.find("\r\n\r\n").unwrap() + 4);
        Ok(head)
    }

    #[test]
    fn connect_names_its_target() {
        let head = request("CONNECT db.internal:443 HTTP/1.1\r\nHost: db.internal:443\r\n\r\n").unwrap();
        assert_eq!((head.target.to_string().as_str(), head.route), ("db.internal:443", Route::Tunnel));
        let head = request("CONNECT [fd00::1]:443 HTTP/1.1\r\n\r\n\x16\x03\x01").unwrap();
        assert_eq!(head.target.to_string(), "[fd00::1]:443");
        assert!(matches!(request("CONNECT db HTTP/1.1\r\n\r\n"), Err(HeadError::Target(_))));
    }

    #[test]
    fn a_plain_request_goes_on_in_origin_form_without_hop_by_hop_fields() {
        let head = request(
            "POST http://me:secret@api.internal:8080/a?b=c#d HTTP/1.1\r\nHost: wrong\r\nAccept: */*\r\n\
             Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic xx\r\nConnection: X-Private\r\n\
             X-Private: 1\r\nContent-Length: 3\r\n\r\nabc",
        )
        .unwrap();
        assert_eq!(head.target.to_string(), "api.internal:8080");
        assert_eq!(head.authorization.as_deref(), Some(&b"Basic xx"[..]));
        assert!(head.keep_alive);
        let Route::Plain { head, framing, is_head } = head.route else { panic!("a tunnel") };
        assert_eq!((framing, is_head), (Framing::Length(3), false));
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "POST /a?b=c HTTP/1.1\r\nHost: api.internal:8080\r\nAccept: */*\r\nContent-Length: 3\r\n\
             Via: 1.1 adit\r\nConnection: close\r\n\r\n"
        );
        for (uri, path) in [("http://h", "/"), ("http://h?q", "/?q"), ("HTTP://h/x", "/x")] {
            let head = request(&format!("GET {uri} HTTP/1.0\r\n\r\n")).unwrap();
            assert!(!head.keep_alive);
            let Route::Plain { head, .. } = head.route else { panic!("a tunnel") };
            assert!(
                String::from_utf8(head).unwrap().starts_with(&format!("GET {path} HTTP/1.0\r\nHost: h\r\n"))
            );
        }
    }

    #[test]
    fn smuggled_lengths_are_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: 99999999999999999999",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            let text = format!("GET http://h/ HTTP/1.1\r\n{fields}\r\n\r\n");
            assert_eq!(request(&text), Err(HeadError::AmbiguousLength), "{fields}");
        }
        let same =
            request("GET http://h/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n").unwrap();
        assert!(matches!(same.route, Route::Plain { framing: Framing::Length(1), .. }));
    }

    #[test]
    fn what_is_not_for_a_proxy_is_said() {
        assert_eq!(request("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::NotProxied("/".to_owned())));
        assert_eq!(request("GET https://h/ HTTP/1.1\r\n\r\n"), Err(HeadError::Scheme("https".to_owned())));
        assert!(matches!(parse_request(b"\x16\x03\x01\x00"), Err(HeadError::Malformed(_))));
        assert_eq!(parse_request(b"GET http://h/ HTTP/1.1\r\nA: b\r\n"), Ok(None));
        let mut long = b"GET http://h/ HTTP/1.1\r\nA: ".to_vec();
        long.resize(MAX_HEAD, b'a');
        assert_eq!(parse_request(&long), Err(HeadError::TooLong));
    }

    #[test]
    fn a_response_tells_how_its_body_ends() {
        for (text, is_head, framing) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, Framing::Length(5)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, Framing::Empty),
            ("HTTP/1.1 204 No Content\r\n\r\n", false, Framing::Empty),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, Framing::Empty),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", false, Framing::Chunked),
            ("HTTP/1.0 200 OK\r\n\r\n", false, Framing::UntilClose),
        ] {
            let (head, _) = parse_response(text.as_bytes(), is_head).unwrap().unwrap();
            assert_eq!(head.framing, framing, "{text}");
        }
        let text = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\nServer: x\r\n\r\n";
        let (head, _) = parse_response(text, false).unwrap().unwrap();
        assert_eq!(
            String::from_utf8(head.lines).unwrap(),
            "HTTP/1.1 200 OK\r\nServer: x\r\nVia: 1.1 adit\r\n"
        );
    }
}
