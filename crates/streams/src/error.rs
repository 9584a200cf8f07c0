//! What can go wrong on the way to Redis.

use fred::error::{Error as FredError, ErrorKind};

/// An error of Redis or of the way there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The server cannot be reached, or says that it cannot serve now.
    #[error("redis is not available: {0}")]
    Unavailable(String),
    /// No answer in time. The command may have been carried out.
    #[error("redis did not answer in time")]
    Timeout,
    /// The server is at its memory limit.
    #[error("redis is at its memory limit")]
    OutOfMemory,
    /// The consumer group, or its stream, is gone.
    #[error("the consumer group is gone")]
    NoGroup,
    /// The server evicts keys when its memory is full, which would lose whole streams.
    #[error(
        "redis evicts keys (maxmemory-policy {0}); set it to noeviction, or allow it in the configuration"
    )]
    Eviction(String),
    /// The settings do not work.
    #[error("redis settings: {0}")]
    Config(String),
    /// The server refused the command.
    #[error("redis refused: {0}")]
    Refused(String),
    /// The server's answer has not the expected shape.
    #[error("redis answered with an unexpected {0}")]
    Reply(&'static str),
}

impl Error {
    /// Whether the same call may succeed later without a change of settings.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Unavailable(_) | Error::Timeout | Error::OutOfMemory | Error::NoGroup)
    }

    /// Classifies an error reply by its prefix.
    fn from_reply(text: &str) -> Error {
        let prefix = text.split_whitespace().next().unwrap_or_default();
        match prefix {
            "NOGROUP" | "UNBLOCKED" => Error::NoGroup,
            "OOM" => Error::OutOfMemory,
            "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "BUSY"
            | "NOREPLICAS" | "MISCONF" => Error::Unavailable(text.to_owned()),
            // Redis begins an error with a word in capitals; anything else is fred's own, about a
            // connection that it lost.
            _ if prefix.bytes().any(|byte| byte.is_ascii_lowercase()) => Error::Unavailable(text.to_owned()),
            _ => Error::Refused(text.to_owned()),
        }
    }
}

impl From<FredError> for Error {
    fn from(error: FredError) -> Self {
        match error.kind() {
            ErrorKind::Timeout => Error::Timeout,
            ErrorKind::IO
            | ErrorKind::Canceled
            | ErrorKind::Routing
            | ErrorKind::Cluster
            | ErrorKind::Sentinel
            | ErrorKind::Backpressure
            | ErrorKind::Tls => Error::Unavailable(error.details().to_owned()),
            ErrorKind::Config | ErrorKind::Url | ErrorKind::Auth => Error::Config(error.details().to_owned()),
            _ => Error::from_reply(error.details()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_by_their_prefix() {
        assert!(matches!(Error::from_reply("NOGROUP No such key 'x'"), Error::NoGroup));
        assert!(matches!(Error::from_reply("UNBLOCKED the stream key no longer exists"), Error::NoGroup));
        assert!(Error::from_reply("LOADING Redis is loading").is_retryable());
        assert!(Error::from_reply("Failed to route command.").is_retryable());
        assert!(!Error::from_reply("ERR syntax error").is_retryable());
    }
}
