//! Connections: a pool for each URL, each connection in the role it is for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use futures::future::try_join_all;
use riacho_domain::SecretUrl;

use crate::{Actor, Config, Error, accept, error::chain, known::Known, metrics::names, release, tls};

/// What a store is for. Row-level security follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Work for one tenant at a time.
    Service,
    /// The same rights, for the stages: few statements, each run for every document.
    Stage,
    /// Tasks over all tenants.
    Janitor,
}

impl Role {
    /// The role's name in PostgreSQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Service | Role::Stage => "riacho_service",
            Role::Janitor => "riacho_janitor",
        }
    }
}

/// The database, as one role sees it. Clones share the connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    /// Whose changes are noted as theirs.
    pub(crate) actor: Option<Arc<Actor>>,
}

pub(crate) struct Inner {
    pub(crate) pool: Pool,
    pub(crate) read: Option<Pool>,
    pub(crate) role: Role,
    pub(crate) deadline_hours: i32,
    pub(crate) url: SecretUrl,
    pub(crate) config: Config,
    pub(crate) known: Known,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("role", &self.inner.role).finish_non_exhaustive()
    }
}

/// The state of the connection pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFigures {
    /// Open connections.
    pub size: usize,
    /// Open connections that nobody uses.
    pub available: usize,
    /// Callers that wait for a connection.
    pub waiting: usize,
    /// The most connections there may be.
    pub max: usize,
}

impl Store {
    /// Opens a first connection and checks that it works in the role and is bound by row-level security.
    pub async fn connect(config: &Config, role: Role) -> Result<Store, Error> {
        let url = match role {
            Role::Service | Role::Stage => &config.url,
            Role::Janitor => config.janitor_url(),
        };
        let pool = pool(url, config, role)?;
        let read = match (&config.read_url, role) {
            (Some(url), Role::Service) => Some(self::pool(url, config, role)?),
            _ => None,
        };
        let inner = Inner {
            pool,
            read,
            role,
            deadline_hours: i32::try_from(config.deadline_hours).unwrap_or(i32::MAX),
            url: url.clone(),
            config: config.clone(),
            known: Known::default(),
        };
        let store = Store { inner: Arc::new(inner), actor: None };
        store.check_role().await?;
        Ok(store)
    }

    /// The role that this store works as.
    #[must_use]
    pub fn role(&self) -> Role {
        self.inner.role
    }

    /// A round trip to the server.
    pub async fn ping(&self) -> Result<Duration, Error> {
        let client = self.client().await?;
        let start = Instant::now();
        client.simple_query("-- store::pool::ping").await?;
        Ok(start.elapsed())
    }

    /// Opens so many connections and prepares the statements of an upload on each. Else the first busy
    /// second does it: a process of the server takes tens of milliseconds to start.
    pub async fn warm(&self, connections: usize) -> Result<(), Error> {
        let count = connections.min(self.inner.config.pool_size);
        let clients = try_join_all((0..count).map(|_| self.client())).await?;
        let statements = [accept::STATEMENTS, accept::WRITE_STATEMENTS, release::STATEMENTS].concat();
        let prepare = |client: deadpool_postgres::Object| {
            let statements = &statements;
            async move {
                for sql in statements {
                    client.prepare_cached(sql).await?;
                }
                Ok::<_, Error>(())
            }
        };
        try_join_all(clients.into_iter().map(prepare)).await.map(drop)
    }

    /// The state of the connection pool, which is also recorded as a metric.
    pub fn figures(&self) -> PoolFigures {
        let (status, role) = (self.inner.pool.status(), self.inner.role.as_str());
        let figures = PoolFigures {
            size: status.size,
            available: status.available,
            waiting: status.waiting,
            max: status.max_size,
        };
        for (state, count) in
            [("idle", figures.available), ("busy", figures.size.saturating_sub(figures.available))]
        {
            #[allow(clippy::cast_precision_loss)] // a pool has few connections
            metrics::gauge!(names::POOL_CONNECTIONS, "role" => role, "state" => state).set(count as f64);
        }
        #[allow(clippy::cast_precision_loss)] // as many as there are requests at once
        metrics::gauge!(names::POOL_WAITING, "role" => role).set(figures.waiting as f64);
        figures
    }

    pub(crate) async fn client(&self) -> Result<deadpool_postgres::Object, Error> {
        Ok(self.inner.pool.get().await?)
    }

    /// A connection for searches: to the replica where one is configured.
    pub(crate) async fn read_client(&self) -> Result<deadpool_postgres::Object, Error> {
        Ok(self.inner.read.as_ref().unwrap_or(&self.inner.pool).get().await?)
    }

    async fn check_role(&self) -> Result<(), Error> {
        let client = self.client().await?;
        let row = client.query_one(CHECK_ROLE, &[]).await?;
        let (bypasses, owns): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
        if bypasses || owns {
            return Err(Error::Setup(format!(
                "the role {} is a superuser, bypasses row-level security or owns tables, and would see all tenants; \
                 take these rights from it",
                self.inner.role.as_str()
            )));
        }
        Ok(())
    }
}

const CHECK_ROLE: &str = "-- store::pool::check_role
SELECT r.rolsuper OR r.rolbypassrls,
       EXISTS (SELECT FROM pg_class AS c WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p'))
FROM pg_roles AS r WHERE r.rolname = current_user";

const BACKEND: &str = "-- store::pool::pool
SELECT pg_backend_pid()";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[CHECK_ROLE, BACKEND];

fn pool(url: &SecretUrl, config: &Config, role: Role) -> Result<Pool, Error> {
    let parsed = tls::parse_url(url.expose(), config)?;
    let connector = tls::connector(config.tls_ca_file.as_deref())?;
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    // JIT compilation costs more than any statement of ours; the name of the role is a constant. Services
    // look rows up: before a new table is analysed, reading all of it would seem as cheap. The statements of
    // the stages have one plan each, whatever their values, and planning takes as long as some of them.
    let prepare = format!(
        "-- store::pool::prepare\nSET ROLE {}; SET jit = off; SET enable_seqscan = {}; SET plan_cache_mode = {}; \
         SET statement_timeout = {}; \
         SET idle_in_transaction_session_timeout = {}",
        role.as_str(),
        if role == Role::Janitor { "on" } else { "off" },
        if role == Role::Stage { "force_generic_plan" } else { "auto" },
        config.statement_timeout_ms,
        config.idle_transaction_timeout_ms,
    );
    let on_backend = config.on_backend;
    Pool::builder(Manager::from_config(parsed, connector, recycling))
        .max_size(config.pool_size.max(1))
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(config.acquire_timeout()))
        .create_timeout(Some(config.connect_timeout().saturating_mul(2)))
        .post_create(Hook::async_fn(move |client, _| {
            let prepare = prepare.clone();
            Box::pin(async move {
                client.batch_execute(&prepare).await.map_err(HookError::Backend)?;
                if let Some(on_backend) = on_backend {
                    let row = client.query_one(BACKEND, &[]).await.map_err(HookError::Backend)?;
                    on_backend(row.try_get(0).map_err(HookError::Backend)?);
                }
                Ok(())
            })
        }))
        .build()
        .map_err(|error| Error::Setup(chain(&error)))
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
                connecting(error)
            }
            other => Error::Unavailable(chain(&other)),
        }
    }
}

/// Errors while a connection is made: wrong credentials and missing roles are no outage.
fn connecting(error: tokio_postgres::Error) -> Error {
    let Some(answer) = error.as_db_error() else {
        return Error::from(error);
    };
    match answer.code().code() {
        // invalid_parameter_value: the role of SET ROLE is not there.
        "22023" => Error::SchemaVersion(format!("{}; run `riacho migrate` first", answer.message())),
        "3D000" => Error::Setup(format!("{}; create it first", answer.message())),
        "28P01" | "28000" => Error::Setup(format!("the database refused the login: {}", answer.message())),
        "42501" => Error::Setup(format!("{}; grant the role to the login", answer.message())),
        _ => Error::from(error),
    }
}
