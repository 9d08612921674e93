//! Where a message's body ends (RFC 9112 §6).

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// The chunked transfer coding (RFC 9112 §7.1).
    Chunked,
    /// Until the connection ends; responses only.
    UntilClose,
}

/// Why a body cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// A chunk's size is no hexadecimal number, or too large.
    #[error("a chunk's size is malformed")]
    ChunkSize,
    /// The bytes after a size or a chunk are not what the coding demands.
    #[error("the chunked body is malformed")]
    Chunk,
    /// An extension or trailer that never ends.
    #[error("a line of the chunked body is too long")]
    LineTooLong,
}

/// Longest line of a size with its extensions, or of one trailer field.
const MAX_LINE: usize = 8 * 1024;

/// Follows a chunked body without changing it, to find its end.
#[derive(Clone, Debug, Default)]
pub struct ChunkScanner {
    state: State,
    line: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    SizeStart,
    Size(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    LastLf,
    Done,
}

impl ChunkScanner {
    /// Follows the next bytes; returns how many of them belong to the body.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if let State::Data(left) = self.state {
                let taken = left.min((bytes.len() - at) as u64);
                at += taken as usize;
                self.state = if taken == left { State::DataCr } else { State::Data(left - taken) };
                continue;
            }
            self.state = self.step(bytes[at])?;
            at += 1;
        }
        Ok(at)
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        self.line = if byte == b'\n' { 0 } else { self.line + 1 };
        if self.line > MAX_LINE {
            return Err(BodyError::LineTooLong);
        }
        let digit = (byte as char).to_digit(16).map(u64::from);
        Ok(match (self.state, byte) {
            (State::SizeStart, _) => State::Size(digit.ok_or(BodyError::ChunkSize)?),
            (State::Size(size), b'\r') | (State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Size(size), b';' | b' ' | b'\t') => State::Extension(size),
            (State::Size(size), _) => {
                let digit = digit.ok_or(BodyError::ChunkSize)?;
                State::Size(size.checked_mul(16).ok_or(BodyError::ChunkSize)? + digit)
            }
            (State::Extension(_), b'\n') => return Err(BodyError::Chunk),
            (State::Extension(size), _) => State::Extension(size),
            (State::SizeEnd(0), b'\n') => State::TrailerStart,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::SizeStart,
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::Trailer, b'\n') => return Err(BodyError::Chunk),
            (State::TrailerStart | State::Trailer, _) => State::Trailer,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::LastLf, b'\n') => State::Done,
            (State::SizeEnd(_) | State::DataCr | State::DataLf | State::TrailerLf | State::LastLf, _) => {
                return Err(BodyError::Chunk);
            }
            (State::Data(_) | State::Done, _) => return Ok(self.state),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_chunked_body_is_found_however_it_is_cut() {
        let body =
            b"4\r\nWiki\r\n6;ext=\"x\"\r\npedia \r\nE\r\nin \r\n\r\nchunks.\r\n0\r\nTrailer: x\r\n\r\n";
        let mut stream = body.to_vec();
        stream.extend(b"GET / HTTP/1.1\r\n");
        for step in 1..stream.len() {
            let mut scanner = ChunkScanner::default();
            let mut total = 0;
            while !scanner.is_done() {
                let end = (total + step).min(stream.len());
                total += scanner.scan(&stream[total..end]).unwrap();
            }
            assert_eq!(total, body.len(), "step {step}");
        }
    }

    #[test]
    fn hostile_chunks_are_typed_errors() {
        for (body, error) in [
            (&b"x\r\n"[..], BodyError::ChunkSize),
            (b"\r\n", BodyError::ChunkSize),
            (b"-1\r\n", BodyError::ChunkSize),
            (b"fffffffffffffffff\r\n", BodyError::ChunkSize),
            (b"1\n", BodyError::ChunkSize),
            (b"1;x\n", BodyError::Chunk),
            (b"1\r\nab\r\n", BodyError::Chunk),
            (b"0\r\n\n", BodyError::Chunk),
            (&[b'0'; 9000], BodyError::LineTooLong),
        ] {
            let outcome = ChunkScanner::default().scan(body);
            assert_eq!(outcome, Err(error), "{:?}", String::from_utf8_lossy(&body[..body.len().min(20)]));
        }
    }
}
