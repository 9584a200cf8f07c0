//! What the janitor's tasks would find, for a look before they run. The conditions are those of the
//! tasks' own statements.

use std::time::Duration;

use crate::{
    Error, Store,
    files::{expired_files, unused_files},
    janitor::{late_documents, late_uploads, old_originals, overdue},
    read,
    transaction::Scope,
    vector_stores::over,
};

/// How much is due for each task that ends something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DueFigures {
    /// Uploads whose signed request ran out.
    pub uploads: u64,
    /// Documents past their time to live.
    pub documents: u64,
    /// Files past their time.
    pub files: u64,
    /// Documents of collections that were deleted or that nobody uses any more, without those that go with the documents and
    /// files above.
    pub in_collections: u64,
    /// Releases past their deadline.
    pub overdue: u64,
}

/// What is past its retention.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetentionFigures {
    /// Originals of finished versions.
    pub originals: u64,
    /// Files that are in no collection.
    pub files: u64,
}

impl Store {
    /// Counts what is due, of all tenants.
    pub async fn due_figures(&self) -> Result<DueFigures, Error> {
        let rows = self.single(Scope::all("due_figures"), FIGURES, &[]).await?;
        let Some(row) = rows.first() else { return Ok(DueFigures::default()) };
        Ok(DueFigures {
            uploads: read::total(row, "uploads")?,
            documents: read::total(row, "documents")?,
            files: read::total(row, "files")?,
            in_collections: read::total(row, "in_collections")?,
            overdue: read::total(row, "overdue")?,
        })
    }

    /// Counts what is past its retention, of all tenants: their own, or this one.
    pub async fn retention_figures(&self, retention: Option<Duration>) -> Result<RetentionFigures, Error> {
        let retention = retention.map(|retention| retention.as_secs_f64());
        let rows = self.single(Scope::all("retention_figures"), RETENTION, &[&retention]).await?;
        let Some(row) = rows.first() else { return Ok(RetentionFigures::default()) };
        Ok(RetentionFigures { originals: read::total(row, "originals")?, files: read::total(row, "files")? })
    }
}

const FIGURES: &str = concat!(
    "-- store::due::due_figures
SELECT (SELECT count(*) FROM ",
    late_uploads!(),
    ") AS uploads, (SELECT count(*) FROM ",
    late_documents!(),
    ") AS documents, (SELECT count(*) FROM ",
    overdue!(),
    ") AS overdue, (SELECT count(*) FROM ",
    expired_files!(),
    ") AS files, (SELECT count(*) FROM documents AS d JOIN ",
    over!(),
    " ON c.id = d.collection_id
WHERE (c.deleted_at IS NOT NULL OR c.until < now()) AND d.deleted_at IS NULL AND (c.until IS NULL OR d.updated_at <= c.until)
  AND d.id NOT IN (SELECT o.id FROM ",
    late_documents!(),
    ") AND (d.file_id IS NULL OR d.file_id NOT IN (SELECT id FROM ",
    expired_files!(),
    "))) AS in_collections"
);

const RETENTION: &str = concat!(
    "-- store::due::retention_figures
SELECT (SELECT count(*) FROM ",
    old_originals!(),
    ") AS originals, (SELECT count(*) FROM ",
    unused_files!(),
    ") AS files"
);

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[FIGURES, RETENTION];
