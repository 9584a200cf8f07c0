//! PostgreSQL: the pool, the migrations and every SQL statement of Riacho, one file for each
//! aggregate. Nothing above this crate knows SQL or the driver.
//!
//! Two rules hold everywhere. Every write of a stage names its release and is a compare-and-set; and
//! locks are taken in one order: files, advisory locks, documents by id, versions by (document, version).

mod accept;
mod attachments;
mod audit;
mod census;
mod chunks;
mod collections;
mod commands;
mod config;
mod cursor;
mod day;
mod dead_letters;
mod deployment;
mod documents;
mod due;
mod error;
mod files;
mod frequent_words;
mod gone;
mod housekeep;
mod indexing;
mod intake;
mod janitor;
mod keys;
mod known;
pub mod language;
mod leases;
mod lexemes;
mod limits;
pub mod metrics;
pub mod migrate;
mod pauses;
mod pool;
mod purge;
mod read;
mod release;
mod reuse;
mod schedules;
mod search;
mod spaces;
mod spend;
mod stages;
mod start;
mod statements;
mod status;
mod tenants;
mod tls;
mod topology;
mod transaction;
mod uploads;
mod vector_stores;
mod wakeups;
mod webhooks;

pub use self::{
    accept::{Accept, Body, Idempotency, MadeOf, Target},
    attachments::Attachment,
    audit::{Act, ActOutcome, Actor, ListActs, MAX_AUDIT_PAGE, NewAct},
    census::{InFlight, Lost, LostAgain},
    chunks::{ChunkPage, SampledChunk, StoredChunk},
    collections::{Collection, DEFAULT_COLLECTION},
    config::Config,
    cursor::{Page, Part, Window},
    day::{Day, TenantDay},
    dead_letters::{
        AddedLetter, DeadLetter, LetterFilter, LetterState, ListLetters, MAX_LETTERS, NewDeadLetter, Pace,
        ReplayedVersion, Resolve, Resolved, Selection, SkipReason, Skipped,
    },
    documents::{Document, ListDocuments, MAX_PAGE, Original, Parent, TextRef},
    due::{DueFigures, RetentionFigures},
    error::{Conflict, Error},
    files::{File, FilePurge, NewFile},
    indexing::{IndexAnswer, IndexItem},
    intake::{AcceptedEvent, EventAnswer, EventKey},
    janitor::{PurgeOriginal, QueueFigures, ReleaseCaps, Touched},
    keys::{ApiKey, CreatedKey, KeyScope, NewKey, Principal},
    leases::Lease,
    limits::{Limits, OverBudget, OwnLimits, Quota, Usage},
    pauses::{MAX_PAUSE_REASON, Pause},
    pool::{PoolFigures, Role, Store},
    purge::{Purge, PurgeFigures, PurgeKind, PurgeOf, PurgeProgress, Purged, Receipt},
    release::{Accepted, Chunking, Release, ReleasePlan},
    reuse::{ContentHash, Known, WantedVectors},
    schedules::{PlannedTask, RequestedRun, RunState, Schedule, TaskRun},
    search::{
        Comparison, Condition, Fallback, Filter, Highlight, Hit, MAX_QUERY, MAX_TOP_K, Mode, ScoreParts,
        SearchRequest,
    },
    spaces::{
        DueIndex, FillMark, Filled, Filling, Gap, GapChunk, IndexBuilt, Missing, Space, SpaceState, Switched,
        drop_space, ensure_live_space, ensure_space,
    },
    spend::{Budget, MonthSpent, Purpose, Spending, Spent},
    stages::{Extraction, Seal, Sealed, SealedRun},
    status::{HeldBy, MissingPages, Place, Progress, Reason, Status},
    tenants::{Tenant, TenantState},
    topology::Partition,
    uploads::{AwaitedUpload, UploadStage},
    vector_stores::{
        BatchFile, ChangedVectorStore, Counts, FileBatch, MAX_BATCH, Member, MemberId, NewVectorStore,
        RefusedFile, VectorStore,
    },
    wakeups::Wakeups,
    webhooks::{
        AttemptOutcome, CreatedWebhook, Delivery, DueDelivery, MAX_WEBHOOKS, NewEvent, NewWebhook,
        SigningKey, WEBHOOK_EVENTS, Webhook,
    },
};
