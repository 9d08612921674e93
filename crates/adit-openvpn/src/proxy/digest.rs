//! The answer to a Digest challenge (RFC 7616), with MD5 and SHA-256.

use md5::Digest as _;
use ring::digest::{SHA256, digest};

/// What a proxy asks.
#[derive(Debug)]
pub(super) struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    sha256: bool,
    /// `qop=auth` is offered; otherwise the answer is that of RFC 2069.
    qop: bool,
}

impl Challenge {
    /// Reads the value of a header; `None` for other schemes, and for what is not supported.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let value = value.trim_start();
        let scheme = value.get(..7)?;
        if !scheme.eq_ignore_ascii_case("digest ") {
            return None;
        }
        let fields = fields(value.get(7..)?);
        let get = |name: &str| {
            fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let sha256 = match get("algorithm").map(|name| name.to_ascii_uppercase()).as_deref() {
            None | Some("MD5") => false,
            Some("SHA-256") => true,
            Some(_) => return None,
        };
        let qop = match get("qop") {
            None => false,
            Some(offered) if offered.split(',').any(|one| one.trim() == "auth") => true,
            Some(_) => return None,
        };
        Some(Self {
            realm: get("realm")?.clone(),
            nonce: get("nonce")?.clone(),
            opaque: get("opaque").cloned(),
            sha256,
            qop,
        })
    }

    /// The value of the header that answers.
    pub(super) fn answer(&self, user: &str, password: &str, method: &str, uri: &str, random: u64) -> String {
        let cnonce = format!("{random:016x}");
        let Self { realm, nonce, .. } = self;
        let secret = self.hash(&format!("{user}:{realm}:{password}"));
        let request = self.hash(&format!("{method}:{uri}"));
        let response = match self.qop {
            true => self.hash(&format!("{secret}:{nonce}:00000001:{cnonce}:auth:{request}")),
            false => self.hash(&format!("{secret}:{nonce}:{request}")),
        };
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut value = format!(
            "Digest username=\"{}\", realm=\"{}\", nonce=\"{}\", uri=\"{uri}\", response=\"{response}\"",
            quoted(user),
            quoted(realm),
            quoted(nonce)
        );
        if self.sha256 {
            value.push_str(", algorithm=SHA-256");
        }
        if self.qop {
            value.push_str(&format!(", qop=auth, nc=00000001, cnonce=\"{cnonce}\""));
        }
        if let Some(opaque) = &self.opaque {
            value.push_str(&format!(", opaque=\"{}\"", quoted(opaque)));
        }
        value
    }

    fn hash(&self, text: &str) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.sha256 {
            true => hex(digest(&SHA256, text.as_bytes()).as_ref()),
            false => hex(&md5::Md5::digest(text.as_bytes())),
        }
    }
}

/// `name=value` and `name="value"`, separated by commas.
fn fields(text: &str) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && *c != ',') {
            name.push(c);
        }
        if chars.next().is_none() {
            return fields;
        }
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(chars.next()),
                    // A line break in a value would begin a header of its own.
                    c if c.is_control() => {}
                    c => value.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                value.push(c);
            }
        }
        fields.push((name.trim().to_owned(), value.trim().to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_come_out() {
        // RFC 7616 §3.9.1, with its cnonce and without a proxy.
        let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
        for (algorithm, expected) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let challenge = Challenge::parse(&format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                 nonce=\"{nonce}\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            ))
            .unwrap();
            let cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";
            let secret = challenge.hash("Mufasa:http-auth@example.org:Circle of Life");
            let request = challenge.hash("GET:/dir/index.html");
            let response = challenge.hash(&format!("{secret}:{nonce}:00000001:{cnonce}:auth:{request}"));
            assert_eq!(response, expected);
        }
    }

    #[test]
    fn an_answer_has_what_the_challenge_wants() {
        let challenge = Challenge::parse("digest realm=\"a \\\"b\\\"\", nonce=n1 , opaque=\"o\"").unwrap();
        let answer = challenge.answer("u\"x", "p", "CONNECT", "h:1", 1);
        assert!(
            answer
                .starts_with("Digest username=\"u\\\"x\", realm=\"a \\\"b\\\"\", nonce=\"n1\", uri=\"h:1\"")
        );
        assert!(answer.ends_with("opaque=\"o\"") && !answer.contains("qop"));
    }

    #[test]
    fn other_schemes_and_algorithms_are_left_alone() {
        for value in
            ["Basic realm=x", "Digest", "Digest realm=\"x\"", "Digest realm=x, nonce=y, algorithm=MD5-sess"]
        {
            assert!(Challenge::parse(value).is_none(), "{value}");
        }
    }
}
