//! The private redis-server and PostgreSQL of riacho up and of the tests.
