//! Section `traces`.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderName, HeaderValue};
use riacho_domain::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

/// The path of traces below the address of a collector.
const PATH: &str = "/v1/traces";

/// Where traces are exported to, and which. The variables of OpenTelemetry set the same: `OTEL_EXPORTER_OTLP_ENDPOINT`, `.._HEADERS`,
/// `.._TIMEOUT`, `.._PROTOCOL`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `.._SAMPLER_ARG`, `OTEL_SDK_DISABLED`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of a collector that speaks OTLP over HTTP, such as `http://collector:4318`; spans go to `/v1/traces` below it,
    /// where it does not end so already. Nothing is traced when it is not set.
    pub endpoint: Option<String>,
    /// Headers of each request to the collector, `name=value`, with commas between them; percent-encoded where that is needed.
    pub headers: Option<Secret>,
    /// Which traces are recorded that no client has decided on, and whether what clients decide holds.
    pub sampler: Sampler,
    /// The share of traces of the samplers `.._traceidratio`, 0 to 1.
    pub sampler_arg: f64,
    /// How the collector is spoken to: `http/protobuf`, and nothing else.
    pub protocol: Protocol,
    /// How long an export may take, its repetitions included, in milliseconds.
    pub timeout_ms: u64,
    /// The most spans that wait for their export. What comes above that is dropped, and counted.
    pub queue: usize,
    /// What all services are called in traces. Each has its own name where nothing is set: `ingest-gateway`, `extractor`, `embedder`,
    /// `indexer`, `janitor`.
    pub service_name: Option<String>,
    /// Attributes of the process, `key=value`, with commas between them, such as `deployment.environment.name=prod`.
    pub resource_attributes: String,
    /// Traces nothing, whatever else is set.
    pub disabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers: None,
            sampler: Sampler::ParentbasedTraceidratio,
            sampler_arg: 1.0,
            protocol: Protocol::HttpProtobuf,
            timeout_ms: 10_000,
            queue: 4_096,
            service_name: None,
            resource_attributes: String::new(),
            disabled: false,
        }
    }
}

/// Which traces are recorded, by OpenTelemetry's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// A share, whatever clients decide.
    Traceidratio,
    /// What clients decide, and all others.
    ParentbasedAlwaysOn,
    /// What clients decide, and no others.
    ParentbasedAlwaysOff,
    /// What clients decide, and a share of the others.
    ParentbasedTraceidratio,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// Protobuf over HTTP.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

impl Config {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// The key, and what is wrong with it. Never a header's value.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(endpoint) = &self.endpoint {
            address(endpoint).map_err(|wrong| ("endpoint", wrong))?;
        }
        let headers = pairs(self.headers.as_ref().map_or("", Secret::expose))
            .map_err(|at| ("headers", format!("entry {at} is not `name=value`")))?;
        if let Some(at) = headers.iter().position(|header| !is_header(header)) {
            return Err((
                "headers",
                format!(
                    "header {} cannot be sent: its name or its value has characters that no header has",
                    at + 1
                ),
            ));
        }
        pairs(&self.resource_attributes)
            .map_err(|at| ("resource_attributes", format!("entry {at} is not `key=value`")))?;
        if !(0.0..=1.0).contains(&self.sampler_arg) {
            return Err(("sampler_arg", format!("{} is not between 0 and 1", self.sampler_arg)));
        }
        if self.queue == 0 {
            return Err(("queue", "must be at least 1".to_owned()));
        }
        Ok(())
    }

    /// Where spans are sent; none where nothing is traced.
    pub(crate) fn target(&self) -> Option<String> {
        let endpoint = self.endpoint.as_deref().filter(|_| !self.disabled)?;
        address(endpoint).ok().map(String::from)
    }

    pub(crate) fn header_pairs(&self) -> Vec<(String, String)> {
        pairs(self.headers.as_ref().map_or("", Secret::expose)).unwrap_or_default()
    }

    pub(crate) fn resource_pairs(&self) -> Vec<(String, String)> {
        pairs(&self.resource_attributes).unwrap_or_default()
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.max(1))
    }
}

/// The address of a collector's traces.
fn address(endpoint: &str) -> Result<Url, String> {
    let mut url = Url::parse(endpoint).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("it must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        // It would stand in logs, and in what shows the configuration.
        return Err("a name and a password belong into `traces.headers`".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("what follows the path belongs into `traces.headers`".to_owned());
    }
    if !url.path().ends_with(PATH) {
        let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

/// Whether HTTP can carry it.
fn is_header((name, value): &(String, String)) -> bool {
    HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_str(value).is_ok()
}

/// `a=b,c=d`, percent-decoded; the number of the entry that is none, from 1.
fn pairs(text: &str) -> Result<Vec<(String, String)>, usize> {
    let decoded = |part: &str| percent_decode_str(part.trim()).decode_utf8_lossy().into_owned();
    let entries = text.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty());
    entries
        .map(|(at, entry)| match entry.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok((decoded(name), decoded(value))),
            _ => Err(at + 1),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wrong(config: Config) -> (&'static str, String) {
        config.check().unwrap_err()
    }

    #[test]
    fn spans_go_below_the_address() {
        let target =
            |endpoint: &str| Config { endpoint: Some(endpoint.into()), ..Config::default() }.target();
        for (endpoint, at) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp", "https://c/otlp/v1/traces"),
            ("https://c/v1/traces", "https://c/v1/traces"),
        ] {
            assert_eq!(target(endpoint).as_deref(), Some(at));
        }
        assert_eq!(Config::default().target(), None);
        let off = Config { endpoint: Some("http://c".into()), disabled: true, ..Config::default() };
        assert_eq!(off.target(), None);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_no_secret_is_told() {
        assert!(Config::default().check().is_ok());
        for endpoint in ["c:4318", "grpc://c:4317", "http://me:secret@c", "http://c?key=secret"] {
            let (key, message) = wrong(Config { endpoint: Some(endpoint.into()), ..Config::default() });
            assert!(key == "endpoint" && !message.contains("secret"), "{message}");
        }
        let headers = Some(Secret::from("a=b,hush"));
        let (key, message) = wrong(Config { headers, ..Config::default() });
        assert!(key == "headers" && message.contains('2') && !message.contains("hush"), "{message}");
        for cannot_be_sent in ["a=b,x-key=hush%0Ahush", "two words=hush", "a=b, k%C3%A9y = hush"] {
            let headers = Some(Secret::from(cannot_be_sent));
            let (key, message) = wrong(Config { headers, ..Config::default() });
            assert!(
                key == "headers" && message.contains("cannot be sent") && !message.contains("hush"),
                "{message}"
            );
        }
        assert_eq!(wrong(Config { sampler_arg: 1.5, ..Config::default() }).0, "sampler_arg");
        assert_eq!(wrong(Config { sampler_arg: f64::NAN, ..Config::default() }).0, "sampler_arg");
        assert_eq!(
            wrong(Config { resource_attributes: "=x".into(), ..Config::default() }).0,
            "resource_attributes"
        );
    }

    #[test]
    fn headers_are_decoded() {
        let headers = Some(Secret::from("authorization=Basic%20abc=, x-scope = a,"));
        let config = Config { headers, ..Config::default() };
        let owned = |pair: (&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        assert_eq!(config.header_pairs(), [("authorization", "Basic abc="), ("x-scope", "a")].map(owned));
    }
}
