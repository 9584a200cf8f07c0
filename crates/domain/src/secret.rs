//! Text that must not be shown: passwords and keys of the configuration.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

/// What stands in place of a secret wherever one is shown.
const REDACTED: &str = "***";

/// A secret of the configuration. It reads as text, and shows and serializes as `***`; its memory
/// is cleared when it is dropped.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Secret(SecretString);

impl Secret {
    /// The secret itself, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(SecretString::from(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(SecretString::from(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "password", "writeOnly": true })
    }
}

/// The URL of a server. It shows and serializes with `***` in place of its passwords.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    /// The whole URL, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The URL without its passwords; stars alone where it cannot be told what is one.
    #[must_use]
    pub fn redacted(&self) -> String {
        let Ok(mut url) = Url::parse(self.expose()) else { return REDACTED.to_owned() };
        if url.password().is_some() && url.set_password(Some(REDACTED)).is_err() {
            return REDACTED.to_owned();
        }
        if let Some(query) = url.query() {
            let shown = query.split('&').map(redacted_pair).collect::<Vec<_>>().join("&");
            url.set_query(Some(&shown));
        }
        url.into()
    }
}

/// A pair of a query, its value hidden where its name says that it is a password.
fn redacted_pair(pair: &str) -> Cow<'_, str> {
    match pair.split_once('=') {
        Some((name, _)) if name.to_ascii_lowercase().contains("pass") => format!("{name}={REDACTED}").into(),
        // An escaped name is one that nobody writes by hand, and may be any.
        Some((name, _)) if name.contains('%') => REDACTED.into(),
        _ => pair.into(),
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(SecretString::from(url))
    }
}

impl From<&str> for SecretUrl {
    fn from(url: &str) -> Self {
        Self(SecretString::from(url))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.redacted())
    }
}

impl JsonSchema for SecretUrl {
    fn schema_name() -> Cow<'static, str> {
        "SecretUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "password" })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_secret_reads_as_text_and_shows_as_stars() {
        let secret: Secret = serde_json::from_str("\"open sesame\"").unwrap();
        assert_eq!(secret.expose(), "open sesame");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_string(&Some(secret)).unwrap(), "\"***\"");
    }

    #[test]
    fn a_url_keeps_what_is_no_secret() {
        for (url, shown) in [
            ("redis://u:hunter2@h:1/0", "redis://u:***@h:1/0"),
            ("redis://:hunter2@h:1", "redis://:***@h:1"),
            ("redis+unix:///run/x.sock", "redis+unix:///run/x.sock"),
            (
                "redis-sentinel://h:1?sentinelServiceName=x&sentinelPassword=hunter2",
                "redis-sentinel://h:1?sentinelServiceName=x&sentinelPassword=***",
            ),
            (
                "postgres://me:hunter%402@db.example:5433/x?sslmode=require",
                "postgres://me:***@db.example:5433/x?sslmode=require",
            ),
            (
                "postgres:///x?host=/run/pg&user=me&password=hunter2",
                "postgres:///x?host=/run/pg&user=me&password=***",
            ),
            ("postgres:///x?%70assword=hunter2", "postgres:///x?***"),
            ("host=h password=hunter2", "***"),
            ("postgres://a:hunter2@h1:1,h2:2/x", "***"),
        ] {
            let secret = SecretUrl::from(url);
            assert_eq!(secret.redacted(), shown);
            assert_eq!(format!("{secret:?}"), shown);
            assert_eq!(serde_json::to_value(&secret).unwrap(), shown);
            assert_eq!(secret.expose(), url);
        }
    }
}
