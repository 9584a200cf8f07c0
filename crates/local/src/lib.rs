//! The private redis-server and PostgreSQL of `riacho up` and of the tests.
//!
//! [`Runtime`] finds the programs, [`Servers`] runs both on one data directory for as long as this process lives,
//! and [`testing`] gives each test its own. Addresses leave this crate as plain URLs; it knows no client library
//! and nothing of the other crates. `setup/setup.py` beside it fills the runtime directory.

mod account;
mod address;
mod error;
mod postgres;
mod process;
mod redis;
pub mod resp;
mod runtime;
mod servers;
mod spawner;
pub mod testing;

pub use error::Error;
pub use runtime::Runtime;
pub use servers::{Options, ServerStatus, Servers, Status};
pub use spawner::spawn_child;

/// What the functions of this crate answer.
pub type Result<T> = std::result::Result<T, Error>;
