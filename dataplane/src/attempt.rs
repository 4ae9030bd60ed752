//! Getting an answer for a request: an endpoint, a connection, a try, and where it is safe another one.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::header::{Entry, HOST};
use http::{HeaderValue, Method, Request, Uri, Version};
use snapshot::Timeouts;
use tokio::time::Instant;

use crate::balance::{Outcome, Picked};
use crate::body::{RequestBody, Upload, UploadState};
use crate::clock::{Alarm, within};
use crate::cluster::{Cluster, Selection};
use crate::exchange::Exchange;
use crate::reason::Reason;
use crate::tick::Tick;
use crate::upstream::{self, BackendError, Connection, Connector, SendError, Sent};

/// Most attempts for one request (ingress-nginx `proxy-next-upstream-tries`).
const ATTEMPTS: usize = 3;
/// Endpoints that failed a moment ago are passed over so often.
const PASSED_OVER: usize = 4;

/// An endpoint's answer.
pub struct Answered {
    /// What it sent, and what carries the rest.
    pub sent: Sent,
    /// The choice that led to it.
    pub picked: Picked,
    /// When the rest must be there, and the reason when it is not.
    pub until: Option<(Instant, Reason)>,
}

/// Sends a request to an endpoint of `cluster` and waits for the head of its answer. `now` is when the exchange started:
/// reading the clock is a noticeable part of a request's cost, so the first attempt counts from there.
///
/// # Errors
/// Why there is none.
pub async fn send(
    exchange: &mut Exchange,
    cluster: &Cluster,
    timeouts: &Timeouts,
    mut request: Request<RequestBody>,
    now: Tick,
) -> Result<Answered, Reason> {
    let worker = exchange.client.worker.clone();
    let connector = worker.connector(cluster)?;
    let whole = timeouts.request.map(|limit| (exchange.start + limit, Reason::RequestTimeout));
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut failure = Reason::NoEndpoints;
    worker.retries.earn();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 && !worker.retries.spend() {
            worker.stats.retries_refused.add(1);
            break;
        }
        let Some((picked, entry)) = choose(exchange, cluster, &connector, &request, &tried, now) else { break };
        worker.stats.retries.add(u64::from(attempt > 0));
        let address = picked.endpoint().address();
        exchange.endpoint = Some(address);
        let began = if attempt == 0 { exchange.start } else { Instant::now() };
        let until = earliest(whole, timeouts.backend_request.map(|limit| (began + limit, Reason::RequestTimeout)));
        let connection = match within(until.map(|(at, _)| at), entry.checkout(timeouts.connect)).await {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => {
                tracing::debug!(endpoint = %address, %error, "no connection to an endpoint");
                cluster.report(picked.endpoint(), Outcome::Failed, Tick::now());
                failure = error.reason();
                tried.push(address);
                continue;
            }
            None => return Err(until.map_or(Reason::RequestTimeout, |(_, reason)| reason)),
        };
        let reused = connection.is_reused();
        let idle_race = reused && matches!(connection, Connection::Http1(_));
        let limits = Limits::new(exchange, timeouts, until, began);
        if exchange.host.is_none() {
            name_host(&mut request, address);
        }
        address_request(&mut request, &connector);
        let replayable = is_replayable(&request);
        let (error, unsent) = match deliver(connection, &mut request, limits).await {
            Ok(Ok(sent)) => {
                let took = began.elapsed();
                exchange.upstream_took = Some(took);
                let began = if attempt == 0 { now } else { Tick::now() };
                cluster.report(picked.endpoint(), Outcome::Answered(sent.status(), took), began + took);
                return Ok(Answered { sent, picked, until });
            }
            Ok(Err(SendError { error, unsent })) => (error, unsent),
            Err(reason) => {
                if matches!(reason, Reason::ReadTimeout | Reason::SendTimeout) {
                    cluster.report(picked.endpoint(), Outcome::Failed, Tick::now());
                }
                return Err(reason);
            }
        };
        if let Some(reason) = exchange.upload.as_deref().and_then(of_client) {
            return Err(reason);
        }
        tracing::debug!(endpoint = %address, %error, reused, "an attempt failed");
        failure = error.reason();
        if idle_race || (reused && unsent) {
            // The endpoint closes its idle connections, perhaps because it is restarting: the others will be no better.
            entry.forget_idle();
        } else if !matches!(error, BackendError::Refused) {
            cluster.report(picked.endpoint(), Outcome::Failed, Tick::now());
            tried.push(address);
        }
        if !(unsent || replayable) {
            return Err(failure);
        }
    }
    Err(failure)
}

/// An endpoint that was not tried, and rather one that did not fail a moment ago.
fn choose(
    exchange: &Exchange,
    cluster: &Cluster,
    connector: &Arc<Connector>,
    request: &Request<RequestBody>,
    tried: &[SocketAddr],
    now: Tick,
) -> Option<(Picked, Rc<upstream::Entry>)> {
    let pool = &exchange.client.worker.pool;
    let pick = |tried: &[SocketAddr]| {
        let picked = cluster.pick(&Selection { headers: request.headers(), tried, now })?;
        let entry = pool.entry(picked.endpoint(), connector);
        Some((picked, entry))
    };
    let first = pick(tried)?;
    if !first.1.is_cooling_down() {
        return Some(first);
    }
    let mut skipped = tried.to_vec();
    skipped.push(first.0.endpoint().address());
    for _ in 0..PASSED_OVER {
        match pick(&skipped) {
            Some(other) if !other.1.is_cooling_down() => return Some(other),
            Some(other) => skipped.push(other.0.endpoint().address()),
            None => break,
        }
    }
    Some(first)
}

async fn deliver(
    connection: Connection,
    request: &mut Request<RequestBody>,
    mut limits: Limits,
) -> Result<Result<Sent, SendError>, Reason> {
    let connection = match connection {
        Connection::Http1(connection) => return connection.send(request, move |cx| limits.poll(cx)).await,
        Connection::Http2(connection) => connection,
    };
    // hyper keeps what it has begun to send.
    let copy = matches!(request.body(), RequestBody::Empty).then(|| request_clone(request));
    let mut sent = connection.send(request, |cx| limits.poll(cx)).await;
    if let (Ok(Err(SendError { error, unsent: unsent @ false })), Some(copy)) = (&mut sent, copy) {
        *request = copy;
        *unsent = matches!(error, BackendError::Refused);
    }
    sent
}

/// A request of HTTP/1.0 may name no host, one of the versions that backends get must (RFC 9112, 3.2).
fn name_host(request: &mut Request<RequestBody>, endpoint: SocketAddr) {
    if request.uri().authority().is_none()
        && let Entry::Vacant(missing) = request.headers_mut().entry(HOST)
        && let Ok(endpoint) = HeaderValue::try_from(endpoint.to_string())
    {
        missing.insert(endpoint);
    }
}

/// Puts the target into the form that the connection's protocol wants.
fn address_request(request: &mut Request<RequestBody>, connector: &Connector) {
    if connector.speaks_http2() {
        *request.version_mut() = Version::HTTP_2;
        // Upgrades do not exist in HTTP/2 (RFC 9113, 8.6).
        request.headers_mut().remove(http::header::CONNECTION);
        request.headers_mut().remove(http::header::UPGRADE);
        let Some(host) = request.headers_mut().remove(HOST) else { return };
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(if connector.is_tls() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
        parts.authority = http::uri::Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes())).ok();
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        return;
    }
    *request.version_mut() = Version::HTTP_11;
    request.headers_mut().remove(http::header::TE);
}

/// RFC 9110, 9.2.2: without a body and idempotent, so a second delivery changes nothing.
fn is_replayable(request: &Request<RequestBody>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    idempotent && matches!(request.body(), RequestBody::Empty)
}

/// The reason when it was the client's body that ended the attempt.
fn of_client(upload: &Upload) -> Option<Reason> {
    match upload.state() {
        UploadState::TooLarge => Some(Reason::BodyTooLarge),
        UploadState::ClientGone => Some(Reason::ClientGone),
        UploadState::Malformed => Some(Reason::BadRequest),
        UploadState::AwaitsClient | UploadState::AwaitsBackend | UploadState::Done => None,
    }
}

fn request_clone(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn earliest(one: Option<(Instant, Reason)>, other: Option<(Instant, Reason)>) -> Option<(Instant, Reason)> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.0 < one.0 { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// How long an attempt may take until the head of its answer.
struct Limits {
    alarm: Alarm,
    until: Option<(Instant, Reason)>,
    read: Option<Duration>,
    send: Option<Duration>,
    body: Duration,
    upload: Option<Rc<Upload>>,
    began: Instant,
}

impl Limits {
    fn new(exchange: &Exchange, timeouts: &Timeouts, until: Option<(Instant, Reason)>, began: Instant) -> Self {
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

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
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
