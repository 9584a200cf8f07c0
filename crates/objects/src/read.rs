//! Reading and listing.

use std::{fmt, ops::Range};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, GetResult, ObjectMeta, ObjectStoreExt};
use sha2::{Digest, Sha256};

use crate::{
    Error, Key, Objects, Prefix, Stored,
    metrics::{count_bytes, count_error, measured},
};

/// An object as a list tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// The number of its bytes.
    pub size: u64,
    /// When it was stored.
    pub last_modified: DateTime<Utc>,
}

/// An object, or a part of one, on its way out.
pub struct Download {
    /// The size of the whole object.
    pub size: u64,
    /// The part that comes.
    pub range: Range<u64>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Download({:?} of {} bytes)", self.range, self.size)
    }
}

impl Objects {
    /// The whole object, if it is not over the limit.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge` before anything is read, or what the store says.
    pub async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes, Error> {
        measured("get", async {
            let found = self.open(key, None).await?;
            if found.meta.size > limit_bytes {
                return Err(Error::TooLarge { limit_bytes });
            }
            let bytes = found.bytes().await.map_err(Error::of(key))?;
            count_bytes("read", bytes.len());
            Ok(bytes)
        })
        .await
    }

    /// A part of the object. What the range has beyond the end is left out.
    ///
    /// # Errors
    /// `NotFound`, `OutOfRange` where the range begins beyond the end, or what the store says.
    pub async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, Error> {
        measured("get_range", async {
            let found = self.open(key, Some(range)).await?;
            let bytes = found.bytes().await.map_err(Error::of(key))?;
            count_bytes("read", bytes.len());
            Ok(bytes)
        })
        .await
    }

    /// The object, or a part of it, as a stream.
    ///
    /// # Errors
    /// As [`Objects::get_range`]. The stream itself can fail later.
    pub async fn get_stream(&self, key: &Key, range: Option<Range<u64>>) -> Result<Download, Error> {
        measured("get_stream", async {
            let found = self.open(key, range).await?;
            let (size, range, key) = (found.meta.size, found.range.clone(), key.clone());
            let body = found
                .into_stream()
                .map_err(move |error| Error::of(&key)(error))
                .inspect_ok(|bytes| count_bytes("read", bytes.len()))
                .inspect_err(|error| count_error("get_stream", error));
            Ok(Download { size, range, body: body.boxed() })
        })
        .await
    }

    /// Size and hash of an object that somebody else stored, such as a presigned upload.
    ///
    /// # Errors
    /// `NotFound`, `TooLarge` before anything is read, or what the store says.
    pub async fn hash(&self, key: &Key, limit_bytes: u64) -> Result<Stored, Error> {
        measured("hash", async {
            let found = self.open(key, None).await?;
            if found.meta.size > limit_bytes {
                return Err(Error::TooLarge { limit_bytes });
            }
            let mut hasher = Sha256::new();
            let mut size = 0;
            let mut body = found.into_stream();
            while let Some(part) = body.next().await {
                let part = part.map_err(Error::of(key))?;
                size += part.len() as u64;
                hasher.update(&part);
            }
            Ok(Stored { size, sha256: hasher.finalize().into() })
        })
        .await
    }

    /// Size and time of an object.
    ///
    /// # Errors
    /// `NotFound`, or what the store says.
    pub async fn head(&self, key: &Key) -> Result<Entry, Error> {
        measured("head", async {
            let meta = self.store.head(&key.path()).await.map_err(Error::of(key))?;
            Ok(Entry { key: key.clone(), size: meta.size, last_modified: meta.last_modified })
        })
        .await
    }

    /// Whether there is such an object.
    ///
    /// # Errors
    /// What the store says.
    pub async fn exists(&self, key: &Key) -> Result<bool, Error> {
        match self.head(key).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The objects under a prefix, in no certain order. What has no key of ours is left out.
    #[must_use]
    pub fn list(&self, prefix: &Prefix) -> BoxStream<'static, Result<Entry, Error>> {
        let (path, prefix) = (prefix.path(), prefix.clone());
        let entry = move |result: object_store::Result<ObjectMeta>| {
            std::future::ready(match result {
                Ok(meta) => Some(meta).filter(|meta| prefix.has(&meta.location)).and_then(entry_of).map(Ok),
                Err(error) => Some(Err(Error::from_store(&error))),
            })
        };
        let list = self.store.list(Some(&path)).filter_map(entry);
        list.inspect_err(|error| count_error("list", error)).boxed()
    }

    /// The objects of all tenants.
    #[must_use]
    pub fn list_all(&self) -> BoxStream<'static, Result<Entry, Error>> {
        self.list(&Prefix::everything())
    }

    async fn open(&self, key: &Key, range: Option<Range<u64>>) -> Result<GetResult, Error> {
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        match self.store.get_opts(&key.path(), options).await {
            Ok(found) => Ok(found),
            Err(error) => Err(self.why_not(key, range, error).await),
        }
    }

    /// Stores tell of a range beyond the end in many ways; the size tells for sure.
    async fn why_not(&self, key: &Key, range: Option<Range<u64>>, error: object_store::Error) -> Error {
        let Some(range) = range else { return Error::of(key)(error) };
        match self.store.head(&key.path()).await {
            Ok(meta) if range.is_empty() || range.start >= meta.size => Error::OutOfRange { size: meta.size },
            Ok(_) => Error::of(key)(error),
            Err(error) => Error::of(key)(error),
        }
    }
}

fn entry_of(meta: ObjectMeta) -> Option<Entry> {
    let key = Key::parse(meta.location.as_ref()).ok()?;
    Some(Entry { key, size: meta.size, last_modified: meta.last_modified })
}
