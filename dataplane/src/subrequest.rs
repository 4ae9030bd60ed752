//! Requests that a worker sends besides those it passes on: copies, and questions about requests.

use std::task::Context;
use std::time::Duration;

use http::Request;
use tokio::time::Instant;

use crate::attempt::message;
use crate::balance::{Outcome, Picked};
use crate::body::RequestBody;
use crate::clock::{Alarm, within};
use crate::cluster::{Cluster, Selection};
use crate::replay::Copied;
use crate::tick::Tick;
use crate::upstream::{BackendError, Choice, ConnectError, Connection, SendError, Sent};
use crate::worker::Worker;

/// How long connecting may take, where the rule has no limit.
pub const CONNECT: Duration = Duration::from_secs(5);
/// How often it is tried.
const ATTEMPTS: u32 = 3;

/// A request that is sent until an endpoint has taken it.
pub struct Subrequest<'a> {
    /// Where it goes.
    pub cluster: &'a Cluster,
    /// As HTTP/1.1 has it.
    pub head: Request<()>,
    /// What follows.
    pub body: Option<Copied>,
    /// How long connecting may take.
    pub connect: Duration,
    /// The pause before it is tried again; twice as long before the third time.
    pub pause: Duration,
    /// When the head of the answer must be there.
    pub until: Instant,
}

impl Subrequest<'_> {
    /// The answer, and the choice that led to it; `None` when no endpoint has answered.
    pub async fn send(self, worker: &Worker) -> Option<(Sent, Picked)> {
        let Self { cluster, head, body, connect, pause, until } = self;
        let has_host = head.headers().contains_key(http::header::HOST);
        let connector = worker.connector(cluster).ok()?;
        let mut tried = Vec::new();
        worker.retries.earn();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 && !worker.retries.spend() {
                worker.stats.retries_refused.add(1);
                return None;
            }
            worker.stats.retries.add(u64::from(attempt > 0));
            if attempt > 0 && !pause.is_zero() {
                tokio::time::sleep(pause * attempt).await;
            }
            let selection = Selection { headers: head.headers(), tried: &tried, now: Tick::now(), session: None };
            let mut choice = Choice { cluster, connector: &connector, selection };
            let mut chosen = worker.pool.choose(&choice);
            if chosen.is_none() {
                choice.selection.tried = &[];
                chosen = worker.pool.choose(&choice);
            }
            let checkout = worker.pool.checkout(&choice, chosen?, Some(connect));
            let (picked, entry, connection) = within(Some(until), checkout).await?;
            let endpoint = picked.endpoint();
            tried.push(endpoint.address());
            let connection = match connection {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(endpoint = %endpoint.address(), %error, "no connection for a request of our own");
                    if !matches!(error, ConnectError::Full) {
                        cluster.report(endpoint, Outcome::Failed, Tick::now());
                    }
                    continue;
                }
            };
            let mut request = message::with_body(&head, body.clone().map_or(RequestBody::Empty, RequestBody::Copied));
            message::address(&mut request, &connector, endpoint.address(), has_host);
            let began = Instant::now();
            let reused = connection.is_reused();
            let mut alarm = Alarm::new(Some(until));
            let limit = move |cx: &mut Context<'_>| alarm.poll(cx);
            let sent = match connection {
                Connection::Http1(connection) => connection.send(&mut request, limit).await,
                Connection::Http2(connection) => connection.send(&mut request, limit).await,
            };
            match sent {
                // Its time is up: an endpoint that only accepts connections is none that lives.
                Err(()) => {
                    tracing::debug!(endpoint = %endpoint.address(), "no response to a request of our own in time");
                    cluster.report(endpoint, Outcome::Failed, Tick::now());
                    return None;
                }
                Ok(Ok(sent)) => {
                    cluster.report(endpoint, Outcome::Answered(sent.status(), began.elapsed()), Tick::now());
                    return Some((sent, picked));
                }
                Ok(Err(SendError { error, unsent, silent })) => {
                    let refused = matches!(error, BackendError::Refused);
                    if reused && (silent || unsent) {
                        // The endpoint closed a connection that was idle.
                        entry.forget_idle();
                    } else if !refused {
                        tracing::debug!(endpoint = %endpoint.address(), %error, "a request of our own failed");
                        cluster.report(endpoint, Outcome::Failed, Tick::now());
                    }
                    if !unsent && !refused && !message::is_idempotent(head.method()) {
                        return None;
                    }
                }
            }
        }
        None
    }
}
