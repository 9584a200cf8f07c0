//! The models of a configuration: the first one, and those of further embedding spaces.
//!
//! While a deployment goes from one model to another it needs both: each space is filled and searched
//! with its own.

use std::{collections::BTreeMap, sync::Arc};

use crate::{Config, Error, Model, load};

/// The configured models. Clones share them.
#[derive(Debug, Clone)]
pub struct Models {
    first: Arc<dyn Model>,
    named: BTreeMap<String, Arc<dyn Model>>,
}

impl Models {
    /// Makes all models of the configuration, as [`load`] makes one. Blocks as long.
    ///
    /// # Errors
    /// As [`load`]; `Misconfigured` names the section.
    pub fn load(config: &Config) -> Result<Models, Error> {
        let first = load(config)?;
        let named = config.spaces.iter().map(|(name, section)| Ok((name.clone(), further(name, section)?)));
        Ok(Models { first, named: named.collect::<Result<_, Error>>()? })
    }

    /// A set of one.
    #[must_use]
    pub fn only(model: Arc<dyn Model>) -> Models {
        Models { first: model, named: BTreeMap::new() }
    }

    /// The model of the section `models` itself.
    #[must_use]
    pub fn first(&self) -> &Arc<dyn Model> {
        &self.first
    }

    /// The model of `models.spaces.NAME`.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<dyn Model>> {
        self.named.get(name)
    }

    /// The names of the further models.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// All models, the first one first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Model>> {
        std::iter::once(&self.first).chain(self.named.values())
    }

    /// The model that makes the vectors of a space with this model and these dimensions; none where it
    /// is not configured.
    #[must_use]
    pub fn of(&self, id: &str, dimensions: u32) -> Option<&Arc<dyn Model>> {
        self.all().find(|model| model.id() == id && model.dimensions() == dimensions as usize)
    }
}

fn further(name: &str, section: &Config) -> Result<Arc<dyn Model>, Error> {
    let wrong = |reason: String| Error::Misconfigured { reason: format!("models.spaces.{name}: {reason}") };
    if !section.spaces.is_empty() {
        return Err(wrong("a further model has no further models".to_owned()));
    }
    if !section.prices.is_empty() {
        return Err(wrong("prices of all models stand in models.prices".to_owned()));
    }
    load(section).map_err(|error| match error {
        Error::Misconfigured { reason } => wrong(reason),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn each_space_has_the_model_that_it_was_made_with() {
        let config = config(
            r#"{"provider":"ollama","model":"a","dimensions":8,
                "spaces":{"next":{"provider":"ollama","model":"b","dimensions":16}}}"#,
        );
        let models = Models::load(&config).unwrap();
        assert_eq!(models.first().id(), "ollama/a@8");
        assert_eq!(models.named("next").unwrap().id(), "ollama/b@16");
        assert_eq!(models.of("ollama/b@16", 16).unwrap().id(), "ollama/b@16");
        assert!(models.of("ollama/b@16", 8).is_none() && models.of("ollama/c@8", 8).is_none());
        assert_eq!(models.names().collect::<Vec<_>>(), ["next"]);
    }

    #[test]
    fn a_further_model_that_cannot_work_is_named() {
        let one = config(r#"{"provider":"ollama","dimensions":8,"spaces":{"next":{"provider":"openai"}}}"#);
        let error = Models::load(&one).unwrap_err().to_string();
        assert!(error.contains("models.spaces.next: no key"), "{error}");
        let nested = config(
            r#"{"provider":"ollama","dimensions":8,"spaces":{"a":{"provider":"ollama","spaces":{"b":{}}}}}"#,
        );
        assert!(Models::load(&nested).unwrap_err().to_string().contains("no further models"));
        let priced = config(
            r#"{"provider":"ollama","dimensions":8,"spaces":{"a":{"provider":"ollama","prices":{"b":1}}}}"#,
        );
        assert!(Models::load(&priced).unwrap_err().to_string().contains("stand in models.prices"));
    }
}
