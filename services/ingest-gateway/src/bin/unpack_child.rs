//! The child process that unpacks archives alone, for the tests of this crate.

fn main() -> std::process::ExitCode {
    riacho_ingest_gateway::unpack::child_main()
}
