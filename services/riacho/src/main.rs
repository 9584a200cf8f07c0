//! The one binary: a subcommand for each service, up, and the operator's command line.

fn main() {}
