//! The command line as it is written: names, flags and their help. Nothing here does anything.

mod dead_letters;
mod ingest;
mod operations;
mod space;
mod tenant;

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Parser, Subcommand, ValueEnum};
use riacho_domain::{DocumentId, TenantId};

pub(crate) use self::{
    dead_letters::{DeadLettersCommand, OfLetters, SelectLetters},
    ingest::Ingest,
    operations::{Audit, QueueCommand, StageCommand},
    space::{CompareSpaces, FallbackId, FillSpace, SpaceCommand},
    tenant::{OwnChoice, OwnLimit, TenantCommand, TenantLimits},
};

/// What stands under the list of commands in `riacho --help`.
const AFTER_HELP: &str = "\
Exit codes:
  0    it worked
  1    it ran and something failed: a document, a task, a server that refused
  2    the command line or the configuration is wrong
  3    a server could not be reached
  4    the database has another schema than this build needs
  130  interrupted

`riacho up --demo` starts everything, ingests the sample documents and answers a search.";

/// Uploads become chunks and vectors in PostgreSQL that a search finds and cites.
#[derive(Debug, Parser)]
#[command(name = "riacho", version, about, after_help = AFTER_HELP, max_term_width = 110)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Configuration file (TOML)
    #[arg(long, global = true, env = "RIACHO_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Sets one key of the configuration, for example --set embedder.concurrency=4
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Data directory of `riacho up`; the other commands find its servers, address and key there
    #[arg(long, global = true, env = "RIACHO_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Prints JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Prints results and errors only: no progress, and no log below a warning
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// See `log.format` in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One object a line
    Json,
    /// For people
    Text,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs everything in one process, on private servers of its own
    Up(Up),
    /// Runs the HTTP interface and the intake of producers' events
    IngestGateway(Listen),
    /// Runs the stage that turns originals into text and chunks
    Extractor,
    /// Runs the stage that turns chunks into vectors
    Embedder,
    /// Runs the stage that writes chunks and vectors
    Indexer,
    /// Runs the scheduled tasks, or one of them by hand
    Janitor(Janitor),
    /// Runs several stages in one process
    Work(Work),
    /// Brings the schema of the database to this binary's version
    Migrate(Migrate),
    /// Asks the service of this configuration whether it is ready, for the health check of a container
    Health,
    /// Uploads files and folders, and waits until they are searchable
    Ingest(Ingest),
    /// Searches the documents
    Search(Search),
    /// Shows a document's state, or the deployment's
    Status(Status),
    /// Shows and checks the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes, lists and revokes API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Makes, lists, suspends, exports and deletes tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Lists the partitions of the streams, and sets how many are in use
    #[command(subcommand)]
    Partitions(PartitionsCommand),
    /// Measures how good the search is on a retrieval set, on private servers
    Eval(Eval),
    /// Makes, fills, compares and switches embedding spaces, each with a model of its own
    #[command(subcommand)]
    Space(SpaceCommand),
    /// Measures parts of a deployment on private servers
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Shows the pipeline at work
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Lists the stages, pauses and resumes them
    #[command(subcommand)]
    Stage(StageCommand),
    /// Lists who did what to keys, tenants, documents, dead letters and stages
    Audit(Audit),
    /// Lists, shows, replays and discards dead letters
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Prints the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Prints the description of the HTTP interface
    #[command(hide = true)]
    Openapi,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Changes nothing: says whether the schema is the one that this binary works with, and fails if not
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PartitionsCommand {
    /// Lists the partitions: active ones get releases, draining ones are only read
    List,
    /// Puts releases onto this many partitions; the others drain
    Set {
        /// How many; a Redis Cluster spreads them over its masters
        #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
        count: u16,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measures the streams and the runner, beside what Redis can do
    Bus(BenchBus),
    /// Measures how fast the parsers read the files of a folder
    Extract(BenchExtract),
    /// A worker that holds an event until it is killed
    #[command(hide = true)]
    BusWorker {
        /// URL of the redis-server
        #[arg(long)]
        redis: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchBus {
    /// Events of each of five rounds; half as many one at a time, twice as many for growth
    #[arg(long, default_value_t = 100_000)]
    pub(crate) events: usize,
    /// Workers that are killed with an event, some three seconds each; 0 leaves that out
    #[arg(long, default_value_t = 50)]
    pub(crate) kills: usize,
    /// Measures also with more partitions, consumers and a longer backlog
    #[arg(long)]
    pub(crate) growth: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchExtract {
    /// The folder; its folders too
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Parser processes
    #[arg(long, default_value_t = 2, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub(crate) processes: usize,
    /// How often all files are read
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Recognises the text of pictures and scanned pages too
    #[arg(long)]
    pub(crate) ocr: bool,
    /// Writes the texts into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) texts: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// Folder in the layout of BEIR: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Only the first so many queries that have a relevant document
    #[arg(long, value_name = "N")]
    pub(crate) queries: Option<usize>,
}

/// Where the gateway listens.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listen {
    /// Address of the HTTP interface; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(crate) listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) listen: Listen,
    /// Ingests the sample documents, answers a search, and keeps serving
    #[arg(long)]
    pub(crate) demo: bool,
    /// Runs on private servers whatever the configuration names: for what must never touch those
    #[arg(long, hide = true)]
    pub(crate) private: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Janitor {
    #[command(subcommand)]
    pub(crate) command: Option<JanitorCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JanitorCommand {
    /// Runs one task once and prints what it did
    Run {
        /// Name of the task, as `riacho janitor list` shows it
        task: String,
        /// Only says what it would do
        #[arg(long)]
        dry_run: bool,
    },
    /// Lists the tasks with their schedules and last runs
    List,
}

/// A service that works on the streams or beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Worker {
    /// Originals to text and chunks
    Extractor,
    /// Chunks to vectors
    Embedder,
    /// Vectors to rows
    Indexer,
    /// The scheduled tasks
    Janitor,
}

#[derive(Debug, Args)]
pub(crate) struct Work {
    /// The stages, separated by commas
    #[arg(long, required = true, value_delimiter = ',', value_name = "STAGE,..")]
    pub(crate) stages: Vec<Worker>,
}

/// Which deployment a client command talks to.
#[derive(Debug, Clone, Args)]
pub(crate) struct Server {
    /// Address of the deployment [default: that of the running `riacho up`, else http://127.0.0.1:8000]
    #[arg(long, env = "RIACHO_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
    /// API key [default: the one in the data directory]
    #[arg(long, env = "RIACHO_API_KEY", value_name = "KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
}

/// How a search ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Meaning and words together
    Hybrid,
    /// Meaning
    Vector,
    /// Words
    Keyword,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    #[command(flatten)]
    pub(crate) server: Server,
    /// What to look for
    #[arg(required = true)]
    pub(crate) query: Vec<String>,
    /// Number of hits
    #[arg(short = 'k', long, default_value_t = 5)]
    pub(crate) top_k: u32,
    /// How hits are ranked
    #[arg(long, value_enum, default_value = "hybrid")]
    pub(crate) mode: Mode,
    /// Only documents of this collection
    #[arg(long)]
    pub(crate) collection: Option<String>,
    /// Only documents whose metadata match, for example '{"year": {"gte": 2024}}'
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) filter: Option<serde_json::Value>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) server: Server,
    /// A document; without one, the deployment
    pub(crate) id: Option<DocumentId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Prints the configuration in force, secrets redacted
    Print,
    /// Says whether the configuration can be used
    Check,
    /// Prints the JSON Schema of the configuration
    Schema,
}

/// The tenant whose keys a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct OfTenant {
    /// The tenant
    #[arg(long, default_value = crate::DEFAULT_TENANT)]
    pub(crate) tenant: TenantId,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Makes a key and prints its secret, once
    Create {
        #[command(flatten)]
        of: OfTenant,
        /// A name to tell keys apart
        #[arg(long, default_value = "key")]
        name: String,
        /// What the key may do: documents:read, documents:write, search, admin (all of the tenant), operator (what all tenants share)
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "documents:read,documents:write,search",
            value_name = "SCOPE,.."
        )]
        scopes: Vec<String>,
        /// When it ends, for example 2027-01-31T00:00:00Z
        #[arg(long, value_name = "TIME", value_parser = in_future)]
        expires_at: Option<DateTime<Utc>>,
    },
    /// Lists keys, without their secrets
    List {
        #[command(flatten)]
        of: OfTenant,
    },
    /// Ends a key; the gateways forget it within seconds
    Revoke {
        #[command(flatten)]
        of: OfTenant,
        /// Id of the key, as `riacho key list` shows it
        id: String,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn address(text: &str) -> Result<String, String> {
    crate::config::is_address(text).then(|| text.to_owned()).ok_or_else(|| "expected HOST:PORT".to_owned())
}

fn in_future(text: &str) -> Result<DateTime<Utc>, String> {
    let time: DateTime<Utc> = text.parse().map_err(|error| format!("{error}"))?;
    if time > Utc::now() { Ok(time) } else { Err("it is past".to_owned()) }
}

fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_of_every_command_may_stand_behind_it() {
        let cli =
            Cli::try_parse_from(["riacho", "search", "how", "deep", "--json", "--set", "a.b=c=d", "-k", "3"])
                .unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.set, [("a.b".to_owned(), "c=d".to_owned())]);
        assert!(
            matches!(cli.command, Command::Search(Search { top_k: 3, ref query, .. }) if query.len() == 2)
        );
    }

    #[test]
    fn a_replay_has_a_rate_that_can_be_kept() {
        let parse = |rate: &str| {
            Cli::try_parse_from(["riacho", "dead-letters", "replay", "--all", "--per-second", rate])
        };
        assert!(parse("0.5").is_ok() && parse("1000").is_ok());
        assert!(["0", "-1", "1001", "inf", "NaN", "fast"].iter().all(|wrong| parse(wrong).is_err()));
    }

    #[test]
    fn a_tenant_is_not_deleted_by_accident() {
        assert!(Cli::try_parse_from(["riacho", "tenant", "delete", "acme"]).is_err());
        assert!(Cli::try_parse_from(["riacho", "tenant", "delete", "acme", "--yes"]).is_ok());
    }
}
