//! Retries that a rule asks for (GEP-1731), besides those that are always safe.

use std::time::Duration;

use http::{Request, StatusCode};
use snapshot::Retry;
use tokio::time::Instant;

use super::message;
use crate::body::RequestBody;
use crate::replay::Recording;

/// Longest pause before a retry, unless the rule's first pause is longer: doubling has to end somewhere.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is left of a rule's retries for one request, and the request itself.
pub(super) struct Again<'r> {
    retry: &'r Retry,
    left: u32,
    pause: Duration,
    head: Request<()>,
    body: Option<Recording>,
}

impl<'r> Again<'r> {
    /// The retries for a request that was not sent yet.
    pub(super) fn new(retry: &'r Retry, request: &Request<RequestBody>) -> Self {
        let body = request.body().recording().cloned();
        let head = message::with_body(request, ());
        Self { retry, left: retry.attempts, pause: retry.backoff, head, body }
    }

    /// Whether all of the request is still there.
    pub(super) fn is_replayable(&self) -> bool {
        self.body.as_ref().is_none_or(Recording::is_replayable)
    }

    /// Whether an answer with this status is to be tried again, and can be.
    pub(super) fn wants(&self, status: StatusCode, whole: Option<Instant>) -> bool {
        self.retry.statuses.contains(&status.as_u16()) && self.permits(whole)
    }

    /// Whether there is another attempt that begins before the time for the `whole` exchange is up.
    pub(super) fn permits(&self, whole: Option<Instant>) -> bool {
        let in_time = whole.is_none_or(|end| Instant::now() + self.pause < end);
        self.left > 0 && in_time && self.is_replayable()
    }

    /// Takes one attempt, and returns the request after the pause before it.
    pub(super) async fn next(&mut self) -> Request<RequestBody> {
        self.left = self.left.saturating_sub(1);
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE.max(self.retry.backoff));
        }
        self.request()
    }

    /// The request from its beginning. Whoever read its body before cannot go on.
    pub(super) fn request(&self) -> Request<RequestBody> {
        let body = self.body.as_ref().map(|body| RequestBody::Kept(body.replay()));
        message::with_body(&self.head, body.unwrap_or_default())
    }
}
