//! Webhooks of the caller's tenant.

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use riacho_service::outward::OutwardError;
use riacho_store::{Delivery, NewWebhook, WEBHOOK_EVENTS, Webhook};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Manage},
    documents::page_limit,
    extract::{IdPath, JsonBody, QueryString, TwoIds},
    problem::{Problem, ProblemBody},
};

/// The longest note, in characters.
const MAX_DESCRIPTION: usize = 200;
/// The most deliveries of one page.
const MAX_PAGE: u32 = 200;
const DEFAULT_PAGE: u32 = 50;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(delete))
        .routes(routes!(enable))
        .routes(routes!(deliveries))
        .routes(routes!(redeliver))
}

/// A webhook, without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct WebhookBody {
    /// Its id.
    id: Uuid,
    /// Where it is told.
    url: String,
    /// What it is told: `document.ready`, `document.failed`, `document.deleted`, `summary`.
    events: Vec<String>,
    /// A note for people.
    description: String,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// Since when nothing came through; null where the last delivery did.
    failing_since: Option<DateTime<Utc>>,
    /// Since when it is told nothing; null while it is.
    disabled_at: Option<DateTime<Utc>>,
    /// Why.
    disabled_reason: Option<String>,
}

impl From<Webhook> for WebhookBody {
    fn from(webhook: Webhook) -> Self {
        let Webhook { id, url, events, description, created_at, failing_since, disabled_at, disabled_reason } =
            webhook;
        Self { id, url, events, description, created_at, failing_since, disabled_at, disabled_reason }
    }
}

/// All webhooks.
#[derive(Debug, Serialize, ToSchema)]
struct WebhooksBody {
    /// The webhooks, the oldest first.
    webhooks: Vec<WebhookBody>,
}

/// A webhook that was just made.
#[derive(Debug, Serialize, ToSchema)]
struct CreatedWebhookBody {
    /// The webhook.
    webhook: WebhookBody,
    /// What its deliveries are signed with, after Standard Webhooks. It is shown this once.
    secret: String,
}

/// A webhook to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewWebhookBody {
    /// Where it is told: an https address of the public network.
    url: String,
    /// What it is told: `document.ready`, `document.failed`, `document.deleted`, `summary`.
    events: Vec<String>,
    /// A note for people, at most 200 characters.
    #[serde(default)]
    description: String,
}

/// Something that a webhook is told.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveryBody {
    /// Its id. Receivers see it in the header `webhook-id`, behind `msg_` and without hyphens, the same with each attempt.
    id: Uuid,
    /// The event.
    event: String,
    /// What is sent.
    payload: Value,
    /// `pending`, `delivered` or `given_up`.
    state: &'static str,
    /// When it happened.
    created_at: DateTime<Utc>,
    /// How often it was tried.
    attempts: u32,
    /// When it was last tried.
    last_attempt: Option<DateTime<Utc>>,
    /// When it is tried next.
    next_attempt: Option<DateTime<Utc>>,
    /// The HTTP status that was answered last.
    last_status: Option<u16>,
    /// Why it did not come through.
    last_error: Option<String>,
}

impl From<Delivery> for DeliveryBody {
    fn from(one: Delivery) -> Self {
        let state = match (one.delivered_at, one.given_up_at) {
            (Some(_), _) => "delivered",
            (None, Some(_)) => "given_up",
            (None, None) => "pending",
        };
        Self {
            id: one.id,
            event: one.event,
            payload: serde_json::from_str(&one.payload).unwrap_or_default(),
            state,
            created_at: one.created_at,
            attempts: one.attempts,
            last_attempt: one.last_attempt,
            next_attempt: one.next_attempt,
            last_status: one.last_status,
            last_error: one.last_error,
        }
    }
}

/// A page of deliveries.
#[derive(Debug, Serialize, ToSchema)]
struct DeliveriesBody {
    /// The deliveries, the newest first.
    deliveries: Vec<DeliveryBody>,
    /// What to ask the next page with; null at the end.
    next_cursor: Option<String>,
}

/// Which deliveries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeliveriesQuery {
    /// Where the page before ended.
    cursor: Option<String>,
    /// How many, 1 to 200; 50 when not given.
    limit: Option<u32>,
}

/// List the tenant's webhooks.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", responses((status = 200, description = "All webhooks.", body = WebhooksBody)))]
async fn list(State(app): State<App>, caller: Caller<Manage>) -> Result<Json<WebhooksBody>, Problem> {
    let webhooks = app.store().webhooks(&caller.tenant).await?;
    Ok(Json(WebhooksBody { webhooks: webhooks.into_iter().map(WebhookBody::from).collect() }))
}

/// Make a webhook: an address that is told what becomes of documents.
///
/// It gets a POST with `{"type", "timestamp", "data"}`, signed after Standard Webhooks (`webhook-id`, `webhook-timestamp`,
/// `webhook-signature`). What it does not answer with 2xx is sent again, ever more rarely, over days; the same delivery may come
/// twice, with the same `webhook-id`. One to which nothing comes through for days, or that answers 410, is disabled.
#[utoipa::path(
    post, path = "/api/v1/webhooks", tag = "webhooks", request_body = NewWebhookBody,
    responses(
        (status = 201, description = "Made.", body = CreatedWebhookBody),
        (status = 400, description = "A field is wrong, or the address leads inward.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn create(
    State(app): State<App>,
    caller: Caller<Manage>,
    JsonBody(new): JsonBody<NewWebhookBody>,
) -> Result<(StatusCode, Json<CreatedWebhookBody>), Problem> {
    let NewWebhookBody { url, events, description } = new;
    if events.is_empty() || !events.iter().all(|event| WEBHOOK_EVENTS.contains(&event.as_str())) {
        return Err(Problem::field(
            "events",
            format!("must be one or more of {}", WEBHOOK_EVENTS.join(", ")),
        ));
    }
    if description.chars().count() > MAX_DESCRIPTION || description.chars().any(char::is_control) {
        let message =
            format!("must be at most {MAX_DESCRIPTION} characters, none of them a control character");
        return Err(Problem::field("description", message));
    }
    let outward = app.outward()?;
    let checked = outward.check(&url).await.map_err(wrong_address)?;
    // A private deployment may have no certificates inside.
    if checked.scheme() != "https" && !outward.allows_private() {
        return Err(Problem::field("url", "must begin with https://"));
    }
    let new = NewWebhook { tenant: caller.tenant.clone(), url: checked.into(), events, description };
    let created = caller.store(&app).create_webhook(&new).await?;
    let secret = created.secret.expose().to_owned();
    Ok((StatusCode::CREATED, Json(CreatedWebhookBody { webhook: created.webhook.into(), secret })))
}

/// What is wrong with an address that somebody named.
pub(super) fn wrong_address(error: OutwardError) -> Problem {
    Problem::field("url", error.to_string())
}

/// Remove a webhook, with what it was not told yet.
#[utoipa::path(
    delete, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = Uuid, Path, description = "The webhook.")),
    responses(
        (status = 204, description = "Removed."),
        (status = 404, description = "No such webhook.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn delete(
    State(app): State<App>,
    caller: Caller<Manage>,
    IdPath(id): IdPath,
) -> Result<StatusCode, Problem> {
    match caller.store(&app).delete_webhook(&caller.tenant, id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("webhook")),
    }
}

/// Let a disabled webhook be told again what happens from now on.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/enable", tag = "webhooks", params(("id" = Uuid, Path, description = "The webhook.")),
    responses(
        (status = 200, description = "It is told.", body = WebhookBody),
        (status = 404, description = "No such webhook.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn enable(
    State(app): State<App>,
    caller: Caller<Manage>,
    IdPath(id): IdPath,
) -> Result<Json<WebhookBody>, Problem> {
    let webhook = caller.store(&app).enable_webhook(&caller.tenant, id).await?;
    webhook.map(|webhook| Json(webhook.into())).ok_or_else(|| Problem::not_found("webhook"))
}

/// List what a webhook was told and is to be told, the newest first. Deliveries are kept for 30 days.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{id}/deliveries", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The webhook."), DeliveriesQuery),
    responses(
        (status = 200, description = "A page of deliveries.", body = DeliveriesBody),
        (status = 404, description = "No such webhook.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn deliveries(
    State(app): State<App>,
    caller: Caller<Manage>,
    IdPath(id): IdPath,
    QueryString(query): QueryString<DeliveriesQuery>,
) -> Result<Json<DeliveriesBody>, Problem> {
    let limit = page_limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?;
    let page = app.store().deliveries(&caller.tenant, id, query.cursor.as_deref(), limit).await?;
    let page = page.ok_or_else(|| Problem::not_found("webhook"))?;
    Ok(Json(DeliveriesBody {
        deliveries: page.items.into_iter().map(DeliveryBody::from).collect(),
        next_cursor: page.next_cursor,
    }))
}

/// Send a delivery again, whatever became of it, with all its attempts before it.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/deliveries/{delivery}/redeliver", tag = "webhooks",
    params(("id" = Uuid, Path, description = "The webhook."), ("delivery" = Uuid, Path, description = "The delivery.")),
    responses(
        (status = 202, description = "It is sent within a second or two."),
        (status = 404, description = "No such webhook or delivery.", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The webhook is disabled.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn redeliver(
    State(app): State<App>,
    caller: Caller<Manage>,
    TwoIds(webhook, delivery): TwoIds,
) -> Result<StatusCode, Problem> {
    match app.store().redeliver(&caller.tenant, webhook, delivery).await? {
        true => Ok(StatusCode::ACCEPTED),
        false => Err(Problem::not_found("delivery")),
    }
}
