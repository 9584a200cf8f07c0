//! Who did what: the acts of the caller's tenant, and on it.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use riacho_store::{Act, ListActs, MAX_AUDIT_PAGE};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Manage},
    documents::page_limit,
    extract::QueryString,
    problem::{Problem, ProblemBody},
};

const DEFAULT_PAGE: u32 = 50;
/// The longest name that is looked for, in bytes.
const MAX_NAME: usize = 200;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which acts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Only this action, for example `key.create`; one that ends in a dot means all that begin so: `key.`.
    action: Option<String>,
    /// Only of this actor, for example `key:0123456789abcdef`.
    actor: Option<String>,
    /// Only to this target.
    target: Option<String>,
    /// Where the page before ended.
    cursor: Option<String>,
    /// How many, 1 to 200; 50 when not given.
    limit: Option<u32>,
}

/// A page of acts, the newest first.
#[derive(Debug, Serialize, ToSchema)]
struct AuditBody {
    /// The acts.
    acts: Vec<ActBody>,
    /// What to ask the next page with; null at the end.
    next_cursor: Option<String>,
}

/// An act.
#[derive(Debug, Serialize, ToSchema)]
struct ActBody {
    /// Its id.
    id: Uuid,
    /// When.
    at: DateTime<Utc>,
    /// `key:` with the public part of an API key, or `cli:` with the login of whoever ran a command.
    actor: String,
    /// What was done: `key.create`, `key.revoke`, `tenant.create`, `tenant.suspend`, `tenant.resume`, `tenant.delete`, `tenant.limits`,
    /// `tenant.weight`, `document.delete`, `dead_letters.replay`, `dead_letters.discard`, `stage.pause`, `stage.resume`, `janitor.run`,
    /// `webhook.create`, `webhook.delete`, `webhook.enable`.
    action: String,
    /// To what: the id of a key, tenant or document, or the name of a stage or task.
    target: String,
    /// `ok`, `refused` or `failed`.
    outcome: &'static str,
    /// What else is known; secrets are not.
    detail: Value,
}

impl From<Act> for ActBody {
    fn from(act: Act) -> Self {
        let Act { id, at, actor, action, target, outcome, detail, .. } = act;
        Self { id, at, actor, action, target, outcome: outcome.as_str(), detail }
    }
}

/// List who did what to keys, documents, dead letters, stages and tasks, the newest first.
///
/// What an operator does about all tenants stands in the log of the tenant that the operator's key is of. Acts are kept for
/// 400 days.
#[utoipa::path(
    get, path = "/api/v1/audit", tag = "audit", params(AuditQuery),
    responses(
        (status = 200, description = "A page of acts.", body = AuditBody),
        (status = 400, description = "A field is wrong.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn list(
    State(app): State<App>,
    caller: Caller<Manage>,
    QueryString(query): QueryString<AuditQuery>,
) -> Result<Json<AuditBody>, Problem> {
    for (name, text) in [("action", &query.action), ("actor", &query.actor), ("target", &query.target)] {
        let is_name =
            |text: &String| (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
        if !text.as_ref().is_none_or(is_name) {
            let message = format!("must be 1 to {MAX_NAME} bytes, none of them a control character");
            return Err(Problem::field(name, message));
        }
    }
    let AuditQuery { action, actor, target, cursor, limit } = query;
    let limit = page_limit(limit, DEFAULT_PAGE, MAX_AUDIT_PAGE)?;
    let page =
        app.store().acts(Some(&caller.tenant), &ListActs { action, actor, target, cursor, limit }).await?;
    Ok(Json(AuditBody {
        acts: page.items.into_iter().map(ActBody::from).collect(),
        next_cursor: page.next_cursor,
    }))
}
