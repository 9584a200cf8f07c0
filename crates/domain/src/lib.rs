//! The words that every part of Riacho shares: ids, document states and their legal transitions,
//! lanes, the topology of stages, the retry policy, the limits of providers and how metrics are declared.
//!
//! Nothing here does I/O or knows a server.

mod chunk;
mod id;
mod lane;
mod limits;
mod metric;
mod outcome;
mod provider_limit;
mod retry;
mod secret;
mod state;
mod topology;

pub use chunk::{content_hash, embedding_input, input_hash, sealed_title};
pub use id::{
    DocumentId, InvalidTenantId, ReleaseId, RunId, SpaceId, TenantId, UploadId, Version, chunk_id,
    derived_event_id,
};
pub use lane::Lane;
pub use limits::DEFAULT_MAX_FILE_BYTES;
pub use metric::{Metric, MetricKind};
pub use outcome::ReasonCode;
pub use provider_limit::{LimitSeen, ProviderLimit, Turn, TurnAsked, TurnUsed};
pub use retry::{DelayClass, RetryPolicy};
pub use secret::{Secret, SecretUrl};
pub use state::State;
pub use topology::{SERVICES, StageName};
