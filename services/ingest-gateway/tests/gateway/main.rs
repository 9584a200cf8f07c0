//! The gateway on real servers, without the pipeline behind it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accept;
mod bad_input;
mod bulk;
mod bulk_archives;
mod bulk_bounds;
mod bulk_by_path;
mod dead_letters;
mod events;
mod fetch;
mod fixture;
mod intake;
mod kept_answers;
mod limits;
mod openai;
mod openapi;
mod operators;
mod rates;
mod read;
mod search;
mod session;
mod tenants;
mod uploads;
mod webhooks;
