//! Files: list, look at, read, delete.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderName, header},
    response::Response,
};
use riacho_domain::{DocumentId, TenantId};
use riacho_objects::Key;
use riacho_store::File;
use serde::Serialize;
use uuid::Uuid;

use super::{
    super::{
        App,
        auth::{Caller, Read, Write},
        content::set,
        extract::QueryString,
        names::attachment,
        problem::Problem,
    },
    ids::{Ids, Kind},
    lists::{DeletedBody, ListQuery, PageBody},
    seconds,
};

/// The most files of a page, which is also how many there are when nothing is said.
const MAX_FILES: u32 = 10_000;

/// A file.
#[derive(Debug, Serialize)]
pub(super) struct FileBody {
    pub(super) id: String,
    object: &'static str,
    bytes: u64,
    created_at: i64,
    expires_at: Option<i64>,
    filename: String,
    purpose: String,
    /// Deprecated by OpenAI, and required by its clients.
    status: &'static str,
    status_details: Option<String>,
}

impl From<File> for FileBody {
    fn from(file: File) -> Self {
        Self {
            id: Kind::File.id(file.id),
            object: "file",
            bytes: file.size,
            created_at: seconds(file.created_at),
            expires_at: file.expires_at.map(seconds),
            filename: file.filename,
            purpose: file.purpose,
            status: "processed",
            status_details: None,
        }
    }
}

/// List files.
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller<Read>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Json<PageBody<FileBody>>, Problem> {
    let window = query.window(Kind::File, MAX_FILES, MAX_FILES)?;
    let part = app.store().list_files(&caller.tenant, query.purpose.as_deref(), &window).await?;
    Ok(Json(PageBody::new(part, FileBody::from, |file| &file.id)))
}

/// Look at a file; or at a document that was uploaded without one, and is the file of a vector store.
pub(super) async fn retrieve(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([id]): Ids<1>,
) -> Result<Json<FileBody>, Problem> {
    if let Some(file) = app.store().file(&caller.tenant, id).await? {
        return Ok(Json(file.into()));
    }
    let document = app.store().document(&caller.tenant, DocumentId(id)).await?;
    let document = document.ok_or_else(|| Kind::File.not_found())?;
    Ok(Json(FileBody {
        id: Kind::File.id(id),
        object: "file",
        bytes: document.size.unwrap_or(0),
        created_at: seconds(document.created_at),
        expires_at: document.expires_at.map(seconds),
        filename: document.filename,
        purpose: "assistants".to_owned(),
        status: if document.size.is_some() { "processed" } else { "uploaded" },
        status_details: None,
    }))
}

/// Delete a file, from all vector stores that it is in.
pub(super) async fn delete(
    State(app): State<App>,
    caller: Caller<Write>,
    Ids([id]): Ids<1>,
) -> Result<Json<DeletedBody>, Problem> {
    let store = caller.store(&app);
    let is_deleted = store.delete_file(&caller.tenant, id).await?
        || store.delete_document(&caller.tenant, DocumentId(id)).await?;
    match is_deleted {
        true => Ok(Json(DeletedBody::new(Kind::File.id(id), "file"))),
        false => Err(Kind::File.not_found()),
    }
}

/// Where a file's bytes are.
struct Bytes {
    object_key: String,
    filename: String,
    content_type: String,
    size: u64,
}

async fn bytes_of(app: &App, tenant: &TenantId, id: Uuid) -> Result<Bytes, Problem> {
    if let Some(file) = app.store().file(tenant, id).await? {
        let File { object_key, filename, content_type, size, .. } = file;
        return Ok(Bytes { object_key, filename, content_type, size });
    }
    let original = app.store().original(tenant, DocumentId(id), None).await?;
    let original = original.ok_or_else(|| Kind::File.not_found())?;
    if original.purged_at.is_some() {
        return Err(Problem::conflict("original_gone", "the file is past its retention and was removed"));
    }
    let riacho_store::Original { object_key, filename, content_type, size, .. } = original;
    Ok(Bytes { object_key, filename, content_type, size })
}

/// Read a file.
pub(super) async fn content(
    State(app): State<App>,
    caller: Caller<Read>,
    Ids([id]): Ids<1>,
) -> Result<Response, Problem> {
    let bytes = bytes_of(&app, &caller.tenant, id).await?;
    let key = Key::parse_for_tenant(&caller.tenant, &bytes.object_key).map_err(|e| Problem::internal(&e))?;
    let download = app.objects().get_stream(&key, None).await?;
    let mut response = Response::new(Body::from_stream(download.body));
    for (name, value) in [
        (header::CONTENT_TYPE, bytes.content_type.as_str()),
        (header::CONTENT_LENGTH, &bytes.size.to_string()),
        (header::CONTENT_DISPOSITION, &attachment(&bytes.filename)),
        (header::CACHE_CONTROL, "private, no-cache"),
        // An uploaded page must never run as one of ours.
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
    ] {
        let name: HeaderName = name;
        set(&mut response, name, value);
    }
    Ok(response)
}
