//! Compares the rows with the model, and both with what has to hold whatever the model says.

use riacho_domain::State;
use riacho_store::{Mode, SearchRequest};

use super::{
    driver::{Driver, Step, ensure, said},
    model::{Doc, Ver},
};

impl Driver {
    fn documents(&self) -> String {
        let ids: Vec<String> = self.model.docs.iter().map(|doc| format!("'{}'", doc.id)).collect();
        ids.join(", ")
    }

    /// Compares every row of every version with the model.
    pub(super) fn compare(&self) -> Step {
        if self.model.docs.is_empty() {
            return Ok(());
        }
        let rows = self.db.raw.run(&format!(
            "SELECT d.id, v.version, d.latest_version, d.live_version, d.live_run, d.deleted_at IS NOT NULL, v.state,
                    v.release_id, v.run_id, v.chunk_total, v.losses, v.stalls,
                    (SELECT count(*) FROM chunks AS c WHERE c.document_id = d.id AND c.version = v.version),
                    (SELECT count(*) FROM vectors_{} AS e WHERE e.document_id = d.id AND e.version = v.version)
             FROM documents AS d JOIN document_versions AS v ON v.document_id = d.id
             WHERE d.id IN ({})",
            self.db.space,
            self.documents()
        ));
        let mut rows: Vec<Vec<String>> =
            rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect();
        rows.sort();
        let docs = self.model.docs.iter();
        let mut expected: Vec<Vec<String>> = docs
            .flat_map(|doc| doc.versions.iter().enumerate().map(|(n, version)| row(doc, n, version)))
            .collect();
        expected.sort();
        for (row, expected) in rows.iter().zip(&expected) {
            ensure!(row == expected, "\n  {row:?}, expected\n  {expected:?}");
        }
        ensure!(rows.len() == expected.len(), "{} versions, expected {}", rows.len(), expected.len());
        for doc in &self.model.docs {
            let in_flight = doc.versions.iter().filter(|version| version.state.is_in_flight()).count();
            ensure!(in_flight <= 1, "{in_flight} current releases of {}", doc.id);
        }
        Ok(())
    }

    /// What a search and a reader see is what is live, whole and of one run.
    pub(super) async fn visible(&self) -> Step {
        let words = SearchRequest {
            mode: Mode::Keyword,
            top_k: 100,
            ..SearchRequest::new(self.db.acme.clone(), "heron")
        };
        let hits = self.db.store.search(&words).await.map_err(said)?;
        let mut found: Vec<_> = hits.iter().map(|hit| (hit.document, hit.run, hit.ordinal)).collect();
        found.sort_unstable();
        let mut expected = Vec::new();
        for doc in self.model.docs.iter().filter(|doc| !doc.deleted) {
            let Some((run, total)) = live(doc) else { continue };
            expected.extend((0..total).map(|ordinal| (doc.id, run, ordinal)));
        }
        expected.sort_unstable();
        ensure!(found == expected, "found {found:?}, expected {expected:?}");
        Ok(())
    }

    /// Every step of a state was legal, and no live version went back.
    pub(super) fn history(&self) -> Step {
        if self.model.docs.is_empty() {
            return Ok(());
        }
        let steps = self.db.raw.run(&format!(
            "SELECT version, was, became, document FROM history WHERE document IN ({}) ORDER BY n",
            self.documents()
        ));
        for step in steps {
            let [version, was, became, _] = step.as_slice() else { return Err(format!("{step:?}")) };
            let (Some(was), Some(became)) = (was, became) else { return Err(format!("{step:?}")) };
            let is_legal = match version {
                Some(_) => {
                    let state = |text: &str| text.parse::<State>();
                    state(was)?.may_become(state(became)?)
                }
                None => was.parse::<u32>().ok() < became.parse::<u32>().ok(),
            };
            ensure!(is_legal, "{step:?}");
        }
        Ok(())
    }
}

/// The run and the number of chunks of what is live.
fn live(doc: &Doc) -> Option<(riacho_domain::RunId, u32)> {
    let version = &doc.versions[doc.live?];
    let run = version.sealed?;
    Some((version.runs[run], version.totals[run]))
}

/// A version's row as it should be.
fn row(doc: &Doc, number: usize, version: &Ver) -> Vec<String> {
    let text = |value: Option<String>| value.unwrap_or_default();
    let sealed = version.sealed;
    vec![
        doc.id.to_string(),
        (number + 1).to_string(),
        doc.versions.len().to_string(),
        text(doc.live.map(|live| (live + 1).to_string())),
        text(live(doc).map(|(run, _)| run.to_string())),
        if doc.deleted { "t" } else { "f" }.to_owned(),
        version.state.to_string(),
        text(version.release.map(|release| release.to_string())),
        text(sealed.map(|run| version.runs[run].to_string())),
        text(sealed.map(|run| version.totals[run].to_string())),
        version.losses.to_string(),
        version.stalls.to_string(),
        version.rows.len().to_string(),
        version.rows.len().to_string(),
    ]
}
