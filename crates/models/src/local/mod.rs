//! Models in this process, without key or network: the static model, and sentence transformers.
//!
//! Which of them it is is told from the directory: the static model's has no `config.json`.

mod transformer;
mod wordllama;
mod workers;

use std::{path::Path, sync::Arc, thread};

use crate::{Config, Error, Model};

pub use transformer::Transformer;
pub use wordllama::WordLlama;

/// Reads and checks the files of the model in the configured directory.
///
/// # Errors
/// `Files` where they are missing or are not what a model needs, `Misconfigured` where the configuration asks
/// for what the model is not.
pub fn load(config: &Config) -> Result<Arc<dyn Model>, Error> {
    let Some(directory) = &config.local.directory else {
        let reason = match config.model.as_str() {
            "" => "no directory is configured and the runtime has none".to_owned(),
            name => format!("no directory is configured and the runtime has no model `{name}`"),
        };
        return Err(Error::Files { path: "models.local.directory".into(), reason });
    };
    if is_transformer(directory) {
        return Ok(Arc::new(Transformer::load(directory, config)?));
    }
    Ok(Arc::new(WordLlama::load(directory, config)?))
}

fn is_transformer(directory: &Path) -> bool {
    ["config.json", "modules.json"].iter().any(|file| directory.join(file).exists())
}

/// The number of threads of a local model.
fn threads(config: &Config) -> usize {
    match config.local.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        told => told,
    }
}

/// Refuses a configuration that asks for another number of values than the model has.
fn check_dimensions(config: &Config, dimensions: usize) -> Result<(), Error> {
    if config.dimensions.is_some_and(|wanted| wanted != dimensions) {
        return Err(Error::Misconfigured { reason: format!("the local model has {dimensions} dimensions") });
    }
    Ok(())
}
