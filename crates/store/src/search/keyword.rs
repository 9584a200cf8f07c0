//! The keyword leg: the query's words in the languages of the tenant's documents, and the chunks that
//! match them. The ranking itself is the function `matching_chunks` of the schema.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::{
    SearchRequest,
    fusion::{Leg, Place},
};
use crate::{
    Error,
    language::configuration,
    read,
    transaction::{Param, Tx},
};

/// A query of more words is cut: each word costs a look into the text index.
const MAX_WORDS: usize = 24;

/// A word that is in more chunks than this brings only so many of them. See `matching_chunks`.
const BOUND: i32 = 1_000;

/// The words of a query that count, each as a text search query of the forms it may be indexed under.
#[derive(Debug, Default)]
pub(super) struct Words {
    queries: Vec<String>,
    /// Stems with their accents: only texts that are marked have them.
    accented: Vec<String>,
}

impl Words {
    /// A query for all forms of all words; none without words.
    pub(super) fn to_mark(&self) -> Option<String> {
        let all: Vec<&str> = self.queries.iter().chain(&self.accented).map(String::as_str).collect();
        if self.queries.is_empty() { None } else { Some(all.join(" | ")) }
    }
}

/// A word in one language.
struct Reading {
    place: i64,
    forms: Vec<String>,
    stems: Vec<String>,
    is_stop_word: bool,
}

impl Reading {
    fn read(row: &Row) -> Result<Self, Error> {
        let stems: Vec<String> = row.try_get("stems")?;
        Ok(Self {
            place: row.try_get("place")?,
            forms: row.try_get("forms")?,
            is_stop_word: stems.is_empty() || row.try_get("folded_stop_word")?,
            stems,
        })
    }
}

/// Reads the query's words in each language: the one that is named, else all of the tenant's.
pub(super) async fn words(tx: &Tx, request: &SearchRequest) -> Result<Words, Error> {
    let language = request.language.as_deref().map(configuration);
    let params: [Param<'_>; 3] = [&request.tenant.as_str(), &request.query, &language];
    let rows = tx.query(WORDS, &params).await?;
    let readings = rows.iter().map(Reading::read).collect::<Result<Vec<_>, _>>()?;
    Ok(combine(readings))
}

/// A word counts unless it is a stop word in all languages; its forms are those of the languages in
/// which it is none.
fn combine(readings: Vec<Reading>) -> Words {
    let mut words: BTreeMap<i64, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for reading in readings.into_iter().filter(|reading| !reading.is_stop_word) {
        let (forms, stems) = words.entry(reading.place).or_default();
        forms.extend(reading.forms);
        stems.extend(reading.stems);
    }
    let mut combined = Words::default();
    for (mut forms, mut stems) in words.into_values() {
        forms.sort_unstable();
        forms.dedup();
        stems.retain(|stem| !forms.contains(stem));
        let query = any_of(&forms);
        if !query.is_empty() && !combined.queries.contains(&query) && combined.queries.len() < MAX_WORDS {
            combined.queries.push(query);
            combined.accented.extend(stems.iter().map(|stem| quote(stem)));
        }
    }
    combined
}

fn any_of(forms: &[String]) -> String {
    forms.iter().map(|form| quote(form)).collect::<Vec<_>>().join(" | ")
}

/// A lexeme as the input of `tsquery` takes it.
fn quote(lexeme: &str) -> String {
    format!("'{}'", lexeme.replace('\\', "\\\\").replace('\'', "''"))
}

/// The chunks that match the words, the best first.
pub(super) async fn matching(
    tx: &Tx,
    words: &Words,
    allowed: Option<&[uuid::Uuid]>,
    top: u32,
) -> Result<Leg, Error> {
    if words.queries.is_empty() {
        return Ok(Leg::new());
    }
    let params: [Param<'_>; 4] = [&words.queries, &allowed, &BOUND, &read::signed(top)];
    let rows = tx.query(MATCHING, &params).await?;
    rows.iter().map(|row| Ok((place(row)?, row.try_get("score")?))).collect()
}

pub(super) fn place(row: &Row) -> Result<Place, Error> {
    Ok(Place {
        document: read::document(row, "document_id")?,
        version: read::version(row, "version")?,
        run: read::run(row, "run_id")?.ok_or_else(|| Error::Row("a chunk without run".into()))?,
        ordinal: read::count(row, "ordinal")?,
    })
}

// The kinds of tokens that are left out: blanks, tags, protocols, entities, and compound words, whose
// parts follow them.
pub(super) const WORDS: &str = "-- store::search::keyword::words
SELECT t.place, tsvector_to_array(searchable(l.config::regconfig, t.token)) AS forms,
       tsvector_to_array(to_tsvector(l.config::regconfig, t.token)) AS stems,
       EXISTS (SELECT FROM folded_stop_words AS s
               WHERE s.config = l.config AND s.word = lower(unaccent(t.token))) AS folded_stop_word
FROM (SELECT row_number() OVER () AS place, p.token FROM ts_parse('default', $2) AS p
      WHERE p.tokid NOT IN (12, 13, 14, 15, 16, 17, 21) LIMIT 200) AS t
CROSS JOIN (SELECT n.config FROM tenant_languages AS n WHERE n.tenant_id = $1 AND $3::text IS NULL
            UNION SELECT $3 WHERE $3 IS NOT NULL) AS l
ORDER BY t.place, l.config";

pub(super) const MATCHING: &str = "-- store::search::keyword::matching
SELECT document_id, version, run_id, ordinal, score
FROM matching_chunks($1::text[]::tsquery[], $2::uuid[], $3, $4)";

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(place: i64, forms: &[&str], stems: &[&str]) -> Reading {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Reading { place, forms: owned(forms), stems: owned(stems), is_stop_word: stems.is_empty() }
    }

    #[test]
    fn a_stop_word_of_one_language_counts_in_the_other_and_one_of_all_does_not() {
        let words = combine(vec![
            reading(1, &["nao"], &[]),
            reading(1, &["nao"], &["nao"]),
            reading(2, &[], &[]),
            reading(2, &[], &[]),
            reading(3, &["canca", "cancao"], &["cançã"]),
        ]);
        assert_eq!(words.queries, ["'nao'", "'canca' | 'cancao'"]);
        assert_eq!(words.to_mark().as_deref(), Some("'nao' | 'canca' | 'cancao' | 'cançã'"));
    }

    #[test]
    fn quotes_of_a_word_stay_inside_it() {
        assert_eq!(quote(r"o'neil\x"), r"'o''neil\\x'");
        assert_eq!(combine(Vec::new()).to_mark(), None);
    }
}
