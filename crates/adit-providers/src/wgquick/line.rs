//! Lines of a wg-quick file and the places in them.

use std::borrow::Cow;

use crate::{Place, Problem};

/// A line without its comment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) number: usize,
    pub(super) raw: &'a str,
    pub(super) content: &'a str,
}

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Said<'a> {
    Nothing,
    Section(&'a str),
    Pair { key: &'a str, value: &'a str },
    Other,
}

/// The lines of a text. `#` begins a comment anywhere, as for `wg-quick`.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.split('\n').enumerate().map(|(index, raw)| {
        let raw = raw.strip_suffix('\r').unwrap_or(raw);
        let content = raw.split('#').next().unwrap_or("").trim();
        Line { number: index + 1, raw, content }
    })
}

impl<'a> Line<'a> {
    pub(super) fn said(&self) -> Said<'a> {
        if self.content.is_empty() {
            return Said::Nothing;
        }
        if let Some(name) = self.content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return Said::Section(name.trim());
        }
        match self.content.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Said::Pair { key: key.trim(), value: value.trim() }
            }
            _ => Said::Other,
        }
    }

    /// The place of `part`, which must be a slice of this line; otherwise the whole content is meant.
    pub(super) fn place(&self, part: &str) -> Place {
        let part = if part.is_empty() { self.content } else { part };
        let offset = (part.as_ptr() as usize)
            .checked_sub(self.raw.as_ptr() as usize)
            .filter(|offset| offset + part.len() <= self.raw.len() && self.raw.is_char_boundary(*offset))
            .unwrap_or(0);
        Place {
            line: self.number,
            column: self.raw[..offset].chars().count() + 1,
            length: part.chars().count().max(1),
            text: censored(self.raw).into_owned(),
        }
    }

    /// The place of the value of a secret key: the text shows the key only.
    pub(super) fn secret_place(&self, value: &str) -> Place {
        let mut place = self.place(value);
        let head: String = self.raw.chars().take(place.column - 1).collect();
        place.text = format!("{head}[redacted]");
        place.length = "[redacted]".len();
        place
    }
}

/// The line of a text for messages, without anything that could be a key: runs of 40 and more base64 characters, and
/// whatever stands as the value of a secret, for a damaged key is still most of one. Public keys are left, because a line
/// says so. Widths are kept, so that columns stay right.
pub fn censored(raw: &str) -> Cow<'_, str> {
    let (key, value) = raw.split_once('=').unwrap_or_default();
    let is = |name: &str| key.trim().eq_ignore_ascii_case(name);
    if is("PrivateKey") || is("PresharedKey") {
        let hidden = value.chars().map(|c| if c.is_whitespace() { c } else { '*' });
        return Cow::Owned(key.chars().chain(['=']).chain(hidden).collect());
    }
    let public = is("PublicKey");
    let base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    if public || !raw.split(|c| !base64(c)).any(|run| run.len() >= 40) {
        return Cow::Borrowed(raw);
    }
    let mut shown = String::with_capacity(raw.len());
    for piece in raw.split_inclusive(|c| !base64(c)) {
        let run = piece.trim_end_matches(|c| !base64(c));
        if run.len() >= 40 {
            shown.extend(std::iter::repeat_n('*', run.len()));
            shown.push_str(&piece[run.len()..]);
        } else {
            shown.push_str(piece);
        }
    }
    Cow::Owned(shown)
}

/// The problem of bytes that are not UTF-8 from `valid` on.
pub(super) fn not_text(bytes: &[u8], valid: usize) -> Problem {
    let before = String::from_utf8_lossy(&bytes[..valid]);
    let line = before.matches('\n').count() + 1;
    let head = before.rsplit('\n').next().unwrap_or("");
    let binary = bytes.iter().take(512).any(|byte| *byte == 0);
    Problem::new("wg.config.parse", "the file is not UTF-8 text")
        .seen(format!("byte {:#04x} at offset {valid}", bytes.get(valid).copied().unwrap_or(0)))
        .fix(if binary {
            "this is no wg-quick file; give the .conf file itself, not an archive or a picture of it"
        } else {
            "save the file as UTF-8"
        })
        .at(Place {
            line,
            column: head.chars().count() + 1,
            length: 1,
            text: format!("{}\u{fffd}", censored(head)),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_line_ends_are_stripped() {
        let said: Vec<_> = lines("\u{feff}[Interface] # us\r\n\n # x\nMTU = 1400 # small\n")
            .map(|line| format!("{:?}", line.said()))
            .collect();
        assert_eq!(
            said,
            [
                "Section(\"Interface\")",
                "Nothing",
                "Nothing",
                "Pair { key: \"MTU\", value: \"1400\" }",
                "Nothing"
            ]
        );
    }

    #[test]
    fn a_place_counts_characters_not_bytes() {
        let line = lines("ö = x1").next().unwrap();
        let Said::Pair { value, .. } = line.said() else { panic!() };
        assert_eq!((line.place(value).column, line.place(value).length), (5, 2));
    }

    #[test]
    fn what_could_be_a_key_is_not_shown() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        for text in [format!("PrivatKey = {key}"), key.to_owned(), format!("PrivateKey {key} = ü")] {
            let line = lines(&text).next().unwrap();
            let place = line.place(line.content);
            assert!(!place.text.contains("JBgB3"), "{}", place.text);
            assert_eq!(place.text.chars().count(), text.chars().count());
        }
        for text in ["PrivateKey = AAEKAwQFBgcICQoLDA0=", "presharedkey=AAEKAwQFBgcICQoLDA0= # ü"] {
            let place = lines(text).next().unwrap().place("");
            assert!(!place.text.contains("CQoL"), "a damaged key is still a secret: {}", place.text);
            assert_eq!(place.text.chars().count(), text.chars().count());
        }
        let text = format!("PublicKey = {key}");
        assert!(lines(&text).next().unwrap().place("").text.contains(key));
    }
}
