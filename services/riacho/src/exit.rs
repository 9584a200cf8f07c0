//! How a command ends: exit codes, and the one line that says why.

use std::{fmt, process::ExitCode};

use riacho_service::config::ConfigError;

/// Why a command ended early, as the process's exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It ran and something failed.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A server could not be reached.
    Unreachable = 3,
    /// The database has another schema than this build needs.
    OtherSchema = 4,
    /// A signal ended it.
    Interrupted = 130,
}

/// An error that knows its exit code. Everything else ends with [`Kind::Failed`].
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    /// One line for people; none where the output has said it already.
    message: Option<String>,
}

impl Failure {
    pub(crate) fn error(kind: Kind, message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Failure { kind, message: Some(message.into()) })
    }

    /// Ends with a code and says nothing more.
    pub(crate) fn silent(kind: Kind) -> anyhow::Error {
        anyhow::Error::new(Failure { kind, message: None })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or("failed"))
    }
}

impl std::error::Error for Failure {}

/// Says in one line on standard error why the command failed, and gives the exit code.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    let failure = error.downcast_ref::<Failure>();
    let kind = failure.map_or_else(|| kind_of(error), |failure| failure.kind);
    if failure.is_none_or(|failure| failure.message.is_some()) {
        let text = one_line(&format!("{error:#}"));
        let line =
            if json { serde_json::json!({ "error": text }).to_string() } else { format!("riacho: {text}") };
        crate::output::to_stderr(&line);
    }
    ExitCode::from(kind as u8)
}

fn kind_of(error: &anyhow::Error) -> Kind {
    let is_config = error.chain().any(|cause| {
        cause.is::<ConfigError>() || matches!(cause.downcast_ref(), Some(riacho_service::Error::Config(_)))
    });
    if is_config { Kind::Usage } else { Kind::Failed }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a\n  b\n\nc\n"), "a; b; c");
    }

    #[test]
    fn a_wrong_configuration_is_a_wrong_usage() {
        let error = ConfigError::UnknownKey { origin: "x".into(), key: "y".into(), nearest: None };
        assert_eq!(kind_of(&anyhow::Error::new(error).context("cannot start")), Kind::Usage);
        assert_eq!(kind_of(&anyhow::anyhow!("no")), Kind::Failed);
    }
}
