//! From a resource back to the object that it was made from.

use snapshot::ResourceId;

use crate::{Kind, ObjectKey};

/// The object that a resource was made from, read from its name: `Ingress/shop/web/...`, `HTTPRoute/shop/web@gateways/public`.
/// Certificates have their Secret's name; those of a Gateway's listeners begin with its namespace.
pub fn object(id: &ResourceId) -> Option<(Kind, ObjectKey)> {
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
    }
}
