//! What the environment says: `RIACHO__SECTION__KEY`, and the usual names that people already have set.

/// Prefix of the project's own variables.
const PREFIX: &str = "RIACHO__";

/// The usual names, and the keys they set.
const USUAL: [(&str, &[&str]); 24] = [
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
    ("OTEL_SDK_DISABLED", &["traces", "disabled"]),
];

/// One key that the environment sets.
pub(super) struct Setting {
    /// The variable's name, for error messages.
    pub(super) variable: String,
    pub(super) path: Vec<String>,
    pub(super) value: String,
}

/// The settings of an environment, weakest first. An empty variable counts as not set.
pub(super) fn settings(env: &[(String, String)]) -> Vec<Setting> {
    let value_of = |name: &str| env.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.clone());
    let mut found: Vec<Setting> = USUAL
        .iter()
        .filter_map(|(variable, path)| {
            let value = value_of(variable)?;
            Some(Setting {
                variable: (*variable).into(),
                path: path.iter().map(ToString::to_string).collect(),
                value,
            })
        })
        .collect();
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
