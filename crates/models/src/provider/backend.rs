//! The models of each provider as rig makes them.

use reqwest::Url;
use rig_core::{
    embeddings::{EmbeddingError, EmbeddingModel, EmbeddingResponse},
    http_client,
    providers::{azure, cohere, gemini, mistral, ollama, openai, voyageai},
};

use super::transport::Transport;
use crate::{Config, Error, Kind, Provider};

/// A provider's model. Where passages and queries differ there is one for each.
#[derive(Clone)]
pub(crate) enum Backend {
    Openai(openai::EmbeddingModel<Transport>),
    Azure(azure::EmbeddingModel<Transport>),
    Ollama(ollama::EmbeddingModel<Transport>),
    Mistral(mistral::EmbeddingModel<Transport>),
    Gemini(gemini::EmbeddingModel<Transport>),
    Cohere { passage: cohere::EmbeddingModel<Transport>, query: cohere::EmbeddingModel<Transport> },
    Voyage { passage: voyageai::EmbeddingModel<Transport>, query: voyageai::EmbeddingModel<Transport> },
}

/// The model that a provider is asked for when the configuration names none.
pub(crate) fn usual_model(provider: Provider) -> &'static str {
    match provider {
        Provider::Local => "",
        Provider::Openai => openai::TEXT_EMBEDDING_3_SMALL,
        Provider::Azure => azure::TEXT_EMBEDDING_3_SMALL,
        Provider::Ollama => ollama::NOMIC_EMBED_TEXT,
        Provider::Cohere => cohere::EMBED_MULTILINGUAL_V3,
        Provider::Mistral => mistral::MISTRAL_EMBED,
        Provider::Gemini => gemini::embedding::EMBEDDING_001,
        Provider::Voyage => voyageai::VOYAGE_3_5,
    }
}

/// The number of values of a vector, of models whose number rig does not know or has wrong.
fn known_dimensions(provider: Provider, model: &str) -> Option<usize> {
    match (provider, model.strip_suffix(":latest").unwrap_or(model)) {
        (Provider::Mistral, mistral::CODESTRAL_EMBED) => Some(1536),
        (Provider::Ollama, ollama::ALL_MINILM) => Some(384),
        (Provider::Ollama, ollama::NOMIC_EMBED_TEXT | "embeddinggemma") => Some(768),
        (Provider::Ollama, "mxbai-embed-large" | "bge-m3" | "snowflake-arctic-embed2") => Some(1024),
        (Provider::Voyage, "voyage-3.5-lite" | "voyage-3" | "voyage-multilingual-2") => Some(1024),
        (Provider::Voyage, "voyage-3-lite") => Some(512),
        _ => None,
    }
}

/// Makes the rig client of a provider with our transport, key and address.
macro_rules! client {
    ($provider:ident, $config:expr, $key:expr, $transport:expr) => {{
        let builder = $provider::Client::builder().api_key($key).http_client($transport);
        let builder = match &$config.base_url {
            Some(address) => builder.base_url(address.trim_end_matches('/')),
            None => builder,
        };
        builder.build().map_err(|error| unusable(&error))?
    }};
}

impl Backend {
    pub(crate) fn new(config: &Config, model: &str, key: &str, transport: Transport) -> Result<Self, Error> {
        if let Some(address) = &config.base_url {
            check_address(address)?;
        }
        let shortened = config.dimensions.filter(|_| config.shorten || model.starts_with("text-embedding-3"));
        Ok(match config.provider {
            Provider::Openai => {
                let client = client!(openai, config, key, transport);
                Backend::Openai(openai::EmbeddingModel::make(&client, model, shortened))
            }
            Provider::Azure => {
                let Some(endpoint) = &config.base_url else {
                    let reason = "models.base_url is missing: the endpoint of the Azure resource".to_owned();
                    return Err(Error::Misconfigured { reason });
                };
                let client = azure::Client::builder()
                    .api_key(azure::AzureOpenAIAuth::ApiKey(key.to_owned()))
                    .http_client(transport)
                    .azure_endpoint(endpoint.trim_end_matches('/').to_owned())
                    .build()
                    .map_err(|error| unusable(&error))?;
                Backend::Azure(azure::EmbeddingModel::make(&client, model, shortened))
            }
            Provider::Mistral => {
                let client = client!(mistral, config, key, transport);
                Backend::Mistral(mistral::EmbeddingModel::make(&client, model, shortened))
            }
            Provider::Ollama => {
                let client = client!(ollama, config, key, transport);
                Backend::Ollama(ollama::EmbeddingModel::make(&client, model, config.dimensions))
            }
            Provider::Gemini => {
                let client = client!(gemini, config, key, transport);
                Backend::Gemini(gemini::EmbeddingModel::make(&client, model, config.dimensions))
            }
            Provider::Cohere => {
                let client = client!(cohere, config, key, transport);
                let known = cohere::EmbeddingModel::make(&client, model, config.dimensions);
                let of_type = |name| cohere::EmbeddingModel::new(client.clone(), model, name, known.ndims());
                Backend::Cohere { passage: of_type("search_document"), query: of_type("search_query") }
            }
            Provider::Voyage => {
                let client = client!(voyageai, config, key, transport);
                let of_type = |name: &str| {
                    let known = voyageai::EmbeddingModel::make(&client, model, config.dimensions);
                    known.with_options(voyageai::EmbeddingOptions {
                        input_type: Some(name.to_owned()),
                        truncation: Some(false),
                        output_dimension: shortened,
                    })
                };
                Backend::Voyage { passage: of_type("document"), query: of_type("query") }
            }
            Provider::Local => {
                return Err(Error::Misconfigured { reason: "the local model is no provider".to_owned() });
            }
        })
    }

    /// The number of values of a vector as far as the model is known; 0 where it is not.
    pub(crate) fn dimensions(&self, provider: Provider, model: &str) -> usize {
        known_dimensions(provider, model).unwrap_or_else(|| self.dimensions_of_rig())
    }

    fn dimensions_of_rig(&self) -> usize {
        match self {
            Backend::Openai(model) => model.ndims(),
            Backend::Azure(model) => model.ndims(),
            Backend::Ollama(model) => model.ndims(),
            Backend::Mistral(model) => model.ndims(),
            Backend::Gemini(model) => model.ndims(),
            Backend::Cohere { passage, .. } => passage.ndims(),
            Backend::Voyage { passage, .. } => passage.ndims(),
        }
    }

    /// The most texts of one request.
    pub(crate) fn max_items(&self) -> usize {
        match self {
            Backend::Openai(_) => openai::EmbeddingModel::<Transport>::MAX_DOCUMENTS,
            Backend::Azure(_) => azure::EmbeddingModel::<Transport>::MAX_DOCUMENTS,
            Backend::Ollama(_) => ollama::EmbeddingModel::<Transport>::MAX_DOCUMENTS,
            Backend::Mistral(_) => mistral::EmbeddingModel::<Transport>::MAX_DOCUMENTS,
            // Gemini's API takes 100, though rig says more.
            Backend::Gemini(_) => 100,
            Backend::Cohere { .. } => cohere::EmbeddingModel::<Transport>::MAX_DOCUMENTS,
            Backend::Voyage { .. } => voyageai::EmbeddingModel::<Transport>::MAX_DOCUMENTS,
        }
    }

    pub(crate) async fn embed(
        &self,
        texts: Vec<String>,
        kind: Kind,
    ) -> Result<EmbeddingResponse, EmbeddingError> {
        match (self, kind) {
            (Backend::Openai(model), _) => model.embed_texts_with_usage(texts).await,
            (Backend::Azure(model), _) => model.embed_texts_with_usage(texts).await,
            (Backend::Ollama(model), _) => model.embed_texts_with_usage(texts).await,
            (Backend::Mistral(model), _) => model.embed_texts_with_usage(texts).await,
            (Backend::Gemini(model), _) => model.embed_texts_with_usage(texts).await,
            (Backend::Cohere { passage: model, .. }, Kind::Passage)
            | (Backend::Cohere { query: model, .. }, Kind::Query) => {
                model.embed_texts_with_usage(texts).await
            }
            (Backend::Voyage { passage: model, .. }, Kind::Passage)
            | (Backend::Voyage { query: model, .. }, Kind::Query) => {
                model.embed_texts_with_usage(texts).await
            }
        }
    }
}

fn check_address(address: &str) -> Result<(), Error> {
    let usable =
        Url::parse(address).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if usable {
        Ok(())
    } else {
        // The address may hold a password, so it is not repeated.
        Err(Error::Misconfigured { reason: "base_url is no http or https address".to_owned() })
    }
}

fn unusable(error: &http_client::Error) -> Error {
    Error::Misconfigured { reason: format!("the provider's client cannot be made: {error}") }
}
