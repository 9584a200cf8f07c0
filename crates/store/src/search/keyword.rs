//! The keyword leg: the query's words in the languages of the tenant's documents, and the chunks that
//! match them. The ranking itself is the function `matching_chunks` of the schema.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::{
    SearchRequest,
    fusion::{Leg, Place},
};
use crate::{
    Error,
    language::configuration,
    lexemes::{self, Language},
    read,
    transaction::{Param, Tx},
};

/// A query of more words is cut: each word costs a look into the text index.
const MAX_WORDS: usize = 24;
/// So many words of a query are looked at to find those.
const MOST_READ: usize = 200;

/// A word that is in more chunks than this brings only so many of them. See `matching_chunks`.
pub(crate) const BOUND: i32 = 1_000;

/// The words of a query that count.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Each as a text search query of the forms it may be indexed under.
    queries: Vec<String>,
    /// All forms of all words.
    pub(super) forms: BTreeSet<String>,
    /// Each form of each word as a text search query, with the number of its word from 1.
    single: (Vec<String>, Vec<i32>),
}

/// Reads the query's words in each language: the one that is named, else all of the tenant's.
pub(super) async fn words(tx: &Tx, request: &SearchRequest) -> Result<Words, Error> {
    let configs = match request.language.as_deref() {
        Some(language) => vec![configuration(language).to_owned()],
        None => {
            let rows = tx.query(LANGUAGES, &[&request.tenant.as_str()]).await?;
            rows.iter().map(|row| row.try_get("config")).collect::<Result<Vec<_>, _>>()?
        }
    };
    Ok(read_words(&request.query, &configs))
}

/// Reads words in the languages given. A word that is a stop word in all of them does not count. Where the
/// query clearly is in one of them, its stop words do not count in the others either, which would take
/// them for rare words.
fn read_words(query: &str, configs: &[String]) -> Words {
    let languages: Vec<&Language> = configs.iter().map(|config| Language::of(config)).collect();
    let words: Vec<&str> = lexemes::words(query).take(MOST_READ).map(|word| &query[word]).collect();
    let own = own_language(&words, &languages);
    let without_own = words.iter().filter(|word| !own.is_some_and(|own| own.is_stop_word(word)));
    let read = collect(without_own, &languages);
    if read.queries.is_empty() { collect(words.iter(), &languages) } else { read }
}

/// The language of which the query has at least two stop words, and more than of any other.
fn own_language<'l>(words: &[&str], languages: &[&'l Language]) -> Option<&'l Language> {
    let count = |language: &&Language| words.iter().filter(|word| language.is_stop_word(word)).count();
    let mut counted: Vec<_> = languages.iter().map(|language| (count(language), *language)).collect();
    counted.sort_by_key(|(stop_words, _)| std::cmp::Reverse(*stop_words));
    let next = counted.get(1).map_or(0, |(stop_words, _)| *stop_words);
    counted.first().filter(|(stop_words, _)| *stop_words >= 2 && *stop_words > next).map(|(_, own)| *own)
}

fn collect<'w>(words: impl Iterator<Item = &'w &'w str>, languages: &[&Language]) -> Words {
    let mut read = Words::default();
    for word in words {
        let forms: BTreeSet<String> = languages
            .iter()
            .filter_map(|language| language.forms(word))
            .flat_map(|forms| forms.iter().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let any = any_of(&forms);
        if !any.is_empty() && !read.queries.contains(&any) {
            read.queries.push(any);
            let word = i32::try_from(read.queries.len()).unwrap_or(i32::MAX);
            read.single.0.extend(forms.iter().map(|form| quote(form)));
            read.single.1.resize(read.single.0.len(), word);
            read.forms.extend(forms);
        }
        if read.queries.len() == MAX_WORDS {
            break;
        }
    }
    read
}

fn any_of(forms: &BTreeSet<String>) -> String {
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
    let (forms, form_words) = &words.single;
    let params: [Param<'_>; 6] = [&words.queries, forms, form_words, &allowed, &BOUND, &read::signed(top)];
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

pub(super) const LANGUAGES: &str = "-- store::search::keyword::words
SELECT config FROM tenant_languages WHERE tenant_id = $1 ORDER BY config";

pub(super) const MATCHING: &str = "-- store::search::keyword::matching
SELECT document_id, version, run_id, ordinal, score
FROM matching_chunks($1::text[]::tsquery[], $2::text[]::tsquery[], $3::int[], $4::uuid[], $5, $6)";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str, configs: &[&str]) -> Vec<String> {
        read_words(query, &configs.iter().map(|config| (*config).to_owned()).collect::<Vec<_>>()).queries
    }

    #[test]
    fn the_querys_own_stop_words_do_not_count_in_other_languages_either() {
        for configs in [&["english"][..], &["english", "portuguese"], &["portuguese", "simple", "english"]] {
            assert_eq!(read("what is the weir", configs), ["'weir'"], "{configs:?}");
        }
        assert_eq!(read("the weir", &["simple"]), ["'the'", "'weir'"], "no language is known");
        // "die" is an English word here, whatever it is in German.
        assert_eq!(read("how to die cast the weir", &["english", "german"]).len(), 3);
        assert!(read("of the", &["english"]).is_empty());
        // One word says nothing about the language, and a tie neither.
        for query in ["war", "die", "war crimes"] {
            assert_eq!(read(query, &["english", "german"]).len(), query.split(' ').count(), "{query}");
        }
        assert_eq!(read("to die", &["english", "german"]).len(), 2);
    }

    #[test]
    fn a_word_stands_once_with_all_its_forms() {
        assert_eq!(read("Pumps, pump PUMPING", &["english"]), ["'pump'"]);
        let both = read("canção", &["portuguese", "simple"]);
        assert_eq!(both.len(), 1);
        assert!(both[0].contains("'cancao'"), "{both:?}");
        assert!(read("word ".repeat(500).as_str(), &[]).is_empty(), "nothing is indexed yet");
    }

    #[test]
    fn quotes_of_a_word_stay_inside_it() {
        assert_eq!(quote(r"o'neil\x"), r"'o''neil\\x'");
    }
}
