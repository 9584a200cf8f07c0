//! API keys of the caller's own tenant.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use riacho_store::{ActOutcome, ApiKey, KeyScope as Scope, NewAct, NewKey};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    auth::{Caller, Manage},
    extract::JsonBody,
    problem::{Problem, ProblemBody},
};

/// The longest name of a key, in characters.
const MAX_NAME: usize = 200;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(revoke))
}

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct KeyBody {
    /// The public part of the key.
    id: String,
    /// What it is for.
    name: String,
    /// What it may do: `documents:read`, `documents:write`, `search`, `admin` (all of the tenant), `operator` (what all tenants share).
    scopes: Vec<String>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it ends by itself.
    expires_at: Option<DateTime<Utc>>,
    /// When it was ended.
    revoked_at: Option<DateTime<Utc>>,
}

impl From<ApiKey> for KeyBody {
    fn from(key: ApiKey) -> Self {
        let scopes = key.scopes.iter().map(Scope::to_string).collect();
        let ApiKey { id, name, created_at, expires_at, revoked_at, .. } = key;
        Self { id, name, scopes, created_at, expires_at, revoked_at }
    }
}

/// All keys.
#[derive(Debug, Serialize, ToSchema)]
struct KeysBody {
    /// The keys.
    keys: Vec<KeyBody>,
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
struct CreatedBody {
    /// The key.
    key: KeyBody,
    /// What to send as `Authorization: Bearer`. It is shown this once.
    secret: String,
}

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKeyBody {
    /// What it is for.
    name: String,
    /// What it may do: `documents:read`, `documents:write`, `search`, `admin` (all of the tenant), `operator` (what all tenants share).
    scopes: Vec<String>,
    /// When it ends by itself; never when not given.
    expires_at: Option<DateTime<Utc>>,
}

/// List the tenant's keys.
#[utoipa::path(get, path = "/api/v1/keys", tag = "keys", responses((status = 200, description = "All keys.", body = KeysBody)))]
async fn list(State(app): State<App>, caller: Caller<Manage>) -> Result<Json<KeysBody>, Problem> {
    let keys = app.store().keys(&caller.tenant).await?;
    Ok(Json(KeysBody { keys: keys.into_iter().map(KeyBody::from).collect() }))
}

/// Make a key.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys", request_body = NewKeyBody,
    responses(
        (status = 201, description = "Made.", body = CreatedBody),
        (status = 400, description = "A field is wrong.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The key is no operator's, and the new one would be.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller<Manage>,
    JsonBody(new): JsonBody<NewKeyBody>,
) -> Result<(StatusCode, Json<CreatedBody>), Problem> {
    if new.name.is_empty() || new.name.chars().count() > MAX_NAME || new.name.chars().any(char::is_control) {
        return Err(Problem::field(
            "name",
            format!("must be 1 to {MAX_NAME} characters, none of them a control character"),
        ));
    }
    let scopes: Result<Vec<Scope>, _> = new.scopes.iter().map(|text| text.parse::<Scope>()).collect();
    let scopes = scopes.map_err(|_| {
        Problem::field("scopes", "must be of documents:read, documents:write, search, admin, operator")
    })?;
    if scopes.is_empty() {
        return Err(Problem::field("scopes", "must name at least one scope"));
    }
    if scopes.contains(&Scope::Operator) && !caller.is_operator {
        refused(&app, &caller, &new.name).await;
        return Err(Problem::forbidden("only an operator's key makes another one with the scope `operator`"));
    }
    if new.expires_at.is_some_and(|at| at <= Utc::now()) {
        return Err(Problem::field("expires_at", "must be in the future"));
    }
    let asked = NewKey { tenant: caller.tenant.clone(), name: new.name, scopes, expires_at: new.expires_at };
    let created = caller.store(&app).create_key(&asked).await?;
    let body = CreatedBody { key: created.key.into(), secret: created.secret.expose().to_owned() };
    Ok((StatusCode::CREATED, Json(body)))
}

/// Notes that somebody wanted a key for more than they may do themselves.
async fn refused(app: &App, caller: &Caller<Manage>, name: &str) {
    let act = NewAct {
        tenant: None,
        action: "key.create",
        target: "",
        outcome: ActOutcome::Refused,
        detail: &serde_json::json!({ "name": name, "scopes": [Scope::Operator.as_str()] }),
    };
    if let Err(error) = caller.store(app).note_act(&act).await {
        tracing::warn!(%error, key = caller.key_id, "a refused key could not be noted");
    }
}

/// End a key. It may work for a few seconds more.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", tag = "keys", params(("id" = String, Path, description = "The public part of the key.")),
    responses(
        (status = 204, description = "Ended."),
        (status = 404, description = "No such key.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn revoke(
    State(app): State<App>,
    caller: Caller<Manage>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    match caller.store(&app).revoke_key(&caller.tenant, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("key")),
    }
}
