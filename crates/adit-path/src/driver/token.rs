//! What a readiness event of the loop is about.

use mio::Token;

/// The owner of a registered descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Commands wait.
    Waker,
    /// The machine's own network changed.
    Watch,
    /// The TUN device.
    Tun,
    /// A link, by its place in the table and which of its sockets.
    Link(usize),
    /// An attached stream socket.
    Stream(usize),
    /// An attached socket of datagrams.
    Datagrams(usize),
}

impl Source {
    /// The kind is in the low three bits, the table key above.
    pub(crate) fn token(self) -> Token {
        let (kind, key) = match self {
            Self::Waker => (0, 0),
            Self::Watch => (1, 0),
            Self::Tun => (2, 0),
            Self::Link(key) => (3, key),
            Self::Stream(key) => (4, key),
            Self::Datagrams(key) => (5, key),
        };
        Token(key << 3 | kind)
    }

    pub(crate) fn of(token: Token) -> Option<Self> {
        let key = token.0 >> 3;
        Some(match token.0 & 7 {
            0 => Self::Waker,
            1 => Self::Watch,
            2 => Self::Tun,
            3 => Self::Link(key),
            4 => Self::Stream(key),
            5 => Self::Datagrams(key),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_source() {
        for source in [Source::Waker, Source::Watch, Source::Tun, Source::Link(0), Source::Stream(77)] {
            assert_eq!(Source::of(source.token()), Some(source));
        }
        assert_eq!(Source::of(Source::Datagrams(1 << 40).token()), Some(Source::Datagrams(1 << 40)));
        assert_eq!(Source::of(Token(7)), None);
    }
}
