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
        // Of the connection: these texts tell of names, addresses and certificates, and quote no body.
        kube::Error::Service(error) => causes(&**error),
        kube::Error::HyperError(error) => causes(error),
        kube::Error::Auth(_) => "the credentials for the API server cannot be read or renewed".into(),
        _ => "the response of the API server cannot be read".into(),
    }
}

/// An error with all that caused it: "cannot connect" alone tells neither of names nor of certificates.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if texts.last().is_none_or(|last: &String| !last.ends_with(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_reason_tells_why_there_is_no_connection() {
        let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for (url, cause) in [(format!("http://{away}"), "refused"), ("http://nowhere.invalid".to_owned(), "lookup")] {
            let config = kube::Config::new(url.parse().unwrap());
            let client = crate::client::build(config, &crate::metrics::Metrics::default()).unwrap();
            let reason = reason_of_client(&client.apiserver_version().await.unwrap_err());
            assert!(reason.contains(cause), "{reason}");
        }
    }

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
