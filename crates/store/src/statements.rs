//! All statements, so that a test can prepare each against the real schema: a typing error in one
//! that runs once a month is found at once.

use chrono::{DateTime, Utc};
use riacho_domain::{DocumentId, SpaceId, State, TenantId};
use tokio_postgres::SimpleQueryMessage;
use uuid::Uuid;

use crate::{
    ListDocuments, accept, attachments, audit, census, chunks, collections, commands, day, dead_letters,
    deployment, documents, due, files, frequent_words, housekeep, indexing, intake, janitor, keys, leases,
    limits, migrate, pauses, pool, purge, release, reuse, schedules, search, spaces, spend, stages, start,
    status, tenants, topology, uploads,
    vector_stores::{self, members},
    webhooks,
};

impl crate::Store {
    /// Prepares every statement of the crate in this store's role, and answers those that fail, with
    /// the reason. For tests and diagnosis.
    pub async fn broken_statements(&self, space: SpaceId) -> Result<Vec<(String, String)>, crate::Error> {
        let client = self.client().await?;
        let mut broken = Vec::new();
        for sql in all(space) {
            if !sql.starts_with("-- store::") {
                broken.push((sql.clone(), "its first line does not name its function".to_owned()));
            }
            if let Err(error) = client.prepare(&sql).await {
                broken.push((sql, crate::Error::from(error).to_string()));
            }
        }
        Ok(broken)
    }
}

/// What a statement that is about single documents may find rows by, in the tables of all of them.
const KEYS: &[&str] = &[
    "documents_pkey",
    "documents_external_id",
    "documents_attachments",
    "document_versions_pkey",
    "document_versions_same_bytes",
    "chunks_content",
];

impl crate::Store {
    /// The statements of uploads and stages whose plan, made now, walks rows of documents that they are
    /// not about, with the index or the kind of the scan. For tests and diagnosis.
    pub async fn walking_statements(&self, space: SpaceId) -> Result<Vec<(String, String)>, crate::Error> {
        let client = self.client().await?;
        let mut walking = Vec::new();
        for sql in for_each_document(space) {
            // The extended protocol would ask for values.
            let explain = format!("EXPLAIN (GENERIC_PLAN, FORMAT JSON) {sql}");
            let mut text = String::new();
            for message in client.simple_query(&explain).await? {
                if let SimpleQueryMessage::Row(row) = message {
                    text.push_str(row.get(0).unwrap_or_default());
                }
            }
            let plan = serde_json::from_str(&text).map_err(|error| crate::Error::Row(error.to_string()))?;
            scans(&plan, &mut |scan| walking.push((sql.clone(), scan)));
        }
        Ok(walking)
    }
}

impl crate::Store {
    /// What the lists of dead letters are read by, planned now for these values: the index, or the kind of
    /// the scan. For tests and diagnosis.
    pub async fn letter_scans(
        &self,
        tenant: Option<&TenantId>,
        document: Option<DocumentId>,
    ) -> Result<Vec<String>, crate::Error> {
        let client = self.client().await?;
        let quoted =
            |text: Option<String>| text.map_or_else(|| "NULL".to_owned(), |text| format!("'{text}'"));
        let (tenant_text, document_text) =
            (quoted(tenant.map(ToString::to_string)), quoted(document.map(|d| d.to_string())));
        let mut found = Vec::new();
        for (sql, last) in dead_letters::looking(tenant, document) {
            let execute = format!(
                "DEALLOCATE ALL; PREPARE looking AS {sql}; EXPLAIN (FORMAT JSON) EXECUTE looking \
                 ({tenant_text}, NULL, NULL, {document_text}, NULL, NULL, 51{last})"
            );
            let mut text = String::new();
            for message in client.simple_query(&execute).await? {
                if let SimpleQueryMessage::Row(row) = message {
                    text.push_str(row.get(0).unwrap_or_default());
                }
            }
            let plan = serde_json::from_str(&text).map_err(|error| crate::Error::Row(error.to_string()))?;
            leaves(&plan, &mut found);
        }
        // Statements that were prepared here are not the pool's to reuse.
        drop(deadpool_postgres::Object::take(client));
        Ok(found)
    }
}

impl crate::Store {
    /// What a list of a tenant's documents is read by, planned now for these values: the index, or the kind of the scan, with
    /// what it is looked up by. For tests and diagnosis.
    pub async fn document_scans(
        &self,
        tenant: &TenantId,
        list: &ListDocuments,
    ) -> Result<Vec<String>, crate::Error> {
        let after = list.cursor.as_deref().map(crate::cursor::decode_time).transpose()?;
        let values = [
            Some(tenant.to_string()),
            list.collection.map(|id| id.to_string()),
            list.state.map(|state| state.to_string()),
            list.external_id.clone(),
            after.map(|(time, _)| time.to_rfc3339()),
            after.map(|(_, id)| id.to_string()),
            Some(list.limit.to_string()),
            list.parent.map(|id| id.to_string()),
        ];
        self.list_scans(tenant, &documents::list_sql(list), &values).await
    }

    /// The same of a list of a collection's documents as files of a vector store.
    pub async fn member_scans(
        &self,
        tenant: &TenantId,
        collection: Uuid,
        states: Option<&[State]>,
        after: Option<(DateTime<Utc>, Uuid)>,
    ) -> Result<Vec<String>, crate::Error> {
        let asked = members::Asked {
            batch: false,
            states: states.is_some(),
            lower: false,
            upper: after.is_some(),
            order: "DESC",
        };
        let states =
            states.map(|states| states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(","));
        let values = [
            Some(tenant.to_string()),
            Some(collection.to_string()),
            None,
            states.map(|states| format!("{{{states}}}")),
            None,
            None,
            after.map(|(time, _)| time.to_rfc3339()),
            after.map(|(_, id)| id.to_string()),
            Some("101".to_owned()),
        ];
        self.list_scans(tenant, &members::list_sql(asked), &values).await
    }

    async fn list_scans(
        &self,
        tenant: &TenantId,
        sql: &str,
        values: &[Option<String>],
    ) -> Result<Vec<String>, crate::Error> {
        let client = self.client().await?;
        let quoted = |text: &Option<String>| {
            text.as_ref().map_or_else(|| "NULL".to_owned(), |text| format!("'{text}'"))
        };
        let execute = format!(
            "SET riacho.tenant = '{tenant}'; SET plan_cache_mode = force_custom_plan; PREPARE listing AS {sql}; \
             EXPLAIN (FORMAT JSON) EXECUTE listing ({})",
            values.iter().map(quoted).collect::<Vec<_>>().join(", ")
        );
        let mut text = String::new();
        for message in client.simple_query(&execute).await? {
            if let SimpleQueryMessage::Row(row) = message {
                text.push_str(row.get(0).unwrap_or_default());
            }
        }
        drop(deadpool_postgres::Object::take(client));
        let plan = serde_json::from_str(&text).map_err(|error| crate::Error::Row(error.to_string()))?;
        let mut found = Vec::new();
        leaves(&plan, &mut found);
        Ok(found)
    }
}

/// The index of each scan of a plan, or the kind of the scan.
fn leaves(plan: &serde_json::Value, found: &mut Vec<String>) {
    use serde_json::Value;
    match plan {
        Value::Array(parts) => parts.iter().for_each(|part| leaves(part, found)),
        Value::Object(node) => {
            let text = |key: &str| node.get(key).and_then(Value::as_str).map(str::to_owned);
            match (text("Index Name"), text("Relation Name")) {
                (Some(index), _) => found.push(index),
                // The heap of a bitmap; its index stands below.
                (None, Some(_)) if node.contains_key("Plans") => {}
                (None, Some(_)) => found.extend(text("Node Type")),
                (None, None) => {}
            }
            node.values().for_each(|part| leaves(part, found));
        }
        _ => {}
    }
}

/// Whether a table, or the index of one, has rows of all documents: a scan of it has to be by a key.
fn is_of_documents(name: &str) -> bool {
    ["document", "chunks", "vectors_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Whether what is found by an index is little, whatever stands in the table. The key of chunks is not asked for: it
/// begins with the tenant, and by that alone it would be walked.
fn is_key(index: &str) -> bool {
    KEYS.contains(&index) || index.starts_with("vectors_") && index.ends_with("_pkey")
}

/// Finds the scans of a plan that are not by a key.
fn scans(plan: &serde_json::Value, found: &mut impl FnMut(String)) {
    use serde_json::Value;
    match plan {
        Value::Array(parts) => parts.iter().for_each(|part| scans(part, found)),
        Value::Object(node) => {
            let text = |key: &str| node.get(key).and_then(Value::as_str);
            let is_watched = text("Relation Name").is_some_and(is_of_documents);
            let (kind, index) = (text("Node Type").unwrap_or_default(), text("Index Name"));
            match index {
                Some(index) if is_of_documents(index) && !is_key(index) => found(index.to_owned()),
                None if is_watched && kind == "Seq Scan" => found(kind.to_owned()),
                _ => {}
            }
            node.values().for_each(|part| scans(part, found));
        }
        _ => {}
    }
}

/// The statements that run for each document, on its way in or through the stages.
fn for_each_document(space: SpaceId) -> Vec<String> {
    let fixed = [
        accept::STATEMENTS,
        accept::WRITE_STATEMENTS,
        attachments::REPLACE_STATEMENTS,
        intake::STATEMENTS,
        release::STATEMENTS,
        stages::STATEMENTS,
        &[status::STATUS],
    ];
    let mut sql: Vec<String> = fixed.concat().into_iter().map(str::to_owned).collect();
    sql.extend(indexing::statements(space));
    sql.extend(reuse::statements(space));
    sql
}

/// The statements of the services and the janitor, for a space.
fn all(space: SpaceId) -> Vec<String> {
    let fixed = [
        accept::STATEMENTS,
        accept::WRITE_STATEMENTS,
        attachments::STATEMENTS,
        attachments::REPLACE_STATEMENTS,
        audit::STATEMENTS,
        census::STATEMENTS,
        chunks::STATEMENTS,
        collections::STATEMENTS,
        commands::STATEMENTS,
        day::STATEMENTS,
        dead_letters::STATEMENTS,
        deployment::STATEMENTS,
        documents::STATEMENTS,
        due::STATEMENTS,
        files::STATEMENTS,
        frequent_words::STATEMENTS,
        intake::STATEMENTS,
        janitor::STATEMENTS,
        keys::STATEMENTS,
        leases::STATEMENTS,
        limits::STATEMENTS,
        migrate::STATEMENTS,
        pauses::STATEMENTS,
        pool::STATEMENTS,
        release::STATEMENTS,
        schedules::STATEMENTS,
        spend::STATEMENTS,
        stages::STATEMENTS,
        start::STATEMENTS,
        status::STATEMENTS,
        tenants::STATEMENTS,
        topology::STATEMENTS,
        uploads::STATEMENTS,
    ];
    let fixed = [&fixed[..], webhooks::STATEMENTS].concat();
    let mut all: Vec<String> = fixed.concat().into_iter().map(str::to_owned).collect();
    all.extend(documents::list_statements());
    all.extend(members::list_statements());
    all.extend(indexing::statements(space));
    all.extend(spaces::statements(space));
    all.extend(search::statements(space));
    all.extend(purge::statements(space));
    all.extend(reuse::statements(space));
    all.extend(housekeep::statements().into_iter().map(str::to_owned));
    all.extend(vector_stores::statements().into_iter().map(str::to_owned));
    all
}
