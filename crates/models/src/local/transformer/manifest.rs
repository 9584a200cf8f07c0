//! What the files of a sentence transformer say about it, in the layout of the Python package `sentence-transformers`:
//! `modules.json` names the parts, each with a configuration of its own. A directory without it is a plain encoder, of
//! which that package takes the mean.

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::arithmetic::Activation;
use crate::{Config, Error, config::Pooling};

/// The names of the file that limits a text; the package has one for each kind of encoder.
const LIMIT_FILES: [&str; 4] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_camembert_config.json",
];

/// What is known of a model before its weights are read.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The directory with the encoder's own files.
    pub(crate) root: PathBuf,
    /// What its makers call the encoder.
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) pooling: Pooling,
    /// The most tokens of a text, with those that the tokenizer adds.
    pub(crate) max_tokens: usize,
    /// Whether texts are written small before they become tokens.
    pub(crate) lower_case: bool,
    pub(crate) query_prefix: String,
    pub(crate) passage_prefix: String,
}

/// The sizes of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) vocabulary: usize,
    pub(crate) width: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    /// The rows of the table of positions, and those of them that come before the first token's.
    pub(crate) positions: usize,
    pub(crate) skipped_positions: usize,
    pub(crate) epsilon: f32,
    pub(crate) activation: Activation,
}

/// `config.json`, with the defaults of BERT.
#[derive(Debug, Deserialize)]
struct EncoderFile {
    model_type: String,
    #[serde(default, rename = "_name_or_path")]
    name: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "small_epsilon")]
    layer_norm_eps: f32,
    #[serde(default = "gelu")]
    hidden_act: String,
    position_embedding_type: Option<String>,
    pad_token_id: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct ModuleEntry {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
struct LimitFile {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Debug, Default, Deserialize)]
struct TokenizerFile {
    /// Often "without limit", written as 10 to the power of 30.
    model_max_length: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
struct PromptFile {
    #[serde(default)]
    prompts: HashMap<String, Option<String>>,
    default_prompt_name: Option<String>,
}

/// The older form has a switch for each way to pool, the newer one a name.
#[derive(Debug, Deserialize)]
struct PoolingFile {
    pooling_mode: Option<String>,
    #[serde(default = "yes")]
    include_prompt: bool,
    #[serde(flatten)]
    others: HashMap<String, serde_json::Value>,
}

fn small_epsilon() -> f32 {
    1e-12
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn yes() -> bool {
    true
}

impl Manifest {
    /// Reads a directory; what the configuration says about pooling, prefixes and length goes before its files.
    pub(crate) fn read(directory: &Path, config: &Config) -> Result<Self, Error> {
        let modules: Option<Vec<ModuleEntry>> = read(&directory.join("modules.json"))?;
        let (root, pooling) = match modules {
            Some(modules) => parts(directory, &modules)?,
            None => (directory.to_owned(), None),
        };
        let path = root.join("config.json");
        let encoder: EncoderFile = read(&path)?.ok_or_else(|| damaged(&path, "there is no such file"))?;
        let shape = shape(&path, &encoder)?;
        let limits = LIMIT_FILES.iter().find_map(|name| read::<LimitFile>(&root.join(name)).transpose());
        let limits = limits.transpose()?.unwrap_or_default();
        let tokenizer: TokenizerFile = read(&root.join("tokenizer_config.json"))?.unwrap_or_default();
        let prompts: PromptFile =
            read(&directory.join("config_sentence_transformers.json"))?.unwrap_or_default();
        let local = &config.local;
        let prompt =
            |told: &Option<String>, names: &[&str]| told.clone().unwrap_or_else(|| prompts.of(names));
        let manifest = Manifest {
            name: name_of(&encoder),
            max_tokens: max_tokens(&shape, &limits, &tokenizer, local.max_text_tokens),
            lower_case: limits.do_lower_case,
            query_prefix: prompt(&local.query_prefix, &["query"]),
            passage_prefix: prompt(&local.passage_prefix, &["document", "passage", "corpus"]),
            pooling: local.pooling.or(pooling.as_ref().map(|(pooling, _)| *pooling)).unwrap_or_default(),
            root,
            shape,
        };
        let has_prefix = !manifest.query_prefix.is_empty() || !manifest.passage_prefix.is_empty();
        if has_prefix && pooling.is_some_and(|(_, with_prompt)| !with_prompt) {
            return Err(damaged(directory, "pooling without the prefix is not supported"));
        }
        Ok(manifest)
    }
}

impl Manifest {
    /// A name that differs whenever the vectors do: with a hash of the given files and of what is said here.
    pub(crate) fn identify(&self, files: &[&[u8]]) -> String {
        let mut hash = blake3::Hasher::new();
        let Manifest { shape, pooling, max_tokens, lower_case, query_prefix, passage_prefix, .. } = self;
        let said = (shape, pooling, max_tokens, lower_case, query_prefix, passage_prefix);
        hash.update(format!("{said:?}").as_bytes());
        for file in files {
            hash.update(blake3::hash(file).as_bytes());
        }
        format!("{}-{}", self.name, &hash.finalize().to_hex()[..12])
    }
}

impl PromptFile {
    /// The prompt of the first name that there is, else the default one.
    fn of(&self, names: &[&str]) -> String {
        let named = names.iter().find_map(|name| self.prompts.get(*name));
        let named = named.or_else(|| self.prompts.get(self.default_prompt_name.as_deref()?));
        named.cloned().flatten().unwrap_or_default()
    }
}

/// The encoder's directory, and how its vectors become one, with whether the prefix counts.
fn parts(directory: &Path, modules: &[ModuleEntry]) -> Result<(PathBuf, Option<(Pooling, bool)>), Error> {
    let (mut root, mut pooling) = (None, None);
    for module in modules {
        let path = directory.join(&module.path);
        // Names changed their place in the package, and kept their end.
        match module.kind.rsplit('.').next() {
            Some("Transformer") => root = Some(path),
            Some("Pooling") => {
                let file = path.join("config.json");
                pooling = match read::<PoolingFile>(&file)? {
                    Some(told) => Some((told.pooling(&file)?, told.include_prompt)),
                    None => return Err(damaged(&file, "there is no such file")),
                };
            }
            // Every vector is scaled to length 1, whoever made it.
            Some("Normalize") => {}
            _ => {
                let reason = format!("a module of the kind {} is not supported", module.kind);
                return Err(damaged(&directory.join("modules.json"), &reason));
            }
        }
    }
    let root = root.ok_or_else(|| damaged(&directory.join("modules.json"), "it names no encoder"))?;
    Ok((root, pooling))
}

impl PoolingFile {
    fn pooling(&self, path: &Path) -> Result<Pooling, Error> {
        let switched = self.others.iter().filter(|(_, value)| **value == serde_json::Value::Bool(true));
        let switched = switched.filter_map(|(key, _)| key.strip_prefix("pooling_mode_"));
        let modes: Vec<&str> = self.pooling_mode.as_deref().into_iter().chain(switched).collect();
        match modes.as_slice() {
            // The two differ in length only, and every vector is scaled to length 1.
            ["mean" | "mean_tokens" | "mean_sqrt_len_tokens"] => Ok(Pooling::Mean),
            ["cls" | "cls_token"] => Ok(Pooling::Cls),
            other => Err(damaged(path, &format!("pooling by {other:?} is not supported"))),
        }
    }
}

fn shape(path: &Path, encoder: &EncoderFile) -> Result<Shape, Error> {
    let skipped_positions = match encoder.model_type.as_str() {
        "bert" => 0,
        // The first position is the one behind that of padding.
        "roberta" | "xlm-roberta" | "camembert" => encoder.pad_token_id.unwrap_or(1) + 1,
        other => return Err(damaged(path, &format!("models of the type {other} are not supported"))),
    };
    if encoder.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
        return Err(damaged(path, "only absolute positions are supported"));
    }
    let activation = match encoder.hidden_act.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::ApproximateGelu,
        "relu" => Activation::Relu,
        other => return Err(damaged(path, &format!("the activation {other} is not supported"))),
    };
    let shape = Shape {
        vocabulary: encoder.vocab_size,
        width: encoder.hidden_size,
        inner: encoder.intermediate_size,
        layers: encoder.num_hidden_layers,
        heads: encoder.num_attention_heads,
        positions: encoder.max_position_embeddings,
        skipped_positions,
        epsilon: encoder.layer_norm_eps,
        activation,
    };
    let sizes = [shape.vocabulary, shape.width, shape.inner, shape.layers, shape.heads];
    if sizes.contains(&0)
        || !shape.width.is_multiple_of(shape.heads)
        || shape.positions < skipped_positions + 3
    {
        return Err(damaged(path, "its sizes do not fit each other"));
    }
    Ok(shape)
}

fn max_tokens(shape: &Shape, limits: &LimitFile, tokenizer: &TokenizerFile, configured: usize) -> usize {
    let places = shape.positions - shape.skipped_positions;
    // A number without limit becomes the greatest one.
    let tokenizer = tokenizer.model_max_length.map_or(usize::MAX, |limit| limit as usize);
    // The tokenizer's own two tokens and one of the text always fit.
    limits.max_seq_length.unwrap_or(tokenizer).min(places).min(configured).max(3)
}

fn name_of(encoder: &EncoderFile) -> String {
    let name = encoder.name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = name.chars().filter(|c| plain(*c)).take(64).collect();
    if name.is_empty() { encoder.model_type.clone() } else { name }
}

/// The contents of a JSON file; none where there is no such file.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error.to_string()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(damaged(path, &error.to_string())),
    }
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::Files { path: path.to_owned(), reason: reason.to_owned() }
}
