//! The build loop: changes in, snapshots to the stream, and to the writers what they should write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::Endpoint;
use snapshot::{ResourceId, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout_at};
use translate::{
    DataPlane, Infrastructure, Kind, Memo, ObjectKey, Problem, Resources, Settings, Severity, Statuses, Translation,
};

use crate::class_guard::Classes;
use crate::events::Report;
use crate::fetch::{Fetcher, Patience};
use crate::kinds;
use crate::last_good::Unrecorded;
use crate::metrics::Metrics;
use crate::provision;
use crate::shutdown::Shutdown;
use crate::status::{Gate, Refused, Unwritten, View, Wanted};
use crate::store::{Change, Store};
use crate::stream::{Acks, Publisher, ServiceAccount};

/// Changes are collected until none comes for so long,
const QUIET: Duration = Duration::from_millis(3);
/// but never longer than this.
const PATIENCE: Duration = Duration::from_millis(20);

/// The kinds that say which data planes of Gateways there should be.
const GATEWAYS: [Kind; 2] = [Kind::Gateway, Kind::GatewayClass];

/// What the writers follow; the latest value counts.
pub struct Outputs {
    /// Statuses that the API server does not hold yet.
    pub unwritten: watch::Sender<Arc<Unwritten>>,
    /// What is wrong with whose objects, sorted.
    pub reports: watch::Sender<Arc<Vec<Report>>>,
    /// The data planes that Gateways need; `None` before the first full build.
    pub infrastructure: watch::Sender<Arc<Option<provision::Plan>>>,
    /// Our GatewayClasses, and which of them are in use.
    pub classes: watch::Sender<Arc<Classes>>,
    /// What is to be recorded of last good versions, unless it is.
    pub unrecorded: watch::Sender<Arc<Option<Unrecorded>>>,
    /// Whether the first full build is published.
    pub ready: watch::Sender<bool>,
}

/// The one owner of the store.
pub struct Builder {
    /// Gets Secrets and ConfigMaps that come into use.
    pub fetcher: Fetcher,
    /// The watched objects.
    pub store: Store,
    /// What the operator decided, with the keys as they are.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The identity of the data planes that all Ingresses share.
    pub shared: ServiceAccount,
    /// The Service that leads to them, where it is known.
    pub shared_service: Option<ObjectKey>,
    /// Where snapshots go.
    pub publisher: Publisher,
    /// Where everything else goes.
    pub outputs: Outputs,
    /// Whether this replica decides which versions were good last.
    pub leads: watch::Receiver<bool>,
    /// Data planes whose names are somebody else's.
    pub taken: watch::Receiver<Arc<provision::Taken>>,
    /// Counts builds.
    pub metrics: Metrics,
    /// Of the last translation.
    pub memo: Memo,
}

/// What the last build left.
#[derive(Default)]
struct Built {
    snapshots: BTreeMap<DataPlane, Arc<Snapshot>>,
    identities: BTreeMap<ServiceAccount, DataPlane>,
    wanted: Wanted,
    gate: Gate,
    plan: provision::Plan,
    /// The names of data planes that Gateways leave, each with those that they go to.
    moves: Vec<(ObjectKey, DataPlane)>,
    /// The data planes that each Gateway has, and their name.
    places: BTreeMap<ObjectKey, (DataPlane, ObjectKey)>,
    /// The name of those that had a ready pod last.
    homes: BTreeMap<ObjectKey, ObjectKey>,
    /// What data planes lack, in words.
    lacking: BTreeMap<DataPlane, String>,
    reports: Vec<Report>,
    /// Whether all that was translated is still to be told.
    is_rebuilt: bool,
    /// The last change of acknowledgements that was looked at.
    heard: u64,
    /// What each data plane rejects, where there is anything.
    rejected: BTreeMap<DataPlane, BTreeMap<ResourceId, String>>,
    /// The same, as statuses tell it.
    refused: BTreeMap<DataPlane, Refused>,
    /// Those that are logged, sorted.
    told: Vec<Report>,
    /// What is logged of resources that data planes do not take and that come from no object.
    told_of_none: BTreeSet<String>,
}

impl Built {
    /// Notes what these data planes reject. Returns whether that changed.
    fn hear_rejected(&mut self, planes: &[DataPlane], acks: &Acks) -> bool {
        let mut changed = false;
        for plane in planes {
            let Some(snapshot) = self.snapshots.get(plane) else { continue };
            let rejected = acks.rejected(plane);
            let refused = Refused::new(snapshot, &rejected);
            let before = self.refused.remove(plane).unwrap_or_default();
            if refused != before {
                self.wanted.touch(before.routes().chain(refused.routes()));
                self.wanted.touch_planes([plane]);
            }
            if refused != Refused::default() {
                self.refused.insert(plane.clone(), refused);
            }
            let rejected: BTreeMap<_, _> = rejected.into_iter().map(|(id, why)| (id.clone(), why.to_owned())).collect();
            let before = self.rejected.remove(plane).unwrap_or_default();
            changed |= rejected != before;
            if !rejected.is_empty() {
                self.rejected.insert(plane.clone(), rejected);
            }
        }
        changed
    }
}

impl Builder {
    /// Builds after every change until `shutdown`. Fails only when translation itself does.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>, mut shutdown: Shutdown) -> Result<(), JoinError> {
        let mut built = Built::default();
        let mut acks = self.publisher.acks();
        loop {
            let again = built.gate.wake().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let mut settings_changed = false;
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => self.collect(change, &mut changes).await,
                    None => return Ok(()),
                },
                (object, change) = self.fetcher.next() => self.store.fetched(&object, change),
                Ok(()) = acks.changed() => {}
                Ok(()) = self.taken.changed() => self.lack(&mut built),
                Ok(()) = self.settings.changed() => settings_changed = true,
                // Who no longer decides yields at once.
                Ok(()) = self.leads.changed() => self.store.invalidate(),
                () = tokio::time::sleep_until(again) => {}
                () = shutdown.requested() => return Ok(()),
            }
            if !self.store.ready() {
                continue;
            }
            self.follow(&mut built, settings_changed).await?;
            if built.gate.wake().is_some_and(|wake| wake <= Instant::now()) {
                built.gate.take_wake();
                built.wanted.touch_outstanding();
            }
            self.tell(&mut built, &acks.borrow_and_update());
        }
    }

    /// Takes `first` and what follows closely.
    async fn collect(&mut self, first: Change, changes: &mut mpsc::Receiver<Change>) {
        let end = Instant::now() + PATIENCE;
        self.store.change(first);
        while let Ok(Some(change)) = timeout_at(end.min(Instant::now() + QUIET), changes.recv()).await {
            self.store.change(change);
        }
    }

    /// Builds what changes since the last time ask for, or `all`.
    async fn follow(&mut self, built: &mut Built, all: bool) -> Result<(), JoinError> {
        let dirty = self.store.take_dirty();
        built.wanted.touch(dirty.statuses);
        if all || dirty.structure {
            self.build(built).await?;
        } else if !dirty.endpoints.is_empty() {
            self.build_endpoints(built, &dirty.endpoints);
        }
        Ok(())
    }

    /// Translates everything and publishes it. Secrets and ConfigMaps that come into use are fetched first; what refers to one
    /// that the API server does not give out goes on with what it had.
    async fn build(&mut self, built: &mut Built) -> Result<(), JoinError> {
        let start = Instant::now();
        let mut translation = self.translate().await?;
        let missing = self.store.want(&translation.wanted);
        let patience = if *self.outputs.ready.borrow() { Patience::SERVING } else { Patience::STARTING };
        let fetched = self.fetcher.fetch(&missing, patience).await;
        if !fetched.is_empty() {
            fetched.into_iter().for_each(|(object, change)| self.store.fetched(&object, change));
            translation = self.translate().await?;
            self.store.want(&translation.wanted);
        }
        self.metrics.held(self.fetcher.failed());
        self.store.resources.accept(&translation);
        self.publish(built, translation);
        self.metrics.built(start.elapsed(), &self.store.resources, built.reports.len());
        Ok(())
    }

    /// The store's content travels to a thread that may take its time, and back; events wait in their channel meanwhile.
    async fn translate(&mut self) -> Result<Translation, JoinError> {
        self.store.adopt(*self.leads.borrow_and_update());
        let resources = std::mem::take(&mut self.store.resources);
        let settings = self.settings.borrow().clone();
        let mut memo = std::mem::take(&mut self.memo);
        let (resources, memo, translation) = spawn_blocking(move || {
            let translation = memo.translate(&resources, &settings);
            (resources, memo, translation)
        })
        .await?;
        self.store.resources = resources;
        self.memo = memo;
        Ok(translation)
    }

    fn publish(&mut self, built: &mut Built, translation: Translation) {
        let Translation { snapshots, statuses, problems, infrastructure, rejected, .. } = translation;
        let mut identities = BTreeMap::from([(self.shared.clone(), DataPlane::Shared)]);
        for (plane, infrastructure) in &infrastructure {
            let (namespace, name) = (infrastructure.key.namespace.clone(), infrastructure.key.name.clone());
            // Data planes whose account would be another's get none rather than the other's keys.
            identities.entry(ServiceAccount { namespace, name }).or_insert_with(|| plane.clone());
        }
        built.snapshots = snapshots.into_iter().map(|(plane, snapshot)| (plane, Arc::new(snapshot))).collect();
        built.identities = identities;
        self.expect(built);
        built.gate.published(self.publisher.publish(built.snapshots.clone(), built.identities.clone()));
        // Without its parameters nobody knows how they should look.
        let infrastructure: BTreeMap<_, _> =
            infrastructure.into_iter().filter(|(_, infrastructure)| infrastructure.parameters.is_some()).collect();
        let spared = self.spared(&statuses, &infrastructure);
        let place = |(gateway, plane): (&ObjectKey, &DataPlane)| {
            Some((gateway.clone(), (plane.clone(), infrastructure.get(plane)?.key.clone())))
        };
        built.places = statuses.data_planes.iter().filter_map(place).collect();
        built.homes.retain(|gateway, _| statuses.gateways.contains_key(gateway));
        built.moves = self.moves(built, &infrastructure);
        if !self.store.lacks(&GATEWAYS) {
            send_if_new(&self.outputs.classes, self.classes(statuses.gateway_classes.keys()));
        }
        built.gate.forget_except(&statuses);
        let gateways = statuses.gateways.keys().map(|key| (Kind::Gateway, key));
        let classes = statuses.gateway_classes.keys().map(|key| (Kind::GatewayClass, key));
        let owners = gateways.chain(classes);
        let owners = owners.filter_map(|(kind, key)| kinds::uid(&self.store.resources, kind, key)).collect();
        built.wanted.replace(statuses);
        built.wanted.withdraw(self.withdraws(), &self.store.observed);
        self.outputs.ready.send_replace(true);

        let unrecorded = self.record(&rejected);
        let resources = &self.store.resources;
        let uid = |kind, key: &ObjectKey| kinds::uid(resources, kind, key);
        let missing = infrastructure.iter().flat_map(|(plane, infrastructure)| {
            let missing = self.missing(&infrastructure.key);
            missing.into_iter().map(move |kind| (plane, (kind.to_owned(), infrastructure.key.clone())))
        });
        let mut lacking: BTreeMap<DataPlane, Vec<provision::Id>> = BTreeMap::new();
        missing.for_each(|(plane, id)| lacking.entry(plane.clone()).or_default().push(id));
        built.lacking = lacking.iter().map(|(plane, ids)| (plane.clone(), self::lacking(ids))).collect();
        let missing = lacking.into_values().flatten().collect();
        let wanted = infrastructure
            .into_iter()
            .filter_map(|(plane, infrastructure)| {
                let (kind, owner) = plane.owner()?;
                Some((plane, provision::Wanted { uid: uid(kind, &owner)?, infrastructure }))
            })
            .collect();
        built.plan = provision::Plan { wanted, spared, left: BTreeSet::new(), missing, owners };
        self.tell_plan(built);
        let reports = problems
            .into_iter()
            .chain(self.store.problems().cloned())
            .chain(unrecorded)
            .map(|problem| Report { uid: uid(problem.kind, &problem.object), problem })
            .collect();
        built.reports = reports;
        built.is_rebuilt = true;
        self.lack(built);
    }

    /// The kinds where it is known which objects are ours, see [`Wanted::withdraw`].
    fn withdraws(&self) -> BTreeSet<Kind> {
        let gateways = self.store.knows(&GATEWAYS);
        let ingresses = self.store.knows(&[Kind::Ingress, Kind::IngressClass]);
        let gateways = [Kind::Gateway, Kind::ListenerSet].into_iter().filter(|_| gateways);
        gateways.chain(ingresses.then_some(Kind::Ingress)).collect()
    }

    /// The kinds of objects with this name that data planes need and that are not there, as far as that is known.
    fn missing(&self, key: &ObjectKey) -> impl Iterator<Item = &'static str> + use<> {
        let deployment = self.store.deployments.as_ref().is_none_or(|deployments| deployments.contains(key));
        let service = self.store.resources.services.contains_key(key);
        [("Deployment", deployment), ("Service", service)].into_iter().filter(|(_, there)| !there).map(|(kind, _)| kind)
    }

    /// Tells the gate what data planes lack, and first of all whose names are somebody else's.
    fn lack(&mut self, built: &mut Built) {
        let mut lacking = built.lacking.clone();
        lacking.extend(self.taken.borrow_and_update().iter().map(|(plane, why)| (plane.clone(), why.clone())));
        let changed = built.gate.lack(lacking);
        built.wanted.touch_planes(&changed);
    }

    /// Has the last good versions of these objects recorded. Returns those for which there is no room, as problems.
    fn record(&self, rejected: &BTreeSet<(Kind, ObjectKey)>) -> Vec<Problem> {
        let Some((record, next)) = self.store.next_record(rejected) else { return Vec::new() };
        let unrecorded = (record.text() != next.text)
            .then(|| Unrecorded { version: record.version().map(str::to_owned), text: next.text });
        send_if_new(&self.outputs.unrecorded, unrecorded);
        let problem = |(kind, object)| Problem {
            kind,
            object,
            field: String::new(),
            reason: "LastGoodNotRecorded",
            message:
                "The last good version stays in force only until the controllers restart: so many objects are broken \
                that the Secret which records such versions is full. Correct this object, or others."
                    .into(),
            severity: Severity::Warning,
        };
        next.dropped.into_iter().map(problem).collect()
    }

    /// These GatewayClasses, each with whether a Gateway names it.
    fn classes<'a>(&self, ours: impl Iterator<Item = &'a ObjectKey>) -> Classes {
        let gateways = self.store.resources.gateways.values();
        let used: BTreeSet<_> = gateways.map(|entry| entry.current.spec.gateway_class_name.as_str()).collect();
        ours.map(|class| (class.name.clone(), used.contains(class.name.as_str()))).collect()
    }

    /// The data planes of Gateways of our classes, or that cannot be told from ours for now, which get none as they are: what a bad edit
    /// refuses today may be serving, in data planes of its own or in those of its class.
    fn spared(&self, statuses: &Statuses, infrastructure: &BTreeMap<DataPlane, Infrastructure>) -> BTreeSet<DataPlane> {
        let gateways = &self.store.resources.gateways;
        let unreadable = |kind| self.store.problems().filter(move |problem| problem.kind == kind);
        let classes: BTreeSet<_> = unreadable(Kind::GatewayClass).map(|problem| problem.object.name.as_str()).collect();
        let class_of = |key: &ObjectKey| Some(gateways.get(key)?.current.spec.gateway_class_name.as_str());
        let of_such_a_class = gateways.keys().filter(|key| class_of(key).is_some_and(|class| classes.contains(class)));
        let unreadable = unreadable(Kind::Gateway).map(|problem| &problem.object);
        let there = statuses.gateways.keys().chain(of_such_a_class).chain(unreadable);
        let unserved = there.filter(|key| !infrastructure.contains_key(&statuses.data_plane(key)));
        let planes = unserved.flat_map(|key| {
            let of_class = class_of(key).map(|class| DataPlane::Class(class.to_owned()));
            std::iter::once(DataPlane::Gateway(key.clone())).chain(of_class)
        });
        planes.filter(|plane| !infrastructure.contains_key(plane)).collect()
    }

    /// The names of data planes that are still there though their Gateways belong to others now, since they are of another class, or
    /// their class began or ceased to share; each with the others.
    fn moves(
        &self,
        built: &Built,
        infrastructure: &BTreeMap<DataPlane, Infrastructure>,
    ) -> Vec<(ObjectKey, DataPlane)> {
        let (resources, settings) = (&self.store.resources, self.settings.borrow());
        let wanted: BTreeSet<_> = infrastructure.values().map(|infrastructure| &infrastructure.key).collect();
        let moves = built.places.iter().flat_map(|(gateway, (to, _))| {
            let class = infrastructure.get(to).map(|infrastructure| infrastructure.class.as_str());
            let shared = class.and_then(|class| {
                let shared = DataPlane::Class(class.to_owned());
                Some(ObjectKey::of(&translate::service(resources, &settings, &shared, class)?.metadata))
            });
            let own = translate::services_of_gateway(resources, gateway).cloned();
            // Those of a former class bear no name of a Gateway.
            let former = built.homes.get(gateway).cloned();
            let left = own.chain(shared).chain(former).filter(|name| !wanted.contains(name));
            left.map(|name| (name, to.clone())).collect::<Vec<_>>()
        });
        moves.collect()
    }

    /// Tells the provisioner what there should be. What Gateways leave stays until a pod is ready where they go, and as long as it is
    /// not known where that is.
    fn tell_plan(&self, built: &mut Built) {
        let mut plan = built.plan.clone();
        let waiting = built.moves.iter().filter(|(_, to)| !built.gate.is_ready(to)).map(|(name, _)| name);
        let lost = built.homes.iter().filter(|(gateway, _)| !built.places.contains_key(gateway)).map(|(_, name)| name);
        plan.left = waiting.chain(lost).cloned().collect();
        // Where Gateways cannot be listed, that there are none is no reason to delete their data planes.
        if !self.store.lacks(&GATEWAYS) {
            send_if_new(&self.outputs.infrastructure, Some(plan));
        }
        for (gateway, (plane, name)) in &built.places {
            if built.gate.is_ready(plane) {
                built.homes.insert(gateway.clone(), name.clone());
            }
        }
    }

    /// The path of most events: replaces the endpoints of these Services, looking at no route.
    fn build_endpoints(&mut self, built: &mut Built, services: &BTreeSet<ObjectKey>) {
        let settings = self.settings.borrow().clone();
        let mut changed = false;
        for snapshot in built.snapshots.values_mut() {
            let updates: Vec<_> = services
                .iter()
                .flat_map(|service| translate::endpoints(&self.store.resources, &settings, service, snapshot))
                .filter(|(id, resource)| snapshot.get(id).map(|held| held.hash()) != Some(resource.hash()))
                .collect();
            if updates.is_empty() {
                continue;
            }
            changed = true;
            let mut next = Snapshot::clone(snapshot); // sessions may still read the old one
            for (id, resource) in updates {
                next.insert_hashed(id, resource);
            }
            *snapshot = Arc::new(next);
        }
        if changed {
            built.gate.published(self.publisher.publish(built.snapshots.clone(), built.identities.clone()));
        }
        if self.services(built).any(|(_, service)| services.contains(&service)) {
            self.expect(built);
            self.tell_plan(built);
        }
        self.metrics.built_endpoints();
    }

    /// Notes which pods get the traffic of each data plane.
    fn expect(&self, built: &mut Built) {
        let pods = |(plane, service)| (plane, ready_pods(&self.store.resources, &service));
        let ready = self.services(built).map(pods).collect();
        let changed = built.gate.expect(ready);
        built.wanted.touch_planes(&changed);
    }

    /// The Services that lead to data planes. Those for Gateways have the name of the account.
    fn services(&self, built: &Built) -> impl Iterator<Item = (DataPlane, ObjectKey)> {
        built.identities.iter().filter_map(|(account, plane)| match plane {
            DataPlane::Gateway(_) | DataPlane::Class(_) => {
                Some((plane.clone(), ObjectKey::new(&account.namespace, &account.name)))
            }
            DataPlane::Shared => Some((plane.clone(), self.shared_service.clone()?)),
        })
    }

    /// Tells the writers what differs from what the API server holds, as far as data planes acknowledged it. Looks only at what
    /// changed since the last time, or at what data planes were heard of.
    fn tell(&mut self, built: &mut Built, acks: &Acks) {
        let heard: Vec<_> = acks.changed_since(built.heard).cloned().collect();
        built.heard = acks.revision();
        built.wanted.touch_planes(&heard);
        let is_rebuilt = std::mem::take(&mut built.is_rebuilt);
        let rejected_changed = match is_rebuilt {
            true => {
                built.rejected.retain(|plane, _| built.snapshots.contains_key(plane));
                built.refused.retain(|plane, _| built.snapshots.contains_key(plane));
                let planes: Vec<_> = built.snapshots.keys().cloned().collect();
                built.hear_rejected(&planes, acks)
            }
            false => built.hear_rejected(&heard, acks),
        };
        if is_rebuilt || !heard.is_empty() {
            let planes = built.snapshots.keys();
            self.metrics.sessions(planes.map(|plane| acks.connected(plane).count()).sum());
        }
        let view = View { observed: &self.store.observed, acks, refused: &built.refused, now: Instant::now() };
        built.wanted.settle(&mut built.gate, &view);
        self.outputs.unwritten.send_if_modified(|unwritten| {
            let changed = !Arc::ptr_eq(unwritten, built.wanted.unwritten());
            unwritten.clone_from(built.wanted.unwritten());
            changed
        });
        if is_rebuilt || rejected_changed {
            self.tell_reports(built);
        }
    }

    /// Logs and hands on what is wrong.
    fn tell_reports(&self, built: &mut Built) {
        let mut reports = built.reports.clone();
        let mut of_none = BTreeSet::new();
        for (plane, rejected) in &built.rejected {
            for (id, why) in rejected {
                match self.rejection(plane, id, why) {
                    Some(report) => reports.push(report),
                    None => _ = of_none.insert(format!("the data planes {plane} do not take {id}: {why}")),
                }
            }
        }
        for text in of_none.difference(&built.told_of_none) {
            tracing::warn!("{text}");
        }
        built.told_of_none = of_none;
        reports.sort();
        reports.dedup();
        for report in reports.iter().filter(|report| built.told.binary_search(report).is_err()) {
            tracing::warn!(reason = report.problem.reason, "{}", report.problem);
        }
        built.told.clone_from(&reports);
        send_if_new(&self.outputs.reports, reports);
    }

    /// What data planes do not take, as a problem of the object that it came from, if there is one.
    fn rejection(&self, plane: &DataPlane, id: &ResourceId, why: &str) -> Option<Report> {
        let (kind, object) = origin(id, plane)?;
        let uid = kinds::uid(&self.store.resources, kind, &object)?;
        let instead = match id.kind {
            snapshot::Kind::Cluster => {
                "What cannot be used of it has no effect, and nothing of the past takes its place."
            }
            _ => "Its last good version stays in force, if there was one.",
        };
        let problem = Problem {
            kind,
            object,
            field: String::new(),
            reason: "RejectedByDataPlane",
            message: format!("The data planes do not take {id}: {why}. {instead}"),
            severity: Severity::Warning,
        };
        Some(Report { problem, uid: Some(uid) })
    }
}

/// Why a Gateway is not `Programmed` whose data planes have no such objects.
fn lacking(objects: &[provision::Id]) -> String {
    let objects: Vec<_> = objects.iter().map(|(kind, key)| format!("{kind} {key}")).collect();
    format!("The data planes have no {}: it is made at once, unless an Event says why not.", objects.join(" and no "))
}

/// The object that a resource was made from; else the one that the data planes are for.
fn origin(id: &ResourceId, plane: &DataPlane) -> Option<(Kind, ObjectKey)> {
    translate::object(id).or_else(|| plane.owner())
}

/// The pods to which a Service sends traffic.
fn ready_pods(resources: &Resources, service: &ObjectKey) -> BTreeSet<String> {
    let namespace = &service.namespace;
    let slices = resources.endpoint_slices.range(ObjectKey::new(namespace, "")..);
    let slices = slices.take_while(|(key, _)| key.namespace == *namespace).map(|(_, entry)| entry.current.as_ref());
    let slices = slices.filter(|slice| translate::service_of(&slice.metadata) == Some(service.name.as_str()));
    let is_ready = |endpoint: &&Endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready);
    let endpoints = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| is_ready(endpoint).unwrap_or(true));
    endpoints.filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone()).collect()
}

/// Wakes nobody when nothing changed.
fn send_if_new<T: PartialEq>(channel: &watch::Sender<Arc<T>>, value: T) {
    channel.send_if_modified(|current| {
        let new = **current != value;
        if new {
            *current = Arc::new(value);
        }
        new
    });
}

#[cfg(test)]
mod tests;
