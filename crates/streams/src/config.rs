//! Where Redis is and how it is used.

use std::{fmt, path::PathBuf, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where Redis is and how it is used. Section `redis` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://` or `rediss://` (TLS) `user:password@host:port/db`, `redis+unix:///path`,
    /// `redis-cluster://host:port?node=host:port`, or
    /// `redis-sentinel://host:port?sentinelServiceName=name`.
    pub url: RedisUrl,
    /// The first part of every key, so that several deployments share a Redis.
    pub key_prefix: String,
    /// Connections for everything but blocking reads.
    pub pool_size: usize,
    /// How long connecting may take.
    pub connect_timeout_ms: u64,
    /// How long a command may take.
    pub command_timeout_ms: u64,
    /// A file of PEM certificates to trust instead of the system's, for `rediss`.
    pub tls_ca_file: Option<PathBuf>,
    /// The most bytes of envelopes on one stream; writers wait while a stream is full.
    pub stream_max_bytes: u64,
    /// How long a release is remembered, so that sending it again adds nothing.
    pub release_marker_seconds: u64,
    /// Use a server that evicts keys when its memory is full. It can lose whole streams.
    pub allow_eviction: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: RedisUrl::from("redis://127.0.0.1:6379"),
            key_prefix: "riacho".to_owned(),
            pool_size: 4,
            connect_timeout_ms: 5_000,
            command_timeout_ms: 5_000,
            tls_ca_file: None,
            stream_max_bytes: 256 << 20,
            release_marker_seconds: 900,
            allow_eviction: false,
        }
    }
}

impl Config {
    /// The default settings for a server.
    #[must_use]
    pub fn for_url(url: &str) -> Self {
        Self { url: RedisUrl::from(url), ..Self::default() }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.max(1))
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms.max(1))
    }
}

/// A URL whose password is neither shown nor serialized.
#[derive(Clone)]
pub struct RedisUrl(SecretString);

impl RedisUrl {
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The URL with `***` instead of its passwords.
    #[must_use]
    pub fn redacted(&self) -> String {
        let Ok(mut url) = url::Url::parse(self.expose()) else { return "***".to_owned() };
        if url.password().is_some() && url.set_password(Some("***")).is_err() {
            return "***".to_owned();
        }
        if url.query().is_some_and(|query| query.contains("assword")) {
            url.set_query(Some("***"));
        }
        url.to_string()
    }
}

impl From<&str> for RedisUrl {
    fn from(url: &str) -> Self {
        Self(SecretString::from(url.to_owned()))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

impl<'de> Deserialize<'de> for RedisUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|url| Self(SecretString::from(url)))
    }
}

impl JsonSchema for RedisUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RedisUrl".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for url in
            ["redis://u:hunter2@h:1/0", "redis-sentinel://h:1?sentinelServiceName=x&sentinelPassword=hunter2"]
        {
            let shown = format!("{:?}", RedisUrl::from(url));
            assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
        }
        assert_eq!(RedisUrl::from("redis+unix:///run/x.sock").redacted(), "redis+unix:///run/x.sock");
    }
}
