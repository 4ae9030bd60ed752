//! Who owns which path of which host, over all Ingresses: the oldest that asks for it.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, IngressBackend, IngressRule};
use snapshot::HostPattern;

use super::version::Served;
use crate::Kind;
use crate::context::Context;

/// The hosts of all Ingresses.
#[derive(Default)]
pub(super) struct Hosts<'a> {
    hosts: BTreeMap<HostPattern, Host<'a>>,
}

/// What the Ingresses make of a host.
#[derive(Default)]
pub(super) struct Host<'a> {
    /// The Ingresses (by index) with a rule for this host, the oldest first.
    pub(super) members: Vec<usize>,
    /// The paths.
    pub(super) paths: BTreeMap<Path, Claim<'a>>,
}

/// A path, without trailing slash except for `/` itself and exact paths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    Exact(String),
    Prefix(String),
}

/// An Ingress's claim to a path.
pub(super) struct Claim<'a> {
    /// Index of the Ingress.
    pub(super) owner: usize,
    /// Where in the Ingress it stands; for [`snapshot::Rule::name`] and problems.
    pub(super) place: Place,
    /// What answers; `None` is what the settings say of requests that no rule matches.
    pub(super) backend: Option<&'a IngressBackend>,
    /// Whether the path is written with a trailing slash, so that ingress-nginx redirects to it from the path without.
    pub(super) slash: bool,
}

/// Where in an Ingress a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `spec.rules[.0].http.paths[.1]`.
    Path(usize, usize),
    /// `spec.defaultBackend` of an Ingress without rules.
    CatchAll,
    /// The `/` of a host whose rules define none.
    Implicit,
}

impl Place {
    /// The path of the backend's field.
    pub(super) fn field(self) -> String {
        match self {
            Place::Path(rule, path) => format!("spec.rules[{rule}].http.paths[{path}].backend"),
            Place::CatchAll | Place::Implicit => "spec.defaultBackend".into(),
        }
    }

    /// The path of the field that claims the path.
    fn claiming_field(self) -> String {
        match self {
            Place::Path(rule, path) => format!("spec.rules[{rule}].http.paths[{path}].path"),
            Place::CatchAll | Place::Implicit => self.field(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Path(rule, path) => write!(f, "rule {rule} path {path}"),
            Place::CatchAll | Place::Implicit => f.write_str("default backend"),
        }
    }
}

impl<'a> Hosts<'a> {
    /// Settles the claims of all Ingresses (the oldest first) and tells the losers.
    pub(super) fn settle(context: &mut Context<'_>, ingresses: &[Served<'a>]) -> Self {
        let mut hosts = Self::default();
        for (index, ingress) in ingresses.iter().enumerate() {
            let rules = ingress.spec.rules.as_deref().unwrap_or_default();
            for (number, rule) in rules.iter().enumerate() {
                let pattern = pattern(rule.host.as_deref());
                let host = hosts.hosts.entry(pattern).or_default();
                host.join(index);
                for (place, path) in paths(rule, number) {
                    let (key, slash) = Path::of(path);
                    let claim = Claim { owner: index, place, backend: Some(&path.backend), slash };
                    host.claim(context, ingresses, rule.host.as_deref(), key, claim);
                }
            }
            if let (true, Some(backend)) = (rules.is_empty(), &ingress.spec.default_backend) {
                let host = hosts.hosts.entry(HostPattern::Any).or_default();
                host.join(index);
                let claim = Claim { owner: index, place: Place::CatchAll, backend: Some(backend), slash: false };
                host.claim(context, ingresses, None, Path::root(), claim);
            }
        }
        for host in hosts.hosts.values_mut() {
            host.complete(ingresses);
        }
        hosts
    }

    /// All hosts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&HostPattern, &Host<'a>)> {
        self.hosts.iter()
    }

    /// The host of this pattern.
    pub(super) fn get(&self, pattern: &HostPattern) -> Option<&Host<'a>> {
        self.hosts.get(pattern)
    }
}

impl<'a> Host<'a> {
    fn join(&mut self, ingress: usize) {
        if self.members.last() != Some(&ingress) {
            self.members.push(ingress);
        }
    }

    fn claim(
        &mut self,
        context: &mut Context<'_>,
        ingresses: &[Served<'a>],
        host: Option<&str>,
        path: Path,
        claim: Claim<'a>,
    ) {
        let Some(winner) = self.paths.get(&path) else {
            self.paths.insert(path, claim);
            return;
        };
        if winner.owner == claim.owner && winner.backend == claim.backend {
            return;
        }
        let (path, host) = (path.text(), host.filter(|host| !host.is_empty()).unwrap_or("*"));
        let message = match winner.owner == claim.owner {
            true => format!("path {path} of host {host} is defined twice; the first definition counts: remove one"),
            false => format!(
                "path {path} of host {host} belongs to the older Ingress {}; it is ignored here: remove one of the two",
                ingresses[winner.owner].key
            ),
        };
        context.warn(Kind::Ingress, ingresses[claim.owner].key, claim.place.claiming_field(), "PathConflict", message);
    }

    /// A host without `/` gets one: the default backend of its oldest Ingress that has one, else what the settings say.
    fn complete(&mut self, ingresses: &[Served<'a>]) {
        let default = |index: &usize| ingresses[*index].spec.default_backend.as_ref();
        let with_default = self.members.iter().copied().find(|index| default(index).is_some());
        if let Some(owner) = with_default.or(self.members.first().copied()) {
            let backend = default(&owner);
            let claim = || Claim { owner, place: Place::Implicit, backend, slash: false };
            self.paths.entry(Path::root()).or_insert_with(claim);
        }
    }
}

impl Path {
    /// `/` and everything below it.
    pub(super) fn root() -> Self {
        Path::Prefix("/".into())
    }

    /// The path as written.
    fn text(&self) -> &str {
        let (Path::Exact(text) | Path::Prefix(text)) = self;
        text
    }

    /// The path of a rule, and whether it is written with a trailing slash. ImplementationSpecific is Prefix.
    fn of(path: &HTTPIngressPath) -> (Self, bool) {
        let text = path.path.as_deref().filter(|text| !text.is_empty()).unwrap_or("/");
        let trimmed = text.trim_end_matches('/');
        let slash = !trimmed.is_empty() && trimmed.len() < text.len();
        match path.path_type.as_str() {
            "Exact" => (Path::Exact(text.to_owned()), slash),
            _ if trimmed.is_empty() => (Path::root(), false),
            _ => (Path::Prefix(trimmed.to_owned()), slash),
        }
    }
}

/// The names that the host of a rule or of a `tls` entry stands for.
pub(super) fn pattern(host: Option<&str>) -> HostPattern {
    let host = host.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    match host.strip_prefix("*.") {
        _ if host.is_empty() => HostPattern::Any,
        Some(suffix) => HostPattern::OneLabel(suffix.to_owned()),
        None => HostPattern::Exact(host),
    }
}

fn paths(rule: &IngressRule, number: usize) -> impl Iterator<Item = (Place, &HTTPIngressPath)> {
    let paths = rule.http.iter().flat_map(|http| &http.paths).enumerate();
    paths.map(move |(index, path)| (Place::Path(number, index), path))
}
