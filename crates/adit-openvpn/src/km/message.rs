//! The message of key method 2.

use std::fmt;

use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// The method, in the low four bits of the fifth byte.
const METHOD: u8 = 2;
/// The longest field that is read: SAML responses have up to 128 KiB.
const MAX_STRING: usize = 256 * 1024;

/// How long strings may be: the number of bytes of their length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lengths {
    /// 16 bits.
    #[default]
    Short,
    /// 32 bits: the dialect of AWS, whose passwords hold SAML responses. The message begins with its own length there,
    /// least significant byte first, where it otherwise has zeros.
    Wide,
}

/// What one end contributes to the keys.
#[derive(Clone)]
pub struct Randoms {
    /// Of the client alone; zero for a server.
    pub pre_master: Zeroizing<[u8; 48]>,
    /// For the master secret.
    pub first: Zeroizing<[u8; 32]>,
    /// For the keys.
    pub second: Zeroizing<[u8; 32]>,
}

impl Randoms {
    /// A client's, from the system's generator: keys are made of them where the exporter is not negotiated.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn draw() -> Result<Self, ring::error::Unspecified> {
        let random = SystemRandom::new();
        let mut this = Self {
            pre_master: Zeroizing::new([0; 48]),
            first: Zeroizing::new([0; 32]),
            second: Zeroizing::new([0; 32]),
        };
        random.fill(&mut *this.pre_master)?;
        random.fill(&mut *this.first)?;
        random.fill(&mut *this.second)?;
        Ok(this)
    }
}

impl fmt::Debug for Randoms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Randoms")
    }
}

/// What a client says.
#[derive(Clone)]
pub struct ClientMessage {
    /// Its part of the keys.
    pub randoms: Randoms,
    /// The options string.
    pub options: String,
    /// The user, empty without one.
    pub username: String,
    /// The password, empty without one.
    pub password: Zeroizing<String>,
    /// `KEY=VALUE` lines.
    pub peer_info: String,
}

impl fmt::Debug for ClientMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMessage")
            .field("options", &self.options)
            .field("username", &self.username)
            .field("peer_info", &self.peer_info)
            .finish_non_exhaustive()
    }
}

/// What a server answers.
#[derive(Clone, Debug)]
pub struct ServerMessage {
    /// Its part of the keys.
    pub randoms: Randoms,
    /// The options string, for diagnoses and as the last resort for the cipher.
    pub options: String,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// More bytes must come.
    #[error("the message is not complete")]
    Incomplete,
    /// It is of another method, or no message of one.
    #[error("not a message of key method 2")]
    Method,
    /// A string is longer than its length can say.
    #[error("a string is longer than the protocol allows")]
    TooLong,
}

impl ClientMessage {
    /// The bytes, to be sent in one write so that they become one record where they can.
    ///
    /// # Errors
    /// [`MessageError::TooLong`] if a string, mostly the password, does not fit.
    pub fn encode(&self, lengths: Lengths) -> Result<Zeroizing<Vec<u8>>, MessageError> {
        let mut out = Zeroizing::new(vec![0, 0, 0, 0, METHOD]);
        out.extend(&self.randoms.pre_master[..]);
        out.extend(&self.randoms.first[..]);
        out.extend(&self.randoms.second[..]);
        for text in [&self.options, &self.username, &*self.password, &self.peer_info] {
            push_string(&mut out, text, lengths)?;
        }
        put_total(&mut out, lengths)?;
        Ok(out)
    }

    /// Reads a client's message, as a server does; returns it and the bytes it took. What follows the last string
    /// that is there is left to the caller.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), MessageError> {
        let mut reader = Reader::new(bytes)?;
        let pre_master = Zeroizing::new(reader.array()?);
        let randoms = Randoms {
            pre_master,
            first: Zeroizing::new(reader.array()?),
            second: Zeroizing::new(reader.array()?),
        };
        let options = reader.string()?;
        let [username, password, peer_info] = [reader.string()?, reader.string()?, reader.string()?];
        let message = Self { randoms, options, username, password: Zeroizing::new(password), peer_info };
        Ok((message, bytes.len() - reader.rest.len()))
    }
}

impl ServerMessage {
    /// The bytes.
    ///
    /// # Errors
    /// [`MessageError::TooLong`].
    pub fn encode(&self, lengths: Lengths) -> Result<Zeroizing<Vec<u8>>, MessageError> {
        let mut out = Zeroizing::new(vec![0, 0, 0, 0, METHOD]);
        out.extend(&self.randoms.first[..]);
        out.extend(&self.randoms.second[..]);
        for text in [&self.options[..], "", "", ""] {
            push_string(&mut out, text, lengths)?;
        }
        put_total(&mut out, lengths)?;
        Ok(out)
    }

    /// Reads a server's message, from the beginning of what it said; returns it and the bytes it took.
    ///
    /// The three strings behind the options string belong to it as far as they are there: what follows them is a
    /// control message, and none begins with a zero byte.
    ///
    /// # Errors
    /// [`MessageError::Incomplete`] until the options string has come; [`MessageError::Method`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), MessageError> {
        let mut reader = Reader::new(bytes)?;
        let randoms = Randoms {
            pre_master: Zeroizing::new([0; 48]),
            first: Zeroizing::new(reader.array()?),
            second: Zeroizing::new(reader.array()?),
        };
        let options = reader.string()?;
        for _ in 0..3 {
            // A length below 256 begins with a zero byte. Longer strings do not come here from any server.
            if reader.rest.first() == Some(&0) && reader.string().is_err() {
                break;
            }
        }
        Ok((Self { randoms, options }, bytes.len() - reader.rest.len()))
    }
}

/// Writes the length of a whole message where the dialect has it.
fn put_total(out: &mut [u8], lengths: Lengths) -> Result<(), MessageError> {
    if lengths == Lengths::Wide {
        let total = u32::try_from(out.len()).map_err(|_| MessageError::TooLong)?;
        if let Some(head) = out.first_chunk_mut() {
            *head = total.to_le_bytes();
        }
    }
    Ok(())
}

fn push_string(out: &mut Vec<u8>, text: &str, lengths: Lengths) -> Result<(), MessageError> {
    // An empty string has no terminator either.
    let len = if text.is_empty() { 0 } else { text.len() + 1 };
    match lengths {
        Lengths::Short => {
            out.extend(u16::try_from(len).map_err(|_| MessageError::TooLong)?.to_be_bytes());
        }
        Lengths::Wide => {
            out.extend(u32::try_from(len).map_err(|_| MessageError::TooLong)?.to_be_bytes());
        }
    }
    if len > 0 {
        out.extend(text.as_bytes());
        out.push(0);
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a [u8],
    lengths: Lengths,
}

impl<'a> Reader<'a> {
    /// Reads the head, which tells the dialect.
    fn new(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut this = Self { rest: bytes, lengths: Lengths::Short };
        let [a, b, c, d, method] = this.array()?;
        if method & 0x0f != METHOD {
            return Err(MessageError::Method);
        }
        if u32::from_le_bytes([a, b, c, d]) != 0 {
            this.lengths = Lengths::Wide;
        }
        Ok(this)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(MessageError::Incomplete)?;
        self.rest = rest;
        Ok(*array)
    }

    fn string(&mut self) -> Result<String, MessageError> {
        let len = match self.lengths {
            Lengths::Short => usize::from(u16::from_be_bytes(self.array()?)),
            Lengths::Wide => {
                usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| MessageError::TooLong)?
            }
        };
        if len > MAX_STRING {
            return Err(MessageError::TooLong);
        }
        let (text, rest) = self.rest.split_at_checked(len).ok_or(MessageError::Incomplete)?;
        self.rest = rest;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn randoms(byte: u8) -> Randoms {
        Randoms {
            pre_master: Zeroizing::new([byte; 48]),
            first: Zeroizing::new([byte + 1; 32]),
            second: Zeroizing::new([byte + 2; 32]),
        }
    }

    fn client() -> ClientMessage {
        ClientMessage {
            randoms: randoms(1),
            options: "V4,dev-type tun".to_owned(),
            username: String::new(),
            password: Zeroizing::default(),
            peer_info: "IV_VER=1\n".to_owned(),
        }
    }

    #[test]
    fn a_client_without_credentials_sends_two_empty_strings() {
        let bytes = client().encode(Lengths::Short).unwrap();
        assert_eq!(bytes.split_at(5).0, [0, 0, 0, 0, 2]);
        let strings = bytes.split_at(5 + 48 + 64).1;
        assert_eq!(strings, b"\x00\x10V4,dev-type tun\x00\x00\x00\x00\x00\x00\x0aIV_VER=1\n\x00");
        let (read, used) = ClientMessage::decode(&bytes).unwrap();
        assert_eq!((used, read.options), (bytes.len(), "V4,dev-type tun".to_owned()));
    }

    #[test]
    fn a_password_of_100_kilobytes_fits_wide_strings_only() {
        let mut message = client();
        message.password = Zeroizing::new("x".repeat(100_000));
        assert_eq!(message.encode(Lengths::Short).err(), Some(MessageError::TooLong));
        let bytes = message.encode(Lengths::Wide).unwrap();
        assert_eq!(bytes.split_at(4).0, (bytes.len() as u32).to_le_bytes());
        let strings = bytes.split_at(5 + 48 + 64).1;
        assert_eq!(strings.split_at(4).0, 16u32.to_be_bytes());
        let (read, used) = ClientMessage::decode(&bytes).unwrap();
        assert_eq!((used, read.password.len()), (bytes.len(), 100_000));
    }

    #[test]
    fn a_server_may_answer_in_either_dialect() {
        let message = ServerMessage { randoms: randoms(1), options: "V4,tls-server".to_owned() };
        for lengths in [Lengths::Short, Lengths::Wide] {
            let bytes = [&message.encode(lengths).unwrap()[..], b"PUSH_REPLY\0"].concat();
            let (read, used) = ServerMessage::decode(&bytes).unwrap();
            assert_eq!((used, &read.options[..]), (bytes.len() - 11, "V4,tls-server"), "{lengths:?}");
        }
        let endless = [&[9, 0, 0, 0, 2][..], &[0; 64], &[0xff; 4]].concat();
        assert_eq!(ServerMessage::decode(&endless).err(), Some(MessageError::TooLong));
    }

    #[test]
    fn a_servers_message_is_read_with_and_without_its_tail_and_what_follows_is_left() {
        let message = ServerMessage { randoms: randoms(1), options: "V4,tls-server".to_owned() };
        let whole = message.encode(Lengths::Short).unwrap();
        for tail in [0, 2, 4, 6] {
            let mut bytes = whole.split_at(whole.len() - 6 + tail).0.to_vec();
            let len = bytes.len();
            bytes.extend(b"PUSH_REPLY,ping 10\0");
            let (read, used) = ServerMessage::decode(&bytes).unwrap();
            assert_eq!((used, &read.options[..]), (len, "V4,tls-server"), "with a tail of {tail}");
        }
        for cut in 0..whole.len() - 6 {
            assert_eq!(
                ServerMessage::decode(whole.split_at(cut).0).err(),
                Some(MessageError::Incomplete),
                "{cut}"
            );
        }
        // Some write an empty string with its terminator.
        let terminated = [whole.split_at(whole.len() - 6).0, b"\0\x01\0\0\x01\0\0\x01\0"].concat();
        assert_eq!(ServerMessage::decode(&terminated).unwrap().1, terminated.len());
    }

    #[test]
    fn another_method_is_refused() {
        assert_eq!(ServerMessage::decode(&[0, 0, 0, 0, 1, 9]).err(), Some(MessageError::Method));
        assert_eq!(ServerMessage::decode(b"HTTP/1.1 400").err(), Some(MessageError::Method));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = [&[0, 0, 0, 0, 2][..], &tail].concat();
            let _ = (ServerMessage::decode(&bytes), ClientMessage::decode(&bytes), ClientMessage::decode(&tail));
        }
    }
}
