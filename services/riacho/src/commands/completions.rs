//! `riacho completions SHELL`.

use clap::CommandFactory;

use crate::{cli::Cli, output::Output};

// One signature for all commands; writing to memory cannot fail.
#[allow(clippy::unnecessary_wraps)]
pub(super) fn run(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "riacho", &mut script);
    Output::new(false, false).raw(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
