//! Reads the sources, checks every key against the schema, and makes the configuration.

use std::{fs, path::PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{
    environment::{self, Setting},
    schema::{Known, json_schema},
};

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file; an error when it is named and absent.
    pub file: Option<PathBuf>,
    /// The environment, as pairs.
    pub env: Vec<(String, String)>,
    /// Flags, as `section.key` and value; they win over everything.
    pub overrides: Vec<(String, String)>,
    /// Keys, and sections with all their keys, that the file and the environment do not set, whatever they say.
    pub left_out: Vec<String>,
}

impl Sources {
    /// The process's own environment and the given file.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>) -> Self {
        Self { file, env: std::env::vars().collect(), ..Self::default() }
    }

    /// Forgets what all sources say of some keys or sections. What is set later counts.
    pub fn leave_out(&mut self, keys: &[&str]) {
        self.overrides.retain(|(key, _)| !keys.iter().any(|left_out| is_in(key, left_out)));
        self.left_out.extend(keys.iter().map(|key| (*key).to_owned()));
    }
}

/// Why a configuration cannot be used. Never shows a value of a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why; not a source, since whoever prints the causes would print it twice.
        reason: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`{}", nearest.as_ref().map_or_else(String::new, |n| format!("; did you mean `{n}`?")))]
    UnknownKey {
        /// The source that has it.
        origin: String,
        /// The key, with its section.
        key: String,
        /// The nearest key that exists.
        nearest: Option<String>,
    },
    /// A value that does not fit.
    #[error("{origin}: `{key}`: {message}")]
    Invalid {
        /// The source that has it.
        origin: String,
        /// The key, with its section.
        key: String,
        /// What was expected.
        message: String,
    },
}

/// Loads a configuration from its sources; see the module's page for their order.
///
/// # Errors
///
/// The first thing that is wrong, with its source and key.
pub fn load<C: DeserializeOwned + JsonSchema>(sources: &Sources) -> Result<C, ConfigError> {
    merge(sources, &json_schema::<C>())?.finish()
}

/// Whether any source sets a key, such as `redis.url`; what nothing sets has its default.
///
/// # Errors
///
/// As [`load`], but for values that do not fit.
pub fn is_set<C: JsonSchema>(sources: &Sources, key: &str) -> Result<bool, ConfigError> {
    let schema = json_schema::<C>();
    let merged = merge(sources, &schema)?;
    Ok(merged.origins.iter().any(|(set, _)| set == key))
}

fn merge<'s>(sources: &Sources, schema: &'s Value) -> Result<Merged<'s>, ConfigError> {
    let mut merged = Merged { schema, tree: Map::new(), origins: Vec::new() };
    if let Some(path) = &sources.file {
        merged.add_file(path)?;
    }
    const ENDPOINT: &str = "traces.endpoint";
    let mut keys = merged.origins.iter().chain(&sources.overrides).map(|(key, _)| key);
    let has_endpoint = keys.any(|key| key == ENDPOINT);
    for setting in environment::settings(&sources.env, has_endpoint) {
        merged.add_setting(setting)?;
    }
    merged.forget(&sources.left_out);
    for (key, value) in &sources.overrides {
        let path = key.split('.').map(str::to_owned).collect();
        merged.add_setting(Setting { variable: format!("--set {key}"), path, value: value.clone() })?;
    }
    Ok(merged)
}

/// Whether a key is this one, or stands in this section.
fn is_in(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The sources so far, with where each key came from.
struct Merged<'s> {
    schema: &'s Value,
    tree: Map<String, Value>,
    origins: Vec<(String, String)>,
}

impl Merged<'_> {
    fn add_file(&mut self, path: &PathBuf) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|reason| ConfigError::Unreadable { path: path.clone(), reason })?;
        let table: Map<String, Value> = toml::from_str(&text)
            .map_err(|e| ConfigError::Syntax { path: path.clone(), message: e.message().to_owned() })?;
        let mut leaves = Vec::new();
        flatten(Vec::new(), Value::Object(table), &mut leaves);
        leaves.into_iter().try_for_each(|(key, value)| self.add(&path.display().to_string(), key, value))
    }

    fn forget(&mut self, left_out: &[String]) {
        let is_left_out = |key: &str| left_out.iter().any(|section| is_in(key, section));
        for (key, _) in self.origins.extract_if(.., |(key, _)| is_left_out(key)) {
            let mut tree = Some(&mut self.tree);
            let mut parts = key.split('.').peekable();
            while let (Some(part), Some(map)) = (parts.next(), tree.take()) {
                if parts.peek().is_none() {
                    map.remove(part);
                } else {
                    tree = map.get_mut(part).and_then(Value::as_object_mut);
                }
            }
        }
    }

    fn add_setting(&mut self, setting: Setting) -> Result<(), ConfigError> {
        let takes_text = self.known(&setting.variable, &setting.path)?.is_none_or(|known| known.takes_text());
        let value = if takes_text {
            Value::String(setting.value)
        } else {
            serde_json::from_str(&setting.value).unwrap_or(Value::String(setting.value))
        };
        self.add(&setting.variable, setting.path, value)
    }

    fn add(&mut self, origin: &str, path: Vec<String>, value: Value) -> Result<(), ConfigError> {
        let key = path.join(".");
        let (path, value) = if self.known(origin, &path)?.is_some() {
            (path, value)
        } else {
            self.secret_from_file(origin, path, &value)?
        };
        self.origins.push((path.join("."), origin.to_owned()));
        insert(&mut self.tree, &path, value).map_err(|message| ConfigError::Invalid {
            origin: origin.to_owned(),
            key,
            message,
        })
    }

    /// What the schema says about a key; none for the `_file` form of a secret.
    fn known(&self, origin: &str, path: &[String]) -> Result<Option<Known<'_>>, ConfigError> {
        let mut at = Known::root(self.schema);
        for (depth, key) in path.iter().enumerate() {
            if let Some(child) = at.child(key) {
                at = child;
                continue;
            }
            let is_file =
                key.strip_suffix("_file").and_then(|base| at.child(base)).is_some_and(|k| k.is_secret());
            if is_file && depth + 1 == path.len() {
                return Ok(None);
            }
            return Err(unknown_key(origin, path, depth, &at));
        }
        Ok(Some(at))
    }

    fn secret_from_file(
        &self,
        origin: &str,
        mut path: Vec<String>,
        value: &Value,
    ) -> Result<(Vec<String>, Value), ConfigError> {
        let key = path.join(".");
        let invalid = |message: &str| ConfigError::Invalid {
            origin: origin.into(),
            key: key.clone(),
            message: message.into(),
        };
        let file = PathBuf::from(value.as_str().ok_or_else(|| invalid("expected the path of a file"))?);
        let text =
            fs::read_to_string(&file).map_err(|reason| ConfigError::Unreadable { path: file, reason })?;
        if let Some(last) = path.last_mut() {
            *last = last.trim_end_matches("_file").to_owned();
        }
        Ok((path, Value::String(text.trim_end_matches(['\r', '\n']).to_owned())))
    }

    fn finish<C: DeserializeOwned>(self) -> Result<C, ConfigError> {
        serde_path_to_error::deserialize(Value::Object(self.tree)).map_err(|error| {
            let key = error.path().to_string();
            let origin =
                self.origins.iter().rev().find(|(k, _)| *k == key || key.starts_with(&format!("{k}.")));
            ConfigError::Invalid {
                origin: origin.map_or_else(|| "configuration".to_owned(), |(_, origin)| origin.clone()),
                message: without_value(&error.into_inner().to_string()),
                key,
            }
        })
    }
}

fn unknown_key(origin: &str, path: &[String], depth: usize, at: &Known<'_>) -> ConfigError {
    let nearest = at
        .names()
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(name, &path[depth]), name))
        .filter(|(distance, name)| *distance <= name.len().max(3) / 2)
        .min()
        .map(|(_, name)| [&path[..depth], &[name.to_owned()]].concat().join("."));
    ConfigError::UnknownKey { origin: origin.to_owned(), key: path.join("."), nearest }
}

/// Serde's message shows the value it found; a value of the configuration may be a secret.
fn without_value(message: &str) -> String {
    match (message.strip_prefix("invalid type: "), message.find(", expected ")) {
        (Some(_), Some(at)) => message[at + 2..].to_owned(),
        _ => message.to_owned(),
    }
}

fn flatten(path: Vec<String>, value: Value, leaves: &mut Vec<(Vec<String>, Value)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten([path.as_slice(), &[key]].concat(), value, leaves);
            }
        }
        leaf => leaves.push((path, leaf)),
    }
}

fn insert(tree: &mut Map<String, Value>, path: &[String], value: Value) -> Result<(), String> {
    match path {
        [] => Err("expected a key".into()),
        [last] => {
            tree.insert(last.clone(), value);
            Ok(())
        }
        [first, rest @ ..] => {
            let section = tree.entry(first.clone()).or_insert_with(|| Value::Object(Map::new()));
            section
                .as_object_mut()
                .ok_or_else(|| format!("`{first}` is not a section"))
                .and_then(|map| insert(map, rest, value))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use riacho_domain::Secret;
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        models: Models,
    }

    #[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
    #[serde(default, deny_unknown_fields)]
    struct Models {
        model: String,
        dimensions: Option<usize>,
        api_key: Option<Secret>,
    }

    fn with_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let env = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&Sources { env, ..Sources::default() })
    }

    #[test]
    fn the_environment_sets_texts_numbers_and_secrets() {
        let config = with_env(&[
            ("RIACHO__MODELS__MODEL", "123"),
            ("RIACHO__MODELS__DIMENSIONS", "256"),
            ("OPENAI_API_KEY", "0042"),
        ])
        .unwrap();
        assert_eq!(config.models.model, "123");
        assert_eq!(config.models.dimensions, Some(256));
        assert_eq!(config.models.api_key.unwrap().expose(), "0042");
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let error = with_env(&[("RIACHO__MODELS__DIMENSION", "1")]).unwrap_err().to_string();
        assert_eq!(
            error,
            "RIACHO__MODELS__DIMENSION: unknown key `models.dimension`; did you mean `models.dimensions`?"
        );
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_but_not_shown() {
        let error = with_env(&[("RIACHO__MODELS__DIMENSIONS", "hush")]).unwrap_err().to_string();
        assert!(
            error.contains("models.dimensions") && error.contains("RIACHO__MODELS__DIMENSIONS"),
            "{error}"
        );
        assert!(!error.contains("hush"), "{error}");
    }

    #[test]
    fn a_secret_comes_from_a_file_and_is_redacted_everywhere() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "s3cret").unwrap();
        let config = with_env(&[("RIACHO__MODELS__API_KEY_FILE", file.path().to_str().unwrap())]).unwrap();
        assert_eq!(config.models.api_key.as_ref().unwrap().expose(), "s3cret");
        let shown = format!("{config:?}{}", super::super::redacted_toml(&config));
        assert!(!shown.contains("s3cret") && shown.contains("***"), "{shown}");
    }

    #[test]
    fn flags_win_over_the_environment_and_the_environment_over_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "[models]\nmodel = 'file'\ndimensions = 1").unwrap();
        let sources = Sources {
            file: Some(file.path().to_owned()),
            env: vec![
                ("RIACHO__MODELS__DIMENSIONS".into(), "2".into()),
                ("RIACHO__MODELS__MODEL".into(), "env".into()),
            ],
            overrides: vec![("models.dimensions".into(), "3".into())],
            ..Sources::default()
        };
        let config: Config = load(&sources).unwrap();
        assert_eq!((config.models.model.as_str(), config.models.dimensions), ("env", Some(3)));
        assert!(is_set::<Config>(&sources, "models.model").unwrap());
        assert!(!is_set::<Config>(&sources, "models.api_key").unwrap());
    }

    #[test]
    fn what_is_left_out_counts_from_no_source_and_what_is_set_later_does() {
        let env = vec![("RIACHO__MODELS__DIMENSIONS".into(), "5".into())];
        let overrides = vec![("models.dimensions".into(), "3".into())];
        let mut sources = Sources { env, overrides, ..Sources::default() };
        sources.leave_out(&["models"]);
        assert!(!is_set::<Config>(&sources, "models.dimensions").unwrap());
        sources.overrides.push(("models.dimensions".into(), "7".into()));
        assert_eq!(load::<Config>(&sources).unwrap().models.dimensions, Some(7));
    }
}
