//! What an installation needs before anything is served: keys that all replicas share, and the CA's certificate for the
//! shared data planes.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::ca::{CaError, InstallationSecret};
use crate::status::MANAGER;
use crate::watch::Pause;
use crate::write::reason_of_client;

/// Why an installation cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The API server says no, or nothing.
    #[error("cannot {what} {object}: {reason}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// Kind, namespace and name.
        object: String,
        /// Why not, without the API server's words: they could quote the Secret.
        reason: String,
    },
    /// The keys cannot be made or read.
    #[error(transparent)]
    Keys(#[from] CaError),
}

/// Tries until the API server lets it, and logs why it does not. Keys that cannot be read stay so: that is an error.
pub async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, BootstrapError>
where
    F: Future<Output = Result<T, BootstrapError>>,
{
    let mut pause = Pause::default();
    loop {
        match attempt().await {
            Err(error @ BootstrapError::Api { .. }) => tracing::warn!("not started yet: {error}"),
            ended => return ended,
        }
        pause.wait().await;
    }
}

/// The installation's keys: those in the Secret, or new ones that are put there. When several replicas start at once, the
/// first one's keys win.
pub async fn keys(client: &Client, namespace: &str, name: &str) -> Result<InstallationSecret, BootstrapError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |what| {
        move |error| {
            let (object, reason) = (format!("Secret {namespace}/{name}"), reason_of_client(&error));
            BootstrapError::Api { what, object, reason }
        }
    };
    let secret = match api.get_opt(name).await.map_err(failed("read"))? {
        Some(secret) => secret,
        None => {
            let secret = Secret {
                metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
                type_: Some("sluice.dev/installation".into()),
                data: Some(data(&InstallationSecret::generate()?)),
                ..Secret::default()
            };
            match api.create(&PostParams::default(), &secret).await {
                Ok(secret) => secret,
                Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await.map_err(failed("read"))?,
                Err(error) => return Err(failed("create")(error)),
            }
        }
    };
    Ok(read(secret)?)
}

/// The keys in a Secret.
pub fn read(secret: Secret) -> Result<InstallationSecret, CaError> {
    let data = secret.data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.0)).collect();
    InstallationSecret::from_secret_data(&data)
}

/// The entries of a Secret for these keys.
pub fn data(keys: &InstallationSecret) -> BTreeMap<String, ByteString> {
    keys.to_secret_data().into_iter().map(|(name, bytes)| (name, ByteString(bytes))).collect()
}

/// Puts the certificates that data planes trust ([`InstallationSecret::trusted`]) where the shared ones mount them from.
pub async fn publish_ca(client: &Client, namespace: &str, name: &str, trusted: &str) -> Result<(), BootstrapError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": namespace },
        "data": { InstallationSecret::AUTHORITY: trusted },
    });
    let applied = api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&map)).await;
    applied.map(drop).map_err(|error| BootstrapError::Api {
        what: "apply",
        object: format!("ConfigMap {namespace}/{name}"),
        reason: reason_of_client(&error),
    })
}
