//! Which replica writes: the holder of a Lease.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
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
            let ended = match self.manager().await {
                Ok(manager) => self.follow(&manager, leads).await,
                Err(error) => Err(error),
            };
            let Err(error) = ended else { continue };
            // Whoever cannot reach the Lease does not know whether it still leads. A new manager finds out.
            self.metrics.leader(false);
            leads.send_replace(false);
            tracing::warn!(%error, "the Lease cannot be read or renewed; not leading meanwhile");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Tells each change. Ends without an error when the holder has freed the Lease: the manager sleeps until the Lease that it
    /// read would end, so that a new one takes over sooner.
    async fn follow(&self, manager: &LeaseManager, leads: &watch::Sender<bool>) -> Result<(), LeaseManagerError> {
        let mut leading = false;
        loop {
            let changed = tokio::select! {
                changed = manager.changed() => changed?,
                () = self.freed(), if !leading => return Ok(()),
            };
            leading = changed;
            tracing::info!(leader = leading, identity = self.identity, "leadership changed");
            self.metrics.leader(leading);
            leads.send_replace(leading);
        }
    }

    /// Returns once the Lease was held and is free now.
    async fn freed(&self) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut events = pin!(watch_object(api, &self.name));
        let mut held = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(lease) => {
                    let holder = lease.and_then(|lease| lease.spec?.holder_identity);
                    if holder.is_none() {
                        if !held {
                            // The manager has seen that too and is about to take it, unless it was freed this very moment.
                            tokio::time::sleep(RETRY).await;
                        }
                        return;
                    }
                    held = true;
                }
                // Without the watch the Lease's end counts.
                Err(error) => {
                    tracing::debug!(%error, "the Lease cannot be watched");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        std::future::pending().await
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
