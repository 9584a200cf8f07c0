//! Reads a retrieval set in the layout of BEIR: `corpus.jsonl`, `queries.jsonl` and `qrels.tsv` (or `qrels/test.tsv`).

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use super::measures::Judgements;
use crate::exit::{Failure, Kind};

/// A retrieval set whose parts fit each other.
#[derive(Debug)]
pub(super) struct Dataset {
    pub(super) documents: Vec<Document>,
    /// Only queries with at least one relevant document, in the order of their file.
    pub(super) queries: Vec<Query>,
}

/// A document of the corpus.
#[derive(Debug, Deserialize)]
pub(super) struct Document {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    pub(super) title: Option<String>,
    #[serde(default)]
    pub(super) text: String,
}

/// A query with what is relevant to it.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) judgements: Judgements,
}

#[derive(Deserialize)]
struct QueryLine {
    #[serde(rename = "_id")]
    id: String,
    text: String,
}

impl Dataset {
    /// Reads the set of a directory.
    ///
    /// # Errors
    /// With the file and the line that cannot be read, or that names what is not there.
    pub(super) fn read(directory: &Path) -> anyhow::Result<Dataset> {
        let documents: Vec<Document> = json_lines(&directory.join("corpus.jsonl"))?;
        let lines: Vec<QueryLine> = json_lines(&directory.join("queries.jsonl"))?;
        let mut judgements = judgements(&qrels(directory), &documents)?;
        let queries: Vec<Query> = lines
            .into_iter()
            .filter_map(|line| Some(Query { judgements: judgements.remove(&line.id)?, text: line.text }))
            .collect();
        if queries.is_empty() {
            return Err(wrong(directory, "no query has a relevant document"));
        }
        Ok(Dataset { documents, queries })
    }
}

fn qrels(directory: &Path) -> PathBuf {
    let flat = directory.join("qrels.tsv");
    if flat.exists() { flat } else { directory.join("qrels/test.tsv") }
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> anyhow::Error {
    Failure::error(Kind::Usage, format!("{}: {what}", path.display()))
}

/// The lines of a file with their numbers, from 1; empty ones are left out.
fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<(usize, String)>>> {
    let file = File::open(path).map_err(|error| wrong(path, format!("cannot read: {error}")))?;
    let path = path.to_owned();
    Ok((1..).zip(BufReader::new(file).lines()).filter_map(move |(number, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(Ok((number, line))),
        Err(error) => Some(Err(wrong(&path, format!("line {number}: {error}")))),
    }))
}

fn json_lines<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    lines(path)?
        .map(|line| {
            let (number, line) = line?;
            serde_json::from_str(&line).map_err(|error| wrong(path, format!("line {number}: {error}")))
        })
        .collect()
}

/// What is relevant to which query, by the query's id.
fn judgements(path: &Path, documents: &[Document]) -> anyhow::Result<HashMap<String, Judgements>> {
    let places: HashMap<&str, usize> =
        documents.iter().enumerate().map(|(place, document)| (document.id.as_str(), place)).collect();
    let mut all: HashMap<String, Judgements> = HashMap::new();
    for line in lines(path)? {
        let (number, line) = line?;
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [query, document, score] = fields[..] else {
            return Err(wrong(path, format!("line {number}: expected query-id, corpus-id and score")));
        };
        if number == 1 && score.parse::<f64>().is_err() {
            continue;
        }
        let score: i64 = score
            .parse()
            .map_err(|_| wrong(path, format!("line {number}: the score {score:?} is no whole number")))?;
        let Some(place) = places.get(document) else {
            return Err(wrong(path, format!("line {number}: the corpus has no document {document:?}")));
        };
        // What is judged as not relevant is what is not judged at all, for all measures here.
        if score > 0 {
            let entry: &mut BTreeMap<usize, u32> = all.entry(query.to_owned()).or_default();
            entry.insert(*place, u32::try_from(score).unwrap_or(u32::MAX));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn set(qrels: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let corpus = "{\"_id\":\"a\",\"title\":\"A\",\"text\":\"one\"}\n\n{\"_id\":\"b\",\"text\":\"two\"}\n";
        fs::write(dir.path().join("corpus.jsonl"), corpus).unwrap();
        let queries = "{\"_id\":\"1\",\"text\":\"x\"}\n{\"_id\":\"2\",\"text\":\"y\"}\n";
        fs::write(dir.path().join("queries.jsonl"), queries).unwrap();
        fs::create_dir(dir.path().join("qrels")).unwrap();
        fs::write(dir.path().join("qrels/test.tsv"), qrels).unwrap();
        dir
    }

    #[test]
    fn queries_without_a_relevant_document_are_left_out() {
        let dir = set("query-id\tcorpus-id\tscore\n2\tb\t4\n2\ta\t0\n1\ta\t-1\n");
        let dataset = Dataset::read(dir.path()).unwrap();
        assert_eq!(dataset.documents.len(), 2);
        assert_eq!(dataset.queries.len(), 1);
        assert_eq!(
            (dataset.queries[0].text.as_str(), &dataset.queries[0].judgements),
            ("y", &[(1, 4)].into())
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (qrels, told) in [
            ("1\tc\t1\n", "line 1: the corpus has no document \"c\""),
            ("q\tc\ts\n1\ta\n", "line 2: expected query-id"),
            ("1\ta\t1\n1\tb\tmuch\n", "line 2: the score \"much\""),
            ("1\ta\t0\n", "no query has a relevant document"),
        ] {
            let dir = set(qrels);
            let error = Dataset::read(dir.path()).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        let dir = set("1\ta\t1\n");
        fs::write(dir.path().join("queries.jsonl"), "{}").unwrap();
        assert!(Dataset::read(dir.path()).unwrap_err().to_string().contains("queries.jsonl: line 1"));
        assert!(Dataset::read(Path::new("/nowhere")).unwrap_err().to_string().contains("corpus.jsonl"));
    }
}
