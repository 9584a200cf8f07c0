//! The store on a real PostgreSQL: one private server for the process, a database for each test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod accept;
mod attachments;
mod commands;
mod database;
mod dead_letters;
mod fallback;
mod files;
mod indexing;
mod janitor;
mod lists;
mod machine;
mod operators;
mod races;
mod reuse;
mod schedules;
mod schema;
mod search;
mod security;
mod spaces;
mod spend;
mod stages;
mod tenants;
mod transactions;
mod vector_stores;
mod vectors;
mod versions;
