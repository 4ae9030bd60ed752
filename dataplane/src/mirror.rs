//! Sending copies of requests: nobody waits for them, and nobody reads their answers.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use http::Method;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock::within;
use crate::filter::Duplicate;
use crate::replay::{Copied, Recording};
use crate::subrequest::{CONNECT, Subrequest};
use crate::upstream::Sent;
use crate::worker::Worker;

/// Copies that a worker may have under way; a target that is slower than the traffic gets no more.
const MOST: usize = 512;
/// How long a copy may take, from its request to the end of its answer.
const WITHIN: Duration = Duration::from_secs(30);
/// The pause before it is tried again.
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
        let worker = worker.clone();
        let (method, body) = (method.clone(), body.map(Recording::copy));
        tokio::task::spawn_local(async move {
            let delivered = deliver(&worker, duplicate, method, body, connect.unwrap_or(CONNECT)).await;
            let stats = &worker.stats;
            let counter = if delivered.is_some() { &stats.mirrors } else { &stats.mirrors_dropped };
            counter.add(1);
        });
    }
}

/// Counts a copy that is under way.
struct Slot<'w>(&'w Worker);

impl<'w> Slot<'w> {
    fn take(worker: &'w Worker) -> Option<Self> {
        let taken = worker.mirrors.get();
        (taken < MOST).then(|| {
            worker.mirrors.set(taken + 1);
            Self(worker)
        })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.mirrors.set(self.0.mirrors.get().saturating_sub(1));
    }
}

/// `None` when no endpoint has answered it, or too many copies are under way.
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
    // Not before the body is there: slow clients must not keep the places of all others.
    let _slot = Slot::take(worker)?;
    let until = Instant::now() + WITHIN;
    let Duplicate { cluster, request } = duplicate;
    let head = crate::http::request(method, request, None, ());
    let copy = Subrequest { cluster: &cluster, head, body, connect, pause: PAUSE, until };
    let (sent, _picked) = copy.send(worker).await?;
    within(Some(until), drain(sent)).await;
    Some(())
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
