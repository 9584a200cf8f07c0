//! The connections: a pool for commands that answer at once, and a client of its own for each
//! blocking reader and for the beat. Everything fred is used for goes through [`Conn::call`].

use std::{sync::Arc, time::Duration};

use fred::{
    clients::{Client, Pool},
    interfaces::{ClientLike, ClusterInterface, EventInterface},
    prelude::{Builder, ReconnectPolicy},
    types::{
        ClusterHash, ConnectHandle, CustomCommand,
        config::{
            ClusterDiscoveryPolicy, Config as FredConfig, Options, ReconnectError, Server, ServerConfig,
            TlsConfig, UnresponsiveConfig,
        },
    },
};
use futures::future::join_all;

pub(crate) use fred::types::Value;

use crate::{
    Config, Error, Keys, liveness::RecentBeats, metrics::names, script::Scripts, servers::NO_EVICTION,
};

/// How long a reconnect waits at most.
const RECONNECT_MAX_MS: u32 = 1_000;
/// How often a command follows a slot to another node of a cluster: once for each step of a move, and some more.
const REDIRECTIONS: u32 = 5;
/// How long a client that gave up is left alone.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// A cheap handle to the streams of one deployment.
///
/// Its connections heal themselves; a call while Redis is away fails after the command time-out.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    pool: Pool,
    builder: Builder,
    scripts: Scripts,
    keys: Keys,
    config: Config,
    recent_beats: RecentBeats,
}

impl Streams {
    /// Connects. It fails at once when the server is away (the caller retries), and for good when
    /// the server evicts keys and that is not allowed.
    pub async fn connect(config: &Config) -> Result<Streams, Error> {
        let builder = builder(config)?;
        let pool = builder.build_pool(config.pool_size.clamp(1, 64))?;
        connect_all(pool.clients(), config.command_timeout()).await?;
        match Self::on(pool.clone(), builder, config).await {
            Ok(streams) => Ok(streams),
            Err(error) => {
                quit_all(pool.clients(), config.command_timeout()).await;
                Err(error)
            }
        }
    }

    /// On connections that are there.
    async fn on(pool: Pool, builder: Builder, config: &Config) -> Result<Streams, Error> {
        let conn = Conn::new(pool.next().clone(), config.command_timeout());
        let scripts = Scripts::load(&conn).await?;
        let streams = Streams(Arc::new(Shared {
            pool,
            builder,
            scripts,
            keys: Keys::new(&config.key_prefix),
            config: config.clone(),
            recent_beats: RecentBeats::default(),
        }));
        let policy = streams.memory().await?.policy;
        if policy != NO_EVICTION && !config.allow_eviction {
            return Err(Error::Eviction(policy));
        }
        Ok(streams)
    }

    /// The names of everything in Redis.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The settings it was connected with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Ends the pool's connections.
    pub async fn close(&self) {
        quit_all(self.0.pool.clients(), self.0.config.command_timeout()).await;
    }

    pub(crate) fn recent_beats(&self) -> &RecentBeats {
        &self.0.recent_beats
    }

    pub(crate) fn scripts(&self) -> &Scripts {
        &self.0.scripts
    }

    /// A connection of the pool, the next in turn.
    pub(crate) fn conn(&self) -> Conn {
        Conn::new(self.0.pool.next_connected().clone(), self.0.config.command_timeout())
    }

    /// A connection of its own, for one blocking reader or the beat.
    pub(crate) async fn dedicated(&self) -> Result<Conn, Error> {
        let mut builder = self.0.builder.clone();
        builder.with_config(|config| {
            // The nodes that the URL names may be away by now.
            if let ServerConfig::Clustered { hosts, .. } = &mut config.server {
                hosts.extend(self.conn().nodes().into_iter().flatten());
            }
        });
        let client = builder.build()?;
        connect(&client).await?;
        Ok(Conn::new(client, self.0.config.command_timeout()))
    }
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// One connection that can be given any command.
#[derive(Clone)]
pub(crate) struct Conn {
    client: Client,
    timeout: Duration,
}

impl Conn {
    fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    pub(crate) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The servers that take writes, as targets for [`Conn::call_on`].
    pub(crate) fn nodes(&self) -> Vec<Option<Server>> {
        match self.client.cached_cluster_state() {
            Some(cluster) => cluster.unique_primary_nodes().into_iter().map(Some).collect(),
            None => vec![None],
        }
    }

    /// Sends a command once to one of [`Conn::nodes`].
    pub(crate) async fn call_on(
        &self,
        node: Option<&Server>,
        command: &'static str,
        args: Vec<Value>,
    ) -> Result<Value, Error> {
        let options = Options { cluster_node: node.cloned(), ..self.options(self.timeout) };
        self.send(command, ClusterHash::Random, false, args, &options).await
    }

    /// Sends a command once. `key` says which node of a cluster gets it.
    pub(crate) async fn call(
        &self,
        command: &'static str,
        key: Option<&str>,
        args: Vec<Value>,
    ) -> Result<Value, Error> {
        self.send(command, hash_of(key), false, args, &self.options(self.timeout)).await
    }

    /// Sends a command that blocks the connection for up to `block`.
    pub(crate) async fn call_blocking(
        &self,
        command: &'static str,
        key: &str,
        args: Vec<Value>,
        block: Duration,
    ) -> Result<Value, Error> {
        self.send(command, hash_of(Some(key)), true, args, &self.options(block + self.timeout)).await
    }

    fn options(&self, timeout: Duration) -> Options {
        let mut options = Options { timeout: Some(timeout), max_attempts: Some(1), ..Options::default() };
        if self.client.is_clustered() {
            // A node that does not have the slot refuses, and following the slot is an attempt too. Without any left
            // the client ends at the first slot that is on the move. With `fail_fast` a command is all the same not
            // sent again where a connection was lost, and its reply with it.
            options.max_attempts = Some(1 + REDIRECTIONS);
            options.max_redirections = Some(REDIRECTIONS);
            options.fail_fast = true;
        }
        options
    }

    async fn send(
        &self,
        name: &'static str,
        hash: ClusterHash,
        blocks: bool,
        args: Vec<Value>,
        options: &Options,
    ) -> Result<Value, Error> {
        metrics::counter!(names::COMMANDS, "command" => name).increment(1);
        let command = CustomCommand::new_static(name, hash, blocks);
        // fred's futures are of many kilobytes, and would be a part of everything that awaits this.
        Ok(Box::pin(self.client.with_options(options).custom(command, args)).await?)
    }

    /// Tells later whether the connection was made again.
    pub(crate) fn watch_reconnects(&self) -> Reconnects {
        Reconnects(self.client.reconnect_rx())
    }

    pub(crate) async fn close(&self) {
        quit(&self.client, self.timeout).await;
    }
}

/// Which slot of a cluster a command is for.
fn hash_of(key: Option<&str>) -> ClusterHash {
    match key {
        Some(key) => ClusterHash::Custom(fred::util::redis_keyslot(key.as_bytes())),
        None => ClusterHash::Random,
    }
}

/// Connects all of them or none.
async fn connect_all(clients: &[Client], timeout: Duration) -> Result<(), Error> {
    let results = join_all(clients.iter().map(connect)).await;
    let connected = clients.iter().zip(&results).filter(|(_, result)| result.is_ok());
    if let Some(Err(error)) = results.iter().find(|result| result.is_err()) {
        join_all(connected.map(|(client, _)| quit(client, timeout))).await;
        return Err(error.clone());
    }
    Ok(())
}

/// Connects a client, and sees to it that it stays one.
async fn connect(client: &Client) -> Result<(), Error> {
    let running = client.init().await?;
    tokio::spawn(keep_running(client.clone(), running));
    Ok(())
}

/// A client makes lost connections again by itself, but its task ends with errors that it cannot place, such as a slot
/// that moves to a node which it does not know. Without a task it would answer nothing for ever.
async fn keep_running(client: Client, mut running: ConnectHandle) {
    loop {
        match running.await {
            Ok(Err(error)) => tracing::debug!(%error, "a client of redis gave up, and begins anew"),
            // It was closed, or everything is.
            Ok(Ok(())) | Err(_) => return,
        }
        tokio::time::sleep(RESTART_PAUSE).await;
        running = client.connect();
    }
}

async fn quit_all(clients: &[Client], timeout: Duration) {
    join_all(clients.iter().map(|client| quit(client, timeout))).await;
}

async fn quit(client: &Client, timeout: Duration) {
    match tokio::time::timeout(timeout, client.quit()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "closing a connection to redis"),
        Err(_) => tracing::debug!("closing a connection to redis took too long"),
    }
}

/// Tells whether a connection was made again since the last look.
pub(crate) struct Reconnects(tokio::sync::broadcast::Receiver<Server>);

impl Reconnects {
    pub(crate) fn happened(&mut self) -> bool {
        use tokio::sync::broadcast::error::TryRecvError;
        let mut any = false;
        loop {
            match self.0.try_recv() {
                Ok(_) | Err(TryRecvError::Lagged(_)) => any = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return any,
            }
        }
    }
}

/// The elements of an array. Nil, which also says that nothing came in time, has none.
pub(crate) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        Value::Null => vec![],
        other => vec![other],
    }
}

impl Config {
    /// Checks the URL and the authorities without connecting.
    ///
    /// # Errors
    /// A URL that cannot be read, or a file of authorities that cannot be used.
    pub fn check(&self) -> Result<(), Error> {
        builder(self).map(drop)
    }
}

fn builder(config: &Config) -> Result<Builder, Error> {
    let url = config.url.expose();
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let families = ["redis", "rediss", "valkey", "valkeys"];
    if !families.contains(&scheme.split(['+', '-']).next().unwrap_or_default()) {
        return Err(Error::Config(
            "the URL begins with none of redis://, rediss://, redis+unix://".to_owned(),
        ));
    }
    if url.starts_with("rediss") || url.starts_with("valkeys") {
        // A second installation is refused; the first one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let mut fred = FredConfig::from_url(url)?;
    if fred.server.is_clustered() {
        // The nodes that the URL names may all be away while others serve.
        fred.server.set_cluster_discovery_policy(ClusterDiscoveryPolicy::UseCache)?;
    }
    if let (Some(file), true) = (&config.tls_ca_file, fred.tls.is_some()) {
        fred.tls = Some(trust_only(file)?);
    }
    let mut builder = Builder::from_config(fred);
    builder.set_policy(ReconnectPolicy::new_exponential(0, 20, RECONNECT_MAX_MS, 2));
    builder.with_connection_config(|connection| {
        connection.connection_timeout = config.connect_timeout();
        connection.internal_command_timeout = config.command_timeout();
        // A command whose reply was lost may have been carried out; our own idempotent calls are
        // repeated above this layer.
        connection.max_command_attempts = 1;
        connection.reconnect_on_auth_error = true;
        // A primary that was demoted may keep its connections; another server is the primary then.
        connection.reconnect_errors = vec![ReconnectError::ReadOnly, ReconnectError::MasterDown];
        connection.unresponsive = UnresponsiveConfig {
            max_timeout: Some(config.command_timeout() * 2 + Duration::from_secs(1)),
            interval: Duration::from_millis(500),
        };
        connection.tcp.nodelay = Some(true);
    });
    Ok(builder)
}

fn trust_only(file: &std::path::Path) -> Result<TlsConfig, Error> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let broken =
        |error: &dyn std::fmt::Display| Error::Config(format!("tls_ca_file {}: {error}", file.display()));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| broken(&error))? {
        let certificate = certificate.map_err(|error| broken(&error))?;
        roots.add(certificate).map_err(|error| broken(&error))?;
    }
    Ok(TlsConfig::from(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}
