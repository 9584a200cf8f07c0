//! `riacho dead-letters` as it is written.

use clap::{Args, Subcommand};
use riacho_domain::{DocumentId, TenantId};
use riacho_store::LetterState;
use uuid::Uuid;

/// Which dead letters a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct OfLetters {
    /// Only of this tenant [default: those of all tenants, and those of none]
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    /// Only of this stage: extract, embed, index, or intake
    #[arg(long)]
    pub(crate) stage: Option<String>,
    /// Only given up for this reason, for example provider_refused
    #[arg(long, value_name = "CODE")]
    pub(crate) reason: Option<String>,
    /// Only of this document
    #[arg(long, value_name = "ID")]
    pub(crate) document: Option<DocumentId>,
}

/// Which unresolved dead letters a command resolves.
#[derive(Debug, Clone, Args)]
pub(crate) struct SelectLetters {
    #[command(flatten)]
    pub(crate) of: OfLetters,
    /// This dead letter; may be given several times
    #[arg(long = "id", value_name = "ID", conflicts_with_all = ["stage", "reason", "document"])]
    pub(crate) ids: Vec<Uuid>,
    /// All that are unresolved
    #[arg(long, conflicts_with_all = ["ids", "stage", "reason", "document"])]
    pub(crate) all: bool,
    /// Only says what it would do
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// Lists dead letters, the newest first
    List {
        #[command(flatten)]
        of: OfLetters,
        /// What was done about them: unresolved, replayed or discarded
        #[arg(long, default_value = "unresolved")]
        state: LetterState,
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Shows a dead letter; with --json its bytes too
    Show {
        /// The dead letter, as `riacho dead-letters list` shows it
        id: Uuid,
        /// Only if it is this tenant's
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Releases the versions of dead letters again, if they are still failed
    Replay {
        #[command(flatten)]
        select: SelectLetters,
        /// Versions a second at most
        #[arg(long, default_value_t = 10.0, value_name = "N", value_parser = rate)]
        per_second: f64,
    },
    /// Notes that nothing more will be done about dead letters
    Discard {
        #[command(flatten)]
        select: SelectLetters,
    },
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.001..=1_000.0).contains(&rate) { Ok(rate) } else { Err("it must be 0.001 to 1000".to_owned()) }
}
