//! How long an attempt may take until the head of its answer.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use snapshot::Timeouts;
use tokio::time::Instant;

use crate::body::{Upload, UploadState};
use crate::clock::Alarm;
use crate::exchange::Exchange;
use crate::reason::Reason;

/// The limits of one attempt.
pub(super) struct Limits {
    alarm: Alarm,
    until: Option<(Instant, Reason)>,
    read: Option<Duration>,
    send: Option<Duration>,
    body: Duration,
    upload: Option<Rc<Upload>>,
    began: Instant,
}

impl Limits {
    pub(super) fn new(
        exchange: &Exchange,
        timeouts: &Timeouts,
        until: Option<(Instant, Reason)>,
        began: Instant,
    ) -> Self {
        Self {
            alarm: Alarm::default(),
            until,
            read: timeouts.read,
            send: timeouts.send,
            body: exchange.client.worker.body_timeout(),
            upload: exchange.upload.clone(),
            began,
        }
    }

    /// Ready with the reason when a limit is reached.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        loop {
            let next = self.next();
            self.alarm.set(next.map(|(at, _)| at));
            ready!(self.alarm.poll(cx));
            // The upload may have moved while the alarm was set for an earlier state of it.
            if let Some((_, reason)) = self.next().filter(|(at, _)| *at <= Instant::now()) {
                return Poll::Ready(reason);
            }
        }
    }

    fn next(&self) -> Option<(Instant, Reason)> {
        let (since, limit, reason) = match &self.upload {
            None => (self.began, self.read, Reason::ReadTimeout),
            Some(upload) => match upload.state() {
                UploadState::AwaitsClient => (upload.moved(), Some(self.body), Reason::ClientTimeout),
                UploadState::AwaitsBackend => (upload.moved(), self.send, Reason::SendTimeout),
                UploadState::Done | UploadState::TooLarge | UploadState::ClientGone | UploadState::Malformed => {
                    (upload.moved(), self.read, Reason::ReadTimeout)
                }
            },
        };
        earliest(self.until, limit.map(|limit| (since + limit, reason)))
    }
}

/// The reason when it was the client's body that ended the attempt.
pub fn of_client(upload: &Upload) -> Option<Reason> {
    match upload.state() {
        UploadState::TooLarge => Some(Reason::BodyTooLarge),
        UploadState::ClientGone => Some(Reason::ClientGone),
        UploadState::Malformed => Some(Reason::BadRequest),
        UploadState::AwaitsClient | UploadState::AwaitsBackend | UploadState::Done => None,
    }
}

/// The deadline that comes first.
pub(super) fn earliest(one: Option<(Instant, Reason)>, other: Option<(Instant, Reason)>) -> Option<(Instant, Reason)> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.0 < one.0 { other } else { one }),
        (one, other) => one.or(other),
    }
}
