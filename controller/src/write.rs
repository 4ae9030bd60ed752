//! Writes to the API server: how long they may take, and why they fail.

use std::time::Duration;

use tokio::time::timeout;

/// How long writing one object may take, reading it before included.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why an object is not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API server refuses it or cannot be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The API server is too slow.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Deadline,
    /// Every attempt met with a change by somebody else.
    #[error("somebody else changes the object all the time")]
    Contended,
}

/// Ends `work` when it takes longer than a write may.
pub async fn within<T>(work: impl Future<Output = Result<T, WriteError>>) -> Result<T, WriteError> {
    timeout(DEADLINE, work).await.unwrap_or(Err(WriteError::Deadline))
}
