//! What the commands that work on a folder of manifests have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use snapshot::{Resource, Snapshot};
use translate::{DataPlane, PortMap, Settings, Translation};

use crate::ca::{CaError, InstallationSecret};

/// A folder of manifests and how it is read.
#[derive(Clone, Debug, clap::Args)]
pub struct Source {
    /// The folder; *.yaml, *.yml and *.json are read, at any depth
    pub dir: PathBuf,
    /// The class of Ingresses and Gateways that are served; it need not be in the folder
    #[arg(long, value_name = "NAME", default_value = "sluice")]
    pub class: String,
    /// Where Ingresses and port 80 of Gateways are served
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub http_port: u16,
    /// Where the TLS hosts of Ingresses and port 443 of Gateways are served
    #[arg(long, value_name = "PORT", default_value_t = 8443, value_parser = clap::value_parser!(u16).range(1..))]
    pub https_port: u16,
}

impl Source {
    /// Whether the arguments fit together.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn validate(&self) -> Result<(), String> {
        match self.http_port == self.https_port {
            true => Err(format!("--http-port and --https-port are both {}; choose two ports", self.http_port)),
            false => Ok(()),
        }
    }

    /// The settings for translation, with keys and a certificate that live as long as the process.
    ///
    /// # Errors
    /// When no keys can be made.
    pub fn settings(&self) -> Result<Settings, CaError> {
        let keys = InstallationSecret::generate()?;
        let mut settings = Settings {
            ingress_class: self.class.clone(),
            ports: PortMap { http: self.http_port, https: self.https_port },
            allow_loopback_endpoints: true,
            access_log: snapshot::AccessLog::Off,
            ..Settings::default()
        };
        keys.apply_to(&mut settings);
        Ok(settings)
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// All data planes' parts as one, for one process: names are unique among all of them. Where no Ingress is served the ports of
/// Ingresses are not opened either: who asks a Gateway for a name that it does not have finds nobody, as in a cluster.
pub(crate) fn merged(translation: &Translation) -> Snapshot {
    let mut whole = Snapshot::default();
    for (plane, part) in &translation.snapshots {
        let idle = *plane == DataPlane::Shared && translation.statuses.ingresses.is_empty();
        for (id, resource) in part.iter().filter(|(id, _)| !idle || id.kind != snapshot::Kind::Listener) {
            whole.insert_hashed(id.clone(), resource.clone());
        }
    }
    whole
}

/// A sentence about data planes that have ports in common here (`port`, or any) and addresses of their own in a cluster. `None` where
/// there are none.
pub(crate) fn shared_ports(translation: &Translation, port: Option<u16>) -> Option<String> {
    const NAMED: usize = 4;
    let mut by_port: BTreeMap<(u16, bool), BTreeSet<&DataPlane>> = BTreeMap::new();
    for (plane, part) in &translation.snapshots {
        if *plane == DataPlane::Shared && translation.statuses.ingresses.is_empty() {
            continue;
        }
        for (_, hashed) in part.iter() {
            if let Resource::Listener(listener) = hashed.resource().as_ref()
                && port.is_none_or(|port| port == listener.port)
            {
                let datagrams = listener.protocol == snapshot::Protocol::Udp;
                by_port.entry((listener.port, datagrams)).or_default().insert(plane);
            }
        }
    }
    let sharing: BTreeSet<_> = by_port.into_values().filter(|planes| planes.len() > 1).flatten().collect();
    let name = |plane: &&DataPlane| match plane {
        DataPlane::Shared => "the Ingresses".to_owned(),
        DataPlane::Class(class) => format!("the Gateways of class {class}"),
        DataPlane::Gateway(key) => format!("Gateway {key}"),
    };
    let mut names: Vec<_> = sharing.iter().take(NAMED).map(name).collect();
    if sharing.len() > NAMED {
        names.push(format!("{} more", sharing.len() - NAMED));
    }
    let last = names.pop().filter(|_| sharing.len() > 1)?;
    let first = names.join(", ");
    Some(format!("{first} and {last} share ports here as one; in a cluster each has an address of its own"))
}
