//! The stages and the order in which an event passes them.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The services, in the order in which a document meets them, as they are named in logs and traces.
pub const SERVICES: [&str; 5] = ["ingest-gateway", "extractor", "embedder", "indexer", "janitor"];

/// A stage of the pipeline. The name is also its consumer group and a part of its stream's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    /// Bytes to text to chunks; the extractor.
    Extract,
    /// Chunks to vectors; the embedder.
    Embed,
    /// Vectors to rows; the indexer.
    Index,
}

impl StageName {
    /// All stages, in flow order: entries only move forward.
    pub const ALL: [StageName; 3] = [StageName::Extract, StageName::Embed, StageName::Index];

    /// The name, as it stands in keys, groups and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StageName::Extract => "extract",
            StageName::Embed => "embed",
            StageName::Index => "index",
        }
    }

    /// The service that does its work, as it is named in traces and logs.
    #[must_use]
    pub const fn service(self) -> &'static str {
        match self {
            StageName::Extract => "extractor",
            StageName::Embed => "embedder",
            StageName::Index => "indexer",
        }
    }

    /// The stage that takes this one's outputs; none after the last.
    #[must_use]
    pub const fn next(self) -> Option<StageName> {
        match self {
            StageName::Extract => Some(StageName::Embed),
            StageName::Embed => Some(StageName::Index),
            StageName::Index => None,
        }
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        StageName::ALL
            .into_iter()
            .find(|stage| stage.as_str() == text)
            .ok_or_else(|| format!("stage {text:?} is none of extract, embed, index"))
    }
}
