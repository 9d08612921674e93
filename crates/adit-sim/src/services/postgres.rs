//! A PostgreSQL server with one table (protocol 3.0, PostgreSQL documentation chapter 55).

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Duplex;

/// The largest message that is read.
const MAX_MESSAGE: u32 = 64 * 1024;

/// Request codes of the first message.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// The OID of `text`.
const TEXT: u32 = 25;
/// The OID of `int4`.
const INT4: u32 = 23;
/// The OID of `int8`.
const INT8: u32 = 20;
/// The OID of `timestamptz`.
const TIMESTAMPTZ: u32 = 1184;

/// What the server holds: a table `orders` with an `id` and an `item`.
#[derive(Clone, Debug)]
pub struct Database {
    /// The items of the table.
    pub orders: Vec<String>,
    /// What `select version()` says.
    pub version: String,
}

impl Default for Database {
    /// 42 orders.
    fn default() -> Self {
        let goods = ["lamp oil", "rope", "pit props", "rails", "carbide", "black powder", "canaries"];
        Self {
            orders: (0..42).map(|n| goods[n % goods.len()].to_owned()).collect(),
            version: "PostgreSQL 16.0 (adit's demo server)".to_owned(),
        }
    }
}

/// Serves one connection; returns when the client ends it.
///
/// # Errors
///
/// The connection broke, or the client does not speak the protocol.
pub async fn postgres(mut stream: impl Duplex, database: &Database) -> io::Result<()> {
    let Some(user) = startup(&mut stream).await? else { return Ok(()) };
    let session = Session { database, user };
    stream.write_all(&session.welcome()).await?;
    // After an error in the extended protocol everything up to the next Sync is discarded.
    let mut discarding = false;
    loop {
        let mut kind = [0];
        if stream.read(&mut kind).await? == 0 {
            return Ok(());
        }
        let body = read_body(&mut stream).await?;
        let mut out = Out::default();
        match kind[0] {
            b'X' => return Ok(()),
            b'S' => {
                discarding = false;
                out.ready();
            }
            b'Q' => session.simple_query(&body, &mut out),
            b'H' => {}
            _ if discarding => {}
            _ => {
                discarding = true;
                out.error(
                    "0A000",
                    "this server knows simple queries only",
                    "Use psql, or the simple query protocol.",
                );
            }
        }
        stream.write_all(&out.0).await?;
        stream.flush().await?;
    }
}

/// Answers the encryption requests with "no" and reads the StartupMessage; `None` for a cancel request.
async fn startup(stream: &mut impl Duplex) -> io::Result<Option<String>> {
    // A client asks for TLS and for GSSAPI at most once each.
    for _ in 0..3 {
        let body = read_body(stream).await?;
        let Some((code, rest)) = body.split_first_chunk::<4>() else { return Err(malformed()) };
        match u32::from_be_bytes(*code) {
            SSL_REQUEST | GSS_REQUEST => stream.write_all(b"N").await?,
            CANCEL_REQUEST => return Ok(None),
            code if code >> 16 == 3 => {
                let mut words = rest.split(|byte| *byte == 0);
                while let (Some(key), Some(value)) = (words.next(), words.next()) {
                    if key == b"user" {
                        return Ok(Some(String::from_utf8_lossy(value).into_owned()));
                    }
                }
                return Ok(Some("nobody".to_owned()));
            }
            _ => return Err(malformed()),
        }
    }
    Err(malformed())
}

/// The length, which counts itself, and what follows.
async fn read_body(stream: &mut impl Duplex) -> io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    if !(4..=MAX_MESSAGE).contains(&length) {
        return Err(malformed());
    }
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a message of the PostgreSQL protocol")
}

struct Session<'a> {
    database: &'a Database,
    user: String,
}

impl Session<'_> {
    fn welcome(&self) -> Vec<u8> {
        let mut out = Out::default();
        // AuthenticationOk
        out.message(b'R', |body| body.extend_from_slice(&0u32.to_be_bytes()));
        for (name, value) in [
            ("server_version", "16.0"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            out.message(b'S', |body| {
                c_string(body, name);
                c_string(body, value);
            });
        }
        // BackendKeyData: nothing here can be cancelled.
        out.message(b'K', |body| body.extend_from_slice(&[0; 8]));
        out.ready();
        out.0
    }

    fn simple_query(&self, body: &[u8], out: &mut Out) {
        let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned();
        let statements: Vec<_> = text.split(';').map(str::trim).filter(|text| !text.is_empty()).collect();
        if statements.is_empty() {
            // EmptyQueryResponse
            out.message(b'I', |_| {});
        }
        for statement in statements {
            if !self.statement(statement, out) {
                break;
            }
        }
        out.ready();
    }

    /// Answers one statement; false after an error, which ends the rest of the query.
    fn statement(&self, statement: &str, out: &mut Out) -> bool {
        let normal = statement.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_lowercase();
        let orders = &self.database.orders;
        match normal.as_str() {
            "select 1" => out.one("?column?", INT4, "1"),
            "select version()" => out.one("version", TEXT, &self.database.version),
            "select now()" | "select current_timestamp" => out.one("now", TIMESTAMPTZ, &now()),
            "select current_user" | "select user" => out.one("current_user", TEXT, &self.user),
            "select current_database()" => out.one("current_database", TEXT, "staging"),
            "show server_version" => out.one("server_version", TEXT, "16.0"),
            "select count(*) from orders" => out.one("count", INT8, &orders.len().to_string()),
            text if text.starts_with("select * from orders") => {
                let rest = text.trim_start_matches("select * from orders").trim();
                let limit = match rest.strip_prefix("limit ") {
                    Some(number) => number.trim().parse().ok(),
                    None if rest.is_empty() => Some(orders.len()),
                    None => None,
                };
                let Some(limit) = limit else { return out.unknown(statement) };
                let rows = orders.iter().enumerate().take(limit);
                let rows: Vec<_> = rows.map(|(n, item)| vec![(n + 1).to_string(), item.clone()]).collect();
                out.rows(&[("id", INT4), ("item", TEXT)], &rows);
            }
            text if text.starts_with("set ") => out.complete("SET"),
            "begin" => out.complete("BEGIN"),
            "commit" => out.complete("COMMIT"),
            "rollback" => out.complete("ROLLBACK"),
            _ => return out.unknown(statement),
        }
        true
    }
}

/// Messages to the client.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn message(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        self.0.push(kind);
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(&mut self.0);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        self.0[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    fn one(&mut self, name: &str, oid: u32, value: &str) {
        self.rows(&[(name, oid)], &[vec![value.to_owned()]]);
    }

    fn rows(&mut self, columns: &[(&str, u32)], rows: &[Vec<String>]) {
        let count = |values: usize| u16::try_from(values).unwrap_or(u16::MAX).to_be_bytes();
        // RowDescription: name, table, attribute, type, size, modifier, format.
        self.message(b'T', |body| {
            body.extend_from_slice(&count(columns.len()));
            for (name, oid) in columns {
                c_string(body, name);
                body.extend_from_slice(&[0; 6]);
                body.extend_from_slice(&oid.to_be_bytes());
                let size: i16 = match *oid {
                    INT4 => 4,
                    INT8 | TIMESTAMPTZ => 8,
                    _ => -1,
                };
                body.extend_from_slice(&size.to_be_bytes());
                body.extend_from_slice(&(-1i32).to_be_bytes());
                body.extend_from_slice(&[0; 2]);
            }
        });
        for row in rows {
            self.message(b'D', |body| {
                body.extend_from_slice(&count(row.len()));
                for value in row {
                    body.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
                    body.extend_from_slice(value.as_bytes());
                }
            });
        }
        self.complete(&format!("SELECT {}", rows.len()));
    }

    fn complete(&mut self, tag: &str) {
        self.message(b'C', |body| c_string(body, tag));
    }

    fn unknown(&mut self, statement: &str) -> bool {
        let shown: String = statement.chars().take(60).collect();
        self.error(
            "0A000",
            &format!("this server of a demo does not know: {shown}"),
            "Try: select count(*) from orders; select * from orders limit 3; select version(); select now()",
        );
        false
    }

    /// An ErrorResponse with severity, SQLSTATE, message and hint.
    fn error(&mut self, code: &str, message: &str, hint: &str) {
        self.message(b'E', |body| {
            for (field, value) in
                [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', message), (b'H', hint)]
            {
                body.push(field);
                c_string(body, value);
            }
            body.push(0);
        });
    }

    /// ReadyForQuery, outside a transaction.
    fn ready(&mut self) {
        self.message(b'Z', |body| body.push(b'I'));
    }
}

/// A zero-terminated string; a zero inside would end it early and is left out.
fn c_string(body: &mut Vec<u8>, text: &str) {
    body.extend(text.bytes().filter(|byte| *byte != 0));
    body.push(0);
}

/// The time in PostgreSQL's ISO style, in UTC.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (days, second) = (i64::try_from(seconds / 86_400).unwrap_or(0), seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}+00",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The date of a day number since 1970-01-01, in the Gregorian calendar.
fn date(days: i64) -> (i64, i64, i64) {
    // Counting years from March puts the leap day last; 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}
