//! Bootstrap of every service: configuration, telemetry, health, operations server, signals.
