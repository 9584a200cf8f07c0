//! A file for each command.

mod audit;
mod bench;
mod completions;
mod config;
mod dead_letters;
mod eval;
mod health;
mod ingest;
mod janitor;
mod key;
mod migrate;
mod openapi;
mod partitions;
mod queue;
pub(crate) mod search;
mod serve;
mod space;
mod stage;
mod status;
mod tenant;
mod up;

use riacho_service::config::ConfigError;
use riacho_store::{Actor, Role, Store};

use crate::{
    cli::{Cli, Command, Global},
    config::{Config, Settings},
    data_dir::DataDir,
    exit::{Failure, Kind},
    output::Output,
};

/// How long an operator's command waits for servers.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// What every command starts from.
#[derive(Debug)]
struct Context {
    global: Global,
    output: Output,
}

impl Context {
    fn data_dir(&self) -> DataDir {
        DataDir::new(self.global.data_dir.as_deref())
    }

    /// The configuration; servers that nobody names are those of the running `up`.
    fn config(&self) -> Result<Config, ConfigError> {
        Settings::new(&self.global).with_running(&self.data_dir())?.load()
    }

    /// Who runs the command, for the audit log.
    fn actor(&self) -> Actor {
        let user = nix::unistd::getuid();
        let name = nix::unistd::User::from_uid(user).ok().flatten().map(|user| user.name);
        Actor::command_line(&name.unwrap_or_else(|| user.to_string()))
    }

    /// A connection for an operator's command; what it changes is noted. It does not wait for a database that is away.
    async fn store(&self, role: Role) -> anyhow::Result<Store> {
        let mut database = self.config()?.database;
        database.pool_size = 1;
        let store = Store::connect(&database, role).await.map_err(store_failure)?;
        store.check_version().await.map_err(store_failure)?;
        Ok(store.acting_as(self.actor()))
    }
}

/// An error of the database as the end of a command.
fn store_failure(error: riacho_store::Error) -> anyhow::Error {
    let kind = match &error {
        riacho_store::Error::SchemaVersion(_) => Kind::OtherSchema,
        error if error.is_retryable() => Kind::Unreachable,
        _ => Kind::Failed,
    };
    Failure::error(kind, error.to_string())
}

/// A time as a table shows it.
fn time(time: Option<chrono::DateTime<chrono::Utc>>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.format("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Runs the command of a command line.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<()> {
    let output = Output::new(cli.global.json, cli.global.quiet);
    let context = Context { global: cli.global, output };
    match cli.command {
        Command::Up(arguments) => up::run(&context, arguments).await,
        Command::IngestGateway(listen) => serve::gateway(&context, listen).await,
        Command::Extractor => serve::worker(&context, crate::cli::Worker::Extractor).await,
        Command::Embedder => serve::worker(&context, crate::cli::Worker::Embedder).await,
        Command::Indexer => serve::worker(&context, crate::cli::Worker::Indexer).await,
        Command::Janitor(arguments) => janitor::run(&context, arguments).await,
        Command::Work(work) => serve::workers(&context, work).await,
        Command::Migrate(arguments) => migrate::run(&context, &arguments).await,
        Command::Health => health::run(&context).await,
        Command::Ingest(arguments) => ingest::run(&context, arguments).await,
        Command::Search(arguments) => search::run(&context, arguments).await,
        Command::Status(arguments) => status::run(&context, arguments).await,
        Command::Config(command) => config::run(&context, &command),
        Command::Key(command) => key::run(&context, command).await,
        Command::Tenant(command) => tenant::run(&context, command).await,
        Command::Partitions(command) => partitions::run(&context, command).await,
        Command::Space(command) => space::run(&context, command).await,
        Command::Bench(command) => bench::run(&context, command).await,
        Command::Eval(arguments) => eval::run(&context, arguments).await,
        Command::Queue(command) => queue::run(&context, command).await,
        Command::Stage(command) => stage::run(&context, command).await,
        Command::Audit(arguments) => audit::run(&context, arguments).await,
        Command::DeadLetters(command) => dead_letters::run(&context, command).await,
        Command::Completions { shell } => completions::run(shell),
        Command::Openapi => openapi::run(&context),
    }
}
