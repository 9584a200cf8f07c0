//! Vector stores: make, list, look at, change, delete.

use axum::{Json, extract::State};
use riacho_domain::{Lane, TenantId};
use riacho_store::{ChangedVectorStore, Counts, File, NewVectorStore, VectorStore};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tracing::Instrument;
use uuid::Uuid;

use super::{
    super::{
        App,
        auth::{Caller, Read, Write},
        extract::{JsonBody, QueryString},
        problem::Problem,
        trace::Trace,
    },
    attach::{ChunkingStrategy, Named, Wanted, all_are_there, attach_known, lane},
    ids::{Ids, Kind},
    lists::{DEFAULT_PAGE, DeletedBody, ListQuery, MAX_PAGE, PageBody},
    pairs, seconds,
};

/// The longest name, in characters.
const MAX_NAME: usize = 256;
/// The longest description, in characters.
const MAX_DESCRIPTION: usize = 1_000;
/// The most files that a vector store is made with.
const MAX_FIRST_FILES: usize = 500;
/// After how many days without use one may expire.
const DAYS: std::ops::RangeInclusive<u32> = 1..=365;

/// Files by what became of them.
#[derive(Debug, Serialize)]
pub(super) struct CountsBody {
    in_progress: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    total: u64,
}

impl From<Counts> for CountsBody {
    fn from(counts: Counts) -> Self {
        let Counts { in_progress, completed, failed, cancelled } = counts;
        Self { in_progress, completed, failed, cancelled, total: counts.total() }
    }
}

/// When a vector store expires.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpiresAfter {
    anchor: Anchor,
    days: u32,
}

/// From when that counts.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Anchor {
    LastActiveAt,
}

impl ExpiresAfter {
    fn days(&self) -> Result<u32, Problem> {
        match DAYS.contains(&self.days) {
            true => Ok(self.days),
            false => {
                let (least, most) = (DAYS.start(), DAYS.end());
                Err(Problem::field("expires_after.days", format!("must be {least} to {most}")))
            }
        }
    }
}

/// A vector store.
#[derive(Debug, Serialize)]
pub(super) struct StoreBody {
    id: String,
    object: &'static str,
    created_at: i64,
    name: String,
    description: Option<String>,
    usage_bytes: u64,
    file_counts: CountsBody,
    status: &'static str,
    expires_after: Option<ExpiresAfter>,
    expires_at: Option<i64>,
    last_active_at: i64,
    metadata: Map<String, Value>,
}

impl From<VectorStore> for StoreBody {
    fn from(store: VectorStore) -> Self {
        let status = match (store.is_expired(), store.counts.in_progress) {
            (true, _) => "expired",
            (false, 0) => "completed",
            _ => "in_progress",
        };
        Self {
            id: Kind::Store.id(store.id),
            object: "vector_store",
            created_at: seconds(store.created_at),
            usage_bytes: store.bytes,
            file_counts: store.counts.into(),
            status,
            expires_after: store
                .expires_after_days
                .map(|days| ExpiresAfter { anchor: Anchor::LastActiveAt, days }),
            expires_at: store.expires_at().map(seconds),
            last_active_at: seconds(store.last_active_at),
            name: store.title.unwrap_or(store.collection),
            description: store.description,
            metadata: store.metadata,
        }
    }
}

/// A vector store of the caller's tenant.
pub(super) async fn found(app: &App, tenant: &TenantId, id: Uuid) -> Result<VectorStore, Problem> {
    app.store().vector_store(tenant, id).await?.ok_or_else(|| Kind::Store.not_found())
}

/// The same where its counts do not matter.
pub(super) async fn known(app: &App, tenant: &TenantId, id: Uuid) -> Result<VectorStore, Problem> {
    app.store().vector_store_uncounted(tenant, id).await?.ok_or_else(|| Kind::Store.not_found())
}

/// What a vector store is made with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewStore {
    name: Option<String>,
    description: Option<String>,
    metadata: Option<Map<String, Value>>,
    expires_after: Option<ExpiresAfter>,
    #[serde(default)]
    file_ids: Vec<String>,
    chunking_strategy: Option<ChunkingStrategy>,
}

fn short(field: &str, text: String, most: usize) -> Result<String, Problem> {
    match text.chars().count() <= most && !text.chars().any(char::is_control) {
        true => Ok(text),
        false => Err(Problem::field(
            field,
            format!("must be at most {most} characters, none of them a control character"),
        )),
    }
}

fn metadata(given: Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    pairs("metadata", given, ("a text", Value::is_string))
}

/// Make a vector store.
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller<Write>,
    trace: Trace,
    JsonBody(body): JsonBody<NewStore>,
) -> Result<Json<StoreBody>, Problem> {
    let tenant = &caller.tenant;
    if body.file_ids.len() > MAX_FIRST_FILES {
        return Err(Problem::field("file_ids", format!("may name at most {MAX_FIRST_FILES}")));
    }
    let mut wanted = Vec::with_capacity(body.file_ids.len());
    for file_id in body.file_ids {
        let chunking_strategy = body.chunking_strategy.clone();
        wanted.push(Wanted::new(&app, Named { file_id, attributes: None, chunking_strategy })?);
    }
    let new = NewVectorStore {
        title: body.name.map(|name| short("name", name, MAX_NAME)).transpose()?,
        description: body.description.map(|text| short("description", text, MAX_DESCRIPTION)).transpose()?,
        metadata: body.metadata.map(metadata).transpose()?.unwrap_or_default(),
        expires_after_days: body.expires_after.map(|after| after.days()).transpose()?,
    };
    let files = all_are_there(&app, tenant, &wanted).await?;
    if !wanted.is_empty() {
        caller.takes_parts(&app, wanted.len()).await?;
    }
    let (tenant, how) = (tenant.clone(), (trace, lane(&wanted)));
    let (answer, answered) = oneshot::channel();
    // Goes on where the client has no patience: somebody has to take away what nobody knows the id of.
    tokio::spawn(make(app, tenant, how, new, (files, wanted), answer).in_current_span());
    Ok(Json(answered.await.map_err(|error| Problem::internal(&error))??.into()))
}

/// Makes a vector store with its first files, and deletes it again where one of them is refused or nobody waits for the
/// answer any more: without its id, nobody could.
async fn make(
    app: App,
    tenant: TenantId,
    (trace, lane): (Trace, Lane),
    new: NewVectorStore,
    (files, wanted): (Vec<File>, Vec<Wanted>),
    mut answer: oneshot::Sender<Result<VectorStore, Problem>>,
) {
    let id = Uuid::now_v7();
    let store = match app.store().create_vector_store(&tenant, (id, &Kind::Store.id(id)), &new).await {
        Ok(store) => store,
        Err(error) => {
            let _ = answer.send(Err(error.into()));
            return;
        }
    };
    let filled = async {
        if wanted.is_empty() {
            return Ok(store);
        }
        attach_known(&app, (&tenant, &trace, lane), &store, &files, wanted).await?;
        found(&app, &tenant, id).await
    };
    let filled = tokio::select! {
        filled = filled => filled,
        () = answer.closed() => Err(Problem::timed_out()),
    };
    match filled {
        Ok(store) => {
            if answer.send(Ok(store)).is_err() {
                forget(&app, &tenant, id).await;
            }
        }
        Err(problem) => {
            // Before the answer: whoever sends the same again finds the name free.
            forget(&app, &tenant, id).await;
            let _ = answer.send(Err(problem));
        }
    }
}

/// Deletes a vector store whose id was not answered.
async fn forget(app: &App, tenant: &TenantId, id: Uuid) {
    if let Err(error) = app.store().delete_vector_store(tenant, id).await {
        let store = Kind::Store.id(id);
        tracing::error!(%error, %tenant, "the vector store {store} stays, and nobody was told of it");
    }
}

/// List vector stores: all collections.
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller<Read>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Json<PageBody<StoreBody>>, Problem> {
    let window = query.window(Kind::Store, DEFAULT_PAGE, MAX_PAGE)?;
    let part = app.store().vector_stores(&caller.tenant, &window).await?;
    Ok(Json(PageBody::new(part, StoreBody::from, |store| &store.id)))
}

/// Look at a vector store.
pub(super) async fn retrieve(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([id]): Ids<1>,
) -> Result<Json<StoreBody>, Problem> {
    Ok(Json(found(&app, &caller.tenant, id).await?.into()))
}

/// What of a vector store is changed. What is null is removed, what is not there stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangedStore {
    #[serde(default, deserialize_with = "given")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Option<Map<String, Value>>>,
    #[serde(default, deserialize_with = "given")]
    expires_after: Option<Option<ExpiresAfter>>,
}

/// Tells null from nothing.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// Change a vector store.
pub(super) async fn modify(
    State(app): State<App>,
    caller: Caller<Write>,
    Ids([id]): Ids<1>,
    JsonBody(body): JsonBody<ChangedStore>,
) -> Result<Json<StoreBody>, Problem> {
    let name = |name: Option<String>| name.map(|name| short("name", name, MAX_NAME)).transpose();
    let days = |after: Option<ExpiresAfter>| after.map(|after| after.days()).transpose();
    let changed = ChangedVectorStore {
        title: body.name.map(name).transpose()?,
        metadata: body.metadata.map(|given| metadata(given.unwrap_or_default())).transpose()?,
        expires_after_days: body.expires_after.map(days).transpose()?,
    };
    if known(&app, &caller.tenant, id).await?.is_expired() {
        return Err(Problem::bad_request("the vector store has expired"));
    }
    match app.store().change_vector_store(&caller.tenant, id, &changed).await? {
        true => Ok(Json(found(&app, &caller.tenant, id).await?.into())),
        false => Err(Kind::Store.not_found()),
    }
}

/// Delete a vector store with what was made of its files; the files stay.
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller<Write>,
    Ids([id]): Ids<1>,
) -> Result<Json<DeletedBody>, Problem> {
    match caller.store(&app).delete_vector_store(&caller.tenant, id).await? {
        true => Ok(Json(DeletedBody::new(Kind::Store.id(id), "vector_store.deleted"))),
        false => Err(Kind::Store.not_found()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_not_nothing() {
        let read = |value: Value| serde_json::from_value::<ChangedStore>(value).unwrap();
        assert!(read(json!({})).expires_after.is_none());
        assert!(matches!(read(json!({"expires_after": null})).expires_after, Some(None)));
        assert_eq!(read(json!({"name": "x"})).name, Some(Some("x".to_owned())));
    }
}
