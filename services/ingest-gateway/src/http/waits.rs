//! Why a document is not further: what it waits for, behind what, in which lane, since when.

use chrono::{DateTime, Duration, Utc};
use riacho_domain::{StageName, State, TenantId};
use riacho_store::{Place, Status};
use serde::Serialize;
use utoipa::ToSchema;

use super::{App, problem::Problem};

/// Sooner nobody asks, and most documents are done.
const SOON: Duration = Duration::seconds(1);

/// Why a document is not further.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Waits {
    /// `upload`: its bytes have not come. `tenant_limit`: the tenant has as much in flight as it may.
    /// `turn`: others of the tenant go before it. `stage`: work of the stage is before it, or it is being worked
    /// on. `no_consumer`: nobody works on the stage. `redis`: the streams cannot be reached.
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
                Why::of_place(place, app.streams().ping().await.is_ok())
            }
            State::Releasing => Why::on_its_way(app.streams().ping().await.is_ok()),
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
        let why = if !has_redis {
            Self::no_redis()
        } else if place.held && place.in_flight > 0 {
            let flying = count(place.in_flight, "document", "documents");
            let detail = format!("the tenant has {flying} in flight, and {before} released before this one");
            Self::new("tenant_limit", detail)
        } else {
            Self::new("turn", format!("{before} released before this one"))
        };
        Self { stage: Some(StageName::Extract), behind: Some(place.ahead), ..why }
    }

    async fn of_stage(app: &App, status: &Status, stage: StageName) -> Self {
        let figures = match status.partition {
            Some(partition) => app.streams().lane_figures(partition, stage, status.lane).await,
            None => return Self::new("stage", "it is on its way"),
        };
        let why = match figures {
            Err(_) => Self::no_redis(),
            Ok(figures) => {
                let (reason, who) = match figures.is_read {
                    true => ("stage", ""),
                    false => ("no_consumer", "nobody works on the stage; "),
                };
                let entries = count(figures.entries, "event is", "events are");
                let retrying = match figures.retrying {
                    0 => String::new(),
                    waiting => format!(", {waiting} of them for a retry"),
                };
                let lane = status.lane;
                let detail = format!("{who}{entries} in the {lane} lane of the stage{retrying}");
                Self { behind: Some(figures.entries), ..Self::new(reason, detail) }
            }
        };
        Self { stage: Some(stage), ..why }
    }
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
    fn what_is_before_a_waiting_document_is_said_in_a_sentence() {
        let place = |held, ahead, in_flight| Place { held, ahead, in_flight };
        let why = Why::of_place(place(true, 1, 1_000), true);
        assert_eq!((why.reason, why.behind), ("tenant_limit", Some(1)));
        assert_eq!(
            why.detail,
            "the tenant has 1000 documents in flight, and 1 document of the tenant is released before this one"
        );
        assert_eq!(Why::of_place(place(true, 10_000, 0), true).reason, "turn");
        assert_eq!(Why::of_place(place(true, 3, 9), false).reason, "redis");
    }
}
