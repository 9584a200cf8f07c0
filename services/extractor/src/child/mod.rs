//! The child processes that meet foreign bytes: confined, one document after the other, until their input
//! ends.
//!
//! It is the same binary with the argument [`SUBCOMMAND`](crate::wire::SUBCOMMAND). It has no
//! environment, no file but its standard streams, no network, and limits on memory and CPU time.

mod parser;
mod recognizer;
mod streams;

use std::{io, process::ExitCode};

use riacho_confine::{self as confine, behind_closed_doors};

use crate::wire::{Role, Settings};

/// The whole life of a child. Call it first thing in `main`, before any thread is started.
#[must_use]
pub fn main() -> ExitCode {
    confine::child_main(start)
}

fn start() -> io::Result<()> {
    let argument = std::env::args().next_back().unwrap_or_default();
    let settings: Settings = serde_json::from_str(&argument)?;
    confine::limit(settings.parent, settings.memory_bytes)
        .map_err(|error| io::Error::other(format!("limits cannot be set: {error}")))?;
    // Loading a library needs files, so it comes before the last door closes.
    match settings.role {
        Role::Parser(settings) => {
            let libraries = parser::Libraries::load(&settings);
            behind_closed_doors(move || parser::serve(&settings, &libraries))
        }
        Role::Recognizer(settings) => {
            let loaded = recognizer::load(&settings);
            behind_closed_doors(move || recognizer::serve(&settings, loaded))
        }
    }
}
