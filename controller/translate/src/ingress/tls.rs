//! Which hosts have TLS, and with which certificate: the oldest Ingress with `tls` for a host decides.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use k8s_openapi::api::networking::v1::IngressTLS;
use snapshot::{HostPattern, ServerCertificate, Tls};

use super::hosts::{Hosts, pattern};
use super::version::Served;
use crate::certificates::{Loaded, Lookup};
use crate::context::Context;
use crate::{DataPlane, Kind, ObjectKey};

/// Name of the certificate of [`crate::Settings::fallback_certificate`].
const FALLBACK: &str = "fallback";

/// TLS of all hosts.
pub(super) struct HostTls {
    /// What the listener needs.
    pub(super) listener: Tls,
    /// The hosts whose plain requests are redirected by default.
    pub(super) hosts: BTreeSet<HostPattern>,
}

/// Decides for every host, and reports certificates that cannot be used; the default certificate takes their place.
pub(super) fn settle(context: &mut Context<'_>, ingresses: &[Served<'_>], hosts: &Hosts<'_>) -> HostTls {
    let mut by_name = BTreeMap::new();
    let mut with_tls = BTreeSet::new();
    let candidates: Vec<Vec<Entry>> = ingresses.iter().map(|ingress| entries(context, ingress)).collect();
    let wildcards = wildcards(&candidates);
    for (pattern, host) in hosts.iter().filter(|(pattern, _)| **pattern != HostPattern::Any) {
        let mut deciding = host.members.iter().filter(|index| !candidates[**index].is_empty());
        let Some(&first) = deciding.next() else {
            // Clients of the host get the certificate of the wildcard, so that it is redirected as ingress-nginx does it.
            if is_among(pattern, &wildcards) {
                with_tls.insert(pattern.clone());
            }
            continue;
        };
        with_tls.insert(pattern.clone());
        let chosen = choose(&candidates[first], pattern);
        match chosen {
            Some(entry) => entry.serve(context, ingresses[first].key, pattern, &mut by_name),
            None => {
                let message = format!(
                    "no entry names host {pattern}, and no certificate here covers it; it is served with the default \
                     certificate: add the host to an entry"
                );
                context.warn(Kind::Ingress, ingresses[first].key, "spec.tls", "HostWithoutCertificate", message);
            }
        }
        for &later in deciding {
            let other = choose(&candidates[later], pattern).filter(|other| other.names(pattern));
            if let Some(other) = other.filter(|other| chosen.is_none_or(|chosen| chosen.secret != other.secret)) {
                let message = format!("TLS of host {pattern} is decided by the older Ingress {}", ingresses[first].key);
                context.notice(Kind::Ingress, ingresses[later].key, other.field(), "TlsConflict", message);
            }
        }
    }
    // Names without a rule of their own are answered by the rules for every host.
    for (ingress, entries) in ingresses.iter().zip(&candidates) {
        for entry in entries {
            for name in entry.patterns() {
                if name != HostPattern::Any && hosts.get(&name).is_none() && !by_name.contains_key(&name) {
                    entry.serve(context, ingress.key, &name, &mut by_name);
                }
            }
        }
    }
    HostTls { listener: listener(context, by_name), hosts: with_tls }
}

/// An entry of `spec.tls`.
struct Entry {
    index: usize,
    hosts: Vec<HostPattern>,
    /// The Secret that it names; without one, the default certificate is asked for.
    secret: Option<ObjectKey>,
    /// The Secret whose certificate is shown, with what it holds.
    found: Option<(ObjectKey, Rc<Lookup>)>,
}

fn entries(context: &mut Context<'_>, ingress: &Served<'_>) -> Vec<Entry> {
    let entry = |(index, tls): (usize, &IngressTLS)| {
        let name = tls.secret_name.as_deref().filter(|name| !name.is_empty());
        let secret = name.map(|name| ObjectKey::new(ingress.key.namespace.as_str(), name));
        let place = || (Kind::Ingress, ingress.key.clone(), format!("spec.tls[{index}]"));
        let found = secret.as_ref().map(|secret| context.certificate_at(place(), secret));
        let entry =
            Entry { index, hosts: tls.hosts.iter().flatten().map(|host| pattern(Some(host))).collect(), secret, found };
        entry.report(context, ingress.key);
        entry
    };
    ingress.spec.tls.iter().flatten().enumerate().map(entry).collect()
}

impl Entry {
    fn field(&self) -> String {
        format!("spec.tls[{}].secretName", self.index)
    }

    /// Says on the Ingress what is wrong with the Secret.
    fn report(&self, context: &mut Context<'_>, ingress: &ObjectKey) {
        let (Some(secret), Some((_, lookup))) = (&self.secret, &self.found) else { return };
        let Some(error) = &lookup.error else { return };
        let subject = if error.is_in_secret() { format!("Secret {secret}: {error}") } else { error.to_string() };
        let instead = match lookup.usable {
            Some(_) if error.is_in_secret() => "its last good version stays in use",
            Some(_) => "the certificate of before stays in use",
            None => "the default certificate is used instead",
        };
        context.warn(Kind::Ingress, ingress, self.field(), error.reason(), format!("{subject}; {instead}"));
    }

    /// Whether the entry names this host, itself or by a wildcard.
    fn names(&self, host: &HostPattern) -> bool {
        self.hosts.iter().any(|name| name == host || is_under(host, name))
    }

    fn loaded(&self) -> Option<&Loaded> {
        self.found.as_ref().and_then(|(_, lookup)| lookup.usable.as_deref())
    }

    fn covers(&self, host: &HostPattern) -> bool {
        self.loaded().is_some_and(|loaded| loaded.covers(host))
    }

    /// The names that the entry is for: its hosts, or without any those of its certificate.
    fn patterns(&self) -> Vec<HostPattern> {
        match (self.hosts.is_empty(), self.loaded()) {
            (true, Some(loaded)) => loaded.names.clone(),
            _ => self.hosts.clone(),
        }
    }

    /// Shows the entry's certificate for `host` if it is fit for it.
    fn serve(
        &self,
        context: &mut Context<'_>,
        ingress: &ObjectKey,
        host: &HostPattern,
        by_name: &mut BTreeMap<HostPattern, String>,
    ) {
        let Some((secret, lookup)) = &self.found else { return };
        let Some(loaded) = &lookup.usable else { return };
        if loaded.covers(host) {
            let name = secret.to_string();
            context.insert_certificate(&DataPlane::Shared, &name, loaded);
            by_name.insert(host.clone(), name);
        } else {
            let message = format!(
                "the certificate in Secret {secret} ({}) does not cover host {host}; the default certificate is used instead: \
                 issue one for this host",
                loaded.summary
            );
            context.warn(Kind::Ingress, ingress, self.field(), "CertificateNotCovering", message);
        }
    }
}

/// The entry for a host: one that names it, else one that names it by a wildcard or whose certificate covers it.
fn choose<'e>(entries: &'e [Entry], host: &HostPattern) -> Option<&'e Entry> {
    let exact = entries.iter().find(|entry| entry.hosts.contains(host));
    exact.or_else(|| entries.iter().find(|entry| entry.names(host) || entry.covers(host)))
}

/// The names below which entries of any Ingress have TLS for each host.
fn wildcards(candidates: &[Vec<Entry>]) -> BTreeSet<String> {
    let hosts = candidates.iter().flatten().flat_map(|entry| &entry.hosts);
    let suffix = |host: &HostPattern| match host {
        HostPattern::OneLabel(suffix) => Some(suffix.clone()),
        HostPattern::Exact(_) | HostPattern::AnyLabels(_) | HostPattern::Any => None,
    };
    hosts.filter_map(suffix).collect()
}

fn is_among(host: &HostPattern, wildcards: &BTreeSet<String>) -> bool {
    parent(host).is_some_and(|parent| wildcards.contains(parent))
}

fn is_under(host: &HostPattern, wildcard: &HostPattern) -> bool {
    matches!(wildcard, HostPattern::OneLabel(suffix) if parent(host) == Some(suffix))
}

/// What follows the first label of a host.
fn parent(host: &HostPattern) -> Option<&str> {
    match host {
        HostPattern::Exact(host) => host.split_once('.').map(|(_, parent)| parent),
        HostPattern::OneLabel(_) | HostPattern::AnyLabels(_) | HostPattern::Any => None,
    }
}

fn listener(context: &mut Context<'_>, by_name: BTreeMap<HostPattern, String>) -> Tls {
    let mut hosts: BTreeMap<String, Vec<HostPattern>> = BTreeMap::new();
    for (host, certificate) in by_name {
        hosts.entry(certificate).or_default().push(host);
    }
    let certificates = hosts.into_iter().map(|(certificate, hosts)| ServerCertificate { hosts, certificate }).collect();
    Tls { certificates, default_certificate: default_certificate(context), client_validation: None }
}

/// The certificate for names without one of their own: of the Secret in the settings, else the fallback.
fn default_certificate(context: &mut Context<'_>) -> Option<String> {
    let settings = context.settings;
    if let Some(secret) = &settings.default_certificate {
        let lookup = context.certificate(secret);
        if let Some(error) = lookup.error.as_ref().filter(|error| !error.is_in_secret()) {
            let message = format!("{error}; the built-in certificate is used as default instead: create the Secret");
            context.warn(Kind::Secret, secret, "", error.reason(), message);
        }
        if let Some(loaded) = &lookup.usable {
            let name = secret.to_string();
            context.insert_certificate(&DataPlane::Shared, &name, loaded);
            return Some(name);
        }
    }
    let (chain, key) = settings.fallback_certificate.as_ref()?;
    let loaded = context.memo.certificates.load(chain, key.expose()).ok()?;
    context.insert_certificate(&DataPlane::Shared, FALLBACK, &loaded);
    Some(FALLBACK.into())
}
