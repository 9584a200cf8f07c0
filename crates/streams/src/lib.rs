//! Everything that Riacho does with Redis: keys, reading, claiming, handing off, dead letters,
//! intake, liveness and inspection.
//!
//! The only crate that knows Redis and fred. What an entry means is for `riacho-stage`.

mod answers;
mod census;
mod claim;
mod client;
mod config;
mod consumer;
mod dead;
mod entry;
mod error;
mod handoff;
mod history;
mod inspect;
mod intake;
mod keys;
mod limits;
mod liveness;
pub mod metrics;
mod release;
mod script;
mod servers;
mod sessions;
mod tokens;

pub use answers::AnswerBudget;
pub use census::Road;
pub use claim::Most;
pub use client::Streams;
pub use config::Config;
pub use consumer::Reader;
pub use dead::DeadEntry;
pub use entry::Entry;
pub use error::Error;
pub use handoff::{Action, Answer, HANDED_BACK, MAX_BYTES, MAX_OUTPUTS, Settlement, Target};
pub use inspect::{ConsumerFigures, ConsumerState, LaneBacklog, LaneFigures, StageFigures};
pub use intake::{IntakeAnswer, IntakeEntry, IntakeReader};
pub use keys::Keys;
pub use liveness::{Beat, Observer, consumer_name};
pub use release::ReleaseOutcome;
pub use servers::{Home, Look, Memory, ServerIdentity};
pub use sessions::NewSession;
pub use tokens::{Rate, Taken, Token};
