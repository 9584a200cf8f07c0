//! Ids, each a type of its own so that they cannot be mixed up.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $make:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a new id.
            #[must_use]
            #[allow(clippy::new_without_default)] // an id that appears by default would be a bug
            pub fn new() -> Self {
                Self(Uuid::$make())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

uuid_id!(
    /// A document. Time-ordered (UUID version 7), so that rows of one time stand together.
    DocumentId,
    now_v7
);
uuid_id!(
    /// One release of a document version onto the streams. Random: nobody guesses or recomputes it.
    ReleaseId,
    new_v4
);
uuid_id!(
    /// One run of the extractor over a document version. Time-ordered, because it leads the keys of chunks.
    RunId,
    now_v7
);
uuid_id!(
    /// One upload: the key of an original in the object store.
    UploadId,
    now_v7
);

/// The version of a document, from 1.
pub type Version = u32;

/// An embedding space: a model with its dimensions, and a vector table of its own.
pub type SpaceId = u32;

/// A tenant: 1 to 63 of `a-z`, `0-9` and `-`, beginning and ending with a letter or digit.
///
/// It stands in stream keys and object keys as it is, hence the narrow alphabet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct TenantId(String);

/// A text that is no tenant id.
#[derive(Debug, Clone, thiserror::Error)]
#[error("tenant id {0:?} is not 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit")]
pub struct InvalidTenantId(String);

impl TenantId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
        let bytes = text.as_bytes();
        let fits = bytes.len() <= 63
            && bytes.iter().copied().all(inner)
            && edge(bytes.first())
            && edge(bytes.last());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidTenantId(text.chars().take(80).collect())) }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TenantId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The public id of a chunk: document, version and ordinal, which is what makes it unique.
#[must_use]
pub fn chunk_id(document: DocumentId, version: Version, ordinal: u32) -> String {
    format!("{document}.{version}.{ordinal}")
}

/// The id of an output: derived from the input's id, the stage and the output's ordinal, so that
/// a re-run of the same input makes the same ids.
#[must_use]
pub fn derived_event_id(input: &str, stage: &str, ordinal: usize) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [input.as_bytes(), stage.as_bytes(), &(ordinal as u64).to_le_bytes()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_ids_have_a_narrow_alphabet() {
        for good in ["default", "a", "acme-2", "0x"] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "a{b}", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rerun_makes_the_same_event_ids() {
        assert_eq!(derived_event_id("x", "extract", 1), derived_event_id("x", "extract", 1));
        assert_ne!(derived_event_id("x", "extract", 1), derived_event_id("x", "extract", 2));
        assert_ne!(derived_event_id("xe", "xtract", 1), derived_event_id("x", "extract", 1));
    }
}
