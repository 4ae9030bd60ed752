//! Names of generated objects.

use snapshot::Hash;

/// The label that names the Gateway on what is made for it (GEP-1762).
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The longest name of a Service, and the longest value of a label.
const LONGEST: usize = 63;

/// The name of the Deployment, Service and ServiceAccount of a Gateway (GEP-1762): `<gateway>-<class>`.
///
/// Where that is no name for a Service (RFC 1035: at most 63 letters, digits and hyphens, a letter first), it is cut and
/// cleaned, and the start of a hash of the whole keeps it apart from others.
pub fn infrastructure_name(gateway_name: &str, class_name: &str) -> String {
    let whole = format!("{gateway_name}-{class_name}");
    let letter_first = whole.starts_with(|first: char| first.is_ascii_lowercase());
    let clean = whole.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if letter_first && clean && whole.len() <= LONGEST {
        return whole;
    }
    let hash: String = Hash::of(whole.as_bytes()).to_string().chars().take(8).collect();
    let prefix = if letter_first { "" } else { "g-" };
    let cleaned =
        whole.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' });
    let cut: String = prefix.chars().chain(cleaned).take(LONGEST - hash.len() - 1).collect();
    format!("{}-{hash}", cut.trim_end_matches('-'))
}

/// The value of the labels that name a Gateway and its class on what is made for the Gateway (GEP-1762): `name`, or where that
/// is too long for a label, the Gateway's [`infrastructure_name`].
pub fn label_value(name: &str, infrastructure_name: &str) -> String {
    if name.len() <= LONGEST { name.to_owned() } else { infrastructure_name.to_owned() }
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
    fn a_label_is_the_name_where_it_fits() {
        assert_eq!(label_value(&"a".repeat(63), "short"), "a".repeat(63));
        assert_eq!(label_value(&"a".repeat(64), "short"), "short");
    }
}
