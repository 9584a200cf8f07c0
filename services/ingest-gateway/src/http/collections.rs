//! Collections: names that documents stand under.

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use riacho_store::Collection;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Read, Write},
    extract::{IdPath, JsonBody},
    problem::{Problem, ProblemBody},
    settings::collection_name,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

/// A collection.
#[derive(Debug, Serialize, ToSchema)]
struct CollectionBody {
    /// Its id.
    id: Uuid,
    /// Its name.
    name: String,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// Documents in it.
    documents: u64,
}

impl From<Collection> for CollectionBody {
    fn from(collection: Collection) -> Self {
        let Collection { id, name, created_at, documents, .. } = collection;
        Self { id, name, created_at, documents }
    }
}

/// All collections.
#[derive(Debug, Serialize, ToSchema)]
struct CollectionsBody {
    /// The collections, by name.
    collections: Vec<CollectionBody>,
}

/// A collection to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewCollection {
    /// Its name, 1 to 200 characters.
    name: String,
}

/// List collections.
#[utoipa::path(
    get, path = "/api/v1/collections", tag = "collections",
    responses((status = 200, description = "All collections.", body = CollectionsBody)),
)]
async fn list(State(app): State<App>, caller: Caller<Read>) -> Result<Json<CollectionsBody>, Problem> {
    let collections = app.store().collections(&caller.tenant).await?;
    Ok(Json(CollectionsBody { collections: collections.into_iter().map(CollectionBody::from).collect() }))
}

/// Make a collection.
#[utoipa::path(
    post, path = "/api/v1/collections", tag = "collections", request_body = NewCollection,
    responses(
        (status = 201, description = "Made.", body = CollectionBody),
        (status = 409, description = "There is one of this name.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller<Write>,
    JsonBody(new): JsonBody<NewCollection>,
) -> Result<(StatusCode, Json<CollectionBody>), Problem> {
    let name = collection_name("name", &new.name)?;
    Ok((StatusCode::CREATED, Json(app.store().create_collection(&caller.tenant, &name).await?.into())))
}

/// Look at a collection.
#[utoipa::path(
    get, path = "/api/v1/collections/{id}", tag = "collections", params(("id" = Uuid, Path, description = "The collection.")),
    responses(
        (status = 200, description = "The collection.", body = CollectionBody),
        (status = 404, description = "No such collection.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn get(
    State(app): State<App>,
    caller: Caller<Read>,
    IdPath(id): IdPath,
) -> Result<Json<CollectionBody>, Problem> {
    let found = app.store().collection(&caller.tenant, id).await?;
    found.map(|collection| Json(collection.into())).ok_or_else(|| Problem::not_found("collection"))
}

/// Delete a collection that has no documents.
#[utoipa::path(
    delete, path = "/api/v1/collections/{id}", tag = "collections", params(("id" = Uuid, Path, description = "The collection.")),
    responses(
        (status = 204, description = "Deleted."),
        (status = 404, description = "No such collection.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "It has documents.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn delete(
    State(app): State<App>,
    caller: Caller<Write>,
    IdPath(id): IdPath,
) -> Result<StatusCode, Problem> {
    app.store().delete_collection(&caller.tenant, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
