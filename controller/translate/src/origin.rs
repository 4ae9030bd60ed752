//! From a resource back to the object that it was made from.

use snapshot::ResourceId;

use crate::{Kind, ObjectKey};

/// The object that a resource was made from, read from its name: `Ingress/shop/web/...`, `HTTPRoute/shop/web@gateways/public`.
/// Certificates have their Secret's name, clusters their Service's in it; the names of a Gateway's listeners begin with its
/// namespace.
pub fn object(id: &ResourceId) -> Option<(Kind, ObjectKey)> {
    if id.kind == snapshot::Kind::Cluster {
        return Some((Kind::Service, service(&id.name)?));
    }
    let mut parts = id.name.split('/');
    let kind = match id.kind {
        snapshot::Kind::Certificate => Kind::Secret,
        snapshot::Kind::Listener if id.name.matches('/').count() == 2 => Kind::Gateway,
        _ => {
            let name = parts.next()?;
            *Kind::ALL.iter().find(|kind| kind.name() == name)?
        }
    };
    let (namespace, name) = (parts.next()?, parts.next()?);
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    Some((kind, ObjectKey::new(namespace, name)))
}

/// The Service of a cluster: `Service/shop/web:443/grpc`, `ingress/shop/web:80`, `ingress/default-backend/shop/web:80`.
fn service(cluster: &str) -> Option<ObjectKey> {
    ["Service/", "ingress/default-backend/", "ingress/"].into_iter().find_map(|prefix| {
        let (namespace, port) = cluster.strip_prefix(prefix)?.split_once('/')?;
        let (name, _) = port.split_once(':')?;
        Some(ObjectKey::new(namespace, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_resources_lead_to_objects() {
        let of = |kind, name: &str| object(&ResourceId::new(kind, name)).map(|(kind, key)| format!("{kind} {key}"));
        let route = |name| of(snapshot::Kind::Route, name);
        assert_eq!(route("HTTPRoute/shop/web@gateways/public").as_deref(), Some("HTTPRoute shop/web"));
        assert_eq!(route("HTTPRoute/shop/web@gateways/public/https").as_deref(), Some("HTTPRoute shop/web"));
        assert_eq!(route("Ingress/shop/web").as_deref(), Some("Ingress shop/web"));
        assert_eq!(of(snapshot::Kind::Certificate, "shop/tls").as_deref(), Some("Secret shop/tls"));
        let listener = |name| of(snapshot::Kind::Listener, name);
        assert_eq!(listener("shop/web/http").as_deref(), Some("Gateway shop/web"));
        assert_eq!(listener("ListenerSet/shop/more/http").as_deref(), Some("ListenerSet shop/more"));
        assert_eq!(listener("ingress/http"), None);
        assert_eq!(of(snapshot::Kind::Settings, "settings"), None);
        let cluster = |name| of(snapshot::Kind::Cluster, name);
        let names = [
            "Service/shop/web:443",
            "Service/shop/web:443/grpc",
            "Service/shop/web:53/udp",
            "ingress/shop/web:443/HTTPS",
            "ingress/default-backend/shop/web:80",
        ];
        for name in names {
            assert_eq!(cluster(name).as_deref(), Some("Service shop/web"), "{name}");
        }
        let in_a_namespace_of_that_name = cluster("ingress/default-backend/web:80/GRPC");
        assert_eq!(in_a_namespace_of_that_name.as_deref(), Some("Service default-backend/web"));
    }
}
