//! The configuration section `models`.

use std::{collections::BTreeMap, path::PathBuf};

use riacho_domain::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who computes the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// A model in this process, static or a sentence transformer: no key, no network.
    #[default]
    Local,
    /// OpenAI, or with `base_url` any server that speaks its API.
    Openai,
    /// OpenAI's models on Azure: `base_url` is the resource's endpoint, `model` the deployment's name.
    Azure,
    /// An Ollama server.
    Ollama,
    /// Cohere.
    Cohere,
    /// Mistral.
    Mistral,
    /// Google Gemini.
    Gemini,
    /// Voyage AI.
    Voyage,
}

impl Provider {
    /// The name, as it stands in the configuration, in model ids and in labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Provider::Local => "local",
            Provider::Openai => "openai",
            Provider::Azure => "azure",
            Provider::Ollama => "ollama",
            Provider::Cohere => "cohere",
            Provider::Mistral => "mistral",
            Provider::Gemini => "gemini",
            Provider::Voyage => "voyage",
        }
    }
}

/// The embedding model and its limits.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who computes the vectors.
    pub provider: Provider,
    /// The provider's name of the model, such as `text-embedding-3-small`. Empty means the provider's usual one.
    /// With `local`, the name of one that the setup has brought, such as `all-minilm-l6-v2`; empty means the static one.
    pub model: String,
    /// The number of values of a vector. Needed for models that Riacho does not know.
    pub dimensions: Option<usize>,
    /// Ask the provider to shorten its vectors to `dimensions`; most models cannot.
    pub shorten: bool,
    /// The address of the provider's API, such as `http://localhost:11434`, where it is not the usual one.
    pub base_url: Option<String>,
    /// The provider's key.
    pub api_key: Option<Secret>,
    /// The local model.
    pub local: LocalConfig,
    /// The most texts in one request. 0 means the model's own limit.
    pub batch_items: usize,
    /// The most tokens in one request.
    pub batch_tokens: usize,
    /// The most requests to the provider in a minute, from all processes that use this model with this key. What the
    /// provider says of itself lowers it, and stands in its place where it is not set.
    pub requests_per_minute: Option<u32>,
    /// The most tokens to the provider in a minute, in the same way.
    pub tokens_per_minute: Option<u32>,
    /// How long a call waits for its turn at these limits before it is put off. The embedding of a query waits two
    /// seconds at most.
    pub limit_wait_ms: u64,
    /// The minute of these limits, for a provider that counts by another window.
    pub limit_window_ms: u64,
    /// The longest time of one request.
    pub timeout_ms: u64,
    /// The longest time to connect.
    pub connect_timeout_ms: u64,
    /// What a million tokens cost, by the model's name or id, in any one currency: `text-embedding-3-small = 0.02`. What tenants
    /// spend is counted by it; a model that is not in it costs nothing. Those of further models stand here too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, f64>,
    /// Further models, each by a name and as a section like this one. While a new model's space is filled beside
    /// the one that is searched, both models are needed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub spaces: BTreeMap<String, Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            model: String::new(),
            dimensions: None,
            shorten: false,
            base_url: None,
            api_key: None,
            local: LocalConfig::default(),
            batch_items: 0,
            batch_tokens: 100_000,
            requests_per_minute: None,
            tokens_per_minute: None,
            limit_wait_ms: 120_000,
            limit_window_ms: 60_000,
            timeout_ms: 60_000,
            connect_timeout_ms: 5_000,
            prices: BTreeMap::new(),
            spaces: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The same settings, with no call of any of the models waiting longer for a provider's limits.
    #[must_use]
    pub fn waiting_at_most(&self, milliseconds: u64) -> Self {
        let spaces =
            self.spaces.iter().map(|(name, model)| (name.clone(), model.waiting_at_most(milliseconds)));
        Self { limit_wait_ms: self.limit_wait_ms.min(milliseconds), spaces: spaces.collect(), ..self.clone() }
    }
}

/// The local model.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LocalConfig {
    /// The directory with `model.safetensors` and `tokenizer.json`; with a `config.json`, of a sentence transformer.
    /// By default that of `models.model` in the runtime.
    pub directory: Option<PathBuf>,
    /// The number of threads. 0 means one for each core.
    pub threads: usize,
    /// Tokens of a text beyond this number are left out. A sentence transformer has a limit of its own.
    pub max_text_tokens: usize,
    /// What a sentence transformer gets before each query, such as `query: `. By default what its directory says.
    pub query_prefix: Option<String>,
    /// What a sentence transformer gets before each text that is searched, such as `passage: `. By default what its
    /// directory says.
    pub passage_prefix: Option<String>,
    /// How a sentence transformer makes one vector of those of a text's tokens. By default what its directory says,
    /// and the mean where it says nothing.
    pub pooling: Option<Pooling>,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            directory: None,
            threads: 0,
            max_text_tokens: 8192,
            query_prefix: None,
            passage_prefix: None,
            pooling: None,
        }
    }
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The one of the first token.
    Cls,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let config: Config = serde_json::from_str(r#"{"provider":"openai","api_key":"sk-1234"}"#).unwrap();
        assert_eq!(config.api_key.as_ref().unwrap().expose(), "sk-1234");
        assert!(!format!("{config:?}").contains("sk-1234"));
        assert!(!serde_json::to_string(&config).unwrap().contains("sk-1234"));
    }

    #[test]
    fn an_unknown_field_is_an_error() {
        assert!(serde_json::from_str::<Config>(r#"{"modell":"x"}"#).is_err());
    }
}
