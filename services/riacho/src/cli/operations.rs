//! `riacho queue`, `riacho stage` and `riacho audit` as they are written.

use clap::{Args, Subcommand};
use riacho_domain::{StageName, TenantId};

use super::Server;

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Shows each stage's entries, and the documents by state
    Info {
        #[command(flatten)]
        server: Server,
    },
    /// Says whether work gets done; exit code 1 where it does not
    Health {
        #[command(flatten)]
        server: Server,
    },
    /// Shows a stage by lane and partition, and with an operator's key its consumers
    Stage {
        #[command(flatten)]
        server: Server,
        /// extract, embed or index
        stage: StageName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StageCommand {
    /// Lists the stages: whether they are paused, their backlog and consumers
    List,
    /// Lets all replicas of a stage read nothing more, within a second; what they hold is finished
    Pause {
        /// extract, embed or index
        stage: StageName,
        /// For those who wonder
        #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
        reason: String,
    },
    /// Lets a stage read again
    Resume {
        /// extract, embed or index
        stage: StageName,
    },
}

/// Which acts to list.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only of this tenant [default: of all, and of none]
    #[arg(long)]
    pub(crate) tenant: Option<TenantId>,
    /// Only this action, such as key.create, or with a dot at its end all that begin so
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// Only of this actor, such as key:0123456789abcdef or cli:root
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Only to this target
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// How many, the newest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
}
