//! Writes to the API server: how long they may take, and why they fail.

use std::time::Duration;

use kube::runtime::watcher;
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

/// Why a write failed, without anything of what was written or found: the text of an error can quote it.
pub fn reason(error: &WriteError) -> String {
    match error {
        WriteError::Api(error) => reason_of_client(error),
        other => other.to_string(),
    }
}

/// Why a watch failed, see [`reason`].
pub fn reason_of_watch(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => reason_of_client(error),
        WatchError(status) => status.reason.clone(),
        NoResourceVersion => error.to_string(),
    }
}

/// Why a request to the API server failed, see [`reason`].
pub fn reason_of_client(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.reason.clone(),
        _ => "the API server cannot be reached, or its answer not be read".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_quotes_is_no_reason() {
        let unreadable = || {
            let error = serde_json::from_str::<u8>(r#""hunter2""#).unwrap_err();
            assert!(error.to_string().contains("hunter2"));
            kube::Error::SerdeError(error)
        };
        let status = || {
            let status = kube::core::Status::failure("Secret \"a\" is invalid: hunter2", "Invalid").with_code(422);
            kube::Error::Api(status.boxed())
        };
        let reasons = [
            reason(&unreadable().into()),
            reason(&status().into()),
            reason_of_watch(&watcher::Error::InitialListFailed(unreadable())),
            reason_of_watch(&watcher::Error::WatchStartFailed(status())),
            reason_of_watch(&watcher::Error::WatchFailed(unreadable())),
        ];
        assert!(reasons.iter().all(|reason| !reason.contains("hunter2")), "{reasons:?}");
        assert_eq!([&reasons[1], &reasons[3]], ["Invalid"; 2]);
    }
}
