//! What the environment says: `RIACHO__SECTION__KEY`, and the usual names that people already have set.

/// Prefix of the project's own variables.
const PREFIX: &str = "RIACHO__";

/// The usual names, and the keys they set.
const USUAL: [(&str, &[&str]); 12] = [
    ("REDIS_URL", &["redis", "url"]),
    ("DATABASE_URL", &["database", "url"]),
    ("OPENAI_API_KEY", &["models", "api_key"]),
    ("S3_BUCKET", &["objects", "s3", "bucket"]),
    ("AWS_REGION", &["objects", "s3", "region"]),
    ("AWS_DEFAULT_REGION", &["objects", "s3", "region"]),
    ("AWS_ENDPOINT_URL", &["objects", "s3", "endpoint"]),
    ("AWS_ENDPOINT_URL_S3", &["objects", "s3", "endpoint"]),
    ("AWS_ACCESS_KEY_ID", &["objects", "s3", "access_key_id"]),
    ("AWS_SECRET_ACCESS_KEY", &["objects", "s3", "secret_access_key"]),
    ("AWS_SESSION_TOKEN", &["objects", "s3", "session_token"]),
    ("RUST_LOG", &["log", "filter"]),
];

/// OpenTelemetry's names. Platforms set some of them for all that runs there, so they count only where traces are exported.
const OPENTELEMETRY: [(&str, &[&str]); 11] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", &["traces", "endpoint"]),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &["traces", "endpoint"]),
    ("OTEL_EXPORTER_OTLP_HEADERS", &["traces", "headers"]),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", &["traces", "headers"]),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", &["traces", "timeout_ms"]),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", &["traces", "protocol"]),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", &["traces", "protocol"]),
    ("OTEL_SERVICE_NAME", &["traces", "service_name"]),
    ("OTEL_RESOURCE_ATTRIBUTES", &["traces", "resource_attributes"]),
    ("OTEL_TRACES_SAMPLER", &["traces", "sampler"]),
    ("OTEL_TRACES_SAMPLER_ARG", &["traces", "sampler_arg"]),
];

/// One key that the environment sets.
pub(super) struct Setting {
    /// The variable's name, for error messages.
    pub(super) variable: String,
    pub(super) path: Vec<String>,
    pub(super) value: String,
}

/// The settings of an environment, weakest first. An empty variable counts as not set. `has_endpoint`: another source says
/// where traces go.
pub(super) fn settings(env: &[(String, String)], has_endpoint: bool) -> Vec<Setting> {
    let value_of = |name: &str| env.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.clone());
    // Of any case, and anything else is false, as OpenTelemetry has it.
    let is_disabled = value_of("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let own_endpoint = format!("{PREFIX}TRACES__ENDPOINT");
    let endpoints = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &own_endpoint];
    let is_traced = !is_disabled && (has_endpoint || endpoints.iter().any(|name| value_of(name).is_some()));
    let opentelemetry = OPENTELEMETRY.iter().filter(|_| is_traced);
    let mut found: Vec<Setting> = USUAL
        .iter()
        .chain(opentelemetry)
        .filter_map(|(variable, path)| {
            let value = value_of(variable)?;
            Some(Setting {
                variable: (*variable).into(),
                path: path.iter().map(ToString::to_string).collect(),
                value,
            })
        })
        .collect();
    if is_disabled {
        found.push(Setting {
            variable: "OTEL_SDK_DISABLED".into(),
            path: vec!["traces".into(), "disabled".into()],
            value: "true".into(),
        });
    }
    // A bucket without a word about the store means: that bucket is the store.
    if let Some(bucket) = value_of("S3_BUCKET").map(|_| "s3".to_owned()) {
        found.push(Setting {
            variable: "S3_BUCKET".into(),
            path: vec!["objects".into(), "store".into()],
            value: bucket,
        });
    }
    let mut own: Vec<Setting> = env
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(variable, value)| {
            let path = variable.strip_prefix(PREFIX)?.split("__").map(str::to_ascii_lowercase).collect();
            Some(Setting { variable: variable.clone(), path, value: value.clone() })
        })
        .collect();
    own.sort_by(|a, b| a.variable.cmp(&b.variable));
    found.extend(own);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that an environment sets.
    fn keys(env: &[(&str, &str)], has_endpoint: bool) -> Vec<String> {
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        settings(&env, has_endpoint).into_iter().map(|setting| setting.path.join(".")).collect()
    }

    #[test]
    fn what_a_platform_says_of_traces_counts_only_where_they_are_exported() {
        let platform = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_SAMPLER", "jaeger_remote")];
        assert_eq!(keys(&platform, false), [""; 0]);
        let both = ["traces.protocol", "traces.sampler"];
        assert_eq!(keys(&platform, true), both);
        for endpoint in ["OTEL_EXPORTER_OTLP_ENDPOINT", "RIACHO__TRACES__ENDPOINT"] {
            let with = [&platform[..], &[(endpoint, "http://c:4318")]].concat();
            let found = keys(&with, false);
            assert!(both.iter().all(|key| found.contains(&(*key).to_owned())), "{found:?}");
        }
        let off = [&platform[..], &[("OTEL_SDK_DISABLED", "True")]].concat();
        assert_eq!(keys(&off, true), ["traces.disabled"]);
        assert_eq!(keys(&[("OTEL_SDK_DISABLED", "no")], true), [""; 0]);
    }
}
