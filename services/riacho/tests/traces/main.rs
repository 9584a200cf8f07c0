//! One trace over all five services, at a collector; and a document's story in their logs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod deletions;
mod documents;
mod events;
mod five;
mod outage;
mod releases;
mod search;
mod stories;
#[path = "../support/mod.rs"]
mod support;
mod tree;

/// The services, in the order in which they are started.
const SERVICES: [&str; 5] = ["ingest-gateway", "extractor", "embedder", "indexer", "janitor"];
