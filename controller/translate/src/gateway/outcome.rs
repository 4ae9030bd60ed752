//! What a route comes to.

use snapshot::{Cluster, Hashed, Resource, ResourceId};

use super::shadowed;
use crate::backends::ServicePort;
use crate::context::Context;
use crate::status::Parents;
use crate::{DataPlane, Kind, ObjectKey, Problem, Severity};

/// Everything that follows from a route, ready to be put into a translation.
#[derive(Default)]
pub(super) struct Outcome {
    problems: Vec<Problem>,
    rejected: bool,
    /// The route names no parent of ours.
    pub foreign: bool,
    /// Our entries of its `status.parents`.
    pub parents: Parents,
    /// What it adds to each Gateway that it is attached to.
    pub parts: Vec<Part>,
}

impl Outcome {
    /// Reports something that keeps traffic from being served as asked for.
    pub fn warn(
        &mut self,
        kind: Kind,
        object: &ObjectKey,
        field: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let (field, message) = (field.into(), message.into());
        self.problems.push(Problem {
            kind,
            object: object.clone(),
            field,
            reason,
            message,
            severity: Severity::Warning,
        });
    }

    /// The current version of the route is not used.
    pub fn reject(&mut self) {
        self.rejected = true;
    }

    /// See [`Self::reject`].
    pub fn is_rejected(&self) -> bool {
        self.rejected
    }

    /// Puts all of it into the translation, but for what it adds to Gateways.
    pub fn apply(&self, context: &mut Context, kind: Kind, route: &ObjectKey) {
        self.problems.iter().for_each(|problem| context.report(problem.clone()));
        if self.rejected {
            context.reject(kind, route);
        }
        if self.foreign {
            context.leave(kind, route);
        }
        context.statuses.routes.insert((kind, route.clone()), self.parents.clone());
    }
}

/// What a route adds to a Gateway.
pub(super) struct Part {
    /// The Gateway.
    pub gateway: ObjectKey,
    /// Its listeners to which the route is attached, by index.
    pub listeners: Vec<usize>,
    /// See [`shadowed::claims`].
    pub claims: Vec<u64>,
    /// In order, each id once. Most routes have few, and there are thousands of routes.
    resources: Vec<(ResourceId, Hashed)>,
    /// About addresses of its backends.
    problems: Vec<Problem>,
}

impl Part {
    /// Nothing yet for these listeners of a Gateway.
    pub fn new(gateway: ObjectKey, listeners: Vec<usize>) -> Self {
        Self { gateway, listeners, claims: Vec::new(), resources: Vec::new(), problems: Vec::new() }
    }

    /// Adds a resource.
    pub fn insert(&mut self, name: String, resource: Resource) {
        self.claims.extend(shadowed::claims(&resource));
        self.insert_once(ResourceId::new(resource.kind(), name), || Hashed::new(resource));
    }

    /// Adds a resource unless it is there; whether it was not.
    fn insert_once(&mut self, id: ResourceId, resource: impl FnOnce() -> Hashed) -> bool {
        let place = self.resources.binary_search_by(|(known, _)| known.cmp(&id));
        if let Err(place) = place {
            self.resources.insert(place, (id, resource()));
        }
        place.is_err()
    }

    /// Adds a cluster with its endpoints, which are those of `port`. `cluster` gets their name. Clusters of one name are the same
    /// whichever route adds them.
    pub fn insert_cluster(
        &mut self,
        context: &Context,
        name: String,
        port: &ServicePort<'_>,
        cluster: impl FnOnce(String) -> Cluster,
    ) {
        let endpoints = port.id();
        let id = ResourceId::new(snapshot::Kind::Cluster, name);
        if self.insert_once(id, || Hashed::new(Resource::Cluster(cluster(endpoints.clone())))) {
            let resolved = context.services.resolve(port, context.settings);
            self.insert_once(ResourceId::new(snapshot::Kind::Endpoints, endpoints), || resolved.endpoints);
            self.problems.extend(resolved.problems);
        }
    }

    /// What it adds, in the order of names.
    pub fn resources(&self) -> impl Iterator<Item = (&ResourceId, &Resource)> {
        self.resources.iter().map(|(id, hashed)| (id, hashed.resource().as_ref()))
    }

    /// Puts the resources into the Gateway's snapshot.
    pub fn apply(&self, context: &mut Context, plane: &DataPlane) {
        self.problems.iter().for_each(|problem| context.report(problem.clone()));
        let snapshot = context.snapshot(plane);
        for (id, resource) in &self.resources {
            snapshot.insert_hashed(id.clone(), resource.clone());
        }
    }
}
