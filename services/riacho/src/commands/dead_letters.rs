//! `riacho dead-letters list|show|replay|discard`.
//!
//! Works over all tenants, like the janitor: letters of entries that could not be read belong to none, and
//! nobody else would see them.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use anyhow::bail;
use riacho_domain::{DocumentId, Version};
use riacho_service::letters::{self, Original};
use riacho_store::{
    DeadLetter, LetterFilter, LetterState, ListLetters, MAX_LETTERS, MAX_PAGE, Pace, Resolve, Resolved, Role,
    Selection, SkipReason, Store,
};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{Context, store_failure};
use crate::{
    cli::{DeadLettersCommand, OfLetters, SelectLetters},
    exit::{Failure, Kind},
    output::{Output, shorten, table},
};

/// How long a replay works before it says how far it is.
const STEP: Duration = Duration::from_secs(2);
/// Characters of a message that a table shows.
const SHOWN: usize = 60;

pub(super) async fn run(context: &Context, command: DeadLettersCommand) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List { of, state, limit } => list(context, of, state, limit as usize).await,
        DeadLettersCommand::Show { id, tenant } => {
            let store = context.store(Role::Janitor).await?;
            match store.dead_letter(tenant.as_ref(), id).await.map_err(store_failure)? {
                Some((letter, original)) => show(context, &letter, letters::open(&original)),
                None => bail!("there is no dead letter {id}"),
            }
        }
        DeadLettersCommand::Replay { select, per_second } => {
            let pace = Pace { every: Duration::from_secs_f64(1.0 / per_second), at_most: STEP };
            resolve(context, select, Some(pace)).await
        }
        DeadLettersCommand::Discard { select } => resolve(context, select, None).await,
    }
}

async fn list(context: &Context, of: OfLetters, state: LetterState, limit: usize) -> anyhow::Result<()> {
    let store = context.store(Role::Janitor).await?;
    let tenant = of.tenant.clone();
    let mut asked = ListLetters { filter: filter_of(of), state, ..ListLetters::default() };
    let mut found: Vec<DeadLetter> = Vec::new();
    loop {
        asked.limit = u32::try_from(limit - found.len()).unwrap_or(MAX_PAGE).min(MAX_PAGE);
        let page = store.dead_letters(tenant.as_ref(), &asked).await.map_err(store_failure)?;
        found.extend(page.items);
        asked.cursor = page.next_cursor;
        if asked.cursor.is_none() || found.len() >= limit {
            break;
        }
    }
    let header = ["id", "occurred", "tenant", "stage", "reason", "document", "version", "message"];
    context.output.list(&found, &header, |letter| {
        vec![
            letter.id.to_string(),
            super::time(Some(letter.occurred_at)),
            or_none(letter.tenant.as_ref()),
            letter.stage.clone(),
            letter.reason_code.clone(),
            or_none(letter.document),
            or_none(letter.version),
            shorten(&letter.message, SHOWN),
        ]
    });
    if asked.cursor.is_some() {
        context.output.note(&format!("and more; --limit shows more than {limit}"));
    }
    Ok(())
}

fn or_none(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn show(context: &Context, letter: &DeadLetter, original: Original) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(flatten)]
        letter: &'a DeadLetter,
        #[serde(flatten)]
        original: &'a Original,
    }
    let shown = serde_json::to_value(Shown { letter, original: &original })?;
    context.output.result(&shown, || {
        let is_shown = |name: &&String| *name != "original_base64" && *name != "envelope";
        let mut rows: Vec<Vec<String>> = Vec::new();
        let plain =
            |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        for name in shown.as_object().into_iter().flat_map(serde_json::Map::keys).filter(is_shown) {
            rows.push(vec![name.clone(), plain(&shown[name])]);
        }
        for (name, value) in shown["envelope"].as_object().into_iter().flatten() {
            rows.push(vec![format!("envelope {name}"), plain(value)]);
        }
        if original.envelope.is_none() {
            rows.push(vec!["envelope".to_owned(), "the entry is none; --json shows its bytes".to_owned()]);
        }
        table(&["field", ""], rows)
    });
    Ok(())
}

fn filter_of(of: OfLetters) -> LetterFilter {
    LetterFilter { stage: of.stage, reason_code: of.reason, document: of.document }
}

/// What was selected; nothing is no selection, so that nobody resolves all by leaving something out.
fn selection_of(select: &SelectLetters) -> anyhow::Result<Selection> {
    let filter = filter_of(select.of.clone());
    if !select.ids.is_empty() {
        return Ok(Selection::Ids(select.ids.clone()));
    }
    if select.all || filter != LetterFilter::default() {
        return Ok(Selection::Filter(filter));
    }
    let text = "nothing is selected: give --id, --stage, --reason or --document, or --all";
    Err(Failure::error(Kind::Usage, text))
}

/// Replays where there is a pace, else discards; a call after another, until nothing remains.
async fn resolve(context: &Context, select: SelectLetters, pace: Option<Pace>) -> anyhow::Result<()> {
    let selection = selection_of(&select)?;
    let store = context.store(Role::Janitor).await?;
    let mut asked = Resolve { selection, cursor: None, limit: MAX_LETTERS, dry_run: select.dry_run };
    let mut summary = Summary { dry_run: select.dry_run, ..Summary::default() };
    loop {
        let done = one_call(&store, &select, &asked, pace).await.map_err(store_failure)?;
        summary.add(context.output, &done);
        asked.cursor = done.next_cursor;
        if asked.cursor.is_none() {
            break;
        }
        context.output.note(&format!("{} letters so far, {} remain", summary.letters, done.remaining));
    }
    let verb = if pace.is_some() { "replay" } else { "discard" };
    context.output.result(&summary.json(verb), || summary.text(verb));
    // Who names letters wants them resolved.
    let is_left = !select.ids.is_empty() && !summary.skipped.is_empty();
    if is_left { Err(Failure::silent(Kind::Failed)) } else { Ok(()) }
}

async fn one_call(
    store: &Store,
    select: &SelectLetters,
    asked: &Resolve,
    pace: Option<Pace>,
) -> Result<Resolved, riacho_store::Error> {
    let tenant = select.of.tenant.as_ref();
    match pace {
        Some(pace) => store.replay_dead_letters(tenant, asked, pace).await,
        None => store.discard_dead_letters(tenant, asked).await,
    }
}

/// What all calls did together.
#[derive(Debug, Default)]
struct Summary {
    dry_run: bool,
    letters: u64,
    versions: HashSet<(DocumentId, Version)>,
    skipped: BTreeMap<SkipReason, u64>,
}

impl Summary {
    /// Adds a call; with `--json` each version and each letter that was skipped is a line.
    fn add(&mut self, output: Output, done: &Resolved) {
        if done.versions.is_empty() {
            self.letters += done.letters;
        }
        for version in &done.versions {
            // A dry run leaves the letters of a version where they are, for the next call to find.
            if self.versions.insert((version.document, version.version)) {
                self.letters += version.letters;
                if output.is_json() {
                    output.result(version, String::new);
                }
            }
        }
        for skipped in &done.skipped {
            *self.skipped.entry(skipped.reason).or_default() += 1;
            if output.is_json() {
                let (id, reason): (Uuid, SkipReason) = (skipped.id, skipped.reason);
                output.result(
                    &json!({ "id": id, "skipped": reason, "detail": reason.describes() }),
                    String::new,
                );
            }
        }
    }

    fn json(&self, verb: &str) -> serde_json::Value {
        json!({
            "command": verb, "dry_run": self.dry_run, "letters": self.letters,
            "versions": self.versions.len(), "skipped": self.skipped,
        })
    }

    fn text(&self, verb: &str) -> String {
        let done = match (verb, self.dry_run) {
            (verb, true) => format!("would {verb}"),
            ("replay", false) => "replayed".to_owned(),
            (_, false) => "discarded".to_owned(),
        };
        let mut text = format!("{done} {} letters", self.letters);
        if verb == "replay" {
            text = format!("{text} of {} versions", self.versions.len());
        }
        if self.skipped.is_empty() {
            return text;
        }
        let row = |(reason, count): (&SkipReason, &u64)| {
            vec![reason.as_str().to_owned(), count.to_string(), reason.describes().to_owned()]
        };
        let left = self.skipped.values().sum::<u64>();
        let reasons = table(&["skipped", "letters", "because"], self.skipped.iter().map(row));
        format!("{text}, skipped {left}\n\n{reasons}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use riacho_store::{ReplayedVersion, Skipped};

    use super::*;

    #[test]
    fn nothing_is_selected_by_leaving_something_out() {
        let of = OfLetters { tenant: "acme".parse().ok(), stage: None, reason: None, document: None };
        let mut select = SelectLetters { of, ids: Vec::new(), all: false, dry_run: false };
        let refused = selection_of(&select).unwrap_err();
        assert!(refused.is::<Failure>() && !refused.to_string().contains('\n'), "{refused}");
        select.of.stage = Some("embed".to_owned());
        assert!(matches!(selection_of(&select), Ok(Selection::Filter(filter)) if filter.stage.is_some()));
        select.of.stage = None;
        select.all = true;
        assert!(
            matches!(selection_of(&select), Ok(Selection::Filter(filter)) if filter == LetterFilter::default())
        );
    }

    #[test]
    fn a_version_that_several_calls_of_a_dry_run_come_to_counts_once() {
        let version = ReplayedVersion { document: DocumentId::new(), version: 1, letters: 3 };
        let skipped = Skipped { id: Uuid::nil(), reason: SkipReason::Superseded };
        let done =
            Resolved { letters: 3, versions: vec![version], skipped: vec![skipped], ..Resolved::default() };
        let mut summary = Summary { dry_run: true, ..Summary::default() };
        summary.add(Output::new(false, true), &done);
        summary.add(Output::new(false, true), &done);
        let text = summary.text("replay");
        assert!(text.starts_with("would replay 3 letters of 1 versions, skipped 2\n"), "{text}");
        assert!(text.contains("superseded  2        a newer version"), "{text}");
    }
}
