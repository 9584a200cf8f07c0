//! Storing and deleting.

use std::pin::pin;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};
use sha2::{Digest, Sha256};

use crate::{
    Error, Key, Objects, Prefix,
    connect::Kind,
    error::is_folder_gone,
    metrics::{count_bytes, measured},
};

/// S3 takes no smaller parts; smaller objects go in one request.
const S3_PART_BYTES: usize = 5 * 1024 * 1024;

/// Bounds the memory of an upload to a directory.
const LOCAL_PART_BYTES: usize = 512 * 1024;

/// How many parts of one upload are under way at once.
const PARTS_UNDER_WAY: usize = 2;

/// How often an object is created whose folders others take away meanwhile. Each try loses against a deletion of a
/// folder's last object in the microseconds between making a folder and making the file in it.
const FOLDER_TRIES: usize = 100;

/// What was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The number of bytes.
    pub size: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
}

impl Stored {
    /// The hash in lower-case hexadecimal.
    #[must_use]
    pub fn sha256_hex(&self) -> String {
        hex::encode(self.sha256)
    }
}

impl Objects {
    /// Stores an object, in place of one that was there. It is durable when this returns.
    ///
    /// # Errors
    /// Nothing was stored.
    pub async fn put(&self, key: &Key, bytes: Bytes) -> Result<Stored, Error> {
        measured("put", async {
            let stored = Stored { size: bytes.len() as u64, sha256: Sha256::digest(&bytes).into() };
            let (path, payload) = (key.path(), PutPayload::from(bytes));
            self.create(|| self.store.put(&path, payload.clone())).await?;
            Ok(count_written(stored))
        })
        .await
    }

    /// Stores an object as it comes in, and hashes it on the way. It is durable when this returns,
    /// and nobody sees a part of it before. Memory is bounded whatever the size.
    ///
    /// # Errors
    /// Nothing was stored: `TooLarge` as soon as the body is over the limit, `Body` where the body
    /// itself fails, or what the store says. Dropping the future stores nothing either.
    pub async fn put_stream<S, E>(&self, key: &Key, body: S, limit_bytes: u64) -> Result<Stored, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        measured("put_stream", async {
            let mut receiver = Receiver::new(self, key, limit_bytes);
            let mut body = pin!(body);
            while let Some(part) = body.next().await {
                let part = part.map_err(|error| Error::Body { reason: error.into().to_string() })?;
                receiver.take(part).await?;
            }
            receiver.finish().await.map(count_written)
        })
        .await
    }

    /// Gives an object of a local store another key, unless there is an object under that already: false, and the object
    /// is deleted.
    ///
    /// # Errors
    /// The object may still be there, under either key.
    pub async fn give_key(&self, from: &Key, to: &Key) -> Result<bool, Error> {
        measured("give_key", async {
            match self.store.rename_if_not_exists(&from.path(), &to.path()).await {
                Ok(()) => Ok(true),
                Err(object_store::Error::AlreadyExists { .. }) => self.delete(from).await.map(|()| false),
                Err(object_store::Error::NotFound { .. }) => Err(Error::NotFound { key: from.clone() }),
                // A file system without hard links: of two that look at the same moment the second one wins.
                Err(_) if self.exists(to).await? => self.delete(from).await.map(|()| false),
                Err(_) => {
                    let renamed = self.store.rename(&from.path(), &to.path()).await;
                    renamed.map(|()| true).map_err(Error::of(from))
                }
            }
        })
        .await
    }

    /// Deletes an object. It is no error when there is none.
    ///
    /// # Errors
    /// The object may still be there.
    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        measured("delete", async {
            match self.store.delete(&key.path()).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                // The object was deleted, and somebody else took its folder away before that was synced.
                Err(error) if self.is_local() && is_folder_gone(&error) => Ok(()),
                Err(error) => Err(Error::from_store(&error)),
            }
        })
        .await
    }

    /// Deletes all objects under a prefix and tells how many there were.
    ///
    /// # Errors
    /// Some may still be there; the call can be repeated.
    pub async fn delete_prefix(&self, prefix: &Prefix) -> Result<u64, Error> {
        measured("delete_prefix", async {
            let wanted = prefix.clone();
            let found = self
                .store
                .list(Some(&prefix.path()))
                .map_ok(|object| object.location)
                .try_filter(move |location| std::future::ready(wanted.has(location)))
                .boxed();
            let mut deletions = self.store.delete_stream(found);
            let mut deleted = 0;
            while let Some(result) = deletions.next().await {
                match result {
                    Ok(_) => deleted += 1,
                    // Somebody else was faster.
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(Error::from_store(&error)),
                }
            }
            Ok(deleted)
        })
        .await
    }

    fn is_local(&self) -> bool {
        matches!(&*self.kind, Kind::Local { .. })
    }

    /// Makes a call that creates an object, again where a deletion took a folder of the object's path away while the
    /// call was making it.
    async fn create<T, F>(&self, call: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        for _ in 1..FOLDER_TRIES {
            match call().await {
                Err(error) if self.is_local() && is_folder_gone(&error) => {}
                result => return result.map_err(|error| Error::from_store(&error)),
            }
        }
        call().await.map_err(|error| Error::from_store(&error))
    }
}

fn count_written(stored: Stored) -> Stored {
    count_bytes("written", usize::try_from(stored.size).unwrap_or(usize::MAX));
    stored
}

/// A body on its way into the store. Small ones are put at once, large ones in parts. Dropped
/// before its end, it takes its parts away again.
struct Receiver<'a> {
    objects: &'a Objects,
    key: &'a Key,
    limit_bytes: u64,
    part_bytes: usize,
    hasher: Sha256,
    size: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    upload: Option<WriteMultipart>,
}

impl<'a> Receiver<'a> {
    fn new(objects: &'a Objects, key: &'a Key, limit_bytes: u64) -> Self {
        let part_bytes = match &*objects.kind {
            Kind::Local { .. } => LOCAL_PART_BYTES,
            Kind::S3 { .. } => S3_PART_BYTES,
        };
        Self {
            objects,
            key,
            limit_bytes,
            part_bytes,
            hasher: Sha256::new(),
            size: 0,
            waiting: Vec::new(),
            waiting_bytes: 0,
            upload: None,
        }
    }

    async fn take(&mut self, part: Bytes) -> Result<(), Error> {
        self.size += part.len() as u64;
        if self.size > self.limit_bytes {
            return Err(Error::TooLarge { limit_bytes: self.limit_bytes });
        }
        self.hasher.update(&part);
        self.waiting_bytes += part.len();
        self.waiting.push(part);
        if self.waiting_bytes >= self.part_bytes { self.send_waiting().await } else { Ok(()) }
    }

    /// Hands what waits over to the upload in parts, which begins here.
    async fn send_waiting(&mut self) -> Result<(), Error> {
        let failed = |error: object_store::Error| Error::from_store(&error);
        if self.upload.is_none() {
            let path = self.key.path();
            let begun = self.objects.create(|| self.objects.store.put_multipart(&path)).await?;
            self.upload = Some(WriteMultipart::new_with_chunk_size(begun, self.part_bytes));
        }
        if let Some(upload) = &mut self.upload {
            for part in self.waiting.drain(..) {
                upload.wait_for_capacity(PARTS_UNDER_WAY).await.map_err(failed)?;
                upload.put(part);
            }
            self.waiting_bytes = 0;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Stored, Error> {
        if self.upload.is_none() {
            let (path, payload) = (self.key.path(), PutPayload::from_iter(self.waiting.drain(..)));
            self.objects.create(|| self.objects.store.put(&path, payload.clone())).await?;
        } else {
            self.send_waiting().await?;
            if let Some(upload) = self.upload.take() {
                upload.finish().await.map_err(|error| Error::from_store(&error))?;
            }
        }
        Ok(Stored { size: self.size, sha256: self.hasher.clone().finalize().into() })
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        let (Some(upload), Ok(runtime)) = (self.upload.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let key = self.key.clone();
        runtime.spawn(async move {
            if let Err(error) = upload.abort().await {
                tracing::warn!(object_key = %key, error = %Error::from_store(&error), "parts of an ended upload are left in the store");
            }
        });
    }
}
