//! What the janitor's tasks would find, for a look before they run. The conditions are those of the
//! tasks' own statements in `janitor`.

use crate::{Error, Store, transaction::Scope};

/// How much is due for each task that ends or forgets something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DueFigures {
    /// Uploads whose signed request ran out.
    pub uploads: u64,
    /// Documents past their time to live.
    pub documents: u64,
    /// Files past their time.
    pub files: u64,
    /// Releases past their deadline.
    pub overdue: u64,
    /// Rows that were kept for a while only.
    pub housekeeping: u64,
}

impl Store {
    /// Counts what is due, of all tenants.
    pub async fn due_figures(&self) -> Result<DueFigures, Error> {
        let rows = self.single(Scope::all("due_figures"), FIGURES, &[]).await?;
        let Some(row) = rows.first() else { return Ok(DueFigures::default()) };
        let count = |name: &str| row.try_get::<_, i64>(name).map(|count| u64::try_from(count).unwrap_or(0));
        Ok(DueFigures {
            uploads: count("uploads")?,
            documents: count("documents")?,
            files: count("files")?,
            overdue: count("overdue")?,
            housekeeping: count("housekeeping")?,
        })
    }
}

const FIGURES: &str = "-- store::due::due_figures
SELECT (SELECT count(*) FROM document_versions
        WHERE state = 'awaiting_upload' AND upload_expires_at < now() - interval '5 minutes') AS uploads,
       (SELECT count(*) FROM documents WHERE expires_at < now() AND deleted_at IS NULL) AS documents,
       (SELECT count(*) FROM document_versions
        WHERE state IN ('releasing', 'extracting', 'embedding', 'indexing') AND deadline < now()
          AND NOT EXISTS (SELECT FROM stage_pauses WHERE settled_at IS NULL)) AS overdue,
       (SELECT count(*) FROM idempotency_keys WHERE created_at < now() - interval '7 days')
       + (SELECT count(*) FROM intake_events WHERE created_at < now() - interval '30 days')
       + (SELECT count(*) FROM dead_letters WHERE resolved_at < now() - interval '30 days')
       + (SELECT count(*) FROM janitor_runs WHERE requested_at < now() - interval '30 days')
       + (SELECT count(*) FROM stage_pauses WHERE settled_at < now() - interval '30 days')
       + (SELECT count(*) FROM webhook_deliveries WHERE created_at < now() - interval '30 days' AND next_attempt IS NULL)
       + (SELECT count(*) FROM audit WHERE at < now() - interval '400 days')
       + (SELECT count(*) FROM file_batches WHERE created_at < now() - interval '30 days') AS housekeeping,
       (SELECT count(*) FROM files WHERE expires_at < now() AND deleted_at IS NULL) AS files";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[FIGURES];
