//! A private server for one test, and a plain connection to look behind the crate's back.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use riacho_local::testing::{self, TestRedis};
use riacho_streams::{Config, Streams};

/// A reply of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    List(Vec<Reply>),
}

#[allow(dead_code)] // each test file uses some of these
impl Reply {
    pub(crate) fn int(&self) -> i64 {
        match self {
            Reply::Int(number) => *number,
            other => panic!("{other:?} is no number"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Reply::Text(text) => text,
            other => panic!("{other:?} is no text"),
        }
    }

    pub(crate) fn list(&self) -> &[Reply] {
        match self {
            Reply::List(list) => list,
            Reply::Nil => &[],
            other => panic!("{other:?} is no list"),
        }
    }
}

/// A server, the streams on it, and a connection of its own.
pub(crate) struct Server {
    pub(crate) redis: TestRedis,
    pub(crate) streams: Streams,
}

#[allow(dead_code)] // each test file uses some of these
impl Server {
    pub(crate) async fn start() -> Server {
        Server::with(testing::redis(), |_| {}).await
    }

    pub(crate) async fn with(redis: TestRedis, change: impl FnOnce(&mut Config)) -> Server {
        let mut config = Config::for_url(&redis.url());
        change(&mut config);
        let streams = Streams::connect(&config).await.unwrap();
        Server { redis, streams }
    }

    /// Sends a command over a connection of its own.
    pub(crate) fn raw<A: AsRef<[u8]>>(&self, args: &[A]) -> Reply {
        let stream = UnixStream::connect(self.redis.socket()).unwrap();
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend(format!("${}\r\n", arg.as_ref().len()).into_bytes());
            request.extend(arg.as_ref());
            request.extend(b"\r\n");
        }
        (&stream).write_all(&request).unwrap();
        read(&mut BufReader::new(&stream))
    }

    pub(crate) fn len(&self, key: &str) -> i64 {
        self.raw(&["XLEN", key]).int()
    }
}

fn read(stream: &mut impl BufRead) -> Reply {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let (kind, rest) = line.trim_end().split_at(1);
    match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Int(rest.parse().unwrap()),
        "$" if rest == "-1" => Reply::Nil,
        "$" => {
            let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
            stream.read_exact(&mut bytes).unwrap();
            bytes.truncate(bytes.len() - 2);
            Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" if rest == "-1" => Reply::Nil,
        "*" => Reply::List((0..rest.parse::<usize>().unwrap()).map(|_| read(stream)).collect()),
        other => panic!("{other:?} is no reply"),
    }
}
