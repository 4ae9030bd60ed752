//! What the halves of translation (Ingress, Gateway API, policies) work on together.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use snapshot::{Hashed, Resource, ResourceId, Snapshot};

use crate::authorities::{self, AuthoritiesError};
use crate::backends::Services;
use crate::certificates::{self, CertificateError, Loaded, Lookup};
use crate::memo::{Place, Shown};
use crate::policy::{self, Policies};
use crate::{
    DataPlane, Infrastructure, Kind, Memo, ObjectKey, Problem, Resources, Settings, Severity, Statuses, Translation,
};

/// Name of the [`snapshot::Settings`] in every snapshot.
const SETTINGS: &str = "settings";

/// The input, indexed, and the output under construction.
pub(crate) struct Context<'a> {
    /// Every object.
    pub(crate) resources: &'a Resources,
    /// What the operator decided.
    pub(crate) settings: &'a Settings,
    /// Services with their EndpointSlices.
    pub(crate) services: Rc<Services<'a>>,
    /// The policies in force.
    pub(crate) policies: Arc<Policies>,
    /// See [`Translation::statuses`].
    pub(crate) statuses: Statuses,
    /// See [`Translation::infrastructure`].
    pub(crate) infrastructure: BTreeMap<DataPlane, Infrastructure>,
    snapshots: BTreeMap<DataPlane, Snapshot>,
    problems: BTreeSet<Problem>,
    rejected: BTreeSet<(Kind, ObjectKey)>,
    unjudged: BTreeSet<(Kind, ObjectKey)>,
    wanted: BTreeSet<(Kind, ObjectKey)>,
    certificates: BTreeMap<ObjectKey, Rc<Lookup>>,
    /// Becomes [`Memo::shown`].
    shown: BTreeMap<Place, Shown>,
    /// What the last translation found out, and what this one does.
    pub(crate) memo: Memo,
}

impl<'a> Context<'a> {
    /// Nothing translated yet but policies; the shared data planes' snapshot is there.
    pub(crate) fn new(resources: &'a Resources, settings: &'a Settings, memo: Memo) -> Self {
        let mut problems = Vec::new();
        let mut rejected = BTreeSet::new();
        let policies = Policies::new(resources, &mut problems, &mut rejected);
        let mut context = Self {
            resources,
            settings,
            services: Rc::new(Services::new(resources)),
            policies: Arc::new(policies),
            statuses: Statuses::default(),
            infrastructure: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            problems: problems.into_iter().collect(),
            rejected,
            unjudged: BTreeSet::new(),
            wanted: BTreeSet::new(),
            certificates: BTreeMap::new(),
            shown: BTreeMap::new(),
            memo,
        };
        context.snapshot(&DataPlane::Shared);
        context
    }

    /// What was translated, with the statuses of policies: their ancestors are whoever uses their targets.
    pub(crate) fn finish(mut self) -> (Translation, Memo) {
        self.memo.certificates.turn();
        self.memo.shown = self.shown;
        self.statuses.policies = policy::statuses(&self.policies, self.resources, self.settings, &self.statuses);
        // A BackendTLSPolicy belongs to no class: one that none of our Gateways comes across is another controller's to judge.
        let statuses = &self.statuses;
        let ours = |kind: Kind, object: &ObjectKey| {
            let ancestors = || statuses.policies.get(&(kind, object.clone()));
            kind != Kind::BackendTLSPolicy || ancestors().is_some_and(|ancestors| !ancestors.is_empty())
        };
        let problems = self.problems.into_iter().filter(|problem| ours(problem.kind, &problem.object)).collect();
        self.rejected.retain(|(kind, object)| ours(*kind, object));
        let foreign = self.resources.backend_tls_policies.keys().filter(|policy| !ours(Kind::BackendTLSPolicy, policy));
        self.unjudged.extend(foreign.map(|policy| (Kind::BackendTLSPolicy, policy.clone())));
        let policies = self.resources.backend_tls_policies.iter();
        let policies = policies.filter(|(policy, _)| ours(Kind::BackendTLSPolicy, policy));
        self.wanted.extend(policies.flat_map(|(policy, entry)| policy::wanted(policy, entry)));
        let translation = Translation {
            snapshots: self.snapshots,
            statuses: self.statuses,
            problems,
            rejected: self.rejected,
            unjudged: self.unjudged,
            infrastructure: self.infrastructure,
            wanted: self.wanted,
        };
        (translation, self.memo)
    }

    /// The snapshot of a data plane; a new one holds the settings.
    pub(crate) fn snapshot(&mut self, plane: &DataPlane) -> &mut Snapshot {
        let settings = self.settings;
        self.snapshots.entry(plane.clone()).or_insert_with(|| {
            let mut snapshot = Snapshot::default();
            snapshot.insert(SETTINGS, Resource::Settings(of_data_plane(settings, plane)));
            snapshot
        })
    }

    /// Adds a resource that is not there yet; `resource` is called only then.
    pub(crate) fn insert_once(
        &mut self,
        plane: &DataPlane,
        kind: snapshot::Kind,
        name: &str,
        resource: impl FnOnce() -> Resource,
    ) {
        if self.resource(plane, &ResourceId::new(kind, name)).is_none() {
            self.snapshot(plane).insert(name, resource());
        }
    }

    /// What a data plane's snapshot holds under this id so far.
    pub(crate) fn resource(&self, plane: &DataPlane, id: &ResourceId) -> Option<&Hashed> {
        self.snapshots.get(plane)?.get(id)
    }

    /// Adds a certificate to a data plane's snapshot.
    pub(crate) fn insert_certificate(&mut self, plane: &DataPlane, name: &str, loaded: &Loaded) {
        let id = ResourceId::new(snapshot::Kind::Certificate, name);
        self.snapshot(plane).insert_hashed(id, loaded.resource.clone());
    }

    /// Reports something that keeps traffic from being served as asked for.
    pub(crate) fn warn(
        &mut self,
        kind: Kind,
        object: &ObjectKey,
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let (field, message) = (field.into(), message.into());
        self.report(Problem { kind, object: object.clone(), field, reason, message, severity: Severity::Warning });
    }

    /// Reports something worth knowing.
    pub(crate) fn notice(
        &mut self,
        kind: Kind,
        object: &ObjectKey,
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let (field, message) = (field.into(), message.into());
        self.report(Problem { kind, object: object.clone(), field, reason, message, severity: Severity::Notice });
    }

    /// Reports a problem; the same one only once.
    pub(crate) fn report(&mut self, problem: Problem) {
        self.problems.insert(problem);
    }

    /// The current version of this object is not used; its last good one, if any, stays.
    pub(crate) fn reject(&mut self, kind: Kind, object: &ObjectKey) {
        self.rejected.insert((kind, object.clone()));
    }

    /// This object is for another controller, so that nothing is known of the current version.
    pub(crate) fn leave(&mut self, kind: Kind, object: &ObjectKey) {
        self.unjudged.insert((kind, object.clone()));
    }

    /// The certificate in a Secret. Notes that the Secret is referred to, and reports and rejects a broken one;
    /// that something refers to it in vain is for the caller to report.
    pub(crate) fn certificate(&mut self, secret: &ObjectKey) -> Rc<Lookup> {
        if let Some(known) = self.certificates.get(secret) {
            return known.clone();
        }
        self.wanted.insert((Kind::Secret, secret.clone()));
        let lookup = Rc::new(certificates::look_up(&mut self.memo.certificates, self.resources, secret));
        if let Some(error) = lookup.error.as_ref().filter(|error| error.is_in_secret()) {
            self.reject(Kind::Secret, secret);
            let consequence = match lookup.usable {
                Some(_) => "the last good version stays in use",
                None => "it is not used",
            };
            self.warn(Kind::Secret, secret, error.field(), error.reason(), format!("{error}; {consequence}"));
        }
        self.certificates.insert(secret.clone(), lookup.clone());
        lookup
    }

    /// The certificate that the reference at `place` leads to, with the Secret that holds it. While the Secret cannot be read,
    /// that is the certificate that the reference led to before.
    pub(crate) fn certificate_at(&mut self, place: Place, secret: &ObjectKey) -> (ObjectKey, Rc<Lookup>) {
        let lookup = self.certificate(secret);
        let unavailable = matches!(lookup.error, Some(CertificateError::Unavailable(_)));
        let before = self.memo.shown.get(&place).filter(|_| unavailable).cloned();
        let found = match before {
            Some(Shown { secret, certificate }) => {
                (secret, Rc::new(Lookup { usable: Some(certificate), error: lookup.error.clone() }))
            }
            None => (secret.clone(), lookup),
        };
        if let Some(certificate) = &found.1.usable {
            self.shown.insert(place, Shown { secret: found.0.clone(), certificate: certificate.clone() });
        }
        found
    }

    /// The certificate authorities in a ConfigMap or Secret. Notes that it is referred to.
    pub(crate) fn authorities(&mut self, kind: Kind, key: &ObjectKey) -> Result<Vec<Vec<u8>>, AuthoritiesError> {
        self.wanted.insert((kind, key.clone()));
        authorities::load(self.resources, kind, key)
    }
}

/// Who learns the keys of one Gateway's data planes can neither open nor make what others gave to their clients.
fn of_data_plane(settings: &Settings, plane: &DataPlane) -> snapshot::Settings {
    let holder = plane.to_string();
    let ingress_ports = match plane {
        DataPlane::Shared => vec![settings.ports.http, settings.ports.https],
        _ => Vec::new(),
    };
    snapshot::Settings {
        cookie_key: settings.cookie_key.derive(&holder),
        ticket_keys: settings.ticket_keys.iter().map(|key| key.derive(&holder)).collect(),
        trusted_proxies: settings.trusted_proxies.clone(),
        ingress_ports,
        access_log: settings.access_log,
    }
}
