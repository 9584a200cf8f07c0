//! The gateway's settings.

use std::{path::PathBuf, time::Duration};

use riacho_domain::DEFAULT_MAX_FILE_BYTES;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the gateway accepts and how much at once. Section `gateway` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address that clients reach the gateway at, for example `https://riacho.example.org`. It
    /// stands in signed upload URLs; where it is not set, the request's `Host` does.
    pub public_url: Option<String>,
    /// Origins whose pages may call the API from a browser, for example `https://app.example.org`;
    /// `*` for all. None by default.
    pub cors_origins: Vec<String>,
    /// Take the client's address from the last entry of `X-Forwarded-For`. Only behind a proxy that
    /// sets it.
    pub trust_forwarded_for: bool,

    /// The largest file; at most `extractor.parser.limits.max_file_bytes`, so that what is too large is
    /// refused at the door.
    pub max_upload_bytes: u64,
    /// The largest JSON body.
    pub max_json_bytes: usize,
    /// The largest metadata of a document, as JSON text.
    pub max_metadata_bytes: usize,
    /// The largest part of a stored text that is cut out by `offset` and `limit`; whole texts are
    /// streamed whatever their size.
    pub max_text_slice_bytes: u64,

    /// Requests under `/api` at once; more are answered 503.
    pub max_concurrent_requests: usize,
    /// Connections at once; more wait to be taken.
    pub max_connections: usize,
    /// Requests a second of one client address, before its key is looked at; 0 for no limit.
    pub requests_per_second_per_address: u32,
    /// Requests of one client address at once above its rate.
    pub request_burst_per_address: u32,
    /// How long a request that carries no file may take.
    pub request_timeout_ms: u64,
    /// How long a client may send nothing: between requests of a connection, within a request's
    /// head, and between two parts of a body.
    pub idle_timeout_ms: u64,
    /// How long requests in hand may take after a stop was asked for.
    pub grace_seconds: u64,

    /// How long embedding a query may take. A hybrid search goes on with keywords alone after it.
    pub query_embedding_timeout_ms: u64,

    /// For how long the answer to a search is kept in Redis for whoever asks the same again; 0 keeps none. It is never
    /// given after what it could see has changed.
    pub search_cache_seconds: u64,
    /// How many bytes of answers are kept in that time, a quarter of them of one tenant; at most twice as much of Redis'
    /// memory is used.
    pub search_cache_bytes: u64,

    /// For how long an API key that was found valid is not looked up again. A revoked key works for
    /// as long.
    pub key_cache_seconds: u64,
    /// After how long without a request who signed in on the page is signed out.
    pub session_idle_seconds: u64,
    /// After how long who signed in on the page is signed out in any case.
    pub session_seconds: u64,
    /// How often the figures of the streams are written down for the page's lines, which show the last hour; 0 writes
    /// none.
    pub history_seconds: u64,
    /// Connections at once that are sent events; more are answered 503.
    pub max_event_streams: usize,
    /// Of these, connections of one tenant; more are answered 429.
    pub max_event_streams_per_tenant: usize,

    /// How long a signed upload URL is valid where the request does not say.
    pub upload_url_seconds: u64,
    /// The longest validity of a signed upload URL.
    pub max_upload_url_seconds: u64,
    /// How long a document waits for its signed upload after the URL has expired.
    pub upload_margin_seconds: u64,

    /// Uploads of many documents in one request.
    pub bulk: BulkConfig,

    /// How documents are cut into chunks where the request does not say.
    pub chunking: ChunkingConfig,

    /// Read producers' events from the intake streams.
    pub intake: bool,
    /// The largest file that an event may carry itself.
    pub intake_max_inline_bytes: usize,
    /// Events in work at once.
    pub intake_concurrency: usize,
    /// How often tenants that are new are looked for, and how long a blocking read lasts.
    pub intake_poll_ms: u64,
    /// After how long an event that nobody answered is taken up again.
    pub intake_claim_ms: u64,
}

/// A process that unpacks maps up to 200 MiB of the program before it has read anything.
const MIN_UNPACK_MEMORY_BYTES: u64 = 256 << 20;

/// The longest that a request with many documents may be allowed to take or to wait: a week.
const MAX_SECONDS: u64 = 7 * 24 * 3_600;

/// What a request with many documents may hold: lines of JSON, or an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BulkConfig {
    /// Such requests at once; more are answered 503. Each may need `max_bytes` of disk, for its archive, and the memory of
    /// a process that unpacks.
    pub max_requests: usize,
    /// Such requests of one tenant at once; more are answered 429.
    pub max_requests_per_tenant: usize,
    /// How long a request may take, a week at most. Then its answer ends, with what was accepted so far, and it is to be sent again.
    pub max_seconds: u64,
    /// The largest body.
    pub max_bytes: u64,
    /// The most lines with something in them, or entries of an archive, folders included. Each may take 2 KiB of memory
    /// until its line of the answer is read.
    pub max_items: u64,
    /// The longest line.
    pub max_line_bytes: usize,
    /// The most bytes that an archive unpacks to. A single file may have `max_upload_bytes`.
    pub max_unpacked_bytes: u64,
    /// The most that an archive may grow by unpacking, as a multiple of its size. Archives that unpack to less than
    /// 16 MiB may grow by any ratio.
    pub max_unpacked_ratio: u64,
    /// The most memory that a process may map which unpacks.
    pub unpack_memory_bytes: u64,
    /// Documents of a request that are stored and written at once.
    pub concurrency: usize,
    /// How long a request waits for the rate of its tenant's uploads, for each document, a week at most. What would have to wait longer
    /// is refused with 429.
    pub rate_wait_seconds: u64,
    /// Where archives lie while they are unpacked; the system's directory for temporary files when not given.
    pub directory: Option<PathBuf>,
    /// The command that is run to unpack; the running program when empty.
    #[serde(skip)]
    pub command: Vec<PathBuf>,
}

impl Default for BulkConfig {
    fn default() -> Self {
        Self {
            max_requests: 4,
            max_requests_per_tenant: 2,
            max_seconds: 3_600,
            max_bytes: 100 << 20,
            max_items: 10_000,
            max_line_bytes: 4 << 20,
            max_unpacked_bytes: 2 << 30,
            max_unpacked_ratio: 200,
            unpack_memory_bytes: 512 << 20,
            concurrency: 8,
            rate_wait_seconds: 30,
            directory: None,
            command: Vec::new(),
        }
    }
}

/// How documents are cut into chunks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChunkingConfig {
    /// Target size of a chunk in tokens.
    pub max_tokens: u32,
    /// Tokens that a chunk repeats of the one before it.
    pub overlap_tokens: u32,
    /// The tokenizer's vocabulary: `o200k_base` or `cl100k_base`.
    pub tokenizer: String,
}

impl Default for ChunkingConfig {
    fn default() -> Self {
        Self { max_tokens: 384, overlap_tokens: 0, tokenizer: "o200k_base".into() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            public_url: None,
            cors_origins: Vec::new(),
            trust_forwarded_for: false,
            max_upload_bytes: DEFAULT_MAX_FILE_BYTES,
            max_json_bytes: 1 << 20,
            max_metadata_bytes: 64 << 10,
            max_text_slice_bytes: 64 << 20,
            max_concurrent_requests: 1_024,
            max_connections: 10_000,
            requests_per_second_per_address: 2_000,
            request_burst_per_address: 4_000,
            request_timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
            grace_seconds: 10,
            query_embedding_timeout_ms: 2_000,
            search_cache_seconds: 60,
            search_cache_bytes: 8 << 20,
            key_cache_seconds: 5,
            session_idle_seconds: 3_600,
            session_seconds: 43_200,
            history_seconds: 10,
            max_event_streams: 200,
            max_event_streams_per_tenant: 50,
            upload_url_seconds: 900,
            max_upload_url_seconds: 86_400,
            upload_margin_seconds: 3_600,
            bulk: BulkConfig::default(),
            chunking: ChunkingConfig::default(),
            intake: true,
            intake_max_inline_bytes: 1 << 20,
            intake_concurrency: 16,
            intake_poll_ms: 500,
            intake_claim_ms: 15_000,
        }
    }
}

impl Config {
    /// Refuses what cannot work, with the key in this section.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let memory = self.bulk.unpack_memory_bytes;
        if memory < MIN_UNPACK_MEMORY_BYTES {
            let message = format!(
                "{memory} is less than the program itself maps; give at least {MIN_UNPACK_MEMORY_BYTES}"
            );
            return Err(("bulk.unpack_memory_bytes", message));
        }
        let too_long = |seconds| format!("{seconds} is more than the {MAX_SECONDS} seconds of a week");
        let none = "0 would refuse every request".to_owned();
        match &self.bulk {
            BulkConfig { max_requests: 0, .. } => Err(("bulk.max_requests", none)),
            BulkConfig { max_requests_per_tenant: 0, .. } => Err(("bulk.max_requests_per_tenant", none)),
            BulkConfig { max_seconds: 0, .. } => Err(("bulk.max_seconds", none)),
            bulk if bulk.max_seconds > MAX_SECONDS => Err(("bulk.max_seconds", too_long(bulk.max_seconds))),
            bulk if bulk.rate_wait_seconds > MAX_SECONDS => {
                Err(("bulk.rate_wait_seconds", too_long(bulk.rate_wait_seconds)))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.max(1))
    }

    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms.max(1))
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }

    pub(crate) fn query_embedding_timeout(&self) -> Duration {
        Duration::from_millis(self.query_embedding_timeout_ms.max(1))
    }

    pub(crate) fn search_cache(&self) -> Duration {
        Duration::from_secs(self.search_cache_seconds)
    }

    pub(crate) fn session_idle(&self) -> Duration {
        Duration::from_secs(self.session_idle_seconds.max(1))
    }

    pub(crate) fn session_lifetime(&self) -> Duration {
        Duration::from_secs(self.session_seconds.max(1))
    }

    /// Between two samples; none where none are taken.
    pub(crate) fn history(&self) -> Option<Duration> {
        (self.history_seconds > 0).then(|| Duration::from_secs(self.history_seconds.min(600)))
    }

    pub(crate) fn key_cache(&self) -> Duration {
        Duration::from_secs(self.key_cache_seconds)
    }

    pub(crate) fn intake_claim(&self) -> Duration {
        Duration::from_millis(self.intake_claim_ms.max(1))
    }

    pub(crate) fn intake_poll(&self) -> Duration {
        Duration::from_millis(self.intake_poll_ms.clamp(10, 60_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_clock_can_count_is_refused() {
        let check = |change: &dyn Fn(&mut BulkConfig)| {
            let mut config = Config::default();
            change(&mut config.bulk);
            config.check().map_err(|(key, _)| key)
        };
        assert_eq!(check(&|_| {}), Ok(()));
        assert_eq!(check(&|bulk| (bulk.max_seconds, bulk.rate_wait_seconds) = (604_800, 604_800)), Ok(()));
        for seconds in [604_801, u64::MAX] {
            assert_eq!(check(&|bulk| bulk.max_seconds = seconds), Err("bulk.max_seconds"));
            assert_eq!(check(&|bulk| bulk.rate_wait_seconds = seconds), Err("bulk.rate_wait_seconds"));
        }
        assert_eq!(check(&|bulk| bulk.rate_wait_seconds = 0), Ok(()));
    }
}
