//! Batches: many files attached to a vector store with one request.

use axum::{Json, extract::State, response::Response};
use riacho_domain::TenantId;
use riacho_store::{BatchFile, File, FileBatch, MAX_BATCH, Reason, VectorStore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    super::{
        App,
        auth::{Caller, Read, Write},
        extract::{JsonBody, QueryString},
        problem::Problem,
        status::tell_cancelled,
        trace::Trace,
    },
    attach::{ChunkingStrategy, Named, Wanted, attach_each, known_files, lane},
    ids::{Ids, Kind},
    lists::{ListQuery, PageBody},
    members::{self, MemberBody},
    polled, seconds,
    stores::{CountsBody, known},
};

/// Documents are attached, and added to their batch, so many at a time.
const ADDED_AT_ONCE: usize = 100;

/// A batch.
#[derive(Debug, Serialize)]
struct BatchBody {
    id: String,
    object: &'static str,
    created_at: i64,
    vector_store_id: String,
    status: &'static str,
    file_counts: CountsBody,
}

impl From<&FileBatch> for BatchBody {
    fn from(batch: &FileBatch) -> Self {
        let counts = &batch.counts;
        let status = match batch.cancelled_at {
            Some(_) => "cancelled",
            None if counts.in_progress > 0 => "in_progress",
            None if counts.failed > 0 && counts.failed == counts.total() => "failed",
            None => "completed",
        };
        Self {
            id: Kind::Batch.id(batch.id),
            object: "vector_store.files_batch",
            created_at: seconds(batch.created_at),
            vector_store_id: Kind::Store.id(batch.collection),
            status,
            file_counts: batch.counts.into(),
        }
    }
}

async fn batch(app: &App, tenant: &TenantId, store: Uuid, id: Uuid) -> Result<FileBatch, Problem> {
    app.store().batch(tenant, store, id).await?.ok_or_else(|| Kind::Batch.not_found())
}

fn answered(batch: &FileBatch) -> Response {
    polled(Json(BatchBody::from(batch)), (batch.counts.in_progress > 0).then_some(batch.created_at))
}

/// Which files, and how: either ids with what goes for all of them, or files that each say it themselves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBatch {
    file_ids: Option<Vec<String>>,
    files: Option<Vec<Named>>,
    attributes: Option<Map<String, Value>>,
    chunking_strategy: Option<ChunkingStrategy>,
}

impl NewBatch {
    fn named(self) -> Result<Vec<Named>, Problem> {
        let named = match (self.file_ids, self.files) {
            (Some(ids), None) => {
                let of = |file_id| Named {
                    file_id,
                    attributes: self.attributes.clone(),
                    chunking_strategy: self.chunking_strategy.clone(),
                };
                ids.into_iter().map(of).collect()
            }
            (None, Some(files)) => files,
            (Some(_), Some(_)) => return Err(Problem::field("files", "cannot stand beside file_ids")),
            (None, None) => return Err(Problem::field("file_ids", "is missing")),
        };
        match named.len() {
            0 => Err(Problem::field("file_ids", "is empty")),
            1..=MAX_BATCH => Ok(named),
            _ => Err(Problem::field("file_ids", format!("may name at most {MAX_BATCH}"))),
        }
    }
}

/// Attach many files.
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller<Write>,
    trace: Trace,
    Ids([id]): Ids<1>,
    JsonBody(body): JsonBody<NewBatch>,
) -> Result<Response, Problem> {
    let tenant = &caller.tenant;
    let wanted = body.named()?.into_iter().map(|named| Wanted::new(&app, named));
    let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
    let store = known(&app, tenant, id).await?;
    let files = known_files(&app, tenant, &store, &wanted).await?;
    caller.takes_parts(&app, wanted.len()).await?;
    let tenant = tenant.clone();
    // Goes on where the client has no patience: what is attached is in its batch, whoever asks for that.
    let filling = async move {
        let batch_id = fill(&app, (&tenant, &trace), &store, &files, wanted).await?;
        batch(&app, &tenant, id, batch_id).await
    };
    let filled = tokio::spawn(filling.in_current_span());
    Ok(answered(&filled.await.map_err(|error| Problem::internal(&error))??))
}

/// Attaches files, some at a time, each of which is in a new batch as soon as it is attached. One that is refused is noted with
/// the batch and holds up no other; an error where nothing could be attached.
async fn fill(
    app: &App,
    (tenant, trace): (&TenantId, &Trace),
    store: &VectorStore,
    files: &[File],
    mut wanted: Vec<Wanted>,
) -> Result<Uuid, Problem> {
    let lane = lane(&wanted);
    let batch_id = app.store().create_batch(tenant, store.id).await?;
    let (mut is_empty, mut refused) = (true, Vec::new());
    while !wanted.is_empty() {
        let some: Vec<_> = wanted.drain(..wanted.len().min(ADDED_AT_ONCE)).collect();
        let mut documents = Vec::with_capacity(some.len());
        for (file, attached) in attach_each(app, (tenant, trace, lane), store, files, some).await? {
            match attached {
                Ok(accepted) => documents.push((accepted.document, accepted.version)),
                Err(problem) => refused.push((file, problem)),
            }
        }
        if !documents.is_empty() {
            is_empty = false;
            app.store().add_to_batch(tenant, batch_id, &documents).await?;
        } else if let Some((_, problem)) = refused.last()
            && problem.is_of_server()
        {
            // Not one of many: what is away would keep all that are left waiting.
            let problem = problem.clone();
            refused.extend(wanted.drain(..).map(|wanted| (wanted.file, problem.clone())));
        }
    }
    match refused.first() {
        Some((_, problem)) if is_empty => Err(problem.clone()),
        Some(_) => {
            let refused: Vec<_> =
                refused.into_iter().map(|(file, problem)| (file, reason(&problem))).collect();
            app.store().add_refused(tenant, batch_id, &refused).await?;
            Ok(batch_id)
        }
        None => Ok(batch_id),
    }
}

fn reason(problem: &Problem) -> Reason {
    Reason { code: problem.code().to_owned(), message: problem.detail().to_owned() }
}

/// Look at a batch.
pub(super) async fn retrieve(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([store, id]): Ids<2>,
) -> Result<Response, Problem> {
    Ok(answered(&batch(&app, &caller.tenant, store, id).await?))
}

/// Cancel what of a batch is still on its way.
pub(super) async fn cancel(
    State(app): State<App>,
    caller: Caller<Write>,
    Ids([store, id]): Ids<2>,
) -> Result<Response, Problem> {
    match app
        .store()
        .cancel_batch(&caller.tenant, store, id, |status| tell_cancelled(&caller.tenant, status))
        .await?
    {
        true => Ok(answered(&batch(&app, &caller.tenant, store, id).await?)),
        false => Err(Kind::Batch.not_found()),
    }
}

/// List the files of a batch.
pub(super) async fn files(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([store, id]): Ids<2>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Json<PageBody<MemberBody>>, Problem> {
    batch(&app, &caller.tenant, store, id).await?;
    let (states, window) = members::asked(&query)?;
    let part = app.store().batch_files(&caller.tenant, (store, id), states.as_deref(), &window).await?;
    let body = |file| match file {
        BatchFile::Attached(member) => MemberBody::new(store, *member),
        BatchFile::Refused(refused) => MemberBody::refused(store, refused),
    };
    Ok(Json(PageBody::new(part, body, |body| &body.id)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use chrono::Utc;
    use riacho_store::Counts;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_batch_names_its_files_in_one_of_two_ways() {
        let named = |value: Value| serde_json::from_value::<NewBatch>(value).unwrap().named();
        assert_eq!(named(json!({"file_ids": ["a", "b"], "attributes": {"x": 1}})).unwrap().len(), 2);
        assert_eq!(named(json!({"files": [{"file_id": "a"}]})).unwrap().len(), 1);
        let many: Vec<String> = (0..=MAX_BATCH).map(|n| n.to_string()).collect();
        for wrong in [
            json!({}),
            json!({"file_ids": []}),
            json!({"file_ids": ["a"], "files": [{"file_id": "a"}]}),
            json!({ "file_ids": many }),
        ] {
            assert!(named(wrong).is_err());
        }
    }

    #[test]
    fn a_batch_is_as_its_files_are() {
        let status = |counts, cancelled: bool| {
            let (id, now) = (Uuid::nil(), Utc::now());
            let cancelled_at = cancelled.then_some(now);
            BatchBody::from(&FileBatch { id, collection: id, created_at: now, cancelled_at, counts }).status
        };
        let counts = |in_progress, completed, failed| Counts { in_progress, completed, failed, cancelled: 0 };
        assert_eq!(status(counts(1, 2, 0), false), "in_progress");
        assert_eq!(status(counts(0, 2, 1), false), "completed");
        assert_eq!(status(counts(0, 0, 2), false), "failed");
        assert_eq!(status(counts(0, 0, 0), false), "completed");
        assert_eq!(status(counts(0, 2, 0), true), "cancelled");
    }
}
