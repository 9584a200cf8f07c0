//! Fixtures, fault proxies and the process harness of the tests.

pub mod openai;
