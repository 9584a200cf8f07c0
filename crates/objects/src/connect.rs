//! Opens the store of the configuration.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    local::LocalFileSystem,
};
use riacho_domain::Secret;

use crate::{Config, Error, Key, Prefix, S3Config, Store, metrics::measured};

/// A shorter secret can be guessed.
const MIN_SECRET_BYTES: usize = 32;

/// Requests to S3 are repeated for at most so long; what fails then is the caller's to retry.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// The object store. Clones share it.
#[derive(Clone)]
pub struct Objects {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) kind: Arc<Kind>,
}

/// What only one kind of store has.
pub(crate) enum Kind {
    /// A directory, and the secret of its presigned uploads.
    Local { directory: PathBuf, signing_secret: Option<Secret> },
    /// The client that signs URLs, which may go to another address, and whether these store a file only where there is none.
    S3 { signer: AmazonS3, conditional_put: bool },
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.kind {
            Kind::Local { directory, .. } => write!(f, "Objects({})", directory.display()),
            Kind::S3 { .. } => f.write_str("Objects(s3)"),
        }
    }
}

impl Objects {
    /// Opens the store. The local directory is made; a bucket must exist, and is not asked yet.
    ///
    /// # Errors
    /// `Misconfigured`, or the directory cannot be made.
    pub async fn connect(config: &Config) -> Result<Objects, Error> {
        match config.store {
            Store::Local => open_local(config).await,
            Store::S3 => open_s3(config),
        }
    }

    /// Asks the store whether it works: a directory can be written to, a bucket can be listed.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn check(&self) -> Result<(), Error> {
        measured("check", async {
            if let Kind::Local { directory, .. } = &*self.kind {
                // Others look at the same directory, and those in containers all have the same process id.
                let probe = directory.join(format!(".probe-{:032x}", rand::random::<u128>()));
                tokio::fs::write(&probe, b"probe").await.map_err(|error| Error::from_io(&error))?;
                return tokio::fs::remove_file(&probe).await.map_err(|error| Error::from_io(&error));
            }
            match self.store.list(Some(&Prefix::everything().path())).next().await {
                Some(Err(error)) => Err(Error::from_store(&error)),
                Some(Ok(_)) | None => Ok(()),
            }
        })
        .await
    }

    /// The directory of the local store; none of another one.
    #[must_use]
    pub fn local_directory(&self) -> Option<&Path> {
        match &*self.kind {
            Kind::Local { directory, .. } => Some(directory),
            Kind::S3 { .. } => None,
        }
    }

    /// The file of an object in the local store, for readers that want a file. Never write to it.
    #[must_use]
    pub fn local_path(&self, key: &Key) -> Option<PathBuf> {
        match &*self.kind {
            Kind::Local { directory, .. } => Some(directory.join(key.as_str())),
            Kind::S3 { .. } => None,
        }
    }
}

async fn open_local(config: &Config) -> Result<Objects, Error> {
    let misconfigured = |reason: &str| Error::Misconfigured { reason: reason.to_owned() };
    let directory =
        config.directory.as_deref().ok_or_else(|| misconfigured("objects.directory is not set"))?;
    if config.signing_secret.as_ref().is_some_and(|secret| secret.expose().len() < MIN_SECRET_BYTES) {
        return Err(misconfigured("objects.signing_secret is shorter than 32 bytes"));
    }
    let directory = make_directory(directory).await?;
    let store = LocalFileSystem::new_with_prefix(&directory)
        .map_err(|error| Error::from_store(&error))?
        .with_fsync(true)
        .with_automatic_cleanup(true);
    let kind = Kind::Local { directory, signing_secret: config.signing_secret.clone() };
    Ok(Objects { store: Arc::new(store), kind: Arc::new(kind) })
}

/// Makes the directory, readable for its owner only, and gives its full path.
async fn make_directory(directory: &Path) -> Result<PathBuf, Error> {
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(directory).await.map_err(|error| Error::from_io(&error))?;
    tokio::fs::canonicalize(directory).await.map_err(|error| Error::from_io(&error))
}

fn open_s3(config: &Config) -> Result<Objects, Error> {
    // Whoever installed a provider first has decided; both are the same ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if config.s3.bucket.is_empty() {
        return Err(Error::Misconfigured { reason: "objects.s3.bucket is not set".to_owned() });
    }
    let store = s3_client(config, config.s3.endpoint.as_deref())?;
    let public = config.s3.public_endpoint.as_deref().or(config.s3.endpoint.as_deref());
    let signer = s3_client(config, public)?;
    Ok(Objects {
        store: Arc::new(store),
        kind: Arc::new(Kind::S3 { signer, conditional_put: config.s3.conditional_put }),
    })
}

fn s3_client(config: &Config, endpoint: Option<&str>) -> Result<AmazonS3, Error> {
    let s3 = &config.s3;
    let options = ClientOptions::new()
        .with_timeout(Duration::from_millis(config.timeout_ms))
        .with_connect_timeout(Duration::from_millis(config.connect_timeout_ms))
        .with_allow_http(s3.allow_http);
    let retry = RetryConfig { max_retries: 3, retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let mut builder = credentials(s3)?
        .with_bucket_name(&s3.bucket)
        .with_region(&s3.region)
        .with_virtual_hosted_style_request(!s3.path_style)
        .with_client_options(options)
        .with_retry(retry);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    builder.build().map_err(|error| Error::Misconfigured { reason: error.to_string() })
}

/// The configured key, or whatever the machine offers: the environment of a service account, a
/// container's or an instance's credentials.
fn credentials(s3: &S3Config) -> Result<AmazonS3Builder, Error> {
    let (id, secret) = match (&s3.access_key_id, &s3.secret_access_key) {
        (Some(id), Some(secret)) => (id, secret),
        (None, None) => return Ok(AmazonS3Builder::from_env()),
        _ => {
            let reason = "objects.s3 needs both access_key_id and secret_access_key, or neither";
            return Err(Error::Misconfigured { reason: reason.to_owned() });
        }
    };
    let builder =
        AmazonS3Builder::new().with_access_key_id(id.expose()).with_secret_access_key(secret.expose());
    Ok(match &s3.session_token {
        Some(token) => builder.with_token(token.expose()),
        None => builder,
    })
}
