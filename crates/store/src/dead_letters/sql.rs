//! The statements about dead letters.
//!
//! Each way to look for letters has statements of its own, so that the plan for it goes by its index
//! whatever the other values are. Their first six parameters are the same: tenant, stage, reason,
//! document, and the time and the id of the cursor.

use riacho_domain::{DocumentId, TenantId};

use super::LetterFilter;

/// Whose letters are looked for, as far as it decides about the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Document = 0,
    Tenant = 1,
    All = 2,
}

impl Whose {
    pub(super) const fn of(tenant: Option<&TenantId>, filter: &LetterFilter) -> Self {
        match (tenant, &filter.document) {
            (_, Some(_)) => Whose::Document,
            (Some(_), None) => Whose::Tenant,
            (None, None) => Whose::All,
        }
    }
}

/// The statement that lists letters: those that are open, or those that are resolved.
pub(super) const fn list(whose: Whose, is_open: bool) -> &'static str {
    LIST[whose as usize][if is_open { 0 } else { 1 }]
}

/// The statement that picks open letters, the oldest first.
pub(super) const fn pick(whose: Whose) -> &'static str {
    PICK[whose as usize]
}

/// The statement that counts what [`pick`] would still find.
pub(super) const fn rest(whose: Whose) -> &'static str {
    REST[whose as usize]
}

/// The statements that look for letters, each with what its parameters end with as SQL writes it.
pub(crate) fn looking(
    tenant: Option<&TenantId>,
    document: Option<DocumentId>,
) -> [(&'static str, &'static str); 3] {
    let whose = Whose::of(tenant, &LetterFilter { document, ..LetterFilter::default() });
    [(list(whose, true), ", NULL"), (list(whose, false), ", 'replayed'"), (pick(whose), "")]
}

macro_rules! letter_columns {
    () => {
        "id, tenant_id, document_id, version, release_id, stage, stream, entry_id, reason_code, message, attempts, trace_id,
       octet_length(original) AS original_bytes, occurred_at, created_at, resolved_at, resolution"
    };
}

macro_rules! picked_columns {
    () => {
        "id, tenant_id, document_id, version, created_at, resolved_at IS NOT NULL AS is_resolved"
    };
}

macro_rules! of_document {
    () => {
        "document_id = $4 AND ($1::text IS NULL OR tenant_id = $1)"
    };
}

macro_rules! of_tenant {
    () => {
        "tenant_id = $1 AND $4::uuid IS NULL"
    };
}

macro_rules! of_all {
    () => {
        "$1::text IS NULL AND $4::uuid IS NULL"
    };
}

macro_rules! filters {
    () => {
        "\n  AND ($2::text IS NULL OR stage = $2) AND ($3::text IS NULL OR reason_code = $3)\n  "
    };
}

macro_rules! list {
    ($whose:ident, $state:literal) => {
        concat!(
            "-- store::dead_letters::dead_letters\nSELECT ",
            letter_columns!(),
            "\nFROM dead_letters\nWHERE ",
            $whose!(),
            " AND ",
            $state,
            filters!(),
            "AND (created_at, id) < (coalesce($5::timestamptz, 'infinity'),
                         coalesce($6::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
ORDER BY created_at DESC, id DESC LIMIT $7"
        )
    };
    ($whose:ident) => {
        [
            list!($whose, "resolved_at IS NULL AND $8::text IS NULL"),
            list!($whose, "resolved_at IS NOT NULL AND resolution = $8"),
        ]
    };
}

macro_rules! after {
    ($whose:ident) => {
        concat!(
            "\nFROM dead_letters\nWHERE ",
            $whose!(),
            " AND resolved_at IS NULL",
            filters!(),
            "AND (created_at, id) > (coalesce($5::timestamptz, '-infinity'),
                         coalesce($6::uuid, '00000000-0000-0000-0000-000000000000'))"
        )
    };
}

macro_rules! pick {
    ($whose:ident) => {
        concat!(
            "-- store::dead_letters::resolve::picked\nSELECT ",
            picked_columns!(),
            after!($whose),
            "\nORDER BY created_at, id LIMIT $7"
        )
    };
}

macro_rules! rest {
    ($whose:ident) => {
        concat!("-- store::dead_letters::resolve::rest\nSELECT count(*) AS letters", after!($whose))
    };
}

const LIST: [[&str; 2]; 3] = [list!(of_document), list!(of_tenant), list!(of_all)];
const PICK: [&str; 3] = [pick!(of_document), pick!(of_tenant), pick!(of_all)];
const REST: [&str; 3] = [rest!(of_document), rest!(of_tenant), rest!(of_all)];

pub(super) const MANY_OF_INTAKE: &str = "-- store::dead_letters::add_dead_letter
SELECT 1 FROM dead_letters WHERE tenant_id = $1 AND stage = 'intake' AND resolved_at IS NULL OFFSET 1000 LIMIT 1";

// It waits for a purge that is about to remove the row, and a purge waits for it.
pub(super) const LOCK_DOCUMENT: &str = "-- store::dead_letters::add_dead_letter
SELECT id FROM documents WHERE id = $1 FOR KEY SHARE";

pub(super) const PURGED: &str = "-- store::dead_letters::add_dead_letter
SELECT id FROM receipts WHERE document_id = $1 LIMIT 1";

// A tenant that is gone, or never was, leaves the letter without one.
pub(super) const ADD: &str = "-- store::dead_letters::add_dead_letter
INSERT INTO dead_letters (id, tenant_id, document_id, version, release_id, stage, stream, entry_id, reason_code, message,
    attempts, trace_id, original, occurred_at)
VALUES ($1, (SELECT t.id FROM tenants AS t WHERE t.id = $2), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (stream, entry_id) DO NOTHING";

pub(super) const FAIL: &str = "-- store::dead_letters::add_dead_letter
UPDATE document_versions SET state = 'failed', error_code = $4, error_message = $5, finished_at = now()
WHERE document_id = $1 AND version = $2 AND release_id = $3
  AND state IN ('releasing', 'extracting', 'embedding', 'indexing')";

pub(super) const COUNT_OPEN: &str = "-- store::dead_letters::unresolved_letters
SELECT stage, count(*) AS letters FROM dead_letters WHERE tenant_id = $1 AND resolved_at IS NULL GROUP BY stage";

pub(super) const OPEN: &str = "-- store::dead_letters::open_dead_letters
SELECT count(*) FROM (SELECT FROM dead_letters WHERE resolved_at IS NULL LIMIT $1) AS open";

pub(super) const GET: &str = concat!(
    "-- store::dead_letters::dead_letter\nSELECT ",
    letter_columns!(),
    ", original\nFROM dead_letters WHERE ($1::text IS NULL OR tenant_id = $1) AND id = $2"
);

pub(super) const NAMED: &str = concat!(
    "-- store::dead_letters::resolve::named\nSELECT ",
    picked_columns!(),
    "\nFROM dead_letters WHERE ($1::text IS NULL OR tenant_id = $1) AND id = ANY ($2)\nORDER BY created_at, id"
);

pub(super) const LOCK_OPEN: &str = "-- store::dead_letters::resolve::release_again
SELECT id FROM dead_letters
WHERE tenant_id = $1 AND document_id = $2 AND version = $3 AND resolved_at IS NULL
ORDER BY id FOR UPDATE";

pub(super) const REPLAYED: &str = "-- store::dead_letters::resolve::release_again
UPDATE dead_letters SET resolved_at = now(), resolution = 'replayed' WHERE id = ANY ($1) AND resolved_at IS NULL";

pub(super) const DISCARD: &str = "-- store::dead_letters::resolve::discard_dead_letters
UPDATE dead_letters SET resolved_at = now(), resolution = 'discarded'
WHERE ($1::text IS NULL OR tenant_id = $1) AND id = ANY ($2) AND resolved_at IS NULL
RETURNING id";

/// The statements of this folder.
pub(crate) const STATEMENTS: &[&str] = &[
    LIST[0][0],
    LIST[0][1],
    LIST[1][0],
    LIST[1][1],
    LIST[2][0],
    LIST[2][1],
    PICK[0],
    PICK[1],
    PICK[2],
    REST[0],
    REST[1],
    REST[2],
    MANY_OF_INTAKE,
    LOCK_DOCUMENT,
    PURGED,
    ADD,
    FAIL,
    COUNT_OPEN,
    OPEN,
    GET,
    NAMED,
    LOCK_OPEN,
    REPLAYED,
    DISCARD,
];
