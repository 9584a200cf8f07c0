//! Where payloads go that are too large for a stream.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use riacho_domain::RunId;
use riacho_objects::{Key, Objects};

use crate::{CodecError, EventMeta};

/// An object store as the codec sees it: write, and read with a bound.
pub trait ClaimStore: Send + Sync + 'static {
    /// The key of an event's payload. A run never shares its objects with another.
    fn key(&self, input: &EventMeta, run: RunId, event_id: &str) -> Result<String, ClaimError> {
        let EventMeta { tenant, document, version, .. } = input;
        let key = Key::claim(tenant, *document, *version, run, event_id);
        key.map(|key| key.to_string()).map_err(|_| ClaimError::Key(event_id.to_owned()))
    }

    /// Stores `bytes` under `key`. Storing the same key again is harmless.
    fn put(&self, key: String, bytes: Bytes) -> BoxFuture<'_, Result<(), ClaimError>>;

    /// Reads `key`; an object larger than `max_bytes` is refused.
    fn get(&self, key: String, max_bytes: u64) -> BoxFuture<'_, Result<Bytes, ClaimError>>;
}

/// A shared claim store.
#[derive(Clone)]
pub struct Claims(Arc<dyn ClaimStore>);

impl Claims {
    /// Claims in any store.
    pub fn new(store: impl ClaimStore) -> Self {
        Self(Arc::new(store))
    }

    /// Claims in this process's memory, for tests.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::new(MemoryClaims::default())
    }

    pub(crate) fn key(&self, input: &EventMeta, run: RunId, event_id: &str) -> Result<String, CodecError> {
        Ok(self.0.key(input, run, event_id)?)
    }

    pub(crate) async fn put(&self, key: String, bytes: Bytes) -> Result<(), ClaimError> {
        self.0.put(key, bytes).await
    }

    pub(crate) async fn get(&self, key: String, max_bytes: u64) -> Result<Bytes, ClaimError> {
        self.0.get(key, max_bytes).await
    }
}

impl From<Objects> for Claims {
    fn from(objects: Objects) -> Self {
        Self::new(objects)
    }
}

impl ClaimStore for Objects {
    fn put(&self, key: String, bytes: Bytes) -> BoxFuture<'_, Result<(), ClaimError>> {
        Box::pin(async move {
            let parsed = Key::parse(&key).map_err(|_| ClaimError::Key(key.clone()))?;
            Objects::put(self, &parsed, bytes).await.map(drop).map_err(|error| claim_error(key, &error))
        })
    }

    fn get(&self, key: String, max_bytes: u64) -> BoxFuture<'_, Result<Bytes, ClaimError>> {
        Box::pin(async move {
            let parsed = Key::parse(&key).map_err(|_| ClaimError::Key(key.clone()))?;
            Objects::get(self, &parsed, max_bytes).await.map_err(|error| claim_error(key, &error))
        })
    }
}

fn claim_error(key: String, error: &riacho_objects::Error) -> ClaimError {
    match error {
        riacho_objects::Error::NotFound { .. } => ClaimError::Gone(key),
        riacho_objects::Error::TooLarge { .. } => ClaimError::TooLarge(key),
        other => ClaimError::Store(other.to_string()),
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims")
    }
}

/// Why a claim check could not be stored or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClaimError {
    /// No object under the key.
    #[error("claim check {0:?} is gone")]
    Gone(String),
    /// Larger than it may be.
    #[error("claim check {0:?} is larger than its limit")]
    TooLarge(String),
    /// The key is not one of the store's.
    #[error("claim check {0:?} is no key")]
    Key(String),
    /// The store did not answer, or failed.
    #[error("object store: {0}")]
    Store(String),
}

/// Keeps its objects in memory.
#[derive(Default)]
struct MemoryClaims(Mutex<HashMap<String, Bytes>>);

impl ClaimStore for MemoryClaims {
    fn put(&self, key: String, bytes: Bytes) -> BoxFuture<'_, Result<(), ClaimError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, bytes);
        Box::pin(async { Ok(()) })
    }

    fn get(&self, key: String, max_bytes: u64) -> BoxFuture<'_, Result<Bytes, ClaimError>> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        Box::pin(async move {
            match found {
                None => Err(ClaimError::Gone(key)),
                Some(bytes) if bytes.len() as u64 > max_bytes => Err(ClaimError::TooLarge(key)),
                Some(bytes) => Ok(bytes),
            }
        })
    }
}
