//! Producers' events: unique by (tenant, source, event id), and owed an answer from the moment their
//! row exists.

use riacho_domain::{DocumentId, TenantId, Version};
use tokio_postgres::Row;

use crate::{
    Accept, Accepted, Error, Store, read,
    transaction::{Param, Scope, Tx},
};

/// What makes an event unique.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventKey {
    /// The tenant of the stream that it stood on.
    pub tenant: TenantId,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub event_id: String,
}

/// What an event was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventAnswer {
    /// The document is owed.
    Accepted {
        /// The document.
        document: DocumentId,
        /// Its version.
        version: Version,
    },
    /// The event can never be accepted.
    Rejected {
        /// A stable code.
        code: String,
        /// A sentence.
        message: String,
    },
}

/// An event's answer, and what the acceptance wrote when the event was new.
#[derive(Debug, Clone)]
pub struct AcceptedEvent {
    /// The answer; for an event seen before, the first one.
    pub answer: EventAnswer,
    /// None: the event was seen before and nothing was written.
    pub accepted: Option<Accepted>,
}

impl EventKey {
    fn check(&self) -> Result<(), Error> {
        for (what, text) in [("source", &self.source), ("id", &self.event_id)] {
            if text.is_empty() || text.len() > 512 || text.chars().any(char::is_control) {
                return Err(Error::Invalid(format!(
                    "the event's {what} has 1 to 512 bytes and no control characters"
                )));
            }
        }
        Ok(())
    }
}

impl EventAnswer {
    fn read(row: &Row) -> Result<Self, Error> {
        if let Some(code) = row.try_get::<_, Option<String>>("error_code")? {
            let message: Option<String> = row.try_get("error_message")?;
            return Ok(EventAnswer::Rejected { code, message: message.unwrap_or_default() });
        }
        Ok(EventAnswer::Accepted {
            document: read::document(row, "document_id")?,
            version: read::version(row, "version")?,
        })
    }
}

impl Store {
    /// The answer of an event that was seen before.
    pub async fn known_event(&self, event: &EventKey) -> Result<Option<EventAnswer>, Error> {
        event.check()?;
        let params: [Param<'_>; 3] = [&event.tenant.as_str(), &event.source, &event.event_id];
        let rows = self.single(Scope::tenant("known_event", &event.tenant), KNOWN, &params).await?;
        rows.first().map(EventAnswer::read).transpose()
    }

    /// Accepts the document of an event, once for each event.
    pub async fn accept_event(&self, event: &EventKey, accept: &Accept) -> Result<AcceptedEvent, Error> {
        event.check()?;
        if event.tenant != accept.tenant {
            return Err(Error::Invalid("the event names another tenant than its stream".into()));
        }
        self.accept_with(accept, Some(event)).await
    }

    /// Writes down that an event can never be accepted. An answer that is there stays, and is answered.
    pub async fn reject_event(
        &self,
        event: &EventKey,
        code: &str,
        message: &str,
    ) -> Result<EventAnswer, Error> {
        event.check()?;
        let message: String = message.chars().filter(|c| *c != '\0').take(1_000).collect();
        self.transaction(Scope::tenant("reject_event", &event.tenant), |tx| {
            let message = &message;
            async move {
                let params: [Param<'_>; 5] =
                    [&event.tenant.as_str(), &event.source, &event.event_id, &code, message];
                tx.execute(REJECT, &params).await?;
                known(&tx, event).await?.ok_or(Error::NotFound("event"))
            }
        })
        .await
    }
}

pub(crate) async fn known(tx: &Tx, event: &EventKey) -> Result<Option<EventAnswer>, Error> {
    let params: [Param<'_>; 3] = [&event.tenant.as_str(), &event.source, &event.event_id];
    tx.query_opt(KNOWN, &params).await?.as_ref().map(EventAnswer::read).transpose()
}

pub(crate) async fn remember(
    tx: &Tx,
    event: &EventKey,
    document: DocumentId,
    version: Version,
) -> Result<(), Error> {
    let version = read::signed(version);
    let params: [Param<'_>; 5] =
        [&event.tenant.as_str(), &event.source, &event.event_id, &document.0, &version];
    tx.execute(REMEMBER, &params).await?;
    Ok(())
}

pub(crate) const KNOWN: &str = "-- store::intake::known
SELECT document_id, version, error_code, error_message FROM intake_events
WHERE tenant_id = $1 AND source = $2 AND event_id = $3";

pub(crate) const REMEMBER: &str = "-- store::intake::remember
INSERT INTO intake_events (tenant_id, source, event_id, document_id, version) VALUES ($1, $2, $3, $4, $5)";

const REJECT: &str = "-- store::intake::reject_event
INSERT INTO intake_events (tenant_id, source, event_id, error_code, error_message) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, source, event_id) DO NOTHING";

/// The statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[KNOWN, REMEMBER, REJECT];
