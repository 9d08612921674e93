//! What is to be told about a push.

use std::fmt;

use super::guard::Ground;
use adit_tunnel::{Fault, Prefix};

/// So many notices are kept; more are counted.
const MAX_NOTICES: usize = 64;
/// So much of an option is quoted, in characters.
const MAX_QUOTE: usize = 120;

/// One thing about a pushed option that people should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The option as it was pushed; long ones are cut, and tokens left out.
    pub option: String,
    /// What was done with it, and why.
    pub kind: NoticeKind,
}

/// What was done with a pushed option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// It asks for what is not the server's to take, and was refused.
    Refused(Ground),
    /// It was obeyed up to a prefix that is not the server's to take.
    Carved(Prefix),
    /// Its value is absurd and was not taken; what is taken lies between these.
    OutOfBounds(u32, u32),
    /// There are more of its kind than are taken.
    TooMany(usize),
    /// Its arguments are wrong; it was left out.
    Malformed,
    /// Nobody knows it; it was left out.
    Unknown,
    /// No server may set it; it was left out.
    NotPushable,
    /// It asks for something that is not done here.
    Unsupported(&'static str),
}

impl NoticeKind {
    /// Whether the server asked for what no server gets.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Refused(_) | Self::Carved(_) | Self::NotPushable | Self::OutOfBounds(..) | Self::TooMany(_)
        )
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, kind } = self;
        write!(f, "the server pushed `{option}`: ")?;
        match kind {
            NoticeKind::Refused(ground) => write!(f, "refused, {ground}"),
            NoticeKind::Carved(prefix) => write!(f, "taken, but {prefix} stays outside of the tunnel"),
            NoticeKind::OutOfBounds(least, most) => {
                write!(f, "left out, the value must be between {least} and {most}")
            }
            NoticeKind::TooMany(most) => write!(f, "left out, no more than {most} of its kind are taken"),
            NoticeKind::Malformed => f.write_str("left out, its arguments are wrong"),
            NoticeKind::Unknown => f.write_str("left out, the option is not known"),
            NoticeKind::NotPushable => f.write_str("refused, no server may set this option"),
            NoticeKind::Unsupported(what) => write!(f, "left out, {what}"),
        }
    }
}

/// Notices until somebody takes them, and counts of all that ever were.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices {
    list: Vec<Notice>,
    pub(super) refused: u64,
    pub(super) omitted: u64,
}

impl Notices {
    pub(super) fn add(&mut self, option: &str, kind: NoticeKind) {
        self.refused += u64::from(kind.is_refusal());
        if self.list.len() >= MAX_NOTICES {
            self.omitted += 1;
            return;
        }
        let notice = Notice { option: quote(option), kind };
        if !self.list.contains(&notice) {
            self.list.push(notice);
        }
    }

    pub(super) fn take(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.list)
    }
}

/// What was refused over a connection, for people to see while it lasts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(Vec<Notice>);

impl Refusals {
    pub(crate) fn add(&mut self, notice: Notice) {
        if self.0.len() < MAX_NOTICES && !self.0.contains(&notice) {
            self.0.push(notice);
        }
    }

    /// As one warning, where there are any. `count` is how many there were of them, told or not.
    pub(crate) fn warning(&self, count: u64) -> Option<Fault> {
        let first = self.0.first()?;
        let more = match count.saturating_sub(1) {
            0 => String::new(),
            1 => " (and one more was refused)".to_owned(),
            more => format!(" (and {more} more were refused)"),
        };
        Some(Fault {
            class: "ovpn.push.refused".to_owned(),
            summary: format!("{first}{more}"),
            evidence: self.0.iter().map(Notice::to_string).collect(),
        })
    }
}

/// An option for people to read: on one line, of bounded length, without secrets.
pub(super) fn quote(option: &str) -> String {
    let name = option.split_ascii_whitespace().next().unwrap_or_default();
    if name.starts_with("auth-token") {
        return format!("{name} …");
    }
    let mut text: String = option
        .chars()
        .take(MAX_QUOTE)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if option.chars().nth(MAX_QUOTE).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_printable_and_hold_no_secret() {
        assert_eq!(quote("auth-token SESS_ID_secret"), "auth-token …");
        assert_eq!(quote("auth-token-user dXNlcg=="), "auth-token-user …");
        assert_eq!(quote("echo \x1b[31mred"), "echo \u{fffd}[31mred");
        assert_eq!(quote(&"é".repeat(10_000)).chars().count(), MAX_QUOTE + 1);
    }

    #[test]
    fn refusals_are_one_warning_with_their_number_and_each_quoted() {
        let mut refusals = Refusals::default();
        assert_eq!(refusals.warning(0), None);
        for option in ["route 127.0.0.0 255.0.0.0", "route 127.0.0.0 255.0.0.0", "route 127.1.0.0"] {
            let kind = NoticeKind::Refused(Ground::Loopback);
            refusals.add(Notice { option: option.to_owned(), kind });
        }
        let warning = refusals.warning(7).unwrap();
        assert_eq!(warning.class, "ovpn.push.refused");
        assert!(warning.summary.contains("`route 127.0.0.0 255.0.0.0`: refused"), "{warning:?}");
        assert!(warning.summary.ends_with("(and 6 more were refused)"), "{warning:?}");
        assert_eq!(warning.evidence.len(), 2, "{warning:?}");
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let mut notices = Notices::default();
        for n in 0..10_000 {
            notices.add(&format!("route 127.0.0.{n}"), NoticeKind::Refused(Ground::Loopback));
        }
        assert_eq!((notices.refused, notices.omitted), (10_000, 9936));
        assert_eq!(notices.take().len(), MAX_NOTICES);
    }
}
