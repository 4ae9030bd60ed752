//! Which replica writes: the holder of a Lease.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// How long a Lease is valid after its last renewal, in seconds: what a crashed leader costs.
const DURATION: u64 = 15;
/// How long before its end the Lease is renewed, in seconds.
const GRACE: u64 = 8;
/// Between attempts while the API server cannot be reached.
const RETRY: Duration = Duration::from_secs(1);
/// How long releasing the Lease may hold up the end of the process.
const RELEASE: Duration = Duration::from_secs(3);

/// Competes for the Lease `name` in `namespace`.
#[derive(Clone)]
pub struct Election {
    /// Access to the API server.
    pub client: Client,
    /// Where the Lease is.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// The name of this replica.
    pub identity: String,
    /// Tells who leads.
    pub metrics: Metrics,
}

impl Election {
    /// Competes until `shutdown` and tells `leads` each change. Then [`Self::release`] frees the Lease.
    pub async fn run(self, leads: watch::Sender<bool>, mut shutdown: Shutdown) {
        tokio::select! {
            () = self.compete(&leads) => {}
            () = shutdown.requested() => {}
        }
    }

    async fn compete(&self, leads: &watch::Sender<bool>) {
        loop {
            let error = match self.manager().await {
                Ok(manager) => self.follow(&manager, leads).await,
                Err(error) => error,
            };
            // Whoever cannot reach the Lease does not know whether it still leads. A new manager finds out.
            self.metrics.leader(false);
            leads.send_replace(false);
            tracing::warn!(%error, "the Lease cannot be read or renewed; not leading meanwhile");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self, manager: &LeaseManager, leads: &watch::Sender<bool>) -> LeaseManagerError {
        loop {
            match manager.changed().await {
                Ok(leader) => {
                    tracing::info!(leader, identity = self.identity, "leadership changed");
                    self.metrics.leader(leader);
                    leads.send_replace(leader);
                }
                Err(error) => return error,
            }
        }
    }

    async fn manager(&self) -> kube_lease_manager::Result<LeaseManager> {
        LeaseManagerBuilder::new(self.client.clone(), self.name.clone())
            .with_namespace(self.namespace.clone())
            .with_identity(self.identity.clone())
            .with_field_manager(format!("sluice-{}", self.identity))
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await
    }

    /// Frees the Lease if this replica holds it, so that another takes over at once.
    pub async fn release(&self) {
        let release = async { self.manager().await?.release().await };
        match tokio::time::timeout(RELEASE, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Lease is not released; it ends by itself"),
            Err(_) => tracing::warn!("the API server does not answer; the Lease ends by itself"),
        }
    }
}
