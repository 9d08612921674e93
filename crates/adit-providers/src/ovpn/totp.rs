//! One-time codes by time (RFC 6238) out of a secret, as authenticator programs have it.

use std::time::Duration;

use ring::hmac;
use zeroize::Zeroizing;

use crate::{Problem, Secret};

/// A generator of one-time codes.
pub struct Totp {
    key: hmac::Key,
    digits: u32,
    period: u64,
}

impl std::fmt::Debug for Totp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { key: _, digits, period } = self;
        write!(f, "Totp({digits} digits, {period} s)")
    }
}

impl Totp {
    /// Reads the secret in base32 (RFC 4648 §6, spaces and padding as you like), or the whole
    /// `otpauth://totp/…?secret=…` address that a QR code holds. Codes have 6 digits and 30 seconds unless that address
    /// says otherwise.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn parse(secret: &Secret) -> Result<Self, Problem> {
        let bad = |why: &str| {
            Problem::new("credential.format", format!("the secret of one-time codes cannot be read: {why}"))
                .fix("give the base32 text that the setup page shows beside its QR code, like JBSW Y3DP EHPK 3PXP")
        };
        let text = secret.expose_text().ok_or_else(|| bad("it is not text"))?;
        let (mut algorithm, mut digits, mut period) = (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 6, 30);
        let base32 = match text.strip_prefix("otpauth://totp/") {
            None if text.starts_with("otpauth:") => {
                return Err(bad("only codes by time (totp) are possible"));
            }
            None => Zeroizing::new(text.to_owned()),
            Some(rest) => {
                let query = rest.split_once('?').map_or("", |(_, query)| query);
                let mut found = None;
                for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
                    match name {
                        "secret" => found = Some(Zeroizing::new(value.replace("%20", "").replace("%3D", ""))),
                        "digits" => digits = value.parse().map_err(|_| bad("`digits` is no number"))?,
                        "period" => period = value.parse().map_err(|_| bad("`period` is no number"))?,
                        "algorithm" => {
                            algorithm = match value.to_ascii_uppercase().as_str() {
                                "SHA1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                                "SHA256" => hmac::HMAC_SHA256,
                                "SHA512" => hmac::HMAC_SHA512,
                                _ => return Err(bad("`algorithm` is none of SHA1, SHA256, SHA512")),
                            };
                        }
                        _ => {}
                    }
                }
                found.ok_or_else(|| bad("the address has no `secret`"))?
            }
        };
        if !(6..=9).contains(&digits) || !(5..=600).contains(&period) {
            return Err(bad("codes have 6 to 9 digits and last 5 to 600 seconds"));
        }
        let key = decode(&base32).ok_or_else(|| bad("it is not base32: letters A to Z and digits 2 to 7"))?;
        if key.len() < 10 {
            return Err(bad("it is too short"));
        }
        Ok(Self { key: hmac::Key::new(algorithm, &key), digits, period })
    }

    /// The code at a time since 1970-01-01T00:00:00Z.
    pub fn code(&self, unix: Duration) -> Zeroizing<String> {
        let counter = unix.as_secs() / self.period;
        let tag = hmac::sign(&self.key, &counter.to_be_bytes());
        let tag = tag.as_ref();
        // RFC 4226 §5.3: four bytes from where the last nibble says.
        let offset = usize::from(tag.last().copied().unwrap_or(0) & 0x0f);
        let four = tag.get(offset..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
        let number = (u32::from_be_bytes(four) & 0x7fff_ffff) % 10u32.pow(self.digits);
        Zeroizing::new(format!("{number:0width$}", width = self.digits as usize))
    }
}

fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let (mut bits, mut count) = (0u32, 0);
    for character in text.trim_end_matches('=').chars() {
        let value = match character {
            ' ' | '-' => continue,
            'a'..='z' => character as u32 - 'a' as u32,
            'A'..='Z' => character as u32 - 'A' as u32,
            '2'..='7' => character as u32 - '2' as u32 + 26,
            _ => return None,
        };
        bits = bits << 5 | value;
        count += 5;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totp(text: &str) -> Result<Totp, Problem> {
        Totp::parse(&Secret::new(text.as_bytes().to_vec()))
    }

    /// RFC 6238 appendix B: 8 digits, 30 s, keys of 20, 32 and 64 bytes of `1234567890…`.
    #[test]
    fn codes_are_those_of_the_standard() {
        let key20 = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        let key32 = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZA";
        let key64 = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQGEZDGNA";
        for (time, sha1, sha256, sha512) in [
            (59, "94287082", "46119246", "90693936"),
            (1_111_111_109, "07081804", "68084774", "25091201"),
            (1_111_111_111, "14050471", "67062674", "99943326"),
            (1_234_567_890, "89005924", "91819424", "93441116"),
            (2_000_000_000, "69279037", "90698825", "38618901"),
            (20_000_000_000, "65353130", "77737706", "47863826"),
        ] {
            for (algorithm, key, code) in
                [("SHA1", key20, sha1), ("SHA256", key32, sha256), ("SHA512", key64, sha512)]
            {
                let address = format!(
                    "otpauth://totp/x:y?secret={key}&algorithm={algorithm}&digits=8&period=30&issuer=x"
                );
                assert_eq!(totp(&address).unwrap().code(Duration::from_secs(time)).as_str(), code);
            }
        }
        assert_eq!(totp(key20).unwrap().code(Duration::from_secs(59)).as_str(), "287082");
    }

    #[test]
    fn secrets_are_read_as_people_write_them_and_refused_unseen() {
        let code = |text: &str| totp(text).unwrap().code(Duration::ZERO).to_string();
        assert_eq!(code("gezd gnbv gy3t qojq\n"), code("GEZDGNBVGY3TQOJQ===="));
        for text in [
            "",
            "GEZD",
            "GEZDGNBVGY3TQOJ1",
            "otpauth://hotp/x?secret=GEZDGNBVGY3TQOJQ",
            "otpauth://totp/x?a=b",
        ] {
            let problem = totp(text).unwrap_err();
            assert_eq!(problem.class, "credential.format");
            assert!(text.len() < 5 || !problem.to_string().contains("GEZDGNBVGY3TQOJ"));
        }
        assert!(!format!("{:?}", totp("GEZDGNBVGY3TQOJQ").unwrap()).contains("GEZ"));
    }
}
