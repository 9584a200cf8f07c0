//! Where Redis is and how it is used.

use std::{path::PathBuf, time::Duration};

use riacho_domain::SecretUrl;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where Redis is and how it is used. Section `redis` of the configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://` or `rediss://` (TLS) `user:password@host:port/db`, `redis+unix:///path`,
    /// `redis-cluster://host:port?node=host:port`, or
    /// `redis-sentinel://host:port?sentinelServiceName=name`.
    pub url: SecretUrl,
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
            url: SecretUrl::from("redis://127.0.0.1:6379"),
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
        Self { url: SecretUrl::from(url), ..Self::default() }
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms.max(1))
    }

    pub(crate) fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms.max(1))
    }
}
