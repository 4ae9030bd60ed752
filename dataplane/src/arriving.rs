//! A request's body before it is clear who reads it.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::attempt::of_client;
use crate::body::{self, RequestBody, Upload};
use crate::clock::within;
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::replay::{Copied, Recording};
use crate::route::Rule;
use crate::watch::{Unread, Watch};

/// A body that nobody has read, or that is kept.
pub struct Arriving {
    body: Option<(Incoming, Unread)>,
    kept: Option<Recording>,
}

impl Arriving {
    /// The body of a request that has just come.
    pub fn new(body: Incoming, watch: &Arc<Watch>) -> Self {
        Self { body: (!body.is_end_stream()).then(|| (body, watch.body_begins())), kept: None }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.body.is_none() && self.kept.is_none()
    }

    /// Waits for all of it, keeps it, and returns a copy; `None` when there is none. `most` is not more than
    /// [`crate::replay::MOST`].
    ///
    /// # Errors
    /// [`Reason::BodyTooLarge`] above `most` bytes, and why it does not come: time is up, or its client is gone or sends what
    /// is no body.
    pub async fn whole(&mut self, exchange: &mut Exchange, rule: &Rule, most: u64) -> Result<Option<Copied>, Reason> {
        if let Some(body) = self.body.take() {
            self.kept = Some(Recording::new(limited(exchange, body, rule)?));
        }
        let Some(kept) = &self.kept else { return Ok(None) };
        let mut body = kept.replay();
        if body.size_hint().lower() > most {
            return Err(Reason::BodyTooLarge);
        }
        let whole = rule.timeouts.request.map(|limit| exchange.start + limit);
        let mut read = 0;
        while !body.is_end_stream() {
            let slow = Instant::now() + exchange.client.worker.body_timeout();
            let until = whole.map_or(slow, |whole| whole.min(slow));
            match within(Some(until), poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))).await {
                Some(Some(Ok(frame))) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Some(Err(_))) => {
                    return Err(exchange.upload.as_deref().and_then(of_client).unwrap_or(Reason::ClientGone));
                }
                Some(None) => break,
                None if until == slow => return Err(Reason::ClientTimeout),
                None => return Err(Reason::RequestTimeout),
            }
            if read > most {
                return Err(Reason::BodyTooLarge);
            }
        }
        kept.whole().map(Some).ok_or(Reason::BodyTooLarge)
    }

    /// The body on its way to the backend, kept where it may be needed again.
    ///
    /// # Errors
    /// [`Reason::BodyTooLarge`] when it says that it is larger than the rule allows.
    pub fn for_backend(self, exchange: &mut Exchange, rule: &Rule) -> Result<RequestBody, Reason> {
        if let Some(kept) = self.kept {
            return Ok(RequestBody::Kept(kept.replay()));
        }
        let Some(body) = self.body else { return Ok(RequestBody::Empty) };
        let body = limited(exchange, body, rule)?;
        if rule.retry.is_some() || !exchange.effects.duplicates.is_empty() {
            return Ok(RequestBody::Kept(Recording::new(body).replay()));
        }
        Ok(RequestBody::Streamed(body))
    }
}

/// The body within the rule's limit; the exchange sees its progress.
fn limited(exchange: &mut Exchange, (body, unread): (Incoming, Unread), rule: &Rule) -> Result<body::Incoming, Reason> {
    let left = rule.max_body.unwrap_or(u64::MAX);
    if body.size_hint().lower() > left {
        return Err(Reason::BodyTooLarge);
    }
    let upload = Rc::new(Upload::new(Instant::now()));
    exchange.upload = Some(upload.clone());
    Ok(body::Incoming::new(body, unread, left, upload))
}
