//! `riacho tenant` as it is written.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use riacho_domain::TenantId;
use riacho_store::OverBudget;

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Makes a tenant
    Create {
        /// 1 to 63 of a-z, 0-9 and '-'
        id: TenantId,
        /// A name for people [default: the id]
        #[arg(long)]
        name: Option<String>,
    },
    /// Lists the tenants
    List,
    /// Refuses the tenant's requests; nothing is deleted
    Suspend {
        /// The tenant
        id: TenantId,
    },
    /// Ends a suspension
    Resume {
        /// The tenant
        id: TenantId,
    },
    /// Sets a tenant's share of what is released where several tenants wait
    Weight {
        /// The tenant
        id: TenantId,
        /// The share; all begin with 1
        #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
        weight: u32,
    },
    /// Sets or shows what a tenant may use, and shows what it uses
    Limits(TenantLimits),
    /// Shows what embeddings cost, by month and model
    Spend {
        /// The tenant [default: all]
        id: Option<TenantId>,
        /// How many months, the present one included
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1200))]
        months: u32,
    },
    /// Writes a tenant's documents and files to a new folder: documents.jsonl, originals, texts, files.jsonl, files
    Export {
        /// The tenant
        id: TenantId,
        /// The folder to make
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Deletes a tenant with all its documents and keys
    Delete {
        /// The tenant
        id: TenantId,
        /// Really
        #[arg(long, required = true)]
        yes: bool,
    },
}

/// What a tenant may use. What is not given stays as it is.
#[derive(Debug, Clone, Args)]
pub(crate) struct TenantLimits {
    /// The tenant
    pub(crate) id: TenantId,
    /// Requests a minute, over all gateways: a number, `none`, or `default` for the configuration's
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<OwnLimit>,
    /// How many requests may come at once
    #[arg(long, value_name = "N")]
    pub(crate) request_burst: Option<OwnLimit>,
    /// Uploads a minute, over all gateways
    #[arg(long, value_name = "N")]
    pub(crate) uploads_per_minute: Option<OwnLimit>,
    /// How many uploads may come at once
    #[arg(long, value_name = "N")]
    pub(crate) upload_burst: Option<OwnLimit>,
    /// Documents
    #[arg(long, value_name = "N")]
    pub(crate) max_documents: Option<OwnLimit>,
    /// Bytes of originals
    #[arg(long, value_name = "N")]
    pub(crate) max_bytes: Option<OwnLimit>,
    /// Documents on their way
    #[arg(long, value_name = "N")]
    pub(crate) max_unfinished: Option<OwnLimit>,
    /// Tokens that are embedded in a month (UTC); see --over-budget for when they are used up
    #[arg(long, value_name = "N")]
    pub(crate) embedding_tokens_per_month: Option<OwnLimit>,
    /// The same in money: hundredths of the currency of models.prices
    #[arg(long, value_name = "N")]
    pub(crate) embedding_cents_per_month: Option<OwnLimit>,
    /// Seconds after which originals of finished documents and unused files are removed; `none` keeps them
    #[arg(long, value_name = "SECONDS")]
    pub(crate) original_retention_seconds: Option<OwnLimit>,
    /// What becomes of documents that come when a budget is used up: `wait`, `local` (they go on with the fallback space, see
    /// `riacho space fallback`), or `default` for the configuration's
    #[arg(long, value_name = "WHAT")]
    pub(crate) over_budget: Option<OwnChoice>,
}

/// What is chosen for a tenant alone; nothing, so that the configuration's holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnChoice(pub(crate) Option<OverBudget>);

impl std::str::FromStr for OwnChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "wait" => Ok(Self(Some(OverBudget::Wait))),
            "local" => Ok(Self(Some(OverBudget::Local))),
            "default" => Ok(Self(None)),
            _ => Err("expected `wait`, `local` or `default`".to_owned()),
        }
    }
}

/// What is set for a tenant alone: a limit, none (0), or nothing, so that the configuration's holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnLimit(pub(crate) Option<u64>);

impl std::str::FromStr for OwnLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(Some(0))),
            "default" => Ok(Self(None)),
            number => match number.parse() {
                // What PostgreSQL and JSON hold exactly.
                Ok(limit @ 1..=9_007_199_254_740_991) => Ok(Self(Some(limit))),
                _ => Err("expected a number from 1, `none` or `default`".to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_none_or_the_default() {
        assert_eq!("12".parse(), Ok(OwnLimit(Some(12))));
        assert_eq!("none".parse(), Ok(OwnLimit(Some(0))));
        assert_eq!("default".parse(), Ok(OwnLimit(None)));
        assert_eq!("local".parse(), Ok(OwnChoice(Some(OverBudget::Local))));
        assert_eq!("default".parse(), Ok(OwnChoice(None)));
        assert!("none".parse::<OwnChoice>().is_err());
        assert!(["0", "-1", "many", ""].iter().all(|wrong| wrong.parse::<OwnLimit>().is_err()));
    }
}
