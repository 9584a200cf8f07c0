//! Reading columns into the types of the domain.

use riacho_domain::{DocumentId, Lane, ReleaseId, RunId, State, TenantId, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::Error;

pub(crate) fn tenant(row: &Row, column: &str) -> Result<TenantId, Error> {
    row.try_get::<_, &str>(column)?.parse().map_err(|error| Error::Row(format!("{error}")))
}

pub(crate) fn document(row: &Row, column: &str) -> Result<DocumentId, Error> {
    Ok(DocumentId(row.try_get(column)?))
}

pub(crate) fn run(row: &Row, column: &str) -> Result<Option<RunId>, Error> {
    Ok(row.try_get::<_, Option<Uuid>>(column)?.map(RunId))
}

pub(crate) fn release(row: &Row, column: &str) -> Result<Option<ReleaseId>, Error> {
    Ok(row.try_get::<_, Option<Uuid>>(column)?.map(ReleaseId))
}

pub(crate) fn version(row: &Row, column: &str) -> Result<Version, Error> {
    Ok(unsigned(row.try_get(column)?))
}

pub(crate) fn state(row: &Row, column: &str) -> Result<State, Error> {
    row.try_get::<_, &str>(column)?.parse().map_err(Error::Row)
}

pub(crate) fn lane(row: &Row, column: &str) -> Result<Lane, Error> {
    row.try_get::<_, &str>(column)?.parse().map_err(Error::Row)
}

pub(crate) fn count(row: &Row, column: &str) -> Result<u32, Error> {
    Ok(unsigned(row.try_get(column)?))
}

pub(crate) fn count_opt(row: &Row, column: &str) -> Result<Option<u32>, Error> {
    Ok(row.try_get::<_, Option<i32>>(column)?.map(unsigned))
}

pub(crate) fn size_opt(row: &Row, column: &str) -> Result<Option<u64>, Error> {
    Ok(row.try_get::<_, Option<i64>>(column)?.map(|size| u64::try_from(size).unwrap_or(0)))
}

/// What `count(*)` says in a column.
pub(crate) fn total(row: &Row, column: &str) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
}

pub(crate) fn hash_opt(row: &Row, column: &str) -> Result<Option<[u8; 32]>, Error> {
    let bytes: Option<&[u8]> = row.try_get(column)?;
    bytes
        .map(|bytes| bytes.try_into().map_err(|_| Error::Row("a hash that is not 32 bytes".into())))
        .transpose()
}

/// A count of a row; the columns have checks that keep them from being negative.
pub(crate) fn unsigned(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// A count for a row; what does not fit is over every limit of ours.
pub(crate) fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// A size for a row.
pub(crate) fn signed_size(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
