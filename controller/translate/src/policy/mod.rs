//! Policies, Sluice's own and the Gateway API's: what they say, to whom it applies, and what becomes of them (GEP-713, GEP-2648).
//!
//! [`Policies`] is built first from all policies and then asked by the translation of Ingresses and routes. Statuses come
//! last, because a policy's ancestors are whoever uses its targets.

mod backend;
mod backend_tls;
mod status;
mod target;
mod traffic;
mod users;

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::gateway::BackendTLSPolicy;
use crds::gateway::ParentReference;
use crds::policy::{BackendPolicy, PolicyTargetReference, TrafficPolicy};
use kube_core::ObjectMeta;

use crate::resources::created;
use crate::{Entry, Kind, ObjectKey, Problem, Resources, Severity, Stored};
use target::{Claims, Target};

pub(crate) use backend::BackendSettings;
pub(crate) use backend_tls::{TlsToBackend, wanted};
pub(crate) use status::statuses;
pub(crate) use traffic::Traffic;

/// Every policy in force, by target.
pub(crate) struct Policies {
    traffic: Claims<Traffic>,
    backend: Claims<BackendSettings>,
    backend_tls: Claims<TlsToBackend>,
    judged: Vec<Judged>,
}

/// A field of a policy whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Invalid {
    field: String,
    message: String,
}

/// A policy that was read.
struct Parsed<T> {
    content: T,
    /// For kinds that refer to more than targets.
    references: Option<References>,
}

impl<T> Parsed<T> {
    fn alone(content: T) -> Self {
        Self { content, references: None }
    }
}

/// What a policy refers to besides its targets.
#[derive(Clone, Debug)]
struct References {
    broken: Vec<BrokenReference>,
    /// Whether what is not broken suffices for the policy to work.
    usable: bool,
}

/// A reference that leads nowhere: a reason of the condition `ResolvedRefs`, and a sentence.
#[derive(Clone, Debug)]
struct BrokenReference {
    field: String,
    reason: &'static str,
    message: String,
}

impl References {
    /// What is broken, in one line.
    fn describe(&self) -> String {
        let all: Vec<_> = self.broken.iter().map(|broken| format!("{}: {}", broken.field, broken.message)).collect();
        all.join("; ")
    }
}

/// What became of a policy.
struct Judged {
    kind: Kind,
    key: ObjectKey,
    metadata: ObjectMeta,
    targets: Vec<(Target, Verdict)>,
    /// The first reference, where none names a possible target.
    astray: Option<ParentReference>,
    invalid: Option<String>,
    references: Option<References>,
}

/// What became of a policy at one of its targets.
enum Verdict {
    InForce,
    /// With the field of the reference that names nothing.
    NotFound(&'static str, String),
    Conflicted(String),
}

impl Policies {
    /// Reads all policies. Of several on the same target the oldest is in force; one whose current version is invalid
    /// stays in force as it last was. A TrafficPolicy that never was valid refuses its targets' requests, for nothing is
    /// served without its protection, and neither does a BackendTLSPolicy fall back to plain text; a BackendPolicy that never
    /// was protects nothing, so its targets have the defaults.
    pub fn new(resources: &Resources, problems: &mut Vec<Problem>, rejected: &mut BTreeSet<(Kind, ObjectKey)>) -> Self {
        let mut report = Report { problems, rejected };
        let (traffic, mut judged) = judge::<TrafficPolicy, _>(
            resources,
            &[Kind::Gateway, Kind::HTTPRoute, Kind::Ingress],
            |policy| &policy.spec.target_refs,
            |key, policy| traffic::parse(key, &policy.spec).map(Parsed::alone),
            |key, defects| {
                Some(Traffic::Refused(format!("TrafficPolicy {key} is invalid, so requests are refused: {defects}")))
            },
            &mut report,
        );
        let (backend, of_backends) = judge::<BackendPolicy, _>(
            resources,
            &[Kind::Service],
            |policy| &policy.spec.target_refs,
            |key, policy| backend::parse(key, &policy.spec).map(Parsed::alone),
            |_, _| None,
            &mut report,
        );
        let (backend_tls, of_tls) = judge::<BackendTLSPolicy, _>(
            resources,
            &[Kind::Service],
            |policy| &policy.spec.target_refs,
            |key, policy| backend_tls::parse(resources, key, &policy.spec),
            |key, defects| {
                let why = format!("BackendTLSPolicy {key} is invalid, so nothing is sent to its targets: {defects}");
                Some(TlsToBackend::Refused(why))
            },
            &mut report,
        );
        judged.extend(of_backends);
        judged.extend(of_tls);
        Self { traffic, backend, backend_tls, judged }
    }

    /// Whether these and the others answer every question in the same way.
    pub fn say_the_same(&self, other: &Self) -> bool {
        self.traffic == other.traffic && self.backend == other.backend && self.backend_tls == other.backend_tls
    }

    /// How connections to a port of a Service are to be encrypted: as a policy on the port says, else one on the Service.
    pub fn tls_to(&self, service: &ObjectKey, port_name: Option<&str>) -> Option<Arc<TlsToBackend>> {
        let port = port_name.and_then(|name| self.backend_tls.get(Kind::Service, service, Some(name)));
        port.or_else(|| self.backend_tls.get(Kind::Service, service, None)).cloned()
    }

    /// What holds for a port of a Service: per field, what a policy on the port says, else what one on the Service says.
    pub fn for_service(&self, service: &ObjectKey, port_name: Option<&str>) -> BackendSettings {
        let whole = self.backend.get(Kind::Service, service, None).map(AsRef::as_ref);
        let port = port_name.and_then(|name| self.backend.get(Kind::Service, service, Some(name)));
        match (port, whole) {
            (Some(port), Some(whole)) => port.or(whole),
            (Some(port), None) => port.as_ref().clone(),
            (None, Some(whole)) => whole.clone(),
            (None, None) => BackendSettings::default(),
        }
    }

    /// What holds for every rule of an Ingress.
    pub fn for_ingress(&self, ingress: &ObjectKey) -> Option<&Traffic> {
        self.limits(Kind::Ingress, ingress, None)
    }

    /// What holds for a rule of a route of `kind` under a Gateway's listener: the most specific policy decides.
    /// Of a policy on the listener the caller must know by [`Self::singles_out`].
    pub fn for_rule(
        &self,
        gateway: &ObjectKey,
        listener: Option<&str>,
        kind: Kind,
        route: &ObjectKey,
        rule: Option<&str>,
    ) -> Option<&Traffic> {
        let of_part = |kind, object, part: Option<&str>| part.and_then(|part| self.limits(kind, object, Some(part)));
        of_part(kind, route, rule)
            .or_else(|| self.limits(kind, route, None))
            .or_else(|| of_part(Kind::Gateway, gateway, listener))
            .or_else(|| self.limits(Kind::Gateway, gateway, None))
    }

    /// Whether a listener has a policy of its own, so that the same route says something else there.
    pub fn singles_out(&self, gateway: &ObjectKey, listener: &str) -> bool {
        self.limits(Kind::Gateway, gateway, Some(listener)).is_some()
    }

    fn limits(&self, kind: Kind, object: &ObjectKey, section: Option<&str>) -> Option<&Traffic> {
        self.traffic.get(kind, object, section).map(AsRef::as_ref).filter(|traffic| !traffic.is_empty())
    }
}

struct Report<'a> {
    problems: &'a mut Vec<Problem>,
    rejected: &'a mut BTreeSet<(Kind, ObjectKey)>,
}

impl Report<'_> {
    fn warn(&mut self, kind: Kind, object: &ObjectKey, field: &str, reason: &'static str, message: &str) {
        self.problems.push(Problem {
            kind,
            object: object.clone(),
            field: field.into(),
            reason,
            message: message.into(),
            severity: Severity::Warning,
        });
    }
}

fn judge<P: Stored, T>(
    resources: &Resources,
    kinds: &[Kind],
    target_refs: impl Fn(&P) -> &[PolicyTargetReference],
    parse: impl Fn(&ObjectKey, &P) -> Result<Parsed<T>, Vec<Invalid>>,
    instead: impl Fn(&ObjectKey, &str) -> Option<T>,
    report: &mut Report,
) -> (Claims<T>, Vec<Judged>) {
    let mut entries: Vec<(&ObjectKey, &Entry<P>)> = P::map(resources).iter().collect();
    entries.sort_by_key(|(key, entry)| (created(entry.current.metadata()), *key));
    let mut claims = Claims::default();
    let mut judged = Vec::new();
    for (key, entry) in entries {
        let read = |policy: &P| {
            let (targets, mut errors) = targets(target_refs(policy), &key.namespace, kinds);
            match parse(key, policy) {
                Ok(parsed) if errors.is_empty() => Ok((targets, parsed)),
                Ok(_) => Err(errors),
                Err(more) => {
                    errors.extend(more);
                    Err(errors)
                }
            }
        };
        let mut invalid = None;
        let version = match read(&entry.current) {
            Ok(version) => Some(version),
            Err(errors) => {
                report.rejected.insert((P::KIND, key.clone()));
                let defects: Vec<_> =
                    errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
                let defects = defects.join("; ");
                let good = entry.last_good.as_deref().and_then(|good| read(good).ok());
                let (named, _) = targets(target_refs(&entry.current), &key.namespace, kinds);
                let (version, consequence) = match (good, instead(key, &defects)) {
                    (Some(good), _) => (Some(good), "the last valid version stays in force"),
                    (None, Some(content)) if !named.is_empty() => {
                        (Some((named, Parsed::alone(content))), "requests to its targets are answered with 503")
                    }
                    (None, _) => (None, "the policy is not in force"),
                };
                for error in &errors {
                    let message = format!("{}; {consequence}", error.message);
                    report.warn(P::KIND, key, &error.field, "Invalid", &message);
                }
                invalid = Some(format!("{defects}; {consequence}"));
                version
            }
        };
        let mut references = None;
        let verdicts = version.map(|(targets, parsed)| {
            let content = Arc::new(parsed.content);
            references = parsed.references;
            let verdict = |(index, target): (usize, Target)| {
                let verdict = attach(&mut claims, resources, &target, key, &content);
                let (field, reason, message) = match &verdict {
                    Verdict::InForce => return (target, verdict),
                    Verdict::NotFound(field, message) => (*field, "TargetNotFound", message),
                    Verdict::Conflicted(message) => ("name", "Conflicted", message),
                };
                report.warn(P::KIND, key, &format!("spec.targetRefs[{index}].{field}"), reason, message);
                (target, verdict)
            };
            targets.into_iter().map(verdict).collect()
        });
        // Without a valid version the targets of the broken one still tell under which ancestors to report.
        let targets: Vec<_> = verdicts.unwrap_or_else(|| {
            let (targets, _) = targets(target_refs(&entry.current), &key.namespace, kinds);
            targets.into_iter().map(|(_, target)| (target, Verdict::InForce)).collect()
        });
        let metadata = entry.current.metadata().clone();
        let first = target_refs(&entry.current).first().filter(|_| targets.is_empty());
        let astray = first.map(|reference| ParentReference {
            group: Some(reference.group.clone()),
            kind: Some(reference.kind.clone()),
            namespace: Some(key.namespace.clone()),
            name: reference.name.clone(),
            section_name: reference.section_name.clone(),
            port: None,
        });
        if let Some(references) = &references {
            let consequence = match references.usable {
                true => "only the others count",
                false => "requests to its targets are answered with 503",
            };
            for broken in &references.broken {
                let message = format!("{}; {consequence}", broken.message);
                report.warn(P::KIND, key, &broken.field, broken.reason, &message);
            }
        }
        judged.push(Judged { kind: P::KIND, key: key.clone(), metadata, targets, astray, invalid, references });
    }
    (claims, judged)
}

fn attach<T>(
    claims: &mut Claims<T>,
    resources: &Resources,
    target: &Target,
    policy: &ObjectKey,
    content: &Arc<T>,
) -> Verdict {
    match target.find(resources) {
        Err((field, message)) => Verdict::NotFound(field, message),
        Ok(()) => match claims.claim(target.clone(), policy, content) {
            Ok(()) => Verdict::InForce,
            Err(holder) => Verdict::Conflicted(format!(
                "{target} has the older policy {holder}, which stays in force: merge the two, or remove one"
            )),
        },
    }
}

/// The possible targets, each with the index of its reference, and what is wrong with the other references.
fn targets(
    references: &[PolicyTargetReference],
    namespace: &str,
    kinds: &[Kind],
) -> (Vec<(usize, Target)>, Vec<Invalid>) {
    let mut targets = Vec::new();
    let mut errors = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        match Target::of(reference, namespace, kinds) {
            Ok(target) => targets.push((index, target)),
            Err(message) => {
                errors.push(Invalid { field: format!("spec.targetRefs[{index}]"), message });
            }
        }
    }
    (targets, errors)
}
