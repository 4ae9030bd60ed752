//! Sluice's own policies: what they say, to whom it applies, and what becomes of them (GEP-713, GEP-2648).
//!
//! [`Policies`] is built first from all policies and then asked by the translation of Ingresses and routes. Statuses come
//! last, because a policy's ancestors are whoever uses its targets.

mod backend;
mod status;
mod target;
mod traffic;

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::gateway::ParentReference;
use crds::policy::{BackendPolicy, PolicyTargetReference, TrafficPolicy};
use kube_core::ObjectMeta;

use crate::{Entry, Kind, ObjectKey, Problem, Resources, Severity, Stored};
use target::{Claims, Target};

pub(crate) use backend::BackendSettings;
pub(crate) use status::statuses;
pub(crate) use traffic::Traffic;

/// Every policy in force, by target.
pub(crate) struct Policies {
    traffic: Claims<Traffic>,
    backend: Claims<BackendSettings>,
    judged: Vec<Judged>,
}

/// A field of a policy whose value cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Invalid {
    field: String,
    message: String,
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
}

/// What became of a policy at one of its targets.
enum Verdict {
    InForce,
    NotFound(String),
    Conflicted(String),
}

impl Policies {
    /// Reads all policies. Of several on the same target the oldest is in force; one whose current version is invalid
    /// stays in force as it last was.
    pub fn new(resources: &Resources, problems: &mut Vec<Problem>, rejected: &mut BTreeSet<(Kind, ObjectKey)>) -> Self {
        let mut report = Report { problems, rejected };
        let (traffic, mut judged) = judge::<TrafficPolicy, _>(
            resources,
            &[Kind::Gateway, Kind::HTTPRoute, Kind::Ingress],
            |policy| &policy.spec.target_refs,
            |key, policy| traffic::parse(key, &policy.spec),
            &mut report,
        );
        let (backend, of_backends) = judge::<BackendPolicy, _>(
            resources,
            &[Kind::Service],
            |policy| &policy.spec.target_refs,
            |key, policy| backend::parse(key, &policy.spec),
            &mut report,
        );
        judged.extend(of_backends);
        Self { traffic, backend, judged }
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

    /// What holds for a rule of an HTTPRoute under a Gateway's listener: the most specific policy decides.
    /// Of a policy on the listener the caller must know by [`Self::singles_out`].
    pub fn for_rule(
        &self,
        gateway: &ObjectKey,
        listener: Option<&str>,
        route: &ObjectKey,
        rule: Option<&str>,
    ) -> Option<&Traffic> {
        let of_part = |kind, object, part: Option<&str>| part.and_then(|part| self.limits(kind, object, Some(part)));
        of_part(Kind::HTTPRoute, route, rule)
            .or_else(|| self.limits(Kind::HTTPRoute, route, None))
            .or_else(|| of_part(Kind::Gateway, gateway, listener))
            .or_else(|| self.limits(Kind::Gateway, gateway, None))
    }

    /// Whether a listener has a policy of its own, so that the same route says something else there.
    pub fn singles_out(&self, gateway: &ObjectKey, listener: &str) -> bool {
        self.limits(Kind::Gateway, gateway, Some(listener)).is_some()
    }

    fn limits(&self, kind: Kind, object: &ObjectKey, section: Option<&str>) -> Option<&Traffic> {
        let traffic = self.traffic.get(kind, object, section)?;
        (!traffic.filters.is_empty()).then_some(traffic)
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
    references: impl Fn(&P) -> &[PolicyTargetReference],
    parse: impl Fn(&ObjectKey, &P) -> Result<T, Vec<Invalid>>,
    report: &mut Report,
) -> (Claims<T>, Vec<Judged>) {
    let mut entries: Vec<(&ObjectKey, &Entry<P>)> = P::map(resources).iter().collect();
    entries.sort_by_cached_key(|(_, entry)| target::age(entry.current.metadata()));
    let mut claims = Claims::default();
    let mut judged = Vec::new();
    for (key, entry) in entries {
        let read = |policy: &P| {
            let (targets, mut errors) = targets(references(policy), &key.namespace, kinds);
            match parse(key, policy) {
                Ok(content) if errors.is_empty() => Ok((targets, Arc::new(content))),
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
                let good = entry.last_good.as_deref().and_then(|good| read(good).ok());
                let instead = match good {
                    Some(_) => "the last valid version stays in force",
                    None => "the policy is not in force",
                };
                for error in &errors {
                    let message = format!("{}; {instead}", error.message);
                    report.warn(P::KIND, key, &error.field, "Invalid", &message);
                }
                let messages: Vec<_> =
                    errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
                invalid = Some(format!("{}; {instead}", messages.join("; ")));
                good
            }
        };
        let verdicts = version.map(|(targets, content)| {
            let verdict = |target: Target| {
                let verdict = attach(&mut claims, resources, &target, key, &content);
                let (reason, message) = match &verdict {
                    Verdict::InForce => return (target, verdict),
                    Verdict::NotFound(message) => ("TargetNotFound", message),
                    Verdict::Conflicted(message) => ("Conflicted", message),
                };
                report.warn(P::KIND, key, "spec.targetRefs", reason, message);
                (target, verdict)
            };
            targets.into_iter().map(verdict).collect()
        });
        // Without a valid version the targets of the broken one still tell under which ancestors to report.
        let targets: Vec<_> = verdicts.unwrap_or_else(|| {
            let (targets, _) = targets(references(&entry.current), &key.namespace, kinds);
            targets.into_iter().map(|target| (target, Verdict::InForce)).collect()
        });
        let metadata = entry.current.metadata().clone();
        let first = references(&entry.current).first().filter(|_| targets.is_empty());
        let astray = first.map(|reference| ParentReference {
            group: Some(reference.group.clone()),
            kind: Some(reference.kind.clone()),
            namespace: Some(key.namespace.clone()),
            name: reference.name.clone(),
            section_name: reference.section_name.clone(),
            port: None,
        });
        judged.push(Judged { kind: P::KIND, key: key.clone(), metadata, targets, astray, invalid });
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
        Err(message) => Verdict::NotFound(message),
        Ok(()) => match claims.claim(target.clone(), policy, content) {
            Ok(()) => Verdict::InForce,
            Err(holder) => Verdict::Conflicted(format!(
                "{target} has the older policy {holder}, which stays in force: merge the two, or remove one"
            )),
        },
    }
}

fn targets(references: &[PolicyTargetReference], namespace: &str, kinds: &[Kind]) -> (Vec<Target>, Vec<Invalid>) {
    let mut targets = Vec::new();
    let mut errors = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        match Target::of(reference, namespace, kinds) {
            Ok(target) => targets.push(target),
            Err(message) => {
                errors.push(Invalid { field: format!("spec.targetRefs[{index}]"), message });
            }
        }
    }
    (targets, errors)
}
