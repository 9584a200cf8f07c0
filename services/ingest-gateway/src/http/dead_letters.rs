//! Dead letters of the caller's tenant: list, inspect, replay, discard.

use std::time::Duration;

use axum::{Json, extract::State};
use riacho_domain::DocumentId;
use riacho_store::{LetterFilter, LetterState, ListLetters, MAX_LETTERS, Pace, Resolve, Resolved, Selection};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    App,
    auth::{Caller, Read, Write},
    documents::page_limit,
    extract::{IdPath, JsonBody, QueryString},
    problem::{Problem, ProblemBody},
};

mod shapes;

use self::shapes::{DiscardedBody, InspectedBody, LettersBody, ReplayedBody};

/// The most letters of one page.
const MAX_PAGE: u32 = 200;
const DEFAULT_PAGE: u32 = 50;
/// Letters that a call resolves where it does not say how many.
const DEFAULT_LETTERS: u32 = 100;
/// Versions a second that a replay releases where it does not say how many.
const DEFAULT_RATE: f64 = 10.0;
/// The fastest replay that can be asked for.
const MAX_RATE: f64 = 1_000.0;
/// How long a replay goes on before it answers with what remains.
const REPLAY_AT_MOST: Duration = Duration::from_secs(10);
/// The longest stage and reason code that are looked for, in characters.
const MAX_NAME: usize = 100;

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(inspect))
        .routes(routes!(replay))
        .routes(routes!(discard))
}

/// Which dead letters to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Only of this stage: `extract`, `embed`, `index`, or `intake`.
    stage: Option<String>,
    /// Only given up for this reason, for example `provider_refused`.
    reason_code: Option<String>,
    /// Only of this document.
    document: Option<Uuid>,
    /// `unresolved` (the default), `replayed` or `discarded`.
    state: Option<String>,
    /// Where the page before ended.
    cursor: Option<String>,
    /// How many, 1 to 200; 50 when not given.
    limit: Option<u32>,
}

/// Which dead letters are meant; `{}` means all that are unresolved.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FilterBody {
    /// Only of this stage.
    stage: Option<String>,
    /// Only given up for this reason.
    reason_code: Option<String>,
    /// Only of this document.
    document: Option<Uuid>,
}

/// What to replay. Either `ids` or `filter` is given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    /// These letters, at most 1,000.
    ids: Option<Vec<Uuid>>,
    /// All unresolved letters that it lets through.
    filter: Option<FilterBody>,
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
    /// Versions that are released a second, at most 1,000; 10 when not given. The slowest is as fast as the
    /// answer has to come, by default 0.1.
    per_second: Option<f64>,
    /// Letters of this call, 1 to 1,000; 100 when not given.
    limit: Option<u32>,
    /// Where the call before ended.
    cursor: Option<String>,
}

/// What to discard. Either `ids` or `filter` is given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DiscardRequest {
    /// These letters, at most 1,000.
    ids: Option<Vec<Uuid>>,
    /// All unresolved letters that it lets through.
    filter: Option<FilterBody>,
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
    /// Letters of this call, 1 to 1,000; 100 when not given.
    limit: Option<u32>,
    /// Where the call before ended.
    cursor: Option<String>,
}

/// List dead letters, the newest first.
#[utoipa::path(
    get, path = "/api/v1/queue/dead-letters", tag = "queue", params(ListQuery),
    responses(
        (status = 200, description = "A page of dead letters.", body = LettersBody),
        (status = 400, description = "A field is wrong.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn list(
    State(app): State<App>,
    caller: Caller<Read>,
    QueryString(query): QueryString<ListQuery>,
) -> Result<Json<LettersBody>, Problem> {
    let state = query.state.map(|text| text.parse::<LetterState>()).transpose();
    let asked = ListLetters {
        filter: filter("", query.stage, query.reason_code, query.document)?,
        state: state.map_err(|error| Problem::field("state", error))?.unwrap_or_default(),
        cursor: query.cursor,
        limit: page_limit(query.limit, DEFAULT_PAGE, MAX_PAGE)?,
    };
    Ok(Json(app.store().dead_letters(Some(&caller.tenant), &asked).await?.into()))
}

/// Inspect a dead letter: all that is known of it, and the entry as it was read.
#[utoipa::path(
    get, path = "/api/v1/queue/dead-letters/{id}", tag = "queue", params(("id" = Uuid, Path, description = "The dead letter.")),
    responses(
        (status = 200, description = "The dead letter.", body = InspectedBody),
        (status = 404, description = "No such dead letter.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn inspect(
    State(app): State<App>,
    caller: Caller<Read>,
    IdPath(id): IdPath,
) -> Result<Json<InspectedBody>, Problem> {
    let found = app.store().dead_letter(Some(&caller.tenant), id).await?;
    let (letter, original) = found.ok_or_else(|| Problem::not_found("dead letter"))?;
    Ok(Json(InspectedBody::new(letter, &original)))
}

/// Replay dead letters: release their versions again.
///
/// The old events are not put back. Each version that is still failed waits for a new release, and all
/// its unresolved letters are resolved; letters of others are skipped, and the answer says why. A call
/// keeps the rate itself and ends after some seconds: as long as the answer has a `next_cursor`, send the
/// same request again with it.
#[utoipa::path(
    post, path = "/api/v1/queue/dead-letters/replay", tag = "queue", request_body = ReplayRequest,
    responses(
        (status = 200, description = "What was done.", body = ReplayedBody),
        (status = 400, description = "A field is wrong, or nothing was selected.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn replay(
    State(app): State<App>,
    caller: Caller<Write>,
    JsonBody(request): JsonBody<ReplayRequest>,
) -> Result<Json<ReplayedBody>, Problem> {
    let pace = pace(request.per_second, app.config().request_timeout())?;
    let ReplayRequest { ids, filter, dry_run, limit, cursor, .. } = request;
    let asked = resolve(selection(ids, filter)?, dry_run, limit, cursor)?;
    let done = caller.store(&app).replay_dead_letters(Some(&caller.tenant), &asked, pace).await?;
    tell(&caller, "replay", dry_run, &done);
    Ok(Json(ReplayedBody::new(dry_run, done)))
}

/// Discard dead letters: nothing more will be done about them.
///
/// Their documents stay as they are. As long as the answer has a `next_cursor`, letters remain.
#[utoipa::path(
    post, path = "/api/v1/queue/dead-letters/discard", tag = "queue", request_body = DiscardRequest,
    responses(
        (status = 200, description = "What was done.", body = DiscardedBody),
        (status = 400, description = "A field is wrong, or nothing was selected.", body = ProblemBody, content_type = "application/problem+json"),
    ),
)]
async fn discard(
    State(app): State<App>,
    caller: Caller<Write>,
    JsonBody(request): JsonBody<DiscardRequest>,
) -> Result<Json<DiscardedBody>, Problem> {
    let DiscardRequest { ids, filter, dry_run, limit, cursor } = request;
    let asked = resolve(selection(ids, filter)?, dry_run, limit, cursor)?;
    let done = caller.store(&app).discard_dead_letters(Some(&caller.tenant), &asked).await?;
    tell(&caller, "discard", dry_run, &done);
    Ok(Json(DiscardedBody::new(dry_run, done)))
}

fn tell(caller: &Caller<Write>, verb: &str, dry_run: bool, done: &Resolved) {
    if !dry_run && done.letters > 0 {
        tracing::info!(tenant = %caller.tenant, letters = done.letters, remaining = done.remaining, verb, "dead letters were resolved");
    }
}

fn selection(ids: Option<Vec<Uuid>>, body: Option<FilterBody>) -> Result<Selection, Problem> {
    match (ids, body) {
        (Some(ids), None) if ids.is_empty() || ids.len() > MAX_LETTERS as usize => {
            Err(Problem::field("ids", format!("must be 1 to {MAX_LETTERS} ids")))
        }
        (Some(ids), None) => Ok(Selection::Ids(ids)),
        (None, Some(FilterBody { stage, reason_code, document })) => {
            Ok(Selection::Filter(filter("filter.", stage, reason_code, document)?))
        }
        _ => Err(Problem::bad_request(
            "say which dead letters: give either `ids` or `filter`; `\"filter\": {}` means all that are unresolved",
        )),
    }
}

fn resolve(
    selection: Selection,
    dry_run: bool,
    limit: Option<u32>,
    cursor: Option<String>,
) -> Result<Resolve, Problem> {
    let limit = page_limit(limit, DEFAULT_LETTERS, MAX_LETTERS)?;
    Ok(Resolve { selection, cursor, limit, dry_run })
}

fn filter(
    place: &str,
    stage: Option<String>,
    reason_code: Option<String>,
    document: Option<Uuid>,
) -> Result<LetterFilter, Problem> {
    for (name, text) in [("stage", &stage), ("reason_code", &reason_code)] {
        let is_name = |text: &String| {
            (1..=MAX_NAME).contains(&text.chars().count()) && !text.chars().any(char::is_control)
        };
        if !text.as_ref().is_none_or(is_name) {
            let message = format!("must be 1 to {MAX_NAME} characters, none of them a control character");
            return Err(Problem::field(format!("{place}{name}"), message));
        }
    }
    Ok(LetterFilter { stage, reason_code, document: document.map(DocumentId) })
}

/// How fast to go. A call and the last pause of it end before the request's time does.
fn pace(per_second: Option<f64>, request_timeout: Duration) -> Result<Pace, Problem> {
    let at_most = REPLAY_AT_MOST.min(request_timeout / 3);
    let (rate, slowest) = (per_second.unwrap_or(DEFAULT_RATE), 1.0 / at_most.as_secs_f64());
    if per_second.is_some() && !(slowest..=MAX_RATE).contains(&rate) {
        return Err(Problem::field("per_second", format!("must be {slowest:.3} to {MAX_RATE}")));
    }
    // A timeout so short that not even the default rate fits in it.
    let every = Duration::from_secs_f64(1.0 / rate).min(at_most);
    Ok(Pace { every, at_most })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_replay_answers_before_its_request_times_out() {
        let timeout = Duration::from_secs(30);
        for rate in [None, Some(0.1), Some(1.0), Some(1_000.0)] {
            let pace = pace(rate, timeout).unwrap();
            assert!(pace.at_most + pace.every < timeout, "{rate:?}: {pace:?}");
        }
        assert_eq!(pace(None, timeout).unwrap().every, Duration::from_millis(100));
        for wrong in [0.0, -1.0, 0.05, 1_000.5, f64::INFINITY] {
            assert!(pace(Some(wrong), timeout).is_err(), "{wrong}");
        }
        let short = Duration::from_millis(200);
        assert!(pace(Some(10.0), short).is_err());
        assert!(pace(None, short).unwrap().every < short);
    }
}
