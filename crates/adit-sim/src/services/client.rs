//! Clients for machines that have no `psql` and no `curl`.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Duplex;

/// The largest answer that a client takes, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Why a request to a server failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The server says no.
    #[error("{0}")]
    Server(String),
    /// The server speaks something else.
    #[error("the server does not speak {0}")]
    Protocol(&'static str),
}

/// The result of a query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The values, in text form; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// Sends one query in PostgreSQL's simple protocol, without TLS and password.
///
/// # Errors
///
/// The server refuses the user or the query, or is no PostgreSQL server.
pub async fn postgres_query(mut stream: impl Duplex, user: &str, query: &str) -> Result<Rows, ClientError> {
    let mut startup = 196_608u32.to_be_bytes().to_vec();
    for word in ["user", user, "database", user] {
        startup.extend_from_slice(word.as_bytes());
        startup.push(0);
    }
    startup.push(0);
    send(&mut stream, None, &startup).await?;
    while receive(&mut stream).await?.0 != b'Z' {}
    send(&mut stream, Some(b'Q'), &[query.as_bytes(), &[0]].concat()).await?;
    let mut rows = Rows::default();
    loop {
        let (kind, body) = receive(&mut stream).await?;
        match kind {
            b'T' => rows.columns = columns(&body).ok_or(ClientError::Protocol("PostgreSQL"))?,
            b'D' => rows.rows.push(values(&body).ok_or(ClientError::Protocol("PostgreSQL"))?),
            b'Z' => break,
            _ => {}
        }
    }
    send(&mut stream, Some(b'X'), &[]).await?;
    stream.shutdown().await?;
    Ok(rows)
}

async fn send(stream: &mut impl Duplex, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
    let mut message: Vec<u8> = kind.into_iter().collect();
    message.extend_from_slice(&u32::try_from(body.len() + 4).map_err(io::Error::other)?.to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).await
}

/// One message. An ErrorResponse ends the conversation; a request for a password is one too.
async fn receive(stream: &mut impl Duplex) -> Result<(u8, Vec<u8>), ClientError> {
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await? as usize;
    if !(4..=MAX_ANSWER).contains(&length) {
        return Err(ClientError::Protocol("PostgreSQL"));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    match (kind, body.as_slice()) {
        (b'E', _) => {
            let message = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"M"));
            Err(ClientError::Server(String::from_utf8_lossy(message.unwrap_or_default()).into_owned()))
        }
        (b'R', code) if code != [0; 4] => {
            Err(ClientError::Server("the server asks for a password".to_owned()))
        }
        _ => Ok((kind, body)),
    }
}

fn columns(body: &[u8]) -> Option<Vec<String>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut names = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let end = rest.iter().position(|byte| *byte == 0)?;
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = rest.get(end + 1 + 18..)?;
    }
    Some(names)
}

fn values(body: &[u8]) -> Option<Vec<Option<String>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            values.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(length)?;
        values.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    Some(values)
}

/// Gets `path` over HTTP/1.1; the status and the body.
///
/// # Errors
///
/// The server is no HTTP server, or the connection broke.
pub async fn http_get(
    mut stream: impl Duplex,
    host: &str,
    path: &str,
) -> Result<(u16, Vec<u8>), ClientError> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: adit\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < MAX_ANSWER && stream.read_buf(&mut answer).await? > 0 {}
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&answer) {
        Ok(httparse::Status::Complete(length)) => {
            let status = response.code.ok_or(ClientError::Protocol("HTTP"))?;
            Ok((status, answer.split_off(length)))
        }
        _ => Err(ClientError::Protocol("HTTP")),
    }
}
