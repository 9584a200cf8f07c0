//! What an upload says beside its bytes: the same fields in a form, a query and a JSON body.

use std::time::Duration;

use riacho_domain::Lane;
use riacho_store::{Accept, Chunking};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::problem::Problem;
use crate::Config;

/// The longest external id, in characters.
pub(crate) const MAX_EXTERNAL_ID: usize = 512;
/// The longest name of a collection, in characters.
const MAX_COLLECTION: usize = 200;
/// The longest time to live: a hundred years.
const MAX_TTL_SECONDS: u64 = 100 * 365 * 86_400;
/// The deepest nesting of metadata.
const MAX_DEPTH: usize = 16;
/// Chunk sizes that make sense, in tokens.
const CHUNK_TOKENS: std::ops::RangeInclusive<u32> = 16..=8_192;
/// Vocabularies that the extractor has.
const TOKENIZERS: [&str; 2] = ["o200k_base", "cl100k_base"];

/// What an upload says beside its bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) filename: Option<String>,
    pub(crate) external_id: Option<String>,
    pub(crate) collection: Option<String>,
    pub(crate) metadata: Option<Map<String, Value>>,
    pub(crate) lane: Option<Lane>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) chunk_max_tokens: Option<u32>,
    pub(crate) chunk_overlap_tokens: Option<u32>,
    pub(crate) tokenizer: Option<String>,
}

/// What an upload says of how it is cut: target size, overlap, tokenizer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnChunking(Option<u32>, Option<u32>, Option<String>);

/// The fields as the OpenAPI document shows them for a query.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code)] // read by `Settings::from_query`, so that a form and a query have one reader
pub(crate) struct SettingsQuery {
    /// The file's name, for a raw body. A path is reduced to its last component.
    filename: Option<String>,
    /// The uploader's own id. One that is known makes the upload a new version of its document.
    external_id: Option<String>,
    /// Name of the collection, made when it is not there. `default` when not given.
    collection: Option<String>,
    /// A JSON object that searches can filter on.
    metadata: Option<String>,
    /// How urgent it is: `interactive` (default), `bulk` or `background`.
    lane: Option<String>,
    /// How long the document lives, in seconds. For ever when not given.
    ttl_seconds: Option<u64>,
    /// Target size of a chunk in tokens.
    chunk_max_tokens: Option<u32>,
    /// Tokens that a chunk repeats of the one before it.
    chunk_overlap_tokens: Option<u32>,
    /// `o200k_base` (default) or `cl100k_base`.
    tokenizer: Option<String>,
}

/// The fields of a form, with the file.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // shape of the OpenAPI document
pub(crate) struct UploadForm {
    /// The file.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// The uploader's own id. One that is known makes the upload a new version of its document.
    external_id: Option<String>,
    /// Name of the collection, made when it is not there. `default` when not given.
    collection: Option<String>,
    /// A JSON object that searches can filter on.
    metadata: Option<String>,
    /// How urgent it is: `interactive` (default), `bulk` or `background`.
    lane: Option<String>,
    /// How long the document lives, in seconds. For ever when not given.
    ttl_seconds: Option<u64>,
    /// Target size of a chunk in tokens.
    chunk_max_tokens: Option<u32>,
    /// Tokens that a chunk repeats of the one before it.
    chunk_overlap_tokens: Option<u32>,
    /// `o200k_base` (default) or `cl100k_base`.
    tokenizer: Option<String>,
}

/// The fields of a JSON body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettingsBody {
    /// The file's name. A path is reduced to its last component.
    pub(crate) filename: String,
    /// The file's media type. The upload must carry the same.
    pub(crate) content_type: Option<String>,
    /// How long the upload URL is valid, in seconds.
    pub(crate) expires_in_seconds: Option<u64>,
    /// The uploader's own id. One that is known makes the upload a new version of its document.
    external_id: Option<String>,
    /// Name of the collection, made when it is not there. `default` when not given.
    collection: Option<String>,
    /// A JSON object that searches can filter on.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// How urgent it is: `interactive` (default), `bulk` or `background`.
    #[schema(value_type = Option<String>)]
    lane: Option<Lane>,
    /// How long the document lives, in seconds. For ever when not given.
    ttl_seconds: Option<u64>,
    /// Target size of a chunk in tokens.
    chunk_max_tokens: Option<u32>,
    /// Tokens that a chunk repeats of the one before it.
    chunk_overlap_tokens: Option<u32>,
    /// `o200k_base` (default) or `cl100k_base`.
    tokenizer: Option<String>,
}

/// A line of a request with many documents. What it leaves out is as the query says.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkLine {
    /// The file's name. A path is reduced to its last component.
    pub(crate) filename: String,
    /// The content, where it is text.
    text: Option<String>,
    /// The content in base64, where it is not.
    base64: Option<String>,
    /// The file's media type; what the name suggests when not given.
    pub(crate) content_type: Option<String>,
    /// The uploader's own id. One that is known makes the line a new version of its document.
    external_id: Option<String>,
    /// Name of the collection, made when it is not there. `default` when not given.
    collection: Option<String>,
    /// A JSON object that searches can filter on.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// How urgent it is: `interactive`, `bulk` (default) or `background`.
    #[schema(value_type = Option<String>)]
    lane: Option<Lane>,
    /// How long the document lives, in seconds. For ever when not given.
    ttl_seconds: Option<u64>,
    /// Target size of a chunk in tokens.
    chunk_max_tokens: Option<u32>,
    /// Tokens that a chunk repeats of the one before it.
    chunk_overlap_tokens: Option<u32>,
    /// `o200k_base` (default) or `cl100k_base`.
    tokenizer: Option<String>,
}

/// The content of a line.
#[derive(Debug)]
pub(crate) enum BulkContent {
    /// As it is.
    Text(String),
    /// In base64.
    Base64(String),
}

/// The fields of a file that is fetched.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UrlBody {
    /// Where the file is: an http or https address of the public network.
    url: String,
    /// The file's name; the last part of the address when not given.
    filename: Option<String>,
    /// The uploader's own id. One that is known makes the upload a new version of its document.
    external_id: Option<String>,
    /// Name of the collection, made when it is not there. `default` when not given.
    collection: Option<String>,
    /// A JSON object that searches can filter on.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// How urgent it is: `interactive` (default), `bulk` or `background`.
    #[schema(value_type = Option<String>)]
    lane: Option<Lane>,
    /// How long the document lives, in seconds. For ever when not given.
    ttl_seconds: Option<u64>,
    /// Target size of a chunk in tokens.
    chunk_max_tokens: Option<u32>,
    /// Tokens that a chunk repeats of the one before it.
    chunk_overlap_tokens: Option<u32>,
    /// `o200k_base` (default) or `cl100k_base`.
    tokenizer: Option<String>,
}

impl Settings {
    /// These settings, and for what they leave out those of `other`.
    pub(crate) fn or(self, other: Settings) -> Settings {
        Settings {
            filename: self.filename.or(other.filename),
            external_id: self.external_id.or(other.external_id),
            collection: self.collection.or(other.collection),
            metadata: self.metadata.or(other.metadata),
            lane: self.lane.or(other.lane),
            ttl: self.ttl.or(other.ttl),
            chunk_max_tokens: self.chunk_max_tokens.or(other.chunk_max_tokens),
            chunk_overlap_tokens: self.chunk_overlap_tokens.or(other.chunk_overlap_tokens),
            tokenizer: self.tokenizer.or(other.tokenizer),
        }
    }

    /// Reads a line of JSON, of a request with many documents.
    pub(crate) fn from_line(asked: BulkLine, config: &Config) -> Result<(BulkContent, Settings), Problem> {
        let content = match (asked.text, asked.base64) {
            (Some(text), None) => BulkContent::Text(text),
            (None, Some(base64)) => BulkContent::Base64(base64),
            (None, None) => return Err(Problem::field("text", "is missing, and so is `base64`")),
            (Some(_), Some(_)) => return Err(Problem::field("base64", "cannot be there beside `text`")),
        };
        let body = SettingsBody {
            filename: asked.filename,
            external_id: asked.external_id,
            collection: asked.collection,
            metadata: asked.metadata,
            lane: asked.lane,
            ttl_seconds: asked.ttl_seconds,
            chunk_max_tokens: asked.chunk_max_tokens,
            chunk_overlap_tokens: asked.chunk_overlap_tokens,
            tokenizer: asked.tokenizer,
            ..SettingsBody::default()
        };
        Ok((content, Settings::from_body(body, config)?))
    }

    /// Reads what is said of a file that is fetched, and where it is.
    pub(crate) fn from_url_body(asked: UrlBody, config: &Config) -> Result<(String, Settings), Problem> {
        let body = SettingsBody {
            filename: String::new(),
            external_id: asked.external_id,
            collection: asked.collection,
            metadata: asked.metadata,
            lane: asked.lane,
            ttl_seconds: asked.ttl_seconds,
            chunk_max_tokens: asked.chunk_max_tokens,
            chunk_overlap_tokens: asked.chunk_overlap_tokens,
            tokenizer: asked.tokenizer,
            ..SettingsBody::default()
        };
        let settings = Settings { filename: asked.filename, ..Settings::from_body(body, config)? };
        Ok((asked.url, settings))
    }
}

impl Settings {
    /// Reads a query.
    pub(crate) fn from_query(query: Option<&str>, config: &Config) -> Result<Settings, Problem> {
        let mut settings = Settings::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            settings.set(&name, &value, config)?;
        }
        Ok(settings)
    }

    /// Reads a JSON body.
    pub(crate) fn from_body(body: SettingsBody, config: &Config) -> Result<Settings, Problem> {
        let mut settings = Settings {
            filename: Some(body.filename),
            lane: body.lane,
            chunk_max_tokens: body.chunk_max_tokens,
            chunk_overlap_tokens: body.chunk_overlap_tokens,
            tokenizer: body.tokenizer,
            ..Settings::default()
        };
        settings.external_id = body.external_id.map(|id| external_id(&id)).transpose()?;
        settings.collection = body.collection.map(|name| collection_name("collection", &name)).transpose()?;
        settings.ttl = body.ttl_seconds.map(ttl).transpose()?;
        if let Some(value) = body.metadata {
            let size = value.to_string().len();
            settings.metadata = Some(metadata(value, size, config)?);
        }
        Ok(settings)
    }

    /// Sets the field `name` from text.
    pub(crate) fn set(&mut self, name: &str, text: &str, config: &Config) -> Result<(), Problem> {
        match name {
            "filename" => self.filename = Some(text.to_owned()),
            "external_id" => self.external_id = Some(external_id(text)?),
            "collection" => self.collection = Some(collection_name(name, text)?),
            "metadata" => {
                let value = serde_json::from_str(text)
                    .map_err(|e| Problem::field(name, format!("is not JSON: {e}")))?;
                self.metadata = Some(metadata(value, text.len(), config)?);
            }
            "lane" => self.lane = Some(text.parse().map_err(|e: String| Problem::field(name, e))?),
            "ttl_seconds" => self.ttl = Some(ttl(number(name, text)?)?),
            "chunk_max_tokens" => self.chunk_max_tokens = Some(number(name, text)?),
            "chunk_overlap_tokens" => self.chunk_overlap_tokens = Some(number(name, text)?),
            "tokenizer" => self.tokenizer = Some(text.to_owned()),
            _ => return Err(Problem::field(name, "is not a field of an upload")),
        }
        Ok(())
    }

    /// What the upload itself says of how it is cut. Gateways can differ in the rest while a new configuration
    /// is rolled out.
    pub(crate) fn own_chunking(&self) -> OwnChunking {
        OwnChunking(self.chunk_max_tokens, self.chunk_overlap_tokens, self.tokenizer.clone())
    }

    /// How the document is cut: what the upload says, the configuration for the rest.
    pub(crate) fn chunking(&self, config: &Config) -> Result<Chunking, Problem> {
        let max_tokens = self.chunk_max_tokens.unwrap_or(config.chunking.max_tokens);
        if !CHUNK_TOKENS.contains(&max_tokens) {
            return Err(Problem::field(
                "chunk_max_tokens",
                format!("must be {} to {}", CHUNK_TOKENS.start(), CHUNK_TOKENS.end()),
            ));
        }
        let overlap_tokens =
            self.chunk_overlap_tokens.unwrap_or(config.chunking.overlap_tokens.min(max_tokens / 2));
        if overlap_tokens > max_tokens / 2 {
            return Err(Problem::field(
                "chunk_overlap_tokens",
                format!("must be at most half of chunk_max_tokens, {}", max_tokens / 2),
            ));
        }
        let tokenizer = self.tokenizer.clone().unwrap_or_else(|| config.chunking.tokenizer.clone());
        if !TOKENIZERS.contains(&tokenizer.as_str()) {
            return Err(Problem::field("tokenizer", format!("must be one of {}", TOKENIZERS.join(", "))));
        }
        Ok(Chunking { max_tokens, overlap_tokens, tokenizer })
    }

    /// Fills in what the upload says.
    pub(crate) fn apply(self, accept: &mut Accept, config: &Config) -> Result<(), Problem> {
        accept.chunking = self.chunking(config)?;
        accept.external_id = self.external_id;
        accept.collection = self.collection;
        accept.metadata = self.metadata;
        accept.lane = self.lane.unwrap_or_default();
        accept.ttl = self.ttl;
        Ok(())
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, Problem> {
    text.trim().parse().map_err(|_| Problem::field(name, "must be a whole number that is not negative"))
}

fn ttl(seconds: u64) -> Result<Duration, Problem> {
    match (1..=MAX_TTL_SECONDS).contains(&seconds) {
        true => Ok(Duration::from_secs(seconds)),
        false => Err(Problem::field("ttl_seconds", format!("must be 1 to {MAX_TTL_SECONDS}"))),
    }
}

/// An external id: any text without control characters.
pub(crate) fn external_id(text: &str) -> Result<String, Problem> {
    name_of("external_id", text, MAX_EXTERNAL_ID)
}

/// The name of a collection.
pub(crate) fn collection_name(field: &str, text: &str) -> Result<String, Problem> {
    name_of(field, text, MAX_COLLECTION)
}

fn name_of(field: &str, text: &str, longest: usize) -> Result<String, Problem> {
    let length = text.chars().count();
    match (1..=longest).contains(&length) && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(Problem::field(
            field,
            format!("must be 1 to {longest} characters, none of them a control character"),
        )),
    }
}

/// Metadata: a JSON object within bounds that PostgreSQL can store.
pub(crate) fn metadata(value: Value, size: usize, config: &Config) -> Result<Map<String, Value>, Problem> {
    if size > config.max_metadata_bytes {
        return Err(Problem::field(
            "metadata",
            format!("is larger than {} bytes", config.max_metadata_bytes),
        ));
    }
    if !is_storable(&value, MAX_DEPTH) {
        return Err(Problem::field(
            "metadata",
            format!("is nested deeper than {MAX_DEPTH}, or has a NUL character in a text"),
        ));
    }
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(Problem::field("metadata", "must be a JSON object")),
    }
}

fn is_storable(value: &Value, depth: usize) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(items) => depth > 0 && items.iter().all(|item| is_storable(item, depth - 1)),
        Value::Object(map) => {
            depth > 0 && map.iter().all(|(key, item)| !key.contains('\0') && is_storable(item, depth - 1))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(query: &str) -> String {
        let config = Config::default();
        let settings = Settings::from_query(Some(query), &config);
        settings.and_then(|s| s.chunking(&config)).unwrap_err().detail().to_owned()
    }

    #[test]
    fn a_field_that_is_unknown_or_out_of_range_is_named() {
        for (query, name) in [
            ("colour=red", "colour"),
            ("metadata=[1]", "metadata"),
            ("metadata={", "metadata"),
            ("metadata={\"a\":\"\\u0000\"}", "metadata"),
            ("lane=fast", "lane"),
            ("ttl_seconds=-1", "ttl_seconds"),
            ("ttl_seconds=0", "ttl_seconds"),
            ("external_id=", "external_id"),
            ("collection=a%0Ab", "collection"),
            ("chunk_max_tokens=1", "chunk_max_tokens"),
            ("chunk_max_tokens=100&chunk_overlap_tokens=90", "chunk_overlap_tokens"),
            ("tokenizer=gpt2", "tokenizer"),
        ] {
            assert!(refused(query).contains(&format!("`{name}`")), "{query}: {}", refused(query));
        }
        let deep = format!("metadata={{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
        assert!(refused(&deep).contains("nested"), "{}", refused(&deep));
        let large = format!("metadata={{\"a\":\"{}\"}}", "x".repeat(70_000));
        assert!(refused(&large).contains("larger"), "{}", refused(&large));
    }

    #[test]
    fn a_query_says_everything() {
        let config = Config::default();
        let settings = Settings::from_query(
            Some("filename=a.txt&external_id=x1&collection=Manuais&metadata={\"year\":2024}&lane=bulk&ttl_seconds=60&chunk_max_tokens=100"),
            &config,
        )
        .unwrap();
        assert_eq!(settings.metadata.as_ref().unwrap()["year"], 2024);
        assert_eq!((settings.lane, settings.ttl), (Some(Lane::Bulk), Some(Duration::from_secs(60))));
        assert_eq!(settings.chunking(&config).unwrap().max_tokens, 100);
    }
}
