//! What routes came to in the last translation, and what that followed from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::outcome::{Outcome, Part};
use crate::objects::{GRPCRoute, HTTPRoute, TCPRoute, TLSRoute, UDPRoute};
use crate::policy::Policies;
use crate::{Entry, Map, ObjectKey, Resources, Settings};

/// Every route that the last translation saw.
#[derive(Default)]
pub(crate) struct Memo {
    scene: Option<Scene>,
    pub(super) http_routes: KnownRoutes<HTTPRoute>,
    pub(super) grpc_routes: KnownRoutes<GRPCRoute>,
    pub(super) tls_routes: KnownRoutes<TLSRoute>,
    pub(super) tcp_routes: KnownRoutes<TCPRoute>,
    pub(super) udp_routes: KnownRoutes<UDPRoute>,
}

/// Routes of a kind by name.
pub(super) type KnownRoutes<R> = BTreeMap<ObjectKey, Known<R>>;

impl Memo {
    /// The memo of the last translation where nothing changed that every route may depend on, else an empty one.
    pub(super) fn resume(self, resources: &Resources, settings: &Settings, policies: &Arc<Policies>) -> Self {
        match &self.scene {
            Some(scene) if scene.is_same(resources, settings, policies) => self,
            _ => Self { scene: Some(Scene::new(resources, settings, policies)), ..Self::default() },
        }
    }

    /// What the routes add to Gateways.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        fn of_kind<R>(known: &KnownRoutes<R>) -> impl Iterator<Item = &Part> {
            known.values().flat_map(|known| &known.outcome.parts)
        }
        of_kind(&self.http_routes)
            .chain(of_kind(&self.grpc_routes))
            .chain(of_kind(&self.tls_routes))
            .chain(of_kind(&self.tcp_routes))
            .chain(of_kind(&self.udp_routes))
    }
}

/// All that a route may depend on besides itself and the Services that it refers to. These objects are few and seldom change.
struct Scene {
    /// The kinds in [`Scene::new`].
    resources: Resources,
    settings: Settings,
    /// What is in force of them; it follows from objects of more kinds.
    policies: Arc<Policies>,
}

impl Scene {
    fn new(resources: &Resources, settings: &Settings, policies: &Arc<Policies>) -> Self {
        let resources = Resources {
            gateway_classes: resources.gateway_classes.clone(),
            gateways: resources.gateways.clone(),
            listener_sets: resources.listener_sets.clone(),
            gateway_configs: resources.gateway_configs.clone(),
            reference_grants: resources.reference_grants.clone(),
            namespaces: resources.namespaces.clone(),
            custom_resource_definitions: resources.custom_resource_definitions.clone(),
            secrets: resources.secrets.clone(),
            config_maps: resources.config_maps.clone(),
            ..Resources::default()
        };
        Self { resources, settings: settings.clone(), policies: policies.clone() }
    }

    fn is_same(&self, resources: &Resources, settings: &Settings, policies: &Policies) -> bool {
        let before = &self.resources;
        same(&before.gateway_classes, &resources.gateway_classes)
            && same(&before.gateways, &resources.gateways)
            && same(&before.listener_sets, &resources.listener_sets)
            && same(&before.gateway_configs, &resources.gateway_configs)
            && same(&before.reference_grants, &resources.reference_grants)
            && same(&before.namespaces, &resources.namespaces)
            && same(&before.custom_resource_definitions, &resources.custom_resource_definitions)
            && same(&before.secrets, &resources.secrets)
            && same(&before.config_maps, &resources.config_maps)
            && self.settings == *settings
            && self.policies.say_the_same(policies)
    }
}

/// Whether these are the very same objects with the same last good versions.
fn same<T>(before: &Map<T>, now: &Map<T>) -> bool {
    before.len() == now.len()
        && before.iter().zip(now).all(|((key, entry), (other_key, other))| {
            Arc::ptr_eq(&entry.current, &other.current)
                && is(entry.last_good.as_ref(), other.last_good.as_ref())
                && key == other_key
        })
}

fn is<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    one.map(Arc::as_ptr) == other.map(Arc::as_ptr)
}

/// What a route came to. The objects are kept, so that no other ones can have their addresses.
pub(super) struct Known<R> {
    current: Arc<R>,
    /// Looked at only where the current version is rejected.
    last_good: Option<Arc<R>>,
    /// Those that it refers to, whether they are there or not.
    services: Box<[ObjectKey]>,
    /// Whether its namespace had no room for its expressions.
    refused: bool,
    pub(super) outcome: Outcome,
}

impl<R> Known<R> {
    /// What a route came to that looked for these Services, and for whose expressions there was no room if it is `refused`.
    pub(super) fn new(entry: &Entry<R>, services: BTreeSet<ObjectKey>, refused: bool, outcome: Outcome) -> Self {
        let last_good = entry.last_good.clone().filter(|_| outcome.is_rejected());
        Self { current: entry.current.clone(), last_good, services: services.into_iter().collect(), refused, outcome }
    }

    /// Whether the route comes to the same now that these Services have `changed`.
    pub(super) fn holds(&self, entry: &Entry<R>, changed: &BTreeSet<ObjectKey>, refused: bool) -> bool {
        Arc::ptr_eq(&self.current, &entry.current)
            && self.refused == refused
            && (!self.outcome.is_rejected() || is(self.last_good.as_ref(), entry.last_good.as_ref()))
            && (changed.is_empty() || self.services.iter().all(|service| !changed.contains(service)))
    }
}
