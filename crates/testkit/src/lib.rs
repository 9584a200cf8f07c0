//! Fixtures, fault proxies and the process harness of the tests.
