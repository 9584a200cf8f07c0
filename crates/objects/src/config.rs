//! The configuration section `objects`.

use std::path::PathBuf;

use riacho_domain::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where objects are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Store {
    /// In a directory of this machine. All services must see the same directory.
    #[default]
    Local,
    /// In a bucket of Amazon S3 or a server that speaks its protocol.
    S3,
}

/// The object store.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where objects are kept.
    pub store: Store,
    /// The directory of the local store. `objects` in the data directory by default.
    pub directory: Option<PathBuf>,
    /// Signs presigned uploads to the local store: at least 32 bytes, the same for all gateways.
    pub signing_secret: Option<Secret>,
    /// The S3 store.
    pub s3: S3Config,
    /// The longest time of one request to S3, its body included.
    pub timeout_ms: u64,
    /// The longest time to connect to S3.
    pub connect_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            store: Store::default(),
            directory: None,
            signing_secret: None,
            s3: S3Config::default(),
            timeout_ms: 120_000,
            connect_timeout_ms: 5_000,
        }
    }
}

/// The S3 store.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// The bucket. It must exist.
    pub bucket: String,
    /// The region.
    pub region: String,
    /// The address of the server, where it is not Amazon's.
    pub endpoint: Option<String>,
    /// The address of the server in presigned URLs, where clients reach it under another one.
    pub public_endpoint: Option<String>,
    /// The id of the access key. Without one, the credentials of the machine or the service account are used.
    pub access_key_id: Option<Secret>,
    /// The secret of the access key.
    pub secret_access_key: Option<Secret>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Put the bucket into the path instead of the host name, as most servers but Amazon's want it.
    pub path_style: bool,
    /// Allow an endpoint without TLS.
    pub allow_http: bool,
    /// Presigned uploads carry `If-None-Match: *`, so that their URL stores one file and replaces none. Turned off for servers
    /// that refuse the header.
    pub conditional_put: bool,
}

impl Default for S3Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            region: "us-east-1".to_owned(),
            endpoint: None,
            public_endpoint: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            path_style: false,
            allow_http: false,
            conditional_put: true,
        }
    }
}
