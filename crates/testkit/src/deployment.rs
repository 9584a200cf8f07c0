//! A deployment of its own for each test: private Redis, a database cloned from a migrated template,
//! an object store in a temporary directory, a tenant, a key and an embedding space.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use riacho_domain::{Secret, SecretUrl, State, TenantId};
use riacho_local::{
    Runtime,
    testing::{TestDatabase, TestRedis, postgres, redis},
};
use riacho_objects::Objects;
use riacho_service::{CoreConfig, Health, Metrics, Resources, release};
use riacho_store::{
    Accept, Accepted, Body, File, KeyScope, NewFile, NewKey, ReleasePlan, Role, Space, Status, Store,
    ensure_space, migrate,
};
use riacho_streams::Streams;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::eventually;

/// The model of the default space: the local one.
pub const LOCAL_MODEL: (&str, u32) = ("wordllama-l2-supercat-256", 256);

/// The secret of presigned uploads to the local store.
const SIGNING_SECRET: &str = "a secret of the tests, 32 bytes or more";

/// The real servers with nothing in them but one tenant. Everything ends when it is dropped.
#[derive(Debug)]
pub struct Deployment {
    /// The store as the services see it: one tenant at a time.
    pub store: Store,
    /// The same, as the stages use it.
    pub stages: Store,
    /// The store as the janitor sees it: all tenants.
    pub janitor: Store,
    /// Redis.
    pub streams: Streams,
    /// The object store.
    pub objects: Objects,
    /// The tenant `default`.
    pub tenant: TenantId,
    /// A key of the tenant with every scope.
    pub key: String,
    /// The live embedding space.
    pub space: Space,
    redis: TestRedis,
    database: TestDatabase,
    directory: TempDir,
}

impl Deployment {
    /// Starts one with the space of the local model.
    ///
    /// # Errors
    /// When a server does not start, with the reason.
    pub async fn start() -> Result<Deployment> {
        let (model, dimensions) = LOCAL_MODEL;
        Self::with_space(model, dimensions).await
    }

    /// Starts one with a space of its own.
    ///
    /// # Errors
    /// When a server does not start, with the reason.
    pub async fn with_space(model: &str, dimensions: u32) -> Result<Deployment> {
        let redis = redis();
        let database = clone_of_template().await?;
        let settings = database_config(&database);
        let space = ensure_space(&settings, model, dimensions).await.context("making the space")?;
        let janitor = Store::connect(&settings, Role::Janitor).await.context("connecting as the janitor")?;
        let store = Store::connect(&settings, Role::Service).await.context("connecting as a service")?;
        let stages = Store::connect(&settings, Role::Stage).await.context("connecting as a stage")?;
        let streams = Streams::connect(&riacho_streams::Config::for_url(&redis.url())).await?;
        let directory = TempDir::new()?;
        let objects = Objects::connect(&objects_config(&directory)).await?;
        let tenant: TenantId = "default".parse()?;
        janitor.ensure_tenant(&tenant, "Default").await?;
        let key = key_of(&janitor, &tenant, vec![KeyScope::Admin, KeyScope::Operator]).await?;
        Ok(Deployment {
            store,
            stages,
            janitor,
            streams,
            objects,
            tenant,
            key,
            space,
            redis,
            database,
            directory,
        })
    }

    /// The private Redis, to stop, start and kill.
    #[must_use]
    pub fn redis(&self) -> &TestRedis {
        &self.redis
    }

    /// Runs SQL as the owner of the database, for what no service can do.
    pub fn sql(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.database.run(sql)
    }

    /// The sections of a service's configuration, with short waits and the local model.
    ///
    /// # Errors
    /// When the runtime has not been set up.
    pub fn core(&self) -> Result<CoreConfig> {
        let mut core = CoreConfig {
            redis: self.redis_config(),
            database: self.database_config(),
            objects: self.objects_config(),
            ..CoreConfig::default()
        };
        core.models.local.directory = Some(local_model_directory()?);
        core.stage.partitions = vec![0];
        core.stage.block_ms = 50;
        core.stage.grace_seconds = 5;
        Ok(core)
    }

    /// What a service of a role works with.
    ///
    /// # Errors
    /// When another recorder of metrics is installed.
    pub fn resources(&self, role: Role) -> Result<Resources> {
        Ok(Resources {
            store: match role {
                Role::Service => self.store.clone(),
                Role::Stage => self.stages.clone(),
                Role::Janitor => self.janitor.clone(),
            },
            streams: self.streams.clone(),
            objects: self.objects.clone(),
            health: Health::new(),
            metrics: Metrics::install()?,
        })
    }

    /// The section `redis` of a service in this deployment.
    #[must_use]
    pub fn redis_config(&self) -> riacho_streams::Config {
        riacho_streams::Config::for_url(&self.redis.url())
    }

    /// The section `database` of a service in this deployment.
    #[must_use]
    pub fn database_config(&self) -> riacho_store::Config {
        database_config(&self.database)
    }

    /// The section `objects` of a service in this deployment.
    #[must_use]
    pub fn objects_config(&self) -> riacho_objects::Config {
        objects_config(&self.directory)
    }

    /// A directory that is removed with the deployment.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Makes another tenant with a key for all that is its own.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn add_tenant(&self, id: &str) -> Result<(TenantId, String)> {
        let tenant: TenantId = id.parse()?;
        self.janitor.ensure_tenant(&tenant, id).await?;
        let key = key_of(&self.janitor, &tenant, vec![KeyScope::Admin]).await?;
        Ok((tenant, key))
    }

    /// Stores a file and accepts it as a new document, without putting its release onto the stream.
    ///
    /// # Errors
    /// When the object store or the store refuses.
    pub async fn accept(&self, filename: &str, content: impl Into<bytes::Bytes>) -> Result<Accepted> {
        let content = content.into();
        let accept = self.stored(filename, &content).await?;
        Ok(self.store.accept(&accept).await?)
    }

    /// Accepts a file and puts its release onto the stream, as the gateway does.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn submit(&self, filename: &str, content: impl Into<bytes::Bytes>) -> Result<Accepted> {
        let accepted = self.accept(filename, content).await?;
        if let Some(plan) = &accepted.release {
            self.release(plan).await?;
        }
        Ok(accepted)
    }

    /// Puts a release onto its stream, as the gateway and the janitor do.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn release(&self, plan: &ReleasePlan) -> Result<()> {
        let by = release::By { service: "ingest-gateway", reason: "accept" };
        for sent in release::send(by, &self.store, &self.streams, std::slice::from_ref(plan)).await {
            sent?;
        }
        Ok(())
    }

    /// Stores a file and says how it would be accepted, to be changed before it is.
    ///
    /// # Errors
    /// When the object store refuses.
    pub async fn stored(&self, filename: &str, content: &bytes::Bytes) -> Result<Accept> {
        let key = riacho_objects::Key::original(&self.tenant, riacho_domain::UploadId::new());
        self.objects.put(&key, content.clone()).await?;
        let body = Body::Stored { size: content.len() as u64, sha256: Sha256::digest(content).into() };
        Ok(Accept::new(self.tenant.clone(), filename, key.to_string(), body))
    }

    /// Stores a file that is no document's, with its row, as one that comes over OpenAI's API.
    ///
    /// # Errors
    /// When the object store or PostgreSQL refuses.
    pub async fn file(&self, content: impl Into<bytes::Bytes>, ttl: Option<Duration>) -> Result<File> {
        let key = riacho_objects::Key::original(&self.tenant, riacho_domain::UploadId::new());
        let stored = self.objects.put(&key, content.into()).await?;
        let new = NewFile {
            object_key: key.to_string(),
            filename: "file.txt".to_owned(),
            content_type: "text/plain".to_owned(),
            purpose: "assistants".to_owned(),
            size: stored.size,
            sha256: stored.sha256,
            ttl,
        };
        Ok(self.store.create_file(&self.tenant, &new).await?)
    }

    /// Waits until the latest version of a document is in a state, and returns its status.
    ///
    /// # Panics
    /// When it does not get there.
    pub async fn reaches(&self, document: riacho_domain::DocumentId, state: State) -> Status {
        eventually(|| async {
            let status =
                self.store.status(&self.tenant, document).await.map_err(|error| error.to_string())?;
            status.filter(|status| status.state == state).ok_or_else(|| format!("not {state}"))
        })
        .await
    }
}

/// The directory of the local embedding model.
///
/// # Errors
/// When the runtime has not been set up.
pub fn local_model_directory() -> Result<PathBuf> {
    Ok(Runtime::find().wordllama_dir()?)
}

async fn key_of(janitor: &Store, tenant: &TenantId, scopes: Vec<KeyScope>) -> Result<String> {
    let key = NewKey { tenant: tenant.clone(), name: "test".to_owned(), scopes, expires_at: None };
    Ok(janitor.create_key(&key).await?.secret.expose().to_owned())
}

/// A clone of a database that is migrated once for all tests of a process.
async fn clone_of_template() -> Result<TestDatabase> {
    static TEMPLATE: OnceCell<TestDatabase> = OnceCell::const_new();
    let template = TEMPLATE
        .get_or_try_init(|| async {
            let template = postgres().create_database();
            migrate::migrate(&database_config(&template)).await.context("migrating")?;
            anyhow::Ok(template)
        })
        .await?;
    // Copying waits for the end of the session that migrated, which this thread may have to drive.
    Ok(tokio::task::spawn_blocking(|| postgres().create_database_from(template)).await?)
}

fn database_config(database: &TestDatabase) -> riacho_store::Config {
    riacho_store::Config {
        url: SecretUrl::from(database.owner_url()),
        pool_size: 4,
        ..riacho_store::Config::default()
    }
}

fn objects_config(directory: &TempDir) -> riacho_objects::Config {
    riacho_objects::Config {
        directory: Some(directory.path().join("objects")),
        signing_secret: Some(Secret::from(SIGNING_SECRET)),
        ..riacho_objects::Config::default()
    }
}
