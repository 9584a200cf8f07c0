//! Release, dead letters, expiry, orphans, purge and their schedules.
