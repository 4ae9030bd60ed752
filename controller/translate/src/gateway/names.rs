//! Names of generated objects, and the objects that have them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube_core::ObjectMeta;
use snapshot::Hash;

use crate::{DataPlane, ObjectKey, Resources, Settings};

/// The label by which generated objects name their Gateway (GEP-1762).
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label by which generated objects name their GatewayClass (GEP-1762).
pub const CLASS_NAME: &str = "gateway.networking.k8s.io/gateway-class-name";

/// Stands for the Gateway's name in the name of what the Gateways of a class share.
const ALL: &str = "all-gateways";

/// The longest name of a Service, and the longest value of a label.
const LONGEST: usize = 63;

/// How many digits of a hash stand in a name that had to be changed.
const HASH: usize = 8;

/// The namespace and the name of the Deployment, Service and ServiceAccount of a data plane that serves Gateways of `class`: beside
/// the Gateway, or in the namespace of the installation where all of the class share it. `None` for that of Ingresses.
pub(super) fn infrastructure_key(plane: &DataPlane, class: &str, settings: &Settings) -> Option<ObjectKey> {
    match plane {
        DataPlane::Shared => None,
        DataPlane::Class(_) => Some(ObjectKey::new(settings.namespace.as_str(), infrastructure_name(ALL, class))),
        DataPlane::Gateway(key) => Some(ObjectKey::new(key.namespace.as_str(), infrastructure_name(&key.name, class))),
    }
}

/// The Service of a data plane that serves Gateways of `class`, where it is there and not somebody else's.
pub fn service<'r>(
    resources: &'r Resources,
    settings: &Settings,
    plane: &DataPlane,
    class: &str,
) -> Option<&'r Arc<Service>> {
    let key = infrastructure_key(plane, class, settings)?;
    resources
        .get::<Service>(&key.namespace, &key.name)
        .filter(|service| is_part_of(plane, class, &key, &service.metadata))
}

/// The names of the Services of data planes for this Gateway alone, whatever its class was when they were made.
pub fn services_of_gateway<'r>(resources: &'r Resources, gateway: &ObjectKey) -> impl Iterator<Item = &'r ObjectKey> {
    let start = cut(&gateway.name);
    let services = resources.services.range(ObjectKey::new(gateway.namespace.as_str(), start.as_str())..);
    let namespace = gateway.namespace.clone();
    let alike = services.take_while(move |(key, _)| key.namespace == namespace && key.name.starts_with(&start));
    let plane = DataPlane::Gateway(gateway.clone());
    let of_gateway = alike.filter(move |(key, entry)| is_part_of(&plane, "", key, &entry.current.metadata));
    of_gateway.map(|(key, _)| key)
}

/// The pods of a data plane that serves Gateways of `class`.
pub(super) fn pods<'r>(
    resources: &'r Resources,
    settings: &Settings,
    plane: &DataPlane,
    class: &str,
) -> impl Iterator<Item = &'r Arc<Pod>> {
    infrastructure_key(plane, class, settings).into_iter().flat_map(move |key| {
        let from = ObjectKey::new(key.namespace.as_str(), "");
        let in_namespace = resources.pods.range(from..).map(|(_, entry)| &entry.current);
        let pods = in_namespace.take_while({
            let namespace = key.namespace.clone();
            move |pod| pod.metadata.namespace.as_deref() == Some(namespace.as_str())
        });
        pods.filter(move |pod| is_part_of(plane, class, &key, &pod.metadata))
    })
}

/// Whether the labels say that an object is part of a data plane whose objects have the name `key`.
fn is_part_of(plane: &DataPlane, class: &str, key: &ObjectKey, metadata: &ObjectMeta) -> bool {
    let label = |name| metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    match plane {
        DataPlane::Gateway(gateway) => label(GATEWAY_NAME) == Some(label_value(&gateway.name, &key.name)),
        // What a single Gateway has names its class too.
        DataPlane::Class(_) | DataPlane::Shared => {
            label(GATEWAY_NAME).is_none() && label(CLASS_NAME) == Some(label_value(class, &key.name))
        }
    }
}

/// The value of a label that names `owner` on what has the name `infrastructure`: that name, where the owner's is too long for a
/// label.
pub fn label_value<'n>(owner: &'n str, infrastructure: &'n str) -> &'n str {
    if owner.len() <= LONGEST { owner } else { infrastructure }
}

/// The name of the Deployment, Service and ServiceAccount of a Gateway (GEP-1762): `<gateway>-<class>`.
///
/// Where that is no name for a Service (RFC 1035: at most 63 letters, digits and hyphens, a letter first), it is cut and
/// cleaned, and the start of a hash of the whole keeps it apart from others.
fn infrastructure_name(gateway_name: &str, class_name: &str) -> String {
    let whole = format!("{gateway_name}-{class_name}");
    let letter_first = whole.starts_with(|first: char| first.is_ascii_lowercase());
    let clean = whole.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if letter_first && clean && whole.len() <= LONGEST {
        return whole;
    }
    let hash: String = Hash::of(whole.as_bytes()).to_string().chars().take(HASH).collect();
    format!("{}-{hash}", cut(&whole))
}

/// The start of a name, cleaned, with room for a hash after it. What begins with the same name begins with this.
fn cut(name: &str) -> String {
    let letter_first = name.starts_with(|first: char| first.is_ascii_lowercase());
    let prefix = if letter_first { "" } else { "g-" };
    let cleaned =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' });
    let cut: String = prefix.chars().chain(cleaned).take(LONGEST - HASH - 1).collect();
    cut.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_stay_readable() {
        assert_eq!(infrastructure_name("shop", "sluice"), "shop-sluice");
    }

    #[test]
    fn others_become_names_of_services_and_stay_apart() {
        let long = "a".repeat(253);
        let names = [
            infrastructure_name(&long, "sluice"),
            infrastructure_name(&format!("{}b", &long[..252]), "sluice"),
            infrastructure_name("shop.example", "sluice"),
            infrastructure_name("shop-example", "sluice"),
            infrastructure_name("1", "sluice"),
        ];
        for (index, name) in names.iter().enumerate() {
            assert!(name.len() <= 63 && name.starts_with(|first: char| first.is_ascii_lowercase()), "{name}");
            assert!(
                name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{name}"
            );
            assert!(!names[..index].contains(name), "{name}");
        }
    }

    #[test]
    fn services_of_a_gateway_are_found_by_the_start_of_their_name() {
        let long = "a".repeat(253);
        for name in ["shop", "shop.example", "1", "a--", &long[..54], &long[..56], &long] {
            let gateway = ObjectKey::new("net", name);
            let mut resources = Resources::default();
            let mut services: Vec<_> = ["b", "sluice", &long].map(|class| infrastructure_name(name, class)).into();
            for service in &services {
                let labels = serde_json::json!({ GATEWAY_NAME: label_value(name, service) });
                let metadata = serde_json::json!({"namespace": "net", "name": service, "labels": labels});
                resources.insert(serde_json::from_value::<Service>(serde_json::json!({"metadata": metadata})).unwrap());
            }
            services.sort();
            let found: Vec<_> = services_of_gateway(&resources, &gateway).map(|key| key.name.clone()).collect();
            assert_eq!(found, services, "{name}");
            // Of names that are too long for a label only the start is told apart.
            let other = if name == long { "b".repeat(253) } else { format!("{name}x") };
            assert_eq!(services_of_gateway(&resources, &ObjectKey::new("net", other)).count(), 0, "{name}");
        }
    }

    #[test]
    fn a_label_is_the_owners_name_where_it_fits() {
        let fits = "a".repeat(63);
        assert_eq!(label_value(&fits, "a-sluice"), fits);
        assert_eq!(label_value(&"a".repeat(64), "a-sluice"), "a-sluice");
    }

    #[test]
    fn what_a_class_shares_is_in_the_namespace_of_the_installation_whatever_the_length_of_its_name() {
        let settings = Settings { namespace: "system".into(), ..Settings::default() };
        let key = |class: &str| infrastructure_key(&DataPlane::Class(class.into()), class, &settings).unwrap();
        assert_eq!(key("sluice"), ObjectKey::new("system", "all-gateways-sluice"));
        let long = key(&"a".repeat(253));
        assert!(long.name.len() <= 63 && long.name.starts_with("all-gateways-aaa"), "{long}");
        assert_ne!(long, key(&"a".repeat(252)));
    }
}
