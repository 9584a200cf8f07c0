//! Whose the store is: an object at its root, outside the keys of tenants, that names a deployment.

use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path};

use crate::{Error, Objects, metrics::measured};

/// The name of the object that names the deployment.
pub const OWNER_OBJECT: &str = "riacho-deployment";

/// The longest name of a deployment that is read.
const MAX_BYTES: u64 = 200;

impl Objects {
    /// The deployment that the store belongs to; none where the store names none.
    ///
    /// # Errors
    /// What the store says, or the object is not one that was written by [`Objects::set_owner`].
    pub async fn owner(&self) -> Result<Option<String>, Error> {
        measured("owner", async {
            let found = match self.store.get(&Path::from(OWNER_OBJECT)).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(Error::from_store(&error)),
            };
            if found.meta.size > MAX_BYTES {
                return Err(Error::TooLarge { limit_bytes: MAX_BYTES });
            }
            let bytes = found.bytes().await.map_err(|error| Error::from_store(&error))?;
            let name = String::from_utf8_lossy(&bytes).trim().to_owned();
            Ok(Some(name))
        })
        .await
    }

    /// Gives the store that names no deployment to one. Where another one was faster it stays that one's, as far as the
    /// store can tell: ask [`Objects::owner`] afterwards.
    ///
    /// # Errors
    /// What the store says.
    pub async fn set_owner(&self, deployment: &str) -> Result<(), Error> {
        measured("set_owner", async {
            let (path, payload) = (Path::from(OWNER_OBJECT), PutPayload::from(format!("{deployment}\n")));
            match self.store.put_opts(&path, payload.clone(), PutOptions::from(PutMode::Create)).await {
                Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
                Err(_) if self.owner().await?.is_some() => Ok(()),
                // A file system without hard links, or a server that refuses the condition.
                Err(_) => {
                    let put = self.store.put(&path, payload).await;
                    put.map(drop).map_err(|error| Error::from_store(&error))
                }
            }
        })
        .await
    }
}
