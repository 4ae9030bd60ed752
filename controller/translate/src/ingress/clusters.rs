//! The clusters that Ingresses send to. What annotations say about a Service's port counts for all Ingresses that use it:
//! the oldest decides, and a BackendPolicy goes before it.

use std::collections::BTreeMap;

use snapshot::{
    AffinityCookie, AffinityMode, BackendProtocol, BackendTls, Balancer, Cluster, CookieSecure, Persistence,
    Verification,
};

use super::annotations::{Affinity, Annotations, Protocol, Scope};
use super::version::Served;
use crate::backends::ServicePort;
use crate::context::Context;
use crate::{DataPlane, Kind, ObjectKey};

/// ingress-nginx's name for the cookie where the Ingress names none.
const COOKIE: &str = "INGRESSCOOKIE";

/// What was decided for each Service port.
#[derive(Default)]
pub(super) struct Clusters {
    decided: BTreeMap<String, Decided>,
}

struct Decided {
    owner: ObjectKey,
    balancing: Balancing,
    origins: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Balancing {
    balancer: Balancer,
    persistence: Option<Persistence>,
}

impl Clusters {
    /// Adds the cluster of a port as this Ingress uses it; its name, and where its settings come from.
    /// Call it for the oldest Ingress first.
    pub(super) fn of_ingress(
        &mut self,
        context: &mut Context<'_>,
        ingress: &Served<'_>,
        port: &ServicePort<'_>,
    ) -> (String, Vec<String>) {
        let balancing = Balancing::of(&ingress.annotations);
        let decided = self.decided.entry(port.id()).or_insert_with(|| Decided {
            owner: ingress.key.clone(),
            balancing: balancing.clone(),
            origins: origins(ingress),
        });
        if decided.balancing != balancing {
            let message = format!(
                "how Service port {} is balanced (affinity, session-cookie-*, load-balance) is decided by the older Ingress {}",
                port.id(),
                decided.owner
            );
            context.notice(Kind::Ingress, ingress.key, "metadata.annotations", "BackendSettingsConflict", message);
        }
        let (balancing, mut origins) = (decided.balancing.clone(), decided.origins.clone());
        let protocol = ingress.annotations.backend_protocol.unwrap_or(Protocol::Http);
        let name = name(port, protocol);
        origins.extend(insert(context, &name, port, protocol, balancing));
        (name, origins)
    }

    /// Adds the cluster of the default backend, which no Ingress has a say in; its name, and where its settings come from.
    pub(super) fn of_default_backend(context: &mut Context<'_>, port: &ServicePort<'_>) -> (String, Vec<String>) {
        let name = format!("ingress/default-backend/{}", port.id());
        let origins = insert(context, &name, port, Protocol::Http, Balancing::of(&Annotations::default()));
        (name, origins)
    }
}

/// The protocol belongs to the Ingress, not to the port: Ingresses that differ in it have clusters of their own.
fn name(port: &ServicePort<'_>, protocol: Protocol) -> String {
    let suffix = match protocol {
        Protocol::Http => "",
        Protocol::Https => "/HTTPS",
        Protocol::Grpc => "/GRPC",
        Protocol::Grpcs => "/GRPCS",
    };
    format!("ingress/{}{suffix}", port.id())
}

fn insert(
    context: &mut Context<'_>,
    name: &str,
    port: &ServicePort<'_>,
    protocol: Protocol,
    balancing: Balancing,
) -> Vec<String> {
    let policy = context.policies.for_service(&port.key, port.name);
    let origins = policy.origins.values().map(|origin| format!("Service {}: {origin}", port.id())).collect();
    context.insert_cluster(&DataPlane::Shared, name, port, |endpoints| Cluster {
        endpoints,
        protocol: spoken(protocol),
        balancer: policy.balancer.unwrap_or(balancing.balancer),
        persistence: policy.sessions(&port.key).map(Persistence::Session).or(balancing.persistence),
        passive_health: policy.passive_health,
    });
    origins
}

fn spoken(protocol: Protocol) -> BackendProtocol {
    // `proxy-ssl-verify` and `proxy-ssl-server-name` are off by default.
    let tls = BackendTls { server_name: None, verification: Verification::None, client_certificate: None };
    match protocol {
        Protocol::Http => BackendProtocol::Http1,
        Protocol::Https => BackendProtocol::Https(tls),
        Protocol::Grpc => BackendProtocol::Http2,
        Protocol::Grpcs => BackendProtocol::Http2Tls(tls),
    }
}

impl Balancing {
    fn of(annotations: &Annotations) -> Self {
        let persistence = annotations.affinity.map(|Affinity::Cookie| AffinityCookie {
            cookie: annotations.cookie_name.clone().unwrap_or_else(|| COOKIE.into()),
            mode: annotations.affinity_mode.unwrap_or(AffinityMode::Balanced),
            path: annotations.cookie_path.clone(),
            domain: annotations.cookie_domain.clone(),
            expires: annotations.cookie_expires,
            max_age: annotations.cookie_max_age,
            same_site: annotations.cookie_same_site,
            secure: if annotations.cookie_secure == Some(true) { CookieSecure::Always } else { CookieSecure::OnHttps },
        });
        let persistence = persistence.map(Persistence::Affinity);
        Self { balancer: annotations.load_balance.unwrap_or(Balancer::RoundRobin), persistence }
    }
}

fn origins(ingress: &Served<'_>) -> Vec<String> {
    let given = ingress.annotations.given(Scope::Service);
    given.map(|(name, value)| format!("{name}={value} from annotation on Ingress {}", ingress.key)).collect()
}
