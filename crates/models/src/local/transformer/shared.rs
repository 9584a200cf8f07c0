//! What the threads of a model read: weights and tokenizer. Models of one process with the same files have them once,
//! such as the gateway's and the embedder's of `riacho up`.

use std::{
    collections::HashMap,
    fs, io,
    path::Path,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use super::{encoder::Encoder, manifest::Manifest, parts::Part, tokens::Tokens, weights};
use crate::{Error, config::Pooling, vector::normalise};

const TOKENIZER: &str = "tokenizer.json";
const WEIGHTS: &str = "model.safetensors";

/// The models that are in use, by [`key`].
static LOADED: LazyLock<Mutex<HashMap<String, Weak<Shared>>>> = LazyLock::new(Mutex::default);

/// A model that nothing changes any more.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: String,
    pub(crate) tokens: Tokens,
    pub(crate) encoder: Encoder,
    pooling: Pooling,
}

impl Shared {
    /// The weights of a directory, read now or at hand since another model of this process has them.
    ///
    /// # Errors
    /// `Files` where they are missing or are not what the directory's configuration says.
    pub(crate) fn of(manifest: &Manifest) -> Result<Arc<Self>, Error> {
        let key = key(manifest)?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, model| model.strong_count() > 0);
        if let Some(model) = loaded.get(&key).and_then(Weak::upgrade) {
            return Ok(model);
        }
        let model = Arc::new(Self::load(manifest)?);
        loaded.insert(key, Arc::downgrade(&model));
        Ok(model)
    }

    fn load(manifest: &Manifest) -> Result<Self, Error> {
        let contents = |path: &Path| fs::read(path).map_err(|error| unreadable(path, &error));
        let path = manifest.root.join(TOKENIZER);
        let json = contents(&path)?;
        let tokens = Tokens::new(&path, &json, manifest)?;
        let path = manifest.root.join(WEIGHTS);
        let bytes = contents(&path)?;
        let encoder = weights::encoder(&path, &bytes, &manifest.shape)?;
        Ok(Self { id: manifest.identify(&[&json, &bytes]), tokens, encoder, pooling: manifest.pooling })
    }

    /// The vector of each text of a part, with its place in the batch.
    pub(crate) fn embed(&self, part: Part) -> Result<Vec<(usize, Vec<f32>)>, Error> {
        let texts: Vec<&[u32]> = part.texts.iter().map(|text| text.ids.as_slice()).collect();
        let states = self.encoder.encode(&texts)?;
        let width = self.encoder.dimensions();
        let mut first = 0;
        let mut vectors = Vec::with_capacity(part.texts.len());
        for text in &part.texts {
            let states = &states[first * width..(first + text.ids.len()) * width];
            first += text.ids.len();
            let mut vector = pool(self.pooling, states, width);
            if !normalise(&mut vector) {
                let reason = "the text has no direction".to_owned();
                return Err(Error::Rejected { item: Some(text.index), reason });
            }
            vectors.push((text.index, vector));
        }
        Ok(vectors)
    }
}

/// One vector for a text, of the vectors of its tokens.
fn pool(pooling: Pooling, states: &[f32], width: usize) -> Vec<f32> {
    let mut rows = states.chunks_exact(width);
    let mut pooled = rows.next().map_or_else(|| vec![0.0; width], <[f32]>::to_vec);
    if pooling == Pooling::Mean {
        for row in rows {
            for (sum, value) in pooled.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
    // The sum is the mean but for its length, which becomes 1.
    pooled
}

/// What differs when the model does: what is said of it, and when its files were written.
fn key(manifest: &Manifest) -> Result<String, Error> {
    let mut key = format!("{manifest:?}");
    for file in [TOKENIZER, WEIGHTS] {
        let path = manifest.root.join(file);
        let written = fs::metadata(&path).and_then(|data| Ok((data.len(), data.modified()?)));
        key += &format!("{:?}", written.map_err(|error| unreadable(&path, &error))?);
    }
    Ok(key)
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::Files { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Config;

    #[test]
    fn two_models_of_a_process_have_their_weights_once() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/small-bert");
        let manifest = |config: &Config| Manifest::read(&directory, config).unwrap();
        let mut config = Config::default();
        let first = Shared::of(&manifest(&config)).unwrap();
        assert!(Arc::ptr_eq(&first, &Shared::of(&manifest(&config)).unwrap()));
        config.local.query_prefix = Some("another: ".to_owned());
        assert!(!Arc::ptr_eq(&first, &Shared::of(&manifest(&config)).unwrap()));
    }
}
