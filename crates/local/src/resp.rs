//! A plain, blocking connection to a redis-server: for tests that look and act behind a client's back, and for
//! measurements that need the least that a client can do.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
};

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

// What a caller asks for and does not get is a mistake of the caller.
#[allow(clippy::panic)]
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

/// A connection over a Unix socket. Commands are collected until [`Connection::flush`] sends them.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<UnixStream>,
    unsent: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn open(socket: &Path) -> io::Result<Connection> {
        let reader = BufReader::with_capacity(1 << 20, UnixStream::connect(socket)?);
        Ok(Connection { reader, unsent: Vec::new() })
    }

    /// Adds a command to those that are sent next.
    pub fn push<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.push_all(args.len(), args.iter());
    }

    /// The same for arguments that are not in a slice.
    pub fn push_all<A: AsRef<[u8]>>(&mut self, count: usize, args: impl Iterator<Item = A>) {
        let unsent = &mut self.unsent;
        // Writing to a vector cannot fail.
        let _ = write!(unsent, "*{count}\r\n");
        for arg in args {
            let _ = write!(unsent, "${}\r\n", arg.as_ref().len());
            unsent.extend_from_slice(arg.as_ref());
            unsent.extend_from_slice(b"\r\n");
        }
    }

    /// Sends what was collected.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn flush(&mut self) -> io::Result<()> {
        self.reader.get_ref().write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    /// The next reply.
    ///
    /// # Errors
    /// When the connection is broken, or what comes is not of the protocol.
    pub fn reply(&mut self) -> io::Result<Reply> {
        read(&mut self.reader)
    }

    /// Sends one command and waits for its reply.
    ///
    /// # Errors
    /// When the connection is broken, or what comes is not of the protocol.
    pub fn ask<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Reply> {
        self.push(args);
        self.flush()?;
        self.reply()
    }
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
