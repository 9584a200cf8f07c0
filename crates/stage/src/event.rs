//! What a stage is given and what it answers.

use std::time::Duration;

use riacho_domain::{DocumentId, Lane, ReasonCode, ReleaseId, TenantId, Version};
use riacho_proto::v1::envelope::Payload;

/// One event, decoded: its address, and its payload inflated or fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Address, cause and delivery.
    pub envelope: EventMeta,
    /// What to work on.
    pub payload: Payload,
}

/// The attributes of an event, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventMeta {
    /// The event's id; a re-run has the same.
    pub id: String,
    /// The tenant that owns the document.
    pub tenant: TenantId,
    /// The document.
    pub document: DocumentId,
    /// The document's version.
    pub version: Version,
    /// The release. Every write outside the streams names it.
    pub release: ReleaseId,
    /// The lane it was read from.
    pub lane: Lane,
    /// W3C Trace Context of the request that caused it, or empty.
    pub traceparent: String,
    /// The partition it travels in.
    pub partition: u16,
    /// The stream entry's id.
    pub entry_id: String,
    /// Which run this is, from 1.
    pub attempt: u32,
}

impl EventMeta {
    /// The trace that the event belongs to (`00-<trace id>-<parent id>-<flags>`), or nothing.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        let id = self.traceparent.split('-').nth(1).unwrap_or_default();
        if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) { id } else { "" }
    }
}

/// An event for the next stage of the topology.
///
/// It keeps the input's partition, tenant, document, version, release and trace; its id is derived
/// from the input's, so a re-run that emits the same outputs in the same order makes the same ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// What the next stage works on.
    pub payload: Payload,
    /// The lane it travels in.
    pub lane: Lane,
}

/// How a run of a stage ended well. In each case the input is acknowledged and deleted.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// These events follow, the last of this run. Empty only for the topology's last stage, or
    /// after [`Context::emit`](crate::Context::emit).
    Emit(Vec<Output>),
    /// Nothing follows: the stage wrote that the document failed.
    Failed(ReasonCode),
    /// Nothing follows: the version is complete, and searches see it.
    Ready,
    /// The release is not the version's current one any more; counted, not an error.
    Superseded,
}

/// How a run of a stage failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// It may succeed later. The entry waits in a delay class.
    Transient {
        /// For people: logged, and kept when the entry is given up.
        message: String,
        /// Not before this long, as the callee said.
        retry_after: Option<Duration>,
        /// Whether it counts as an attempt. It does not where the fault is not the event's: a
        /// provider's 429, say.
        counts: bool,
    },
    /// A server is away that the stage needs. No attempt: the entry waits, and so does the stage.
    Unavailable {
        /// For people: logged once for each outage.
        message: String,
    },
    /// It will never succeed. The entry becomes a dead letter.
    Permanent {
        /// Why, for programs.
        code: ReasonCode,
        /// Why, for people.
        message: String,
    },
}

impl Failure {
    /// A failure that may pass and counts as an attempt.
    pub fn transient(message: impl Into<String>) -> Failure {
        Failure::Transient { message: message.into(), retry_after: None, counts: true }
    }

    /// A failure of servers, which is not an attempt.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        Failure::Unavailable { message: message.into() }
    }

    /// A failure for good.
    pub fn permanent(code: ReasonCode, message: impl Into<String>) -> Failure {
        Failure::Permanent { code, message: message.into() }
    }
}
