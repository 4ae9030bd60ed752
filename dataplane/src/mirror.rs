//! Sending copies of requests: nobody waits for them, and nobody reads their answers.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use http::Method;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::attempt::message;
use crate::balance::Outcome;
use crate::body::RequestBody;
use crate::clock::{Alarm, within};
use crate::cluster::Selection;
use crate::filter::Duplicate;
use crate::replay::{Copied, Recording};
use crate::tick::Tick;
use crate::upstream::{Connection, SendError, Sent};
use crate::worker::Worker;

/// Copies that a worker may have under way; a target that is slower than the traffic gets no more.
const MOST: usize = 512;
/// How long a copy may take, from its request to the end of its answer.
const WITHIN: Duration = Duration::from_secs(30);
/// How long connecting may take, where the rule has no limit.
const CONNECT: Duration = Duration::from_secs(5);
/// How often it is tried, and the pause before the second time; before the third it is twice as long.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Sends copies of a request with this method. `body` is the request's, if it has one: copies follow when all of it has come.
/// `connect` is how long connecting may take.
pub fn send(
    worker: &Rc<Worker>,
    duplicates: Vec<Duplicate>,
    method: &Method,
    body: Option<&Recording>,
    connect: Option<Duration>,
) {
    for duplicate in duplicates {
        let Some(slot) = Slot::take(worker) else {
            worker.stats.mirrors_dropped.add(1);
            continue;
        };
        let (method, body) = (method.clone(), body.map(Recording::copy));
        tokio::task::spawn_local(async move {
            let delivered = deliver(&slot.0, duplicate, method, body, connect.unwrap_or(CONNECT)).await;
            let stats = &slot.0.stats;
            let counter = if delivered.is_some() { &stats.mirrors } else { &stats.mirrors_dropped };
            counter.add(1);
        });
    }
}

/// Counts a copy that is under way.
struct Slot(Rc<Worker>);

impl Slot {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let taken = worker.mirrors.get();
        (taken < MOST).then(|| {
            worker.mirrors.set(taken + 1);
            Self(worker.clone())
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}

/// `None` when no endpoint has answered it.
async fn deliver(
    worker: &Worker,
    duplicate: Duplicate,
    method: Method,
    body: Option<oneshot::Receiver<Copied>>,
    connect: Duration,
) -> Option<()> {
    // This ends when the request's body does: it comes, breaks off or is too large, within the limits of the request.
    let body = match body {
        Some(body) => Some(body.await.ok()?),
        None => None,
    };
    let until = Instant::now() + WITHIN;
    let Duplicate { cluster, request } = duplicate;
    let has_host = request.host.is_some();
    let head = crate::http::request(method, request, None, ());
    let connector = worker.connector(&cluster).ok()?;
    let mut tried = Vec::new();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE * attempt).await;
        }
        let pick = |tried: &[SocketAddr]| {
            cluster.pick(&Selection { headers: head.headers(), tried, now: Tick::now(), session: None })
        };
        let picked = pick(&tried).or_else(|| pick(&[]))?;
        let endpoint = picked.endpoint();
        tried.push(endpoint.address());
        let entry = worker.pool.entry(endpoint, &connector);
        let connection = match within(Some(until), entry.checkout(Some(connect))).await? {
            Ok(connection) => connection,
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.address(), %error, "no connection for a copy of a request");
                cluster.report(endpoint, Outcome::Failed, Tick::now());
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
        match sent.ok()? {
            Ok(sent) => {
                cluster.report(endpoint, Outcome::Answered(sent.status(), began.elapsed()), Tick::now());
                within(Some(until), drain(sent)).await;
                return Some(());
            }
            // The endpoint closed a connection that was idle.
            Err(SendError { unsent, .. }) if reused && (unsent || message::is_idempotent(head.method())) => {
                entry.forget_idle();
            }
            Err(SendError { error, unsent }) => {
                tracing::debug!(endpoint = %endpoint.address(), %error, "a copy of a request failed");
                cluster.report(endpoint, Outcome::Failed, Tick::now());
                if !unsent {
                    return None;
                }
            }
        }
    }
    None
}

/// Reads an answer to its end, so that its connection can be used again.
async fn drain(sent: Sent) {
    let Sent::Answered(_, mut body) = sent else { return };
    while !body.is_end_stream() {
        match poll_fn(|cx| body.poll_frame(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return,
            None => break,
        }
    }
    body.finish();
}
