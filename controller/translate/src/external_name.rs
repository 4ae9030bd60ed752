//! Where Services of type ExternalName may lead.

/// The operator's rules for the names of Services of type ExternalName.
///
/// A Service may be written by a tenant, and the data planes that follow its name reach every namespace. So by default no name
/// of the cluster's own domain leads out of the Service's namespace. ingress-nginx has `--disable-svc-external-name` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalNames {
    /// Whether they are served at all. Default yes.
    pub enabled: bool,
    /// Names that are allowed, each with all names below it; others are refused. Names of the cluster's own domain are
    /// allowed where they are listed. Empty: every name outside of the cluster. Default empty.
    pub allowed: Vec<String>,
    /// The domain of the cluster's Services and pods. Default `cluster.local`.
    pub cluster_domain: String,
}

impl Default for ExternalNames {
    fn default() -> Self {
        Self { enabled: true, allowed: Vec::new(), cluster_domain: "cluster.local".into() }
    }
}

impl ExternalNames {
    /// Returns why a Service of this namespace may not lead to `name`, with the remedy; `None` where it may. `name` is in lower
    /// case and without a dot at its end.
    pub(crate) fn refusal(&self, namespace: &str, name: &str) -> Option<&'static str> {
        if !self.enabled {
            return Some(
                "Services of type ExternalName are switched off (--disable-svc-external-name): use a Service with endpoints",
            );
        }
        if !self.allowed.is_empty() {
            let listed = self.allowed.iter().any(|domain| is_within(name, &domain.to_ascii_lowercase()));
            return (!listed).then_some("it is not among the names that the operator allows (--external-name-allow)");
        }
        let owner = self.owner(name)?;
        (owner != Some(namespace)).then_some(
            "it leads out of the Service's namespace into the cluster: refer to a Service of the same namespace, or have the \
             operator allow the name (--external-name-allow)",
        )
    }

    /// The namespace that a name of the cluster's own domain belongs to: `Some(None)` where it belongs to none, `None` for a
    /// name outside.
    fn owner<'n>(&self, name: &'n str) -> Option<Option<&'n str>> {
        let domain = self.cluster_domain.trim_end_matches('.').to_ascii_lowercase();
        let within = name.strip_suffix(&domain).filter(|rest| rest.is_empty() || rest.ends_with('.'));
        let rest = within.map_or(name, |rest| rest.trim_end_matches('.'));
        let object = rest.strip_suffix(".svc").or_else(|| rest.strip_suffix(".pod"));
        match (object, within) {
            (Some(object), _) => Some(object.rsplit_once('.').map(|(_, namespace)| namespace)),
            (None, Some(_)) => Some(None),
            (None, None) => None,
        }
    }
}

fn is_within(name: &str, domain: &str) -> bool {
    let domain = domain.trim_matches('.');
    name.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_cluster_stay_in_the_namespace_of_their_service() {
        let rules = ExternalNames::default();
        for name in [
            "api.example.com",
            "web.shop.svc.cluster.local",
            "pod-0.web.shop.svc.cluster.local",
            "10-0-0-1.shop.pod.cluster.local",
            "web.shop.svc",
            "notcluster.local",
        ] {
            assert_eq!(rules.refusal("shop", name), None, "{name}");
        }
        for name in [
            "db.billing.svc.cluster.local",
            "pod-0.db.billing.svc.cluster.local",
            "10-0-0-1.billing.pod.cluster.local",
            "db.billing.svc",
            "shop.svc.cluster.local",
            "kubernetes.default.svc.cluster.local",
            "node.cluster.local",
            "cluster.local",
            "svc.cluster.local",
        ] {
            assert!(rules.refusal("shop", name).is_some(), "{name}");
        }
        let other = ExternalNames { cluster_domain: "k8s.example.".into(), ..ExternalNames::default() };
        assert!(other.refusal("shop", "db.billing.svc.k8s.example").is_some());
        assert_eq!(other.refusal("shop", "db.billing.svc.cluster.local"), None);
    }

    #[test]
    fn the_operator_lists_names_or_switches_them_off() {
        let listed = ExternalNames {
            allowed: vec!["Example.com".into(), "db.billing.svc.cluster.local".into()],
            ..ExternalNames::default()
        };
        for name in ["example.com", "api.example.com", "db.billing.svc.cluster.local"] {
            assert_eq!(listed.refusal("shop", name), None, "{name}");
        }
        for name in ["example.org", "badexample.com", "web.shop.svc.cluster.local"] {
            assert!(listed.refusal("shop", name).is_some(), "{name}");
        }
        let off = ExternalNames { enabled: false, ..listed };
        assert!(off.refusal("shop", "example.com").is_some());
    }
}
