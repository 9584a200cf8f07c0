//! Files of a vector store: attach, list, look at, change their attributes, read, detach.

use axum::{Json, extract::State, response::Response};
use chrono::{DateTime, Utc};
use riacho_domain::{ReasonCode, State as DocumentStage, TenantId};
use riacho_objects::Key;
use riacho_store::{Member, Reason, RefusedFile, VectorStore, Window};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    super::{
        App,
        auth::{Caller, Read, Write},
        extract::{JsonBody, QueryString},
        problem::Problem,
        trace::Trace,
    },
    MAX_PAIRS,
    attach::{ChunkingStrategy, Named, Wanted, attach, attributes},
    ids::{Ids, Kind},
    lists::{DEFAULT_PAGE, DeletedBody, ListQuery, MAX_PAGE, PageBody},
    polled, seconds,
    stores::known,
    text,
};

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    InProgress,
    Completed,
    Cancelled,
    Failed,
}

impl Status {
    const fn of(state: DocumentStage) -> Self {
        match state {
            DocumentStage::Ready => Status::Completed,
            DocumentStage::Failed => Status::Failed,
            DocumentStage::Cancelled | DocumentStage::Expired => Status::Cancelled,
            _ => Status::InProgress,
        }
    }

    /// The states that are this one.
    fn states(self) -> Vec<DocumentStage> {
        DocumentStage::ALL.into_iter().filter(|state| Status::of(*state) == self).collect()
    }

    /// Reads what a list is filtered by.
    pub(super) fn read(text: Option<&str>) -> Result<Option<Vec<DocumentStage>>, Problem> {
        let Some(text) = text else { return Ok(None) };
        match serde_json::from_value::<Status>(Value::from(text)) {
            Ok(status) => Ok(Some(status.states())),
            Err(_) => Err(Problem::field("filter", "must be in_progress, completed, failed or cancelled")),
        }
    }
}

/// Why a file failed.
#[derive(Debug, Serialize)]
struct LastError {
    code: &'static str,
    message: String,
}

impl From<Reason> for LastError {
    fn from(reason: Reason) -> Self {
        let code = match ReasonCode::parse(&reason.code) {
            ReasonCode::Unsupported | ReasonCode::NeedsOcr => "unsupported_file",
            ReasonCode::Encrypted
            | ReasonCode::Corrupt
            | ReasonCode::TooLarge
            | ReasonCode::Bomb
            | ReasonCode::Timeout
            | ReasonCode::Memory
            | ReasonCode::Empty
            | ReasonCode::ParserCrashed
            | ReasonCode::HashMismatch => "invalid_file",
            // A file that was deleted before its turn came.
            _ if reason.code == "not_found" => "invalid_file",
            _ => "server_error",
        };
        Self { code, message: format!("{}: {}", reason.code, reason.message) }
    }
}

/// A file of a vector store.
#[derive(Debug, Serialize)]
pub(super) struct MemberBody {
    pub(super) id: String,
    object: &'static str,
    created_at: i64,
    vector_store_id: String,
    status: Status,
    last_error: Option<LastError>,
    usage_bytes: u64,
    attributes: Option<Map<String, Value>>,
    chunking_strategy: Option<ChunkingStrategy>,
    #[serde(skip)]
    pub(super) unfinished_since: Option<DateTime<Utc>>,
}

impl MemberBody {
    /// A document of the vector store with this id.
    pub(super) fn new(store: Uuid, member: Member) -> Self {
        let status = Status::of(member.state);
        Self {
            id: Kind::File.id(member.id),
            object: "vector_store.file",
            created_at: seconds(member.created_at),
            vector_store_id: Kind::Store.id(store),
            status,
            last_error: member.error.filter(|_| status == Status::Failed).map(LastError::from),
            usage_bytes: member.size.filter(|_| status == Status::Completed).unwrap_or(0),
            attributes: Some(shown(member.metadata)),
            chunking_strategy: Some(ChunkingStrategy::of(&member.chunking)),
            unfinished_since: (status == Status::InProgress).then_some(member.accepted_at),
        }
    }

    /// A file that could not be attached to the vector store with this id: there is no document, so nothing is known of one.
    pub(super) fn refused(store: Uuid, refused: RefusedFile) -> Self {
        Self {
            id: Kind::File.id(refused.file),
            object: "vector_store.file",
            created_at: seconds(refused.created_at),
            vector_store_id: Kind::Store.id(store),
            status: Status::Failed,
            last_error: Some(refused.reason.into()),
            usage_bytes: 0,
            attributes: None,
            chunking_strategy: None,
            unfinished_since: None,
        }
    }
}

/// Metadata as attributes: what is neither a text, a number nor a boolean, which only `/api/v1` takes, is no attribute.
pub(super) fn shown(metadata: Map<String, Value>) -> Map<String, Value> {
    metadata
        .into_iter()
        .filter(|(_, value)| !(value.is_object() || value.is_array() || value.is_null()))
        .collect()
}

async fn member(app: &App, tenant: &TenantId, store: Uuid, id: Uuid) -> Result<Member, Problem> {
    if let Some(member) = app.store().member(tenant, store, id).await? {
        return Ok(member);
    }
    known(app, tenant, store).await?;
    Err(Kind::File.not_found())
}

fn answered(store: Uuid, member: Member) -> Response {
    let body = MemberBody::new(store, member);
    let since = body.unfinished_since;
    polled(Json(body), since)
}

/// Attach a file.
pub(super) async fn create(
    State(app): State<App>,
    caller: Caller<Write>,
    trace: Trace,
    Ids([id]): Ids<1>,
    JsonBody(body): JsonBody<Named>,
) -> Result<Response, Problem> {
    let tenant = &caller.tenant;
    let file = Kind::File.of_field("file_id", &body.file_id)?;
    let wanted = Wanted::new(&app, body)?;
    let store = known(&app, tenant, id).await?;
    attach(&app, (tenant, &trace), &store, vec![wanted]).await?;
    Ok(answered(id, member(&app, tenant, id, file).await?))
}

/// List the files of a vector store.
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([id]): Ids<1>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Json<PageBody<MemberBody>>, Problem> {
    let VectorStore { id, .. } = known(&app, &caller.tenant, id).await?;
    let (states, window) = asked(&query)?;
    let part = app.store().members(&caller.tenant, id, states.as_deref(), &window).await?;
    Ok(Json(PageBody::new(part, |member| MemberBody::new(id, member), |body| &body.id)))
}

/// What of a list of files is asked for: in which states, and which part.
pub(super) fn asked(query: &ListQuery) -> Result<(Option<Vec<DocumentStage>>, Window), Problem> {
    let states = Status::read(query.filter.as_deref())?;
    Ok((states, query.window(Kind::File, DEFAULT_PAGE, MAX_PAGE)?))
}

/// Look at a file of a vector store.
pub(super) async fn retrieve(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([store, id]): Ids<2>,
) -> Result<Response, Problem> {
    Ok(answered(store, member(&app, &caller.tenant, store, id).await?))
}

/// What of a file is changed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Changed {
    attributes: Option<Map<String, Value>>,
}

/// Checks attributes that take the place of others. `/api/v1` has wider limits: what a file has already may be sent back as it was
/// shown, or in part.
fn changed(given: Map<String, Value>, present: &Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    let (same, mut new): (Map<_, _>, Map<_, _>) =
        given.into_iter().partition(|(key, value)| present.get(key) == Some(value));
    if new.keys().any(|key| !present.contains_key(key)) && same.len() + new.len() > MAX_PAIRS {
        return Err(Problem::field("attributes", format!("may have at most {MAX_PAIRS} keys")));
    }
    new = attributes(new)?;
    new.extend(same);
    Ok(new)
}

/// Change the attributes of a file; searches filter on the new ones at once.
pub(super) async fn update(
    State(app): State<App>,
    caller: Caller<Write>,
    Ids([store, id]): Ids<2>,
    JsonBody(body): JsonBody<Changed>,
) -> Result<Response, Problem> {
    let tenant = &caller.tenant;
    let member_now = member(&app, tenant, store, id).await?;
    let document = member_now.document;
    let attributes = changed(body.attributes.unwrap_or_default(), &shown(member_now.metadata))?;
    match app.store().set_attributes(tenant, document, &attributes).await? {
        true => Ok(answered(store, member(&app, tenant, store, id).await?)),
        false => Err(Kind::File.not_found()),
    }
}

/// Detach a file: the document is deleted, the file stays.
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller<Write>,
    Ids([store, id]): Ids<2>,
) -> Result<Json<DeletedBody>, Problem> {
    let member = member(&app, &caller.tenant, store, id).await?;
    if !caller.store(&app).delete_document(&caller.tenant, member.document).await? {
        return Err(Kind::File.not_found());
    }
    Ok(Json(DeletedBody::new(Kind::File.id(id), "vector_store.file.deleted")))
}

/// Read the text of a file.
pub(super) async fn content(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([store, id]): Ids<2>,
) -> Result<Response, Problem> {
    let tenant = &caller.tenant;
    let member = member(&app, tenant, store, id).await?;
    let stored = app.store().text_of(tenant, member.document, None).await?;
    let stored = stored.ok_or_else(|| {
        let status = Status::of(member.state);
        Problem::bad_request(format!(
            "there is no text; the file is {}",
            json!(status).as_str().unwrap_or_default()
        ))
    })?;
    let key = Key::text(tenant, member.document, stored.version, stored.run);
    Ok(text::page(app.objects().get_stream(&key, None).await?.body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_status_and_every_filter_its_states() {
        let all = [Status::InProgress, Status::Completed, Status::Cancelled, Status::Failed];
        let counts: Vec<usize> = all.map(|status| status.states().len()).into_iter().collect();
        assert_eq!(counts, [6, 1, 2, 1]);
        assert_eq!(Status::read(Some("completed")).ok().flatten(), Some(vec![DocumentStage::Ready]));
        assert!(Status::read(Some("ready")).is_err());
    }

    #[test]
    fn what_was_shown_can_be_sent_back() {
        let many = |count: usize| -> Map<String, Value> {
            (0..count).map(|n| (format!("key {n}"), json!("x".repeat(2_000)))).collect()
        };
        let present = many(20);
        let with = |key: &str, value: Value| {
            let mut given = present.clone();
            given.insert(key.to_owned(), value);
            given
        };
        assert_eq!(changed(present.clone(), &present).ok(), Some(present.clone()), "all of it");
        assert_eq!(changed(many(17), &present).ok(), Some(many(17)), "a part");
        let other = with("key 3", json!(3));
        assert_eq!(changed(other.clone(), &present).ok(), Some(other), "with another value");
        for wrong in [with("key 20", json!(1)), with("key 3", json!("y".repeat(600))), many(21)] {
            assert!(changed(wrong, &present).is_err());
        }
        assert!(changed(with("key 3", json!(1)), &Map::new()).is_err(), "it has none of them");
    }

    #[test]
    fn every_reason_is_one_of_the_three_codes() {
        for code in ReasonCode::ALL {
            let reason = Reason { code: code.to_string(), message: "m".to_owned() };
            let error = LastError::from(reason);
            assert!(["server_error", "unsupported_file", "invalid_file"].contains(&error.code));
            assert_eq!(error.message, format!("{code}: m"));
        }
    }
}
