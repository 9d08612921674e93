//! Heads of the proxies' clients and servers.

use adit::fronts::{
    ChunkScanner, Framing, Head, Parsed, Route, SocksError, parse_http_request, parse_http_response,
    parse_socks_credentials, parse_socks_datagram, parse_socks_greeting, parse_socks_request,
};

/// Reads SOCKS messages as a server does: just the bytes that the parser asks for. The first byte chooses which.
pub fn socks_message(bytes: &[u8]) {
    let Some((&kind, message)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => fed(message, parse_socks_greeting),
        1 => fed(message, parse_socks_credentials),
        2 => fed(message, parse_socks_request),
        _ => {
            if let Ok((_, payload)) = parse_socks_datagram(message) {
                assert!(message.ends_with(payload), "the payload is the rest of the datagram");
                assert!(message.len() >= payload.len() + 4, "behind its header");
            }
        }
    }
}

/// What a parser asks for is always more than there is and never more than the message; no message is a part of
/// another one.
fn fed<T>(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<Parsed<T>, SocksError>) {
    let mut have = 0;
    loop {
        match parse(&bytes[..have]) {
            Err(_) => return,
            Ok(Parsed::Needs(total)) => {
                assert!(total > have, "{total} bytes are wanted, and {have} are there");
                if total > bytes.len() {
                    return;
                }
                have = total;
            }
            Ok(Parsed::Done(_)) => break,
        }
    }
    for part in 0..have {
        let Ok(Parsed::Needs(total)) = parse(&bytes[..part]) else {
            panic!("the first {part} of {have} bytes pass for a message");
        };
        assert!(total <= have, "{total} bytes are wanted of a message of {have}");
    }
    if have < bytes.len() {
        assert!(matches!(parse(bytes), Err(SocksError::Trailing)), "bytes after the message are noticed");
    }
}

/// Reads the head of a request, of a response or a chunked body; the first byte chooses which. A request that is passed
/// on reads the same for its next reader.
pub fn http_head(bytes: &[u8]) {
    let Some((&kind, head)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => request(head),
        1 | 2 => response(head, kind % 4 == 2),
        _ => chunks(head),
    }
}

fn request(bytes: &[u8]) {
    let Ok(Some((head, used))) = parse_http_request(bytes) else { return };
    assert!(used <= bytes.len(), "a head lies inside its bytes");
    assert_eq!(
        parse_http_request(&bytes[..used]),
        Ok(Some((head.clone(), used))),
        "what follows is not read"
    );
    assert!(!matches!(parse_http_request(&bytes[..used - 1]), Ok(Some(_))), "and nothing shorter passes");
    let Head { target, route: Route::Plain { head, framing, .. }, .. } = head else { return };
    assert!(target.port > 0);
    assert_ne!(framing, Framing::UntilClose, "only a response ends with its connection");

    // To a server, which is named in `Host`, the head is in origin form; a proxy behind this one would be asked with
    // the authority in front, which says the same.
    let mut lines = head.split(|&byte| byte == b'\n');
    let first = lines.next().expect("a head has a first line");
    let fields: Vec<&[u8]> = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).collect();
    let named = |name: &[u8]| {
        let is = |line: &&&[u8]| line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name);
        fields.iter().filter(is).count()
    };
    assert_eq!(named(b"host:"), 1, "{}", String::from_utf8_lossy(&head));
    assert_eq!(named(b"connection:"), 1, "{}", String::from_utf8_lossy(&head));
    assert_eq!(named(b"proxy-authorization:"), 0, "credentials of this proxy stay here");
    // This proxy adds fields of its own; the next reader may have its limit just there.
    if fields.len() > 120 {
        return;
    }
    let path = first.iter().position(|&byte| byte == b' ').expect("a method and a path");
    let mut again = first[..=path].to_vec();
    again.extend_from_slice(b"http://next");
    again.extend_from_slice(&head[path + 1..]);
    let (read, length) = parse_http_request(&again)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&again)))
        .expect("a whole head was written");
    assert_eq!(length, again.len(), "the head ends where it was meant to");
    let Route::Plain { framing: next, .. } = read.route else { panic!("a plain request stays one") };
    assert_eq!(next, framing, "the next reader finds the end of the body where this one does");
}

fn response(bytes: &[u8], is_head: bool) {
    let Ok(Some((head, used))) = parse_http_response(bytes, is_head) else { return };
    assert!(used <= bytes.len());
    assert_eq!(parse_http_response(&bytes[..used], is_head), Ok(Some((head.clone(), used))));
    if is_head {
        assert_eq!(head.framing, Framing::Empty, "an answer to HEAD has no body");
    }
    let mut again = head.lines.clone();
    again.extend_from_slice(b"Connection: close\r\n\r\n");
    let (read, length) = parse_http_response(&again, is_head)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&again)))
        .expect("a whole head was written");
    assert_eq!((length, read.status, read.framing), (again.len(), head.status, head.framing));
}

/// The end of a body is the same however its bytes arrive.
fn chunks(bytes: &[u8]) {
    let mut whole = ChunkScanner::default();
    let outcome = whole.scan(bytes);
    let mut scanner = ChunkScanner::default();
    let mut total = 0;
    for byte in bytes.chunks(1) {
        match scanner.scan(byte) {
            Ok(taken) => total += taken,
            Err(error) => return assert_eq!(Err(error), outcome),
        }
    }
    assert_eq!((Ok(total), scanner.is_done()), (outcome, whole.is_done()));
}
