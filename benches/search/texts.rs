//! Texts of chunks: sentences of real files, three together, the same for a seed.

use std::{collections::BTreeSet, path::Path};

use anyhow::Context as _;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

/// What chunks and queries are made of.
pub(super) struct Texts {
    sentences: Vec<String>,
}

impl Texts {
    /// The sentences of all `.txt`, `.md` and `.jsonl` files (their field `text`) of a folder.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Texts> {
        let mut sentences = BTreeSet::new();
        walk(folder, &mut sentences)?;
        anyhow::ensure!(sentences.len() >= 100, "the texts have fewer than 100 sentences");
        Ok(Texts { sentences: sentences.into_iter().collect() })
    }

    /// The text of a chunk.
    pub(super) fn chunk(&self, seed: u64) -> String {
        let mut random = StdRng::seed_from_u64(seed);
        (0..3).map(|_| self.pick(&mut random)).collect::<Vec<_>>().join(" ")
    }

    /// A query: some words that follow one another in a sentence.
    pub(super) fn query(&self, seed: u64) -> String {
        let mut random = StdRng::seed_from_u64(!seed);
        let words: Vec<&str> = self.pick(&mut random).split_whitespace().collect();
        let length = random.random_range(3..=8).min(words.len());
        let start = random.random_range(0..=words.len() - length);
        words[start..start + length].join(" ")
    }

    fn pick(&self, random: &mut StdRng) -> &str {
        &self.sentences[random.random_range(0..self.sentences.len())]
    }
}

fn walk(folder: &Path, sentences: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, sentences)?;
            continue;
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("txt" | "md") => add(sentences, &String::from_utf8_lossy(&std::fs::read(&path)?)),
            Some("jsonl") => {
                for line in std::fs::read_to_string(&path)?.lines() {
                    let value: Value = serde_json::from_str(line)
                        .with_context(|| format!("{} is not JSON by lines", path.display()))?;
                    add(sentences, value["text"].as_str().unwrap_or_default());
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn add(sentences: &mut BTreeSet<String>, text: &str) {
    let whole = text.split_inclusive(['.', '?', '!']).map(str::trim);
    sentences.extend(whole.filter(|sentence| (40..600).contains(&sentence.len())).map(str::to_owned));
}
