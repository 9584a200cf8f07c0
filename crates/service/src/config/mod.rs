//! The configuration: one file, the environment and flags over defaults that work.
//!
//! A later source wins: defaults, the file, the usual names (`REDIS_URL`, ..), `RIACHO__SECTION__KEY`,
//! flags. A secret may also be read from a file, by its key with `_file` behind it. Unknown keys are
//! errors that name the nearest known one. The configuration's type is the caller's, so that the one
//! binary can assemble the sections of all services.

mod environment;
mod load;
mod schema;

use riacho_domain::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use load::{ConfigError, Sources, is_set, load};
pub use schema::{json_schema, redacted_toml};

/// The sections that every service needs.
#[derive(Debug, Clone, Default)]
pub struct CoreConfig {
    /// Section `redis`.
    pub redis: riacho_streams::Config,
    /// Section `database`.
    pub database: riacho_store::Config,
    /// Section `objects`.
    pub objects: riacho_objects::Config,
    /// Section `models`.
    pub models: riacho_models::Config,
    /// Section `stage`.
    pub stage: riacho_stage::RunnerConfig,
    /// Section `limits`.
    pub limits: riacho_store::Limits,
    /// Section `log`.
    pub log: LogConfig,
    /// Section `traces`.
    pub traces: riacho_traces::Config,
    /// Section `http`.
    pub http: HttpConfig,
}

/// Logs.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `json`, one object a line, or `text` for people.
    pub format: LogFormat,
    /// Which events are logged, in the syntax of tracing's EnvFilter, for example
    /// `info,riacho_stage=debug`. The Redis client's warnings only where the filter names `fred`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".into() }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Text,
}

/// Where the services listen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address of the gateway, `HOST:PORT`.
    pub listen: String,
    /// Address of the operations endpoints (`/livez`, `/readyz`, `/health`, `/metrics`) of the services
    /// that have no HTTP interface of their own. Nothing listens when it is not set.
    pub ops_listen: Option<String>,
    /// A bearer token that `/metrics` asks for; open when it is not set.
    pub metrics_token: Option<Secret>,
    /// Networks that webhooks and uploads by URL may go to although they are not public, such as `10.0.0.0/8`. Whoever has a
    /// key can make the services send requests there.
    pub outbound_allow: Vec<String>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8000".into(),
            ops_listen: None,
            metrics_token: None,
            outbound_allow: Vec::new(),
        }
    }
}
