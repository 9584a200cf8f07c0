//! Just enough of PostgreSQL's protocol to see that a server answers and to make and drop databases.
//!
//! It speaks the simple query protocol over a Unix socket as a trusted role. Everything else is the business of
//! a real client.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::NAME;
use crate::{Error, Result};

const PROTOCOL_3_0: u32 = 196_608;
const MESSAGE_LIMIT: usize = 16 * 1024 * 1024;
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// One row of an answer: each value as text, none where it is null.
pub(crate) type Row = Vec<Option<String>>;

/// An open session. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Session {
    stream: UnixStream,
}

impl Session {
    /// Opens a session of `role` in `database`.
    pub(crate) fn open(socket: &Path, role: &str, database: &str) -> Result<Session> {
        let stream = UnixStream::connect(socket).map_err(Error::io("connect to", socket))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(Error::io("prepare", socket))?;
        let mut session = Session { stream };
        let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
        for text in ["user", role, "database", database] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        session.send(&body)?;
        session.read_answer()?;
        Ok(session)
    }

    /// Runs SQL, which may be several statements, and answers all rows.
    pub(crate) fn run(&mut self, sql: &str) -> Result<Vec<Row>> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.stream.write_all(b"Q").map_err(lost)?;
        self.send(&body)?;
        self.read_answer()
    }

    fn send(&mut self, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4).map_err(|_| broken("a statement is too long"))?;
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        self.stream.write_all(&bytes).map_err(lost)
    }

    /// Reads up to the server's word that it is ready; the first error on the way wins.
    fn read_answer(&mut self) -> Result<Vec<Row>> {
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            let (kind, body) = self.read_message()?;
            match kind {
                b'Z' => return refused.map_or(Ok(rows), Err),
                b'R' if body != [0, 0, 0, 0] => return Err(broken("the server asks for a password")),
                b'D' => rows.push(parse_row(&body).ok_or_else(|| broken("a row cannot be read"))?),
                b'E' => {
                    let (severity, message) = parse_error(&body);
                    let error = Error::Refused { server: NAME, message };
                    if severity == "FATAL" || severity == "PANIC" {
                        return Err(error);
                    }
                    refused.get_or_insert(error);
                }
                _ => {}
            }
        }
    }

    fn read_message(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0u8; 5];
        self.stream.read_exact(&mut head).map_err(lost)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(4..MESSAGE_LIMIT).contains(&length) {
            return Err(broken("a message has an impossible length"));
        }
        let mut body = vec![0u8; length - 4];
        self.stream.read_exact(&mut body).map_err(lost)?;
        Ok((kind, body))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Without this word the server logs a lost connection.
        let _ = self.stream.write_all(&[b'X', 0, 0, 0, 4]);
    }
}

fn parse_row(body: &[u8]) -> Option<Row> {
    let (count, mut rest) = body.split_at_checked(2)?;
    let count = u16::from_be_bytes(count.try_into().ok()?);
    let mut row = Vec::new();
    for _ in 0..count {
        let (length, after) = rest.split_at_checked(4)?;
        let length = i32::from_be_bytes(length.try_into().ok()?);
        rest = after;
        // A length of -1 stands for null.
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) => {
                let (value, after) = rest.split_at_checked(length)?;
                rest = after;
                Some(String::from_utf8_lossy(value).into_owned())
            }
        });
    }
    Some(row)
}

/// Severity and message of an error: a list of fields, each a letter and a text that ends in zero.
fn parse_error(body: &[u8]) -> (String, String) {
    let field = |letter: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&letter));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    (field(b'V'), field(b'M'))
}

fn lost(source: io::Error) -> Error {
    Error::Io { what: "talk to", path: NAME.into(), source }
}

fn broken(message: &str) -> Error {
    Error::Refused { server: NAME, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_row_keeps_nulls_apart_from_empty_texts() {
        let body = [0, 3, 0, 0, 0, 1, b'a', 255, 255, 255, 255, 0, 0, 0, 0];
        let expected: Row = vec![Some("a".to_owned()), None, Some(String::new())];
        assert_eq!(parse_row(&body).unwrap(), expected);
    }

    #[test]
    fn a_row_that_is_cut_off_is_refused() {
        for length in 0..14 {
            let body = [0, 3, 0, 0, 0, 1, b'a', 255, 255, 255, 255, 0, 0, 0, 0];
            assert_eq!(parse_row(&body[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn an_error_yields_its_severity_and_message() {
        let body = b"SFEHLER\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
        assert_eq!(parse_error(body), ("FATAL".to_owned(), "the database system is starting up".to_owned()));
    }
}
