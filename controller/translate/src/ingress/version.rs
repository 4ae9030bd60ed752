//! Which version of an Ingress is served: the newest, or, when that one is at fault, the last good one.

use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressSpec};

use super::annotations::{self, Annotations, Outcome, Scope};
use crate::context::Context;
use crate::resources::created;
use crate::{Entry, Kind, ObjectKey};

/// An Ingress that is served.
pub(super) struct Served<'a> {
    /// Namespace and name.
    pub(super) key: &'a ObjectKey,
    /// Creation in seconds since 1970; the oldest wins conflicts.
    pub(super) created: i64,
    /// What it asks for.
    pub(super) spec: &'a IngressSpec,
    /// What its annotations say.
    pub(super) annotations: Annotations,
    /// Whether its protection cannot be had, so that it answers 503.
    pub(super) denied: bool,
}

/// Reports what is wrong with the current version and returns the one to serve.
///
/// A broken edit keeps the last good version, unless that version would be open where the edit asks for a protection: then
/// every path answers 503.
pub(super) fn choose<'a>(
    context: &mut Context<'_>,
    key: &'a ObjectKey,
    entry: &'a Entry<Ingress>,
) -> Option<Served<'a>> {
    let current = Judged::new(&entry.current);
    let broken = !matches!(current.outcome, Outcome::Unknown | Outcome::Withheld);
    let good = entry.last_good.as_deref().map(Judged::new).filter(|_| broken);
    let closed = current.faults.iter().any(|fault| fault.closes(good.as_ref()));
    let consequence = |fault: &Fault| match (fault.outcome, &good) {
        (Outcome::Unknown, _) => "",
        (Outcome::Withheld, _) => "; this Ingress is not served, all requests stay with its main Ingress",
        _ if fault.closes(good.as_ref()) => "; until it is corrected this Ingress answers 503",
        (Outcome::Ignored, Some(_)) if closed => "; the default is used instead",
        (Outcome::Rejected, _) if closed => "; this version of the Ingress is not used",
        (_, Some(_)) => "; the last good version of this Ingress stays in force until it is corrected",
        (Outcome::Ignored, None) => "; the default is used instead",
        (Outcome::Denied | Outcome::Rejected, None) => "; until it is corrected this Ingress is not served",
    };
    for fault in &current.faults {
        let message = format!("{}{}", fault.message, consequence(fault));
        context.warn(Kind::Ingress, key, fault.field.as_str(), fault.reason, message);
    }
    if broken {
        context.reject(Kind::Ingress, key);
    }
    match closed {
        true if current.has_valid_spec() => current.serve(key, closed),
        true => good?.serve(key, closed),
        false => {
            Some(good.unwrap_or(current)).filter(|version| version.outcome < Outcome::Rejected)?.serve(key, closed)
        }
    }
}

struct Judged<'a> {
    ingress: &'a Ingress,
    annotations: Annotations,
    faults: Vec<Fault>,
    outcome: Outcome,
}

struct Fault {
    /// The annotation's name without prefix; `None` for a field of the spec.
    annotation: Option<String>,
    field: String,
    reason: &'static str,
    message: String,
    outcome: Outcome,
}

impl Fault {
    /// Whether no version may be open because of it: a protection of access never is, and neither is a limit that the last
    /// `good` version lacks.
    fn closes(&self, good: Option<&Judged>) -> bool {
        match (self.outcome, &self.annotation, good) {
            (Outcome::Denied, ..) => true,
            (Outcome::Rejected, Some(limit), Some(good)) => {
                !good.annotations.given(Scope::Rule).any(|(name, _)| name == limit)
            }
            _ => false,
        }
    }
}

impl<'a> Judged<'a> {
    fn new(ingress: &'a Ingress) -> Self {
        let empty = Default::default();
        let (annotations, faults) = annotations::parse(ingress.metadata.annotations.as_ref().unwrap_or(&empty));
        let of_annotation = |fault: annotations::Fault| Fault {
            field: format!("metadata.annotations[{}{}]", annotations::PREFIX, fault.name),
            annotation: Some(fault.name),
            reason: fault.reason,
            message: fault.message,
            outcome: fault.outcome,
        };
        let mut faults: Vec<_> = faults.into_iter().map(of_annotation).collect();
        faults.extend(ingress.spec.iter().flat_map(host_faults));
        faults.extend(ingress.spec.iter().flat_map(path_faults));
        let outcome = faults.iter().map(|fault| fault.outcome).max().unwrap_or(Outcome::Unknown);
        Self { ingress, annotations, faults, outcome }
    }

    fn has_valid_spec(&self) -> bool {
        self.faults.iter().all(|fault| fault.annotation.is_some())
    }

    fn serve(self, key: &'a ObjectKey, denied: bool) -> Option<Served<'a>> {
        Some(Served {
            key,
            created: created(&self.ingress.metadata),
            spec: self.ingress.spec.as_ref()?,
            annotations: self.annotations,
            denied,
        })
    }
}

/// A cluster's API server refuses such hosts; a folder of manifests has none.
fn host_faults(spec: &IngressSpec) -> impl Iterator<Item = Fault> {
    let hosts =
        spec.rules.iter().flatten().enumerate().filter_map(|(rule, content)| Some((rule, content.host.as_ref()?)));
    hosts.filter(|(_, host)| !is_host(host)).map(|(rule, host)| Fault {
        annotation: None,
        field: format!("spec.rules[{rule}].host"),
        reason: "InvalidHost",
        message: format!("{host:?} is not a host name such as shop.example or *.shop.example"),
        outcome: Outcome::Rejected,
    })
}

fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let name = host.strip_prefix("*.").unwrap_or(host);
    host.is_empty() || (name.len() <= 253 && name.parse::<IpAddr>().is_err() && name.split('.').all(label))
}

/// ingress-nginx `strict-validate-path-type`: regular expressions are for ImplementationSpecific.
fn path_faults(spec: &IngressSpec) -> impl Iterator<Item = Fault> {
    let fault = |(place, path): (String, &HTTPIngressPath)| {
        let text = path.path.as_deref().unwrap_or_default();
        let strict = path.path_type != "ImplementationSpecific" && !path.path_type.is_empty();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
        let valid = text.is_empty() || (text.starts_with('/') && (!strict || text.bytes().all(plain)));
        let expected = match strict {
            true => "start with / and consist of letters, digits and -._/",
            false => "start with /",
        };
        (!valid).then(|| Fault {
            annotation: None,
            field: format!("{place}.path"),
            reason: "InvalidPath",
            message: format!("{text:?} is not a path of type {}, which must {expected}", path.path_type),
            outcome: Outcome::Rejected,
        })
    };
    paths(spec).filter_map(fault)
}

/// Every path with its place in the object.
fn paths(spec: &IngressSpec) -> impl Iterator<Item = (String, &HTTPIngressPath)> {
    spec.rules.iter().flatten().enumerate().flat_map(|(rule, content)| {
        let paths = content.http.iter().flat_map(|http| &http.paths).enumerate();
        paths.map(move |(path, content)| (format!("spec.rules[{rule}].http.paths[{path}]"), content))
    })
}
