//! What can go wrong with an object, told apart by what the caller should do.

use std::io;

use crate::{Key, key::InvalidKey};

/// The longest part of a store's message that is passed on.
const MAX_MESSAGE_CHARS: usize = 300;

/// A failed call of the object store. No message contains a key, a secret or a signed URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("object {key} does not exist")]
    NotFound {
        /// The object.
        key: Key,
    },
    /// The object, or the body that is to become one, is over the caller's limit.
    #[error("the object is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// The range is not inside the object.
    #[error("the range is not inside the {size} bytes of the object")]
    OutOfRange {
        /// The size of the object.
        size: u64,
    },
    /// The store does not answer or fails; the same call may succeed later.
    #[error("the object store is not available: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// No space is left in the store. It may be made.
    #[error("the object store is full")]
    Full,
    /// A presigned upload that was changed, is too late, or is none.
    #[error("the upload is refused: {reason}")]
    Refused {
        /// Why.
        reason: &'static str,
    },
    /// The sender of the body broke off or failed.
    #[error("the body ended early: {reason}")]
    Body {
        /// What happened.
        reason: String,
    },
    /// The configuration or the store's permissions cannot work.
    #[error("the object store is not configured right: {reason}")]
    Misconfigured {
        /// What is wrong.
        reason: String,
    },
    /// A key that is not one of ours, or of another tenant.
    #[error(transparent)]
    InvalidKey(#[from] InvalidKey),
}

impl Error {
    /// Whether the same call can succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Full)
    }

    /// The error's name in labels.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Error::NotFound { .. } => "not_found",
            Error::TooLarge { .. } => "too_large",
            Error::OutOfRange { .. } => "out_of_range",
            Error::Unavailable { .. } => "unavailable",
            Error::Full => "full",
            Error::Refused { .. } => "refused",
            Error::Body { .. } => "body",
            Error::Misconfigured { .. } => "misconfigured",
            Error::InvalidKey(_) => "invalid_key",
        }
    }

    /// The error of a call that concerns one object.
    pub(crate) fn of(key: &Key) -> impl Fn(object_store::Error) -> Error + '_ {
        move |error| match error {
            object_store::Error::NotFound { .. } => Error::NotFound { key: key.clone() },
            other => Error::from_store(&other),
        }
    }

    /// The error of a call that creates an object or concerns many: what is not found is the bucket.
    pub(crate) fn from_store(error: &object_store::Error) -> Error {
        use object_store::Error as Store;
        match io_kind(error) {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => return Error::Full,
            Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                return Error::Misconfigured { reason: message(error) };
            }
            _ => {}
        }
        match error {
            Store::NotFound { .. } => {
                Error::Misconfigured { reason: "the bucket or directory does not exist".to_owned() }
            }
            Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
                Error::Misconfigured { reason: "the store does not accept the credentials".to_owned() }
            }
            Store::Generic { source, .. } if is_denied(&source.to_string()) => {
                Error::Misconfigured { reason: "the store does not accept the credentials".to_owned() }
            }
            Store::NotSupported { .. }
            | Store::NotImplemented { .. }
            | Store::UnknownConfigurationKey { .. } => Error::Misconfigured { reason: message(error) },
            _ => Error::Unavailable { reason: message(error) },
        }
    }

    pub(crate) fn from_io(error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full,
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::NotADirectory => Error::Misconfigured { reason: error.to_string() },
            _ => Error::Unavailable { reason: error.to_string() },
        }
    }
}

/// The kind of the file system's error that the store's error comes from.
fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

/// Whether a call on a local directory failed because a folder of the object's path went meanwhile. Who deletes the
/// last object in a folder takes the folder away.
pub(crate) fn is_folder_gone(error: &object_store::Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::NotFound)
}

/// Whether S3 answered a list or another call on many objects with 401 or 403. For these the status
/// is only in the message.
fn is_denied(message: &str) -> bool {
    message.contains("status code: 401") || message.contains("status code: 403")
}

fn message(error: &object_store::Error) -> String {
    error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE_CHARS).collect()
}
