//! The partitions in use.

use riacho_domain::{DocumentId, TenantId};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    Error, Store,
    transaction::{Param, Scope},
};

/// A partition of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number.
    pub partition: u16,
    /// Whether releases are still put there; a draining one is only read.
    pub active: bool,
}

impl Store {
    /// All partitions, active and draining.
    pub async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        let rows = self.single(Scope::all("partitions"), PARTITIONS, &[]).await?;
        rows.iter()
            .map(|row| {
                let number: i16 = row.try_get(0)?;
                Ok(Partition { partition: u16::try_from(number).unwrap_or(0), active: row.try_get(1)? })
            })
            .collect()
    }

    /// Makes the first `count` partitions those that releases are put on, and lets the others drain: what
    /// stands there is still read. At least one stays.
    pub async fn set_partitions(&self, count: u16) -> Result<Vec<Partition>, Error> {
        let count = i32::from(count.max(1));
        let params: [Param<'_>; 1] = [&count];
        self.transaction(Scope::all("set_partitions"), |tx| async move {
            tx.execute(ACTIVATE, &params).await?;
            tx.execute(DRAIN, &params).await.map(drop)
        })
        .await?;
        self.partitions().await
    }
}

impl Store {
    /// Removes a partition that drains and that no release in flight is on. False: it is not there, takes releases, or
    /// has some. Whether its streams are empty is for the caller to know.
    pub async fn remove_drained(&self, partition: u16) -> Result<bool, Error> {
        let number = i16::try_from(partition).unwrap_or(i16::MAX);
        let rows = self.single(Scope::all("remove_drained"), REMOVE_DRAINED, &[&number]).await?;
        Ok(!rows.is_empty())
    }

    /// Whether [`Store::remove_drained`] would remove the partition.
    pub async fn is_drained(&self, partition: u16) -> Result<bool, Error> {
        let number = i16::try_from(partition).unwrap_or(i16::MAX);
        let rows = self.single(Scope::all("is_drained"), IS_DRAINED, &[&number]).await?;
        Ok(!rows.is_empty())
    }
}

/// The partition for a release of a document: a hash over the active ones, which are sorted. It is
/// stored with the release and not computed again, so the set may change in between.
pub(crate) fn partition_of(tenant: &TenantId, document: DocumentId, active: &[i16]) -> i16 {
    let mut hasher = Sha256::new();
    hasher.update(tenant.as_str().as_bytes());
    hasher.update(document.0.as_bytes());
    let hash = hasher.finalize();
    let mut first = [0_u8; 8];
    first.copy_from_slice(&hash[..8]);
    match active.len() {
        0 => 0,
        count => active[usize::try_from(u64::from_le_bytes(first) % count as u64).unwrap_or(0)],
    }
}

const PARTITIONS: &str = "-- store::topology::partitions
SELECT partition, state = 'active' FROM topology ORDER BY partition";

const ACTIVATE: &str = "-- store::topology::set_partitions
INSERT INTO topology (partition, state) SELECT number, 'active' FROM generate_series(0, $1::int - 1) AS number
ON CONFLICT (partition) DO UPDATE SET state = 'active'";

const DRAIN: &str = "-- store::topology::set_partitions
UPDATE topology SET state = 'draining' WHERE partition >= $1::int";

macro_rules! drained {
    () => {
        "topology AS t WHERE t.partition = $1 AND t.state = 'draining' AND NOT EXISTS (
    SELECT FROM document_versions AS v
    WHERE v.partition = t.partition AND v.state IN ('releasing', 'extracting', 'embedding', 'indexing'))"
    };
}

const REMOVE_DRAINED: &str =
    concat!("-- store::topology::remove_drained\nDELETE FROM ", drained!(), " RETURNING t.partition");

const IS_DRAINED: &str = concat!("-- store::topology::is_drained\nSELECT t.partition FROM ", drained!());

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[PARTITIONS, ACTIVATE, DRAIN, REMOVE_DRAINED, IS_DRAINED];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_spread_over_the_active_partitions() {
        let tenant: TenantId = "acme".parse().unwrap();
        let active = [0, 3, 7];
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..3_000 {
            *counts.entry(partition_of(&tenant, DocumentId(uuid::Uuid::new_v4()), &active)).or_insert(0) += 1;
        }
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), active);
        assert!(counts.values().all(|n| *n > 800), "{counts:?}");
    }
}
