//! Why a runner cannot run.

/// Why a runner cannot run. What happens to single events is no error of the runner.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The streams cannot be used at all.
    #[error(transparent)]
    Streams(#[from] riacho_streams::Error),
    /// The settings do not work.
    #[error("stage settings: {0}")]
    Config(&'static str),
}

impl Error {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::Streams(error) if error.is_retryable())
    }
}
