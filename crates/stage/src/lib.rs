//! Stages, and the runner that owns everything around them: reading, claiming, acknowledging,
//! retrying, dead-lettering, measuring and stopping.
//!
//! A service implements [`Stage`] or [`BatchStage`] and gives it to a [`Runner`]. This crate knows
//! streams, not Redis.

mod breaker;
mod claims;
pub mod codec;
mod config;
mod context;
mod error;
mod event;
mod foreground;
mod guard;
mod held;
mod lanes;
pub mod metrics;
mod outage;
mod room;
mod runner;
mod shares;
mod stage;
mod turns;

pub use claims::{ClaimError, ClaimStore, Claims};
pub use codec::{CodecError, ReleaseMeta};
pub use config::RunnerConfig;
pub use context::{Context, EmitError};
pub use error::Error;
pub use event::{Event, EventMeta, Failure, Outcome, Output};
pub use foreground::{FOREGROUND, Foreground, Turn};
pub use lanes::{LaneLimit, LaneLimits, LanesByStage};
pub use runner::{Runner, quiet_wanted};
pub use stage::{BatchLimits, BatchStage, DEFAULT_TIME_LIMIT, Stage};
