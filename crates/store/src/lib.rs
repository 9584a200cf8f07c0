//! PostgreSQL: pool, migrations and every SQL statement, one file for each aggregate.
