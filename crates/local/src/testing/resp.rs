//! A plain connection to a redis-server, to look and to act behind a client's back.

// A test has no better answer to a server that does not answer than to fail with the reason.
#![allow(clippy::panic)]

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use super::or_fail;
use crate::Error;

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A text.
    Text(String),
    /// An error, with its code.
    Error(String),
    /// An array.
    List(Vec<Reply>),
}

impl Reply {
    /// The number.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn int(&self) -> i64 {
        match self {
            Reply::Int(number) => *number,
            other => panic!("{other:?} is no number"),
        }
    }

    /// The text.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Reply::Text(text) => text,
            other => panic!("{other:?} is no text"),
        }
    }

    /// The array; an empty one for nothing.
    ///
    /// # Panics
    /// When it is neither.
    #[must_use]
    pub fn list(&self) -> &[Reply] {
        match self {
            Reply::List(list) => list,
            Reply::Nil => &[],
            other => panic!("{other:?} is no list"),
        }
    }
}

/// Sends a command to the server behind a Unix socket, over a connection of its own.
///
/// # Panics
/// When the server cannot be reached or does not answer in its protocol.
pub fn command<A: AsRef<[u8]>>(socket: &Path, args: &[A]) -> Reply {
    let mut request = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        request.extend(format!("${}\r\n", arg.as_ref().len()).into_bytes());
        request.extend(arg.as_ref());
        request.extend(b"\r\n");
    }
    let reply = UnixStream::connect(socket).and_then(|stream| {
        (&stream).write_all(&request)?;
        read(&mut BufReader::new(&stream))
    });
    or_fail("no answer of redis-server", reply.map_err(Error::io("talk to", socket)))
}

fn read(stream: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let unreadable = || io::Error::other(format!("{line:?} is no reply"));
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(unreadable)?;
    let number = || rest.parse::<i64>().map_err(|_| unreadable());
    Ok(match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Int(number()?),
        "$" | "*" if rest == "-1" => Reply::Nil,
        "$" => {
            let mut bytes = vec![0; usize::try_from(number()?).map_err(|_| unreadable())? + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => Reply::List((0..number()?).map(|_| read(stream)).collect::<io::Result<_>>()?),
        _ => return Err(unreadable()),
    })
}
