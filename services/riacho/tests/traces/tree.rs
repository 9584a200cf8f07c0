//! Spans at the collector, as the tree that they are.

use std::collections::BTreeSet;

use riacho_testkit::{
    collector::{CollectedSpan, Collector},
    within,
};

use crate::support::cluster::PATIENCE;

/// Waits until a trace has spans of these names and so many of each, and is a tree below the client's span: services
/// send what they have in their own time.
pub(crate) async fn trace_with(
    collector: &Collector,
    (trace, client): (&str, &str),
    names: &[(&str, usize)],
) -> Vec<CollectedSpan> {
    within(PATIENCE, || async {
        let spans = collector.trace(trace).unwrap();
        let missing = names.iter().find(|(name, count)| named(&spans, name).len() < *count);
        match missing.map(|(name, _)| (*name).to_owned()).or_else(|| loose_end(&spans, client)) {
            None => Ok(spans),
            Some(missing) => Err(format!("{missing}: {spans:#?}")),
        }
    })
    .await
}

/// What has no parent in the trace; none where it is a tree below the client's span.
pub(crate) fn loose_end(spans: &[CollectedSpan], client: &str) -> Option<String> {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "each span once");
    assert!(spans.iter().all(|span| span.times.0 <= span.times.1), "{spans:#?}");
    let loose = spans.iter().find(|span| span.parent != client && !ids.contains(span.parent.as_str()));
    loose.map(|span| span.name.clone())
}

/// The names from the client's span down to a span.
pub(crate) fn way<'a>(spans: &'a [CollectedSpan], to: &'a CollectedSpan) -> Vec<(&'a str, &'a str, &'a str)> {
    let parent = spans.iter().find(|span| span.id == to.parent);
    let mut way = parent.map_or_else(Vec::new, |parent| way(spans, parent));
    way.push((&to.service, &to.kind, &to.name));
    way
}

pub(crate) fn named<'a>(spans: &'a [CollectedSpan], name: &str) -> Vec<&'a CollectedSpan> {
    spans.iter().filter(|span| span.name == name).collect()
}
