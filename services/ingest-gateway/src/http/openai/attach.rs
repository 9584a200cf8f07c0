//! Attaching files to a vector store: each becomes a document of its collection.
//!
//! The document's external id says which file it is in which vector store. So the same file in two of them is two documents, and
//! attaching one again is answered by the document that is there, or is a new version of it where it differs or had failed.

use futures::{Stream, StreamExt, TryStreamExt, stream};
use riacho_domain::{Lane, TenantId};
use riacho_store::{Accept, Accepted, Body, Chunking, File, MadeOf, VectorStore};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    super::{App, problem::Problem, trace::Trace},
    ids::Kind,
    pairs,
};

/// How many files of one request are attached at once.
const AT_ONCE: usize = 8;
/// Sizes of chunks that a client may ask for, in tokens.
const CHUNK_TOKENS: std::ops::RangeInclusive<u32> = 100..=4_096;

/// How a file is cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum ChunkingStrategy {
    /// As the gateway is configured.
    Auto {},
    /// As the client says.
    Static {
        #[serde(rename = "static")]
        sizes: Sizes,
    },
}

/// Sizes in tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sizes {
    max_chunk_size_tokens: u32,
    chunk_overlap_tokens: u32,
}

impl ChunkingStrategy {
    /// How a document is cut, as the API says it.
    pub(super) const fn of(chunking: &Chunking) -> Self {
        ChunkingStrategy::Static {
            sizes: Sizes {
                max_chunk_size_tokens: chunking.max_tokens,
                chunk_overlap_tokens: chunking.overlap_tokens,
            },
        }
    }
}

fn chunking(app: &App, strategy: Option<&ChunkingStrategy>) -> Result<Chunking, Problem> {
    let config = &app.config().chunking;
    let tokenizer = config.tokenizer.clone();
    let Some(ChunkingStrategy::Static { sizes }) = strategy else {
        return Ok(Chunking {
            max_tokens: config.max_tokens,
            overlap_tokens: config.overlap_tokens.min(config.max_tokens / 2),
            tokenizer,
        });
    };
    let &Sizes { max_chunk_size_tokens, chunk_overlap_tokens } = sizes;
    if !CHUNK_TOKENS.contains(&max_chunk_size_tokens) {
        return Err(Problem::field(
            "chunking_strategy.static.max_chunk_size_tokens",
            format!("must be {} to {}", CHUNK_TOKENS.start(), CHUNK_TOKENS.end()),
        ));
    }
    if chunk_overlap_tokens > max_chunk_size_tokens / 2 {
        return Err(Problem::field(
            "chunking_strategy.static.chunk_overlap_tokens",
            format!("must be at most half of max_chunk_size_tokens, {}", max_chunk_size_tokens / 2),
        ));
    }
    Ok(Chunking { max_tokens: max_chunk_size_tokens, overlap_tokens: chunk_overlap_tokens, tokenizer })
}

/// Attributes of a file in a vector store: what searches filter on.
pub(super) fn attributes(given: Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    let fits = |value: &Value| matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_));
    pairs("attributes", given, ("a text, a number, true or false", fits))
}

/// A file to be attached, as a request names it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    pub(super) file_id: String,
    pub(super) attributes: Option<Map<String, Value>>,
    pub(super) chunking_strategy: Option<ChunkingStrategy>,
}

/// A file to be attached, checked.
pub(super) struct Wanted {
    pub(super) file: Uuid,
    attributes: Option<Map<String, Value>>,
    chunking: Chunking,
}

impl Wanted {
    /// Checks what a request says of a file.
    pub(super) fn new(app: &App, named: Named) -> Result<Wanted, Problem> {
        Ok(Wanted {
            file: Kind::File.of_field("file_id", &named.file_id)?,
            attributes: named.attributes.map(attributes).transpose()?,
            chunking: chunking(app, named.chunking_strategy.as_ref())?,
        })
    }
}

/// The files that are to be attached to a vector store, which has to be there as they have.
pub(super) async fn known_files(
    app: &App,
    tenant: &TenantId,
    store: &VectorStore,
    wanted: &[Wanted],
) -> Result<Vec<File>, Problem> {
    if store.is_expired() {
        return Err(Problem::bad_request("the vector store has expired"));
    }
    all_are_there(app, tenant, wanted).await
}

/// The files that are wanted; an error where one is not there.
pub(super) async fn all_are_there(
    app: &App,
    tenant: &TenantId,
    wanted: &[Wanted],
) -> Result<Vec<File>, Problem> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = wanted.iter().map(|wanted| wanted.file).collect();
    let files = app.store().files(tenant, &ids).await?;
    match wanted.iter().all(|wanted| files.iter().any(|file| file.id == wanted.file)) {
        true => Ok(files),
        false => Err(Kind::File.not_found()),
    }
}

/// How urgent files are: many at once give way to others.
pub(super) fn lane(wanted: &[Wanted]) -> Lane {
    if wanted.len() > 1 { Lane::Bulk } else { Lane::Interactive }
}

/// Attaches files to a vector store, in no order. When one of them fails, those before it stay attached; the same request
/// again attaches the rest and changes nothing of these.
pub(super) async fn attach(
    app: &App,
    (tenant, trace): (&TenantId, &Trace),
    store: &VectorStore,
    wanted: Vec<Wanted>,
) -> Result<Vec<Accepted>, Problem> {
    let files = known_files(app, tenant, store, &wanted).await?;
    let lane = lane(&wanted);
    attach_known(app, (tenant, trace, lane), store, &files, wanted).await
}

/// As [`attach`], where the files were looked up.
pub(super) async fn attach_known(
    app: &App,
    how: (&TenantId, &Trace, Lane),
    store: &VectorStore,
    files: &[File],
    wanted: Vec<Wanted>,
) -> Result<Vec<Accepted>, Problem> {
    let attached = attaching(app, how, store, files, wanted);
    let attached = attached.map(|(_, attached)| attached).try_collect().await?;
    app.store().touch_vector_store(how.0, store.id).await?;
    Ok(attached)
}

/// As [`attach_known`], where each file is attached or refused by itself.
pub(super) async fn attach_each(
    app: &App,
    how: (&TenantId, &Trace, Lane),
    store: &VectorStore,
    files: &[File],
    wanted: Vec<Wanted>,
) -> Result<Vec<(Uuid, Result<Accepted, Problem>)>, Problem> {
    let attached = attaching(app, how, store, files, wanted).collect().await;
    app.store().touch_vector_store(how.0, store.id).await?;
    Ok(attached)
}

/// Attaches files, some at once, and says what became of each.
fn attaching<'a>(
    app: &'a App,
    (tenant, trace, lane): (&'a TenantId, &'a Trace, Lane),
    store: &'a VectorStore,
    files: &'a [File],
    wanted: Vec<Wanted>,
) -> impl Stream<Item = (Uuid, Result<Accepted, Problem>)> + 'a {
    let attached = move |wanted: Wanted| async move {
        let id = wanted.file;
        let Some(file) = files.iter().find(|file| file.id == id) else {
            return (id, Err(Kind::File.not_found()));
        };
        let mut accept = accept_of(tenant, store, file, wanted);
        (accept.lane, accept.traceparent) = (lane, trace.traceparent.clone());
        (id, app.attach(&accept).await.map_err(Problem::from))
    };
    stream::iter(wanted).map(attached).buffer_unordered(AT_ONCE)
}

fn accept_of(tenant: &TenantId, store: &VectorStore, file: &File, wanted: Wanted) -> Accept {
    let body = Body::Stored { size: file.size, sha256: file.sha256 };
    let mut accept = Accept::new(tenant.clone(), file.filename.clone(), file.object_key.clone(), body);
    accept.external_id = Some(format!("{}/{}", Kind::Store.id(store.id), Kind::File.id(file.id)));
    accept.collection = Some(store.collection.clone());
    accept.content_type = file.content_type.clone();
    accept.metadata = wanted.attributes;
    accept.chunking = wanted.chunking;
    accept.made_of = Some(MadeOf { file: file.id, collection: store.id });
    accept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_strategy_is_read_and_answered_in_the_same_words() {
        let read = |value: Value| serde_json::from_value::<ChunkingStrategy>(value);
        assert_eq!(read(json!({"type": "auto"})).unwrap(), ChunkingStrategy::Auto {});
        let said =
            json!({"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 50}});
        assert_eq!(serde_json::to_value(read(said.clone()).unwrap()).unwrap(), said);
        for wrong in [json!({"type": "static"}), json!({"type": "other"}), json!({"type": "auto", "x": 1})] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn attributes_are_texts_numbers_and_booleans() {
        let check = |value: Value| attributes(value.as_object().unwrap().clone());
        assert!(check(json!({"a": "x", "b": 1.5, "c": true})).is_ok());
        assert!(check(json!({"a": null})).is_err() && check(json!({"a": [1]})).is_err());
    }
}
