//! Why a document is not further: what it waits for, behind what, in which lane, since when.

use chrono::{DateTime, Duration, Utc};
use riacho_domain::{Lane, StageName, State, TenantId};
use riacho_store::{HeldBy, Place, Status};
use riacho_streams::LaneFigures;
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, problem::Problem};

/// Sooner nobody asks, and most documents are done.
const SOON: Duration = Duration::seconds(1);

/// When a budget lets documents go on.
const GOES_ON: &str = "documents go on next month, or when the budget is raised";
/// What a tenant lacks that would go on with the fallback space.
const NO_FALLBACK: &str = "; they would go on with the fallback embedding space, but the deployment has none (`riacho space fallback`)";

/// Why a document is not further.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Waits {
    /// `upload`: its bytes have not come. `tenant_limit`: the tenant has as much in flight as it may, `total_limit`: all
    /// tenants together have. `budget`: the tenant has used up a budget of the month, `total_budget`: all tenants
    /// together have used up one of theirs. `turn`: others go before it. `stage`: work of the stage is before it, or it is
    /// being worked on. `paused`: an operator has paused the stage. `no_consumer`: nobody works on the stage. `provider_limit`: the provider of the embedding model
    /// takes no more at the moment. `redis`: the streams cannot be reached.
    reason: &'static str,
    /// The same for people.
    detail: String,
    /// The stage that has it now, or gets it next.
    stage: Option<&'static str>,
    /// The lane that it waits in.
    lane: &'static str,
    /// Behind how many: of the tenant's documents until it is released, of the lane's events at most once it is. Not
    /// counted beyond 10,000 documents.
    behind: Option<u64>,
    /// Since when.
    since: DateTime<Utc>,
}

impl Waits {
    /// Why the document is where it is; nothing where it has ended, or only just came there.
    pub(super) async fn of(app: &App, tenant: &TenantId, status: &Status) -> Result<Option<Waits>, Problem> {
        if status.finished_at.is_some() || Utc::now() - status.state_changed_at < SOON {
            return Ok(None);
        }
        let why = match status.state {
            State::AwaitingUpload => Why::new("upload", "its bytes have not come yet"),
            State::Waiting => {
                let Some(place) = app.store().place(tenant, status.document, status.version).await? else {
                    return Ok(None);
                };
                Why::of_place(place, has_redis(app).await)
            }
            State::Releasing => Why::on_its_way(has_redis(app).await),
            State::Extracting => Why::of_stage(app, status, StageName::Extract).await,
            State::Embedding => Why::of_stage(app, status, StageName::Embed).await,
            State::Indexing => Why::of_stage(app, status, StageName::Index).await,
            State::Ready | State::Failed | State::Cancelled | State::Expired => return Ok(None),
        };
        Ok(Some(Waits {
            reason: why.reason,
            detail: why.detail,
            stage: why.stage.map(StageName::as_str),
            lane: status.lane.as_str(),
            behind: why.behind,
            since: status.state_changed_at,
        }))
    }
}

/// A shorter wait for the provider is no reason.
const SHORT: std::time::Duration = std::time::Duration::from_secs(1);

/// A status is not held up for Redis.
const PATIENCE: std::time::Duration = std::time::Duration::from_millis(250);

async fn has_redis(app: &App) -> bool {
    matches!(tokio::time::timeout(PATIENCE, app.streams().ping()).await, Ok(Ok(_)))
}

/// How long a request to the embedding model would wait for the provider's limit; none where that is no reason.
async fn limited_for(app: &App, stage: StageName) -> Option<std::time::Duration> {
    if stage != StageName::Embed {
        return None;
    }
    let model = async {
        let live = app.live_space().await.ok().flatten();
        let model = live.and_then(|space| app.models().of(&space.model, space.dimensions));
        model.unwrap_or_else(|| app.models().first()).limited_for().await
    };
    let wait = tokio::time::timeout(PATIENCE, model).await.ok().flatten();
    wait.filter(|wait| *wait >= SHORT)
}

/// What stands in the lanes that a document's events of a stage are in: a long document's go to the next lower one.
async fn entries(app: &App, partition: u16, stage: StageName, lanes: &[Lane]) -> Option<LaneFigures> {
    let mut all = LaneFigures::default();
    for lane in lanes {
        let figures = app.streams().lane_figures(partition, stage, *lane);
        let figures = tokio::time::timeout(PATIENCE, figures).await.ok()?.ok()?;
        all.entries += figures.entries;
        all.retrying += figures.retrying;
        all.is_read |= figures.is_read;
    }
    Some(all)
}

struct Why {
    reason: &'static str,
    detail: String,
    stage: Option<StageName>,
    behind: Option<u64>,
}

impl Why {
    fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), stage: None, behind: None }
    }

    fn no_redis() -> Self {
        Self::new("redis", "the streams cannot be reached; it is released when they are back")
    }

    fn on_its_way(has_redis: bool) -> Self {
        match has_redis {
            true => Self::new("stage", "it is being put onto the extractor's stream"),
            false => Self::no_redis(),
        }
    }

    fn of_place(place: Place, has_redis: bool) -> Self {
        let before = count(place.ahead, "document of the tenant is", "documents of the tenant are");
        let before = format!("{before} released before this one");
        let goes_on = if place.lacks_fallback { [GOES_ON, NO_FALLBACK].concat() } else { GOES_ON.to_owned() };
        let why = match place.held_by {
            Some(HeldBy::Tenant) => {
                let flying = count(place.in_flight, "document", "documents");
                let detail = format!("the tenant has {flying} in flight, as many as it may; {before}");
                Self::new("tenant_limit", detail)
            }
            Some(HeldBy::Total) => {
                let detail = format!("as many documents of all tenants are in flight as may be; {before}");
                Self::new("total_limit", detail)
            }
            Some(HeldBy::Budget) => {
                let detail =
                    format!("the tenant has used up its embedding budget of this month; {goes_on}; {before}");
                Self::new("budget", detail)
            }
            Some(HeldBy::TotalBudget) => {
                let who = "all tenants together have used up the embedding budget of this month";
                Self::new("total_budget", format!("{who}; {goes_on}; {before}"))
            }
            _ if !has_redis => Self::no_redis(),
            _ => Self::new("turn", format!("others may go first by turn, or a stream is full; {before}")),
        };
        Self { stage: Some(StageName::Extract), behind: Some(place.ahead), ..why }
    }

    async fn of_stage(app: &App, status: &Status, stage: StageName) -> Self {
        let Some(partition) = status.partition else { return Self::new("stage", "it is on its way") };
        let (lane, lower) = (status.lane, status.lane.lower());
        let lanes = if stage == StageName::Extract || lower == lane { vec![lane] } else { vec![lane, lower] };
        // Where PostgreSQL is away there is no status either.
        let paused = app.store().paused_stages().await.unwrap_or_default();
        let paused = paused.into_iter().find(|pause| pause.stage == stage);
        let why = match entries(app, partition, stage, &lanes).await {
            None => Self::no_redis(),
            Some(figures) if paused.is_some() => {
                Self { reason: "paused", ..Self::of_figures(figures, &lanes, None) }
            }
            // The fallback's model has no limits.
            Some(figures) if status.fallback.is_some() => Self::of_figures(figures, &lanes, None),
            Some(figures) => Self::of_figures(figures, &lanes, limited_for(app, stage).await),
        };
        let detail = match paused {
            Some(pause) => {
                format!("an operator has paused the stage{}; {}", because(&pause.reason), why.detail)
            }
            None => why.detail,
        };
        Self { stage: Some(stage), detail, ..why }
    }

    /// `limited` is how long the provider of the stage's model keeps a request waiting.
    fn of_figures(figures: LaneFigures, lanes: &[Lane], limited: Option<std::time::Duration>) -> Self {
        let (reason, who) = match (figures.is_read, limited) {
            (false, _) => ("no_consumer", "nobody works on the stage; ".to_owned()),
            (true, None) => ("stage", String::new()),
            (true, Some(wait)) => {
                let seconds = count(wait.as_secs_f64().ceil() as u64, "second", "seconds");
                (
                    "provider_limit",
                    format!("the provider's rate limit keeps a request waiting for {seconds}; "),
                )
            }
        };
        let entries = match figures.entries {
            1 => "1 event is".to_owned(),
            entries => format!("{entries} events are"),
        };
        let lanes = match lanes {
            [lane, lower] => format!("{lane} and {lower} lanes"),
            lanes => format!("{} lane", lanes.first().copied().unwrap_or(Lane::Background)),
        };
        let retrying = match figures.retrying {
            0 => String::new(),
            waiting => format!(", {waiting} of them for a retry"),
        };
        let detail = format!("{who}{entries} in the {lanes} of the stage{retrying}");
        Self { behind: Some(figures.entries), ..Self::new(reason, detail) }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn count(number: u64, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        Place::MOST.. => format!("{number} or more {many}"),
        _ => format!("{number} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_waits_for_the_providers_limit_is_said_to() {
        let figures = LaneFigures { entries: 3, is_read: true, ..LaneFigures::default() };
        let wait = std::time::Duration::from_millis(11_500);
        let why = Why::of_figures(figures, &[Lane::Bulk, Lane::Background], Some(wait));
        assert_eq!((why.reason, why.behind), ("provider_limit", Some(3)));
        assert_eq!(
            why.detail,
            "the provider's rate limit keeps a request waiting for 12 seconds; \
             3 events are in the bulk and background lanes of the stage"
        );
        let reason = |figures, limited| Why::of_figures(figures, &[Lane::Bulk], limited).reason;
        assert_eq!(reason(figures, None), "stage");
        assert_eq!(reason(LaneFigures { is_read: false, ..figures }, Some(wait)), "no_consumer");
    }

    #[test]
    fn what_is_before_a_waiting_document_is_said_in_a_sentence() {
        let place = |held_by, ahead, in_flight| Place { held_by, ahead, in_flight, lacks_fallback: false };
        let why = Why::of_place(place(Some(HeldBy::Tenant), 1, 1_000), true);
        assert_eq!((why.reason, why.behind), ("tenant_limit", Some(1)));
        assert_eq!(
            why.detail,
            "the tenant has 1000 documents in flight, as many as it may; 1 document of the tenant is released before this one"
        );
        let reason = |held_by, has_redis| Why::of_place(place(held_by, 10_000, 9), has_redis).reason;
        let lacks = Place { lacks_fallback: true, ..place(Some(HeldBy::Budget), 0, 0) };
        let why = Why::of_place(lacks, true);
        assert!(why.reason == "budget" && why.detail.contains("`riacho space fallback`"), "{}", why.detail);
        assert_eq!(reason(Some(HeldBy::Total), true), "total_limit");
        assert_eq!(reason(Some(HeldBy::Budget), false), "budget");
        assert_eq!(reason(Some(HeldBy::TotalBudget), true), "total_budget");
        assert_eq!((reason(Some(HeldBy::Waiting), true), reason(None, true)), ("turn", "turn"));
        assert_eq!(reason(Some(HeldBy::Waiting), false), "redis");
    }
}
