//! The parser's child process alone, for the tests of this crate.

fn main() -> std::process::ExitCode {
    riacho_extractor::child::main()
}
