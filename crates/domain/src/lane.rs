//! Lanes: how urgent work is.

use std::{fmt, str::FromStr};

use riacho_proto::v1;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How urgent work is. A runner reads lanes by weight, so that none starves.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Somebody waits for the result.
    #[default]
    Interactive,
    /// Imports of many documents.
    Bulk,
    /// Work that nobody waits for.
    Background,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Lane; 3] = [Lane::Interactive, Lane::Bulk, Lane::Background];

    /// Where the lane stands in [`Lane::ALL`], and in arrays with one item a lane.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name, as it stands in keys, rows and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Lane::Interactive => "interactive",
            Lane::Bulk => "bulk",
            Lane::Background => "background",
        }
    }

    /// How many entries of a round of 12 the lane gets while all lanes have work.
    #[must_use]
    pub const fn weight(self) -> u32 {
        match self {
            Lane::Interactive => 8,
            Lane::Bulk => 3,
            Lane::Background => 1,
        }
    }

    /// The next less urgent lane; the last one stays.
    #[must_use]
    pub const fn lower(self) -> Lane {
        match self {
            Lane::Interactive => Lane::Bulk,
            Lane::Bulk | Lane::Background => Lane::Background,
        }
    }

    /// The lane of an envelope; an unspecified or unknown one is read as interactive.
    #[must_use]
    pub fn from_proto(lane: v1::Lane) -> Lane {
        match lane {
            v1::Lane::Bulk => Lane::Bulk,
            v1::Lane::Background => Lane::Background,
            v1::Lane::Unspecified | v1::Lane::Interactive => Lane::Interactive,
        }
    }

    /// The lane as it stands in an envelope.
    #[must_use]
    pub const fn to_proto(self) -> v1::Lane {
        match self {
            Lane::Interactive => v1::Lane::Interactive,
            Lane::Bulk => v1::Lane::Bulk,
            Lane::Background => v1::Lane::Background,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Lane::ALL
            .into_iter()
            .find(|lane| lane.as_str() == text)
            .ok_or_else(|| format!("lane {text:?} is none of interactive, bulk, background"))
    }
}
