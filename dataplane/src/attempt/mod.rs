//! Getting an answer for a request: an endpoint, a connection, a try, and where it is safe or asked for another one.

mod again;
mod limits;
pub mod message;

use std::net::SocketAddr;
use std::rc::Rc;

use http::Request;
use snapshot::Timeouts;
use tokio::time::Instant;

use crate::balance::{Outcome, Picked};
use crate::body::RequestBody;
use crate::clock::within;
use crate::cluster::{Cluster, Selection};
use crate::exchange::Exchange;
use crate::persistence::Session;
use crate::reason::Reason;
use crate::route::Rule;
use crate::tick::Tick;
use crate::upstream::{self, BackendError, Choice, ConnectError, Connection, Connector, SendError, Sent};
use crate::worker::Worker;
use again::Again;
pub use limits::of_client;
use limits::{Limits, earliest};

/// Most retries that no rule asked for (ingress-nginx `proxy-next-upstream-tries`, which counts the first attempt too).
const RETRIES: usize = 2;

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
    rule: &Rule,
    session: Option<&Session>,
    mut request: Request<RequestBody>,
    now: Tick,
) -> Result<Answered, Reason> {
    let worker = exchange.client.worker.clone();
    let connector = worker.connector(cluster)?;
    let whole = rule.timeouts.request.map(|limit| exchange.start + limit);
    let mut asked = rule.retry.as_ref().map(|retry| Again::new(retry, &request));
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut failure = Reason::NoEndpoints;
    let mut budget = Budget { worker: &worker, left: RETRIES };
    let mut first = true;
    worker.retries.earn();
    loop {
        let selection = Selection { headers: request.headers(), tried: &tried, now, session };
        let choice = Choice { cluster, connector: &connector, selection };
        let Some(chosen) = worker.pool.choose(&choice) else {
            if asked.is_none() || tried.is_empty() {
                return Err(failure);
            }
            // Who asks for more attempts than there are endpoints wants some of them to be asked twice.
            tried.clear();
            continue;
        };
        worker.stats.retries.add(u64::from(!first));
        let (began, tick) = if first { (exchange.start, Some(now)) } else { (Instant::now(), None) };
        first = false;
        let timeouts = &rule.timeouts;
        let late = |at| (at, Reason::RequestTimeout);
        let own = timeouts.backend_request.map(|limit| began + limit);
        let until = earliest(whole.map(late), own.map(late));
        let connector = &connector;
        let attempt = Attempt { cluster, connector, timeouts, whole, began, tick, until, again: asked.as_ref() };
        let connected = attempt.connect(exchange, &choice, chosen).await;
        let answered = match connected {
            Ok(connected) => attempt.run(exchange, &mut request, connected).await,
            Err(failed) => Err(failed),
        };
        let failed = match answered {
            Ok(answered) => match &mut asked {
                Some(again) if again.wants(answered.sent.status(), whole) => {
                    tried.extend(exchange.endpoint);
                    answered.sent.discard();
                    request = again.next().await;
                    continue;
                }
                _ => return Ok(answered),
            },
            Err(failed) => failed,
        };
        failure = failed.reason;
        if failed.retry != Retry::Blameless {
            tried.extend(exchange.endpoint);
        }
        match asked.as_mut().filter(|again| again.is_replayable()) {
            Some(again) if failed.retry == Retry::Blameless && budget.spend() => request = again.request(),
            Some(again) if failed.retry != Retry::Never && again.permits(whole) => request = again.next().await,
            None if matches!(failed.retry, Retry::Safe | Retry::Blameless) && budget.spend() => {}
            _ => return Err(failure),
        }
    }
}

/// The retries that no rule asked for.
struct Budget<'w> {
    worker: &'w Worker,
    left: usize,
}

impl Budget<'_> {
    fn spend(&mut self) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let granted = self.worker.retries.spend();
        self.worker.stats.retries_refused.add(u64::from(!granted));
        granted
    }
}

/// Why an attempt got no answer.
struct Failed {
    reason: Reason,
    retry: Retry,
}

/// Whether there may be another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// Nothing was sent, or it may be sent twice.
    Safe,
    /// The same, and the endpoint only closed a connection that was idle, or refused a stream.
    Blameless,
    /// Only if the rule asks for it.
    Asked,
    /// Not at all.
    Never,
}

/// One try at one endpoint.
struct Attempt<'a> {
    cluster: &'a Cluster,
    connector: &'a Connector,
    timeouts: &'a Timeouts,
    /// When the exchange must be over.
    whole: Option<Instant>,
    began: Instant,
    /// The same, where it was read already.
    tick: Option<Tick>,
    /// When it must be over, and the reason when it is not.
    until: Option<(Instant, Reason)>,
    /// Where the rule asks for retries: keeps the request.
    again: Option<&'a Again<'a>>,
}

/// An endpoint and a connection to it.
type Connected = (Picked, Rc<upstream::Entry>, Connection);

impl Attempt<'_> {
    async fn connect(
        &self,
        exchange: &mut Exchange,
        choice: &Choice<'_>,
        chosen: (Picked, Rc<upstream::Entry>),
    ) -> Result<Connected, Failed> {
        exchange.endpoint = Some(chosen.0.endpoint().address());
        let pool = &exchange.client.worker.pool;
        let checkout = pool.checkout(choice, chosen, self.timeouts.connect);
        let Some((picked, entry, connection)) = within(self.until.map(|(at, _)| at), checkout).await else {
            return Err(self.timed_out(Reason::RequestTimeout, true));
        };
        let endpoint = picked.endpoint();
        exchange.endpoint = Some(endpoint.address());
        match connection {
            Ok(connection) => Ok((picked, entry, connection)),
            Err(error) => {
                tracing::debug!(endpoint = %endpoint.address(), %error, "no connection to an endpoint");
                if !matches!(error, ConnectError::Full) {
                    self.cluster.report(endpoint, Outcome::Failed, Tick::now());
                }
                Err(Failed { reason: error.reason(), retry: Retry::Safe })
            }
        }
    }

    async fn run(
        &self,
        exchange: &mut Exchange,
        request: &mut Request<RequestBody>,
        (picked, entry, connection): Connected,
    ) -> Result<Answered, Failed> {
        let until = self.until;
        let endpoint = picked.endpoint();
        let reused = connection.is_reused();
        let limits = Limits::new(exchange, self.timeouts, until, self.began);
        message::address(request, self.connector, endpoint.address(), exchange.host.is_some());
        let idempotent = message::is_idempotent(request.method());
        let bodiless = matches!(request.body(), RequestBody::Empty);
        let SendError { error, unsent, silent } =
            match deliver(connection, request, limits, bodiless && self.again.is_none()).await {
                Ok(Ok(sent)) => {
                    let took = self.began.elapsed();
                    exchange.upstream_took = Some(took);
                    let began = self.tick.unwrap_or_else(Tick::now);
                    self.cluster.report(endpoint, Outcome::Answered(sent.status(), took), began + took);
                    return Ok(Answered { sent, picked, until });
                }
                Ok(Err(failed)) => failed,
                Err(reason) => {
                    if matches!(reason, Reason::ReadTimeout | Reason::SendTimeout) {
                        self.cluster.report(endpoint, Outcome::Failed, Tick::now());
                    }
                    return Err(self.timed_out(reason, idempotent));
                }
            };
        if let Some(reason) = exchange.upload.as_deref().and_then(of_client) {
            return Err(Failed { reason, retry: Retry::Never });
        }
        tracing::debug!(endpoint = %endpoint.address(), %error, reused, "an attempt failed");
        let refused = matches!(error, BackendError::Refused);
        let blameless = reused && (silent || unsent);
        if blameless {
            // The endpoint closes its idle connections, perhaps because it is restarting: the others will be no better.
            entry.forget_idle();
        } else if !refused {
            self.cluster.report(endpoint, Outcome::Failed, Tick::now());
        }
        let kept = self.again.is_some_and(Again::is_replayable);
        let retry = match unsent || (refused && kept) || (idempotent && (bodiless || kept)) {
            true if blameless || refused => Retry::Blameless,
            true => Retry::Safe,
            false => Retry::Never,
        };
        Err(Failed { reason: error.reason(), retry })
    }

    /// A limit in time was reached.
    fn timed_out(&self, reason: Reason, repeatable: bool) -> Failed {
        let over = self.whole.is_some_and(|end| end <= Instant::now());
        let of_endpoint = reason != Reason::ClientTimeout;
        let retry = if repeatable && of_endpoint && !over { Retry::Asked } else { Retry::Never };
        Failed { reason, retry }
    }
}

/// Sends the request on this connection. With `restore` a request without a body is still there when that fails.
async fn deliver(
    connection: Connection,
    request: &mut Request<RequestBody>,
    mut limits: Limits,
    restore: bool,
) -> Result<Result<Sent, SendError>, Reason> {
    let connection = match connection {
        Connection::Http1(connection) => return connection.send(request, move |cx| limits.poll(cx)).await,
        Connection::Http2(connection) => connection,
    };
    // hyper keeps what it has begun to send.
    let copy = restore.then(|| message::with_body(request, RequestBody::Empty));
    let mut sent = connection.send(request, |cx| limits.poll(cx)).await;
    if let (Ok(Err(SendError { error, unsent: unsent @ false, .. })), Some(copy)) = (&mut sent, copy) {
        *request = copy;
        *unsent = matches!(error, BackendError::Refused);
    }
    sent
}
