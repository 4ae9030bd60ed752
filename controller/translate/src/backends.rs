//! From a Service to a cluster and its endpoints.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{self, Service};
use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube_core::ObjectMeta;
use snapshot::{Cluster, Endpoint, Endpoints, Hashed, Resource, ResourceId, Snapshot};

use crate::context::Context;
use crate::{DataPlane, Kind, ObjectKey, Problem, Resources, Settings, Severity, Transport};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A namespace and the name of a Service there.
type ServiceName<'a> = (&'a str, &'a str);

/// Services with their EndpointSlices, indexed once, when somebody asks.
pub(crate) struct Services<'a> {
    resources: &'a Resources,
    slices: OnceCell<Vec<(ServiceName<'a>, &'a EndpointSlice)>>,
    resolved: RefCell<BTreeMap<String, Resolved>>,
}

impl<'a> Services<'a> {
    /// Reads nothing yet.
    pub(crate) fn new(resources: &'a Resources) -> Self {
        Self { resources, slices: OnceCell::new(), resolved: RefCell::default() }
    }

    /// Finds a port of a Service.
    pub(crate) fn port(&self, service: &ObjectKey, wanted: PortRef<'_>) -> Result<ServicePort<'a>, BackendError> {
        let Some(entry) = self.resources.services.get(service) else {
            return Err(BackendError::ServiceNotFound(service.clone()));
        };
        find(&entry.current, service, wanted)
    }

    /// The first TCP port of a Service.
    pub(crate) fn first_port(&self, service: &ObjectKey) -> Result<ServicePort<'a>, BackendError> {
        let spec = self.resources.services.get(service).and_then(|entry| entry.current.spec.as_ref());
        let ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        let mut ports = ports.filter(|port| transport(port.protocol.as_deref()) == Some(Transport::Tcp));
        self.port(service, PortRef::Number(ports.next().map_or(0, |port| port.port)))
    }

    /// The addresses of a Service that are not used, each as a problem of the object that names it.
    fn refused(&self, port: &ServicePort<'_>, settings: &Settings) -> Vec<Problem> {
        if let Some(name) = external_name(port.service) {
            let refusal = external(name, port, settings).err();
            let problem = |(reason, why)| refused(Kind::Service, &port.key, "spec.externalName", reason, name, why);
            return refusal.map(problem).into_iter().collect();
        }
        let mut problems = Vec::new();
        for slice in self.slices(&port.key) {
            let addresses = slice.endpoints.iter().enumerate().flat_map(|(index, endpoint)| {
                endpoint.addresses.iter().filter_map(move |address| Some((index, address.parse::<IpAddr>().ok()?)))
            });
            if let Some((index, address)) = addresses.into_iter().find(|(_, address)| !is_allowed(*address, settings)) {
                let (object, field) = (ObjectKey::of(&slice.metadata), format!("endpoints[{index}].addresses"));
                problems.push(refused(Kind::EndpointSlice, &object, field, LOCAL.0, &address.to_string(), LOCAL.1));
            }
        }
        problems
    }

    /// The endpoints of a port as they are now. Each port is resolved once.
    pub(crate) fn resolve(&self, port: &ServicePort<'_>, settings: &Settings) -> Resolved {
        let mut resolved = self.resolved.borrow_mut();
        let resolved = resolved.entry(port.id()).or_insert_with(|| {
            let endpoints = resolve(port, self.slices(&port.key), settings);
            Resolved { endpoints: Hashed::new(Resource::Endpoints(endpoints)), problems: self.refused(port, settings) }
        });
        resolved.clone()
    }

    fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &'a EndpointSlice> {
        let slices = self.slices.get_or_init(|| by_service(self.resources));
        let service = (service.namespace.as_str(), service.name.as_str());
        let first = slices.partition_point(|(other, _)| *other < service);
        slices[first..].iter().take_while(move |(other, _)| *other == service).map(|(_, slice)| *slice)
    }
}

/// Reason and message of an address that is local to a machine.
const LOCAL: (&str, &str) = ("AddressRefused", "it leads to the data plane or its node: use a pod's address");

fn refused(
    kind: Kind,
    object: &ObjectKey,
    field: impl Into<String>,
    reason: &'static str,
    address: &str,
    why: &str,
) -> Problem {
    Problem {
        kind,
        object: object.clone(),
        field: field.into(),
        reason,
        message: format!("{address:?} is not used, for {why}"),
        severity: Severity::Warning,
    }
}

/// All slices of Services, sorted by these.
fn by_service(resources: &Resources) -> Vec<(ServiceName<'_>, &EndpointSlice)> {
    let slices = resources.endpoint_slices.iter().filter_map(|(key, entry)| {
        let slice = entry.current.as_ref();
        Some(((key.namespace.as_str(), service_of(&slice.metadata)?), slice))
    });
    let mut slices: Vec<_> = slices.collect();
    slices.sort_by_key(|(service, _)| *service);
    slices
}

/// How a port of a Service is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortRef<'a> {
    /// By its number (Gateway API).
    Number(i32),
    /// By its number, else by that of its target, as ingress-nginx does.
    NumberOrTarget(i32),
    /// By its name, else by that of its target, as ingress-nginx does.
    Name(&'a str),
    /// By its number, among the ports for UDP; all others are among those for TCP.
    Udp(i32),
}

impl PortRef<'_> {
    fn transport(self) -> Transport {
        match self {
            PortRef::Udp(_) => Transport::Udp,
            _ => Transport::Tcp,
        }
    }
}

/// A port of a Service that exists.
#[derive(Clone, Debug)]
pub(crate) struct ServicePort<'a> {
    /// Namespace and name of the Service.
    pub(crate) key: ObjectKey,
    /// The port's number.
    pub(crate) number: u16,
    /// The port's name, if it has one.
    pub(crate) name: Option<&'a str>,
    /// What is spoken on it, as the Service says.
    pub(crate) app_protocol: Option<&'a str>,
    /// What it is a port of.
    transport: Transport,
    service: &'a Service,
    target: Option<&'a IntOrString>,
}

impl ServicePort<'_> {
    /// `namespace/service:port`, for UDP with `/udp`: the name of the port's [`Endpoints`] in a snapshot.
    pub(crate) fn id(&self) -> String {
        match self.transport {
            Transport::Tcp => format!("{}:{}", self.key, self.number),
            Transport::Udp => format!("{}:{}/udp", self.key, self.number),
        }
    }
}

/// Why a reference to a Service leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BackendError {
    #[error("Service {0} does not exist")]
    ServiceNotFound(ObjectKey),
    #[error("Service {service} has no {transport} port {port}")]
    PortNotFound { service: ObjectKey, port: String, transport: Transport },
}

impl BackendError {
    /// One word for Events.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            BackendError::ServiceNotFound(_) => "ServiceNotFound",
            BackendError::PortNotFound { .. } => "ServicePortNotFound",
        }
    }
}

impl Context<'_> {
    /// Adds a cluster to a data plane's snapshot, with its endpoints, unless one of this name is there.
    /// `cluster` gets the name of the endpoints.
    pub(crate) fn insert_cluster(
        &mut self,
        plane: &DataPlane,
        name: &str,
        port: &ServicePort<'_>,
        cluster: impl FnOnce(String) -> Cluster,
    ) {
        let id = ResourceId::new(snapshot::Kind::Endpoints, port.id());
        if self.resource(plane, &id).is_none() {
            let Resolved { endpoints, problems } = self.services.resolve(port, self.settings);
            problems.into_iter().for_each(|problem| self.report(problem));
            self.snapshot(plane).insert_hashed(id.clone(), endpoints);
        }
        self.insert_once(plane, snapshot::Kind::Cluster, name, || Resource::Cluster(cluster(id.name)));
    }
}

/// Endpoints of a port, and what is wrong with some of their addresses.
#[derive(Clone)]
pub(crate) struct Resolved {
    /// For the snapshot.
    pub(crate) endpoints: Hashed,
    /// About addresses that are not used.
    pub(crate) problems: Vec<Problem>,
}

/// The Services and EndpointSlices of the last translation, in order. They are kept, so that no others can have their addresses.
#[derive(Default)]
pub(crate) struct Memo {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Memo {
    /// The Services that changed since the last call, by themselves or by a slice.
    pub(crate) fn changed(&mut self, resources: &Resources) -> BTreeSet<ObjectKey> {
        let mut changed =
            replace(&mut self.services, &resources.services, |service| Some(ObjectKey::of(&service.metadata)));
        changed.extend(replace(&mut self.slices, &resources.endpoint_slices, |slice| {
            Some(ObjectKey::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service_of(&slice.metadata)?))
        }));
        changed
    }
}

/// Replaces what was by what is; the Services of those that are not in both.
fn replace<T>(
    before: &mut Vec<Arc<T>>,
    now: &crate::Map<T>,
    service: impl Fn(&T) -> Option<ObjectKey>,
) -> BTreeSet<ObjectKey> {
    let current = || now.values().map(|entry| &entry.current);
    // As after nearly every edit, and much cheaper than anything else.
    if before.len() == now.len() && before.iter().zip(current()).all(|(before, now)| Arc::ptr_eq(before, now)) {
        return BTreeSet::new();
    }
    let mut left: BTreeMap<_, _> = before.iter().map(|object| (Arc::as_ptr(object), object)).collect();
    let new = current().filter(|object| left.remove(&Arc::as_ptr(object)).is_none());
    let mut changed: BTreeSet<_> = new.filter_map(|object| service(object)).collect();
    changed.extend(left.values().filter_map(|object| service(object)));
    *before = current().cloned().collect();
    changed
}

/// The endpoints of those ports of a Service that `snapshot` holds endpoints of, by their names.
pub(crate) fn refresh(
    resources: &Resources,
    settings: &Settings,
    service: &ObjectKey,
    snapshot: &Snapshot,
) -> Vec<(snapshot::ResourceId, Endpoints)> {
    let Some(entry) = resources.services.get(service) else { return Vec::new() };
    let from = ObjectKey::new(service.namespace.as_str(), "");
    let slices: Vec<&EndpointSlice> = resources
        .endpoint_slices
        .range(from..)
        .take_while(|(key, _)| key.namespace == service.namespace)
        .map(|(_, entry)| entry.current.as_ref())
        .filter(|slice| service_of(&slice.metadata) == Some(service.name.as_str()))
        .collect();
    let ports = entry.current.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| match transport(port.protocol.as_deref())? {
            Transport::Tcp => find(&entry.current, service, PortRef::Number(port.port)).ok(),
            Transport::Udp => find(&entry.current, service, PortRef::Udp(port.port)).ok(),
        })
        .map(|port| (snapshot::ResourceId::new(snapshot::Kind::Endpoints, port.id()), port))
        .filter(|(id, _)| snapshot.get(id).is_some())
        .map(|(id, port)| (id, resolve(&port, slices.iter().copied(), settings)))
        .collect()
}

/// The name of the Service that an EndpointSlice belongs to.
pub fn service_of(slice: &ObjectMeta) -> Option<&str> {
    slice.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}

fn find<'a>(service: &'a Service, key: &ObjectKey, wanted: PortRef<'_>) -> Result<ServicePort<'a>, BackendError> {
    let spec = service.spec.as_ref();
    let wanted_transport = wanted.transport();
    let of_transport = |port: &&v1::ServicePort| transport(port.protocol.as_deref()) == Some(wanted_transport);
    let ports = || spec.into_iter().flat_map(|spec| spec.ports.iter().flatten()).filter(of_transport);
    let numbered = |number: i32| ports().find(|port| port.port == number);
    let targeting = |target: IntOrString| ports().find(|port| port.target_port.as_ref() == Some(&target));
    let (found, wanted) = match wanted {
        PortRef::Number(number) | PortRef::Udp(number) => (numbered(number), number.to_string()),
        PortRef::NumberOrTarget(number) => {
            (numbered(number).or_else(|| targeting(IntOrString::Int(number))), number.to_string())
        }
        PortRef::Name(name) => {
            let named = ports().find(|port| port.name.as_deref() == Some(name));
            (named.or_else(|| targeting(IntOrString::String(name.into()))), name.to_owned())
        }
    };
    let number = match found {
        Some(port) => u16::try_from(port.port).ok(),
        // An ExternalName Service needs no list of ports: the number is meant as it is.
        None if external_name(service).is_some() => wanted.parse().ok(),
        None => None,
    };
    match number.filter(|number| *number > 0) {
        Some(number) => Ok(ServicePort {
            key: key.clone(),
            number,
            name: found.and_then(|port| port.name.as_deref()).filter(|name| !name.is_empty()),
            app_protocol: found.and_then(|port| port.app_protocol.as_deref()),
            transport: wanted_transport,
            service,
            target: found.and_then(|port: &v1::ServicePort| port.target_port.as_ref()),
        }),
        None => Err(BackendError::PortNotFound { service: key.clone(), port: wanted, transport: wanted_transport }),
    }
}

/// What a `protocol` field stands for; `None` for what is not supported (SCTP).
fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol.unwrap_or("TCP") {
        "TCP" => Some(Transport::Tcp),
        "UDP" => Some(Transport::Udp),
        _ => None,
    }
}

impl ServicePort<'_> {
    /// Whether the Service stands for a name outside.
    pub(crate) fn is_external(&self) -> bool {
        external_name(self.service).is_some()
    }
}

fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then(|| spec.external_name.as_deref().unwrap_or_default())
}

fn resolve<'s>(
    port: &ServicePort<'_>,
    slices: impl Iterator<Item = &'s EndpointSlice>,
    settings: &Settings,
) -> Endpoints {
    if let Some(name) = external_name(port.service) {
        return external(name, port, settings).unwrap_or(Endpoints::Addresses(Vec::new()));
    }
    let mut ready = Vec::new();
    let mut terminating = Vec::new();
    for slice in slices.filter(|slice| slice.address_type != "FQDN") {
        let Some(number) = port_of(slice, port) else { continue };
        for endpoint in &slice.endpoints {
            let list = match readiness(endpoint) {
                Readiness::Ready => &mut ready,
                Readiness::Terminating => &mut terminating,
                Readiness::NotReady => continue,
            };
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
            let addresses = addresses.filter(|address| is_allowed(*address, settings));
            list.extend(addresses.map(|address| Endpoint { address: SocketAddr::new(address, number) }));
        }
    }
    // A pod that still serves while it ends is better than nobody, as for kube-proxy and the Gateway API. For Ingresses too,
    // though ingress-nginx never does it: it only counts while no endpoint is ready, where the answer would be a sure 503.
    let mut addresses = if ready.is_empty() { terminating } else { ready };
    addresses.sort();
    addresses.dedup();
    Endpoints::Addresses(addresses)
}

/// Where a name leads, or the reason and message for which it is not followed.
fn external(
    name: &str,
    port: &ServicePort<'_>,
    settings: &Settings,
) -> Result<Endpoints, (&'static str, &'static str)> {
    let number = match port.target {
        Some(IntOrString::Int(target)) => {
            u16::try_from(*target).ok().filter(|target| *target > 0).unwrap_or(port.number)
        }
        _ => port.number,
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if let Some(why) = settings.external_names.refusal(&port.key.namespace, &name) {
        return Err(("ExternalNameRefused", why));
    }
    let local = name == "localhost" || name.ends_with(".localhost");
    match name.parse::<IpAddr>() {
        Ok(address) if is_allowed(address, settings) => {
            Ok(Endpoints::Addresses(vec![Endpoint { address: SocketAddr::new(address, number) }]))
        }
        Err(_) if !name.is_empty() && (settings.allow_loopback_endpoints || !local) => {
            Ok(Endpoints::Dns { name, port: number })
        }
        _ => Err(LOCAL),
    }
}

/// The slice's port of the same name carries the resolved number, whether the Service targets a number or a name. In a slice that
/// somebody wrote by hand no port may have the name: then it is the one with the number that the Service targets.
fn port_of(slice: &EndpointSlice, port: &ServicePort<'_>) -> Option<u16> {
    let same = |candidate: &&discovery::EndpointPort| {
        candidate.name.as_deref().unwrap_or_default() == port.name.unwrap_or_default()
            && transport(candidate.protocol.as_deref()) == Some(port.transport)
    };
    let targeted = |candidate: &&discovery::EndpointPort| {
        matches!(port.target, Some(IntOrString::Int(target)) if candidate.port == Some(*target))
            && transport(candidate.protocol.as_deref()) == Some(port.transport)
    };
    let ports = || slice.ports.iter().flatten();
    let found = ports().find(same).or_else(|| ports().find(targeted))?;
    u16::try_from(found.port?).ok().filter(|number| *number > 0)
}

enum Readiness {
    Ready,
    Terminating,
    NotReady,
}

fn readiness(endpoint: &discovery::Endpoint) -> Readiness {
    let Some(conditions) = &endpoint.conditions else { return Readiness::Ready };
    // An unknown state counts as ready (EndpointConditions).
    if conditions.ready.unwrap_or(true) {
        Readiness::Ready
    } else if conditions.serving == Some(true) && conditions.terminating == Some(true) {
        Readiness::Terminating
    } else {
        Readiness::NotReady
    }
}

/// Whoever may write EndpointSlices must not reach what listens on the data plane's own loopback, or a cloud's metadata
/// service on a link-local address.
fn is_allowed(address: IpAddr, settings: &Settings) -> bool {
    settings.allow_loopback_endpoints || !snapshot::is_local(address)
}
