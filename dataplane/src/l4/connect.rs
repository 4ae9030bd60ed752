//! A connection to an endpoint for bytes.

use std::rc::Rc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::Session;
use crate::balance::Outcome;
use crate::cluster::{Cluster, Selection};
use crate::reason::Reason;
use crate::tick::Tick;
use crate::transport::Transport;
use crate::upstream::{Choice, ConnectError, Entry};

/// Most endpoints that are tried for one connection, and how long each may take, TLS included (ingress-nginx
/// `proxy-next-upstream-tries` and `proxy-connect-timeout`).
const ATTEMPTS: usize = 3;
const CONNECT: Duration = Duration::from_secs(5);

/// Connects to an endpoint of `cluster`, and when that fails to others, within the worker's budget of retries.
///
/// # Errors
/// Why no endpoint could be reached.
pub(super) async fn connect(session: &mut Session, cluster: &Cluster) -> Result<Transport, Reason> {
    let worker = session.worker().clone();
    let connector = worker.connector(cluster)?;
    // Nothing of a connection says which endpoint it had before.
    let headers = HeaderMap::new();
    let mut tried = Vec::new();
    let mut failure = Reason::NoEndpoints;
    worker.retries.earn();
    for attempt in 0..ATTEMPTS {
        if attempt > 0 && !worker.retries.spend() {
            worker.stats.retries_refused.add(1);
            break;
        }
        let selection = Selection { headers: &headers, tried: &tried, now: Tick::now(), session: None };
        let choice = Choice { cluster, connector: &connector, selection };
        let Some(chosen) = worker.pool.choose(&choice) else { break };
        worker.stats.retries.add(u64::from(attempt > 0));
        let began = Instant::now();
        let open = async |entry: Rc<Entry>| entry.connect(Some(Instant::now() + CONNECT), |_, _| {}).await;
        let (picked, _, connected) = worker.pool.reach(&choice, chosen, open).await;
        let address = picked.endpoint().address();
        match connected {
            Ok(transport) => {
                cluster.report(picked.endpoint(), Outcome::Connected(began.elapsed()), Tick::now());
                session.reached(picked);
                return Ok(transport);
            }
            Err(error) => {
                tracing::debug!(endpoint = %address, %error, "no connection to an endpoint");
                if !matches!(error, ConnectError::Full) {
                    cluster.report(picked.endpoint(), Outcome::Failed, Tick::now());
                }
                failure = error.reason();
                session.tried(address);
                tried.push(address);
            }
        }
    }
    Err(failure)
}
