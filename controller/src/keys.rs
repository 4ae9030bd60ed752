//! The installation's keys while the controller runs: followed by every replica, renewed by the leader.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::Instant;
use translate::Settings;

use crate::bootstrap::{self, BootstrapError};
use crate::ca::{self, CaError, InstallationSecret, KeyPairPem};
use crate::shutdown::Shutdown;
use crate::status::MANAGER;
use crate::write::{WriteError, reason, reason_of_watch, within};

/// How often it is asked whether something is due.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// When something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Follows the Secret with the keys, and renews what is due.
pub struct Keeper {
    /// Access to the API server.
    pub client: Client,
    /// Where the Secret and the ConfigMap are.
    pub namespace: String,
    /// The name of the Secret.
    pub secret: String,
    /// The name of the ConfigMap with the certificates that the shared data planes trust.
    pub ca_config_map: String,
    /// The keys as they are.
    pub keys: InstallationSecret,
    /// Whether this replica renews them.
    pub leader: watch::Receiver<bool>,
    /// Who uses them.
    pub users: Users,
}

/// Where the keys go.
pub struct Users {
    /// Of translation.
    pub settings: watch::Sender<Arc<Settings>>,
    /// The stream's server certificate, of this replica alone.
    pub server: watch::Sender<KeyPairPem>,
    /// See [`InstallationSecret::trusted`].
    pub trusted: watch::Sender<String>,
}

/// Why the keys are not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Keys(#[from] CaError),
    #[error(transparent)]
    Publish(#[from] BootstrapError),
}

impl RenewError {
    /// See [`crate::write::reason`].
    fn reason(&self) -> String {
        match self {
            Self::Write(error) => reason(error),
            Self::Keys(_) | Self::Publish(_) => self.to_string(),
        }
    }
}

impl Keeper {
    /// Follows and renews until `shutdown`.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut events = pin!(watch_object(self.api(), &self.secret));
        // Every replica makes itself a certificate of this authority.
        let mut signer = self.keys.authority.certificate.clone();
        let mut look = Instant::now();
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(Some(secret)) => {
                        self.follow(secret);
                        look = Instant::now();
                    }
                    Ok(None) => {
                        tracing::warn!(secret = self.secret, "the Secret with the keys is gone; they stay in use until a restart");
                    }
                    Err(error) => {
                        let reason = reason_of_watch(&error);
                        tracing::warn!(secret = self.secret, reason, "the Secret with the keys cannot be watched");
                        tokio::select! {
                            () = tokio::time::sleep(RETRY) => {}
                            () = shutdown.requested() => return,
                        }
                    }
                },
                Ok(()) = self.leader.changed() => look = Instant::now(),
                () = tokio::time::sleep_until(look) => {}
                () = shutdown.requested() => return,
            }
            if look > Instant::now() {
                continue;
            }
            look = Instant::now() + LOOK;
            if let Err(error) = self.renew_server(&mut signer) {
                tracing::warn!(%error, "the stream's certificate is not renewed; trying again");
                look = Instant::now() + RETRY;
            }
            let leads = *self.leader.borrow_and_update();
            if leads && let Err(error) = self.renew().await {
                tracing::warn!(reason = error.reason(), "the installation's keys are not renewed; trying again");
                look = Instant::now() + RETRY;
            }
        }
    }

    /// Hands on what the Secret holds.
    fn follow(&mut self, secret: Secret) {
        match bootstrap::read(secret) {
            Ok(keys) if keys == self.keys => {}
            Ok(keys) => {
                tracing::info!("the installation's keys changed");
                self.keys = keys;
                self.users.settings.send_modify(|settings| self.keys.apply_to(Arc::make_mut(settings)));
                self.users.trusted.send_replace(self.keys.trusted());
            }
            Err(error) => tracing::warn!(%error, "the keys in the Secret cannot be used; those that were there stay"),
        }
    }

    /// Makes another server certificate when this one is due, or is not of the present authority.
    fn renew_server(&self, signer: &mut String) -> Result<(), CaError> {
        let due = ca::is_due(&self.users.server.borrow().certificate, Timestamp::now()).unwrap_or(true);
        if due || *signer != self.keys.authority.certificate {
            self.users.server.send_replace(self.keys.issue_server()?);
            signer.clone_from(&self.keys.authority.certificate);
        }
        Ok(())
    }

    /// Writes what is due; the watch brings it back. What data planes trust is written whether due or not, for another
    /// replica, or somebody else, may have left something else there.
    async fn renew(&self) -> Result<(), RenewError> {
        if let Some(renewed) = self.keys.renewed(Timestamp::now())? {
            within(self.write(&renewed)).await?;
        }
        bootstrap::publish_ca(&self.client, &self.namespace, &self.ca_config_map, &self.keys.trusted()).await?;
        Ok(())
    }

    /// Replaces the Secret, unless it holds other keys than those that `renewed` was made from: they come by the watch.
    async fn write(&self, renewed: &InstallationSecret) -> Result<(), WriteError> {
        let api = self.api();
        let Some(mut secret) = api.get_opt(&self.secret).await? else { return Ok(()) };
        if bootstrap::read(secret.clone()).ok().as_ref() != Some(&self.keys) {
            return Ok(());
        }
        secret.data = Some(bootstrap::data(renewed));
        let parameters = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        match api.replace(&self.secret, &parameters, &secret).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
