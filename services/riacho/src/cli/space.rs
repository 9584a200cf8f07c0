//! `riacho space` as it is written.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use riacho_domain::{SpaceId, TenantId};

use super::Mode;

#[derive(Debug, Subcommand)]
pub(crate) enum SpaceCommand {
    /// Lists the embedding spaces: which is searched, and how far the others are filled
    List,
    /// Makes the space of another configured model; the janitor fills it beside the live one
    Create {
        /// Name of the model in `models.spaces`, or the model's id
        #[arg(long, value_name = "NAME")]
        model: String,
        /// Chunks a second that it is filled with at most [default: janitor.fill_per_second]
        #[arg(long, value_name = "N", value_parser = rate())]
        per_second: Option<u32>,
    },
    /// Shows how far a space is filled, and sets how fast; chunks that its model refused are tried again
    Fill(FillSpace),
    /// Searches two spaces for the same queries, and compares what they find
    Compare(CompareSpaces),
    /// Makes a space the one that is searched, in one statement; the one before is kept complete
    Switch {
        /// The space, as `riacho space list` shows it
        id: SpaceId,
        /// How long to wait for the last missing chunks, where they are that few
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        wait: u64,
        /// Even if chunks are missing, or its vector index; they are found by words only until they are there
        #[arg(long)]
        force: bool,
    },
    /// Makes a space the fallback, for documents of tenants that go on over their budget; without an id, shows it
    Fallback {
        /// The space, of a local model; `none` for no fallback
        id: Option<FallbackId>,
        /// Even if documents are in the present fallback only: they are found by words until the live space has them
        #[arg(long, requires = "id")]
        force: bool,
    },
    /// Gives a space up that is not live; the janitor removes its vectors an hour later
    Drop {
        /// The space
        id: SpaceId,
        /// Really
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// A space, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FallbackId(pub(crate) Option<SpaceId>);

impl std::str::FromStr for FallbackId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("none", _) => Ok(Self(None)),
            (_, Ok(id)) => Ok(Self(Some(id))),
            _ => Err("expected the id of a space, or `none`".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct FillSpace {
    /// The space
    pub(crate) id: SpaceId,
    /// Fills it with so many chunks a second at most from now on
    #[arg(long, value_name = "N", value_parser = rate())]
    pub(crate) per_second: Option<u32>,
    /// Fills it at janitor.fill_per_second again
    #[arg(long, conflicts_with_all = ["per_second", "pause"])]
    pub(crate) usual_rate: bool,
    /// Fills nothing in until a rate is set
    #[arg(long, conflicts_with = "per_second")]
    pub(crate) pause: bool,
    /// Returns when nothing is missing
    #[arg(long, conflicts_with = "pause")]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompareSpaces {
    /// A space
    pub(crate) a: SpaceId,
    /// The other one
    pub(crate) b: SpaceId,
    /// Whose documents are searched
    #[arg(long, default_value = crate::DEFAULT_TENANT)]
    pub(crate) tenant: TenantId,
    /// A file with a query a line
    #[arg(long, value_name = "FILE", conflicts_with = "sample")]
    pub(crate) queries: Option<PathBuf>,
    /// Takes words of so many stored chunks as queries, and looks whether these chunks are found
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) sample: u32,
    /// Another one takes other chunks
    #[arg(long, default_value = "1")]
    pub(crate) seed: String,
    /// Hits of each search
    #[arg(short = 'k', long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) top_k: u32,
    /// How hits are ranked; by words alone there is nothing to compare
    #[arg(long, value_enum, default_value = "vector")]
    pub(crate) mode: Mode,
}

fn rate() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1_000_000)
}
