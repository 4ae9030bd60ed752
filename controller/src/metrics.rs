//! What the controller counts, in the Prometheus format.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use dataplane::diagnostics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use translate::{Kind, Resources, Stored, objects};

/// Every metric of the controller. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    builds: Family<Path, Counter>,
    build_seconds: Histogram,
    objects: Family<OfKind, Gauge>,
    problems: Gauge,
    held: Gauge,
    sessions: Gauge,
    refused_sessions: Counter,
    leader: Gauge,
    leader_changes: Counter,
    watches: Family<OfResource, Gauge<f64, AtomicU64>>,
    relists: Family<OfKind, Counter>,
    forbidden: Family<OfKind, Gauge>,
    status_writes: Family<Written, Counter>,
    statuses_failing: Gauge,
    events_left_out: Gauge,
    log_lines_dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Path {
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    resource: String,
}

/// Notes that a watch was heard of.
pub struct Heard(Gauge<f64, AtomicU64>);

impl Heard {
    /// The API server has just sent something: an event, or that there is none.
    pub fn now(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.set(now.as_secs_f64());
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Written {
    kind: &'static str,
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let builds = Family::default();
        let build_seconds = Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]);
        let (objects, problems, sessions, leader) =
            (Family::default(), Gauge::default(), Gauge::default(), Gauge::default());
        let (status_writes, statuses_failing, events_left_out) =
            (Family::default(), Gauge::default(), Gauge::default());
        let mut registry = Registry::with_prefix("sluice_controller");
        registry.register("builds", "Builds, by whether all was translated or only endpoints", builds.clone());
        registry.register("build_duration_seconds", "Time of a full translation", build_seconds.clone());
        registry.register("objects", "Stored objects", objects.clone());
        registry.register("problems", "Problems with users' objects", problems.clone());
        registry.register("sessions", "Connected data planes", sessions.clone());
        let held = Gauge::default();
        let text = "Secrets and ConfigMaps in use that the API server does not give out, so that what needs them stays as it is";
        registry.register("held", text, held.clone());
        let refused_sessions = Counter::default();
        registry.register("sessions_refused", "Sessions refused because there were too many", refused_sessions.clone());
        registry.register("leader", "1 while this replica writes statuses", leader.clone());
        let leader_changes = Counter::default();
        registry.register("leader_changes", "Times that this replica began or ceased to lead", leader_changes.clone());
        let watches = Family::default();
        let help = "When the API server last sent anything on the watch, as Unix time; it does every minute or so";
        registry.register("watch_heard_timestamp_seconds", help, watches.clone());
        let relists = Family::default();
        registry.register("relists", "Complete lists of a kind", relists.clone());
        let forbidden = Family::default();
        let help = "1 while the controller may not list the kind, which counts as empty";
        registry.register("kind_forbidden", help, forbidden.clone());
        registry.register("status_writes", "Attempts to write a status", status_writes.clone());
        registry.register(
            "statuses_failing",
            "Statuses that could not be written the last time",
            statuses_failing.clone(),
        );
        let help = "Problems without an Event, since their objects have so many";
        registry.register("events_left_out", help, events_left_out.clone());
        let log_lines_dropped = Counter::default();
        let help = "Lines of the process's log that nobody took in time";
        registry.register("log_lines_dropped", help, log_lines_dropped.clone());
        Self {
            registry: Arc::new(registry),
            builds,
            build_seconds,
            objects,
            problems,
            held,
            sessions,
            refused_sessions,
            leader,
            leader_changes,
            watches,
            relists,
            forbidden,
            status_writes,
            statuses_failing,
            events_left_out,
            log_lines_dropped,
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Everything was translated, in this time.
    pub fn built(&self, took: Duration, resources: &Resources, problems: usize) {
        self.builds.get_or_create(&Path { path: "full" }).inc();
        self.build_seconds.observe(took.as_secs_f64());
        self.problems.set(problems as i64);
        macro_rules! count {
            ($($kind:ident)*) => { [$((Kind::$kind, objects::$kind::map(resources).len())),*] };
        }
        for (kind, count) in translate::every_kind!(count) {
            self.objects.get_or_create(&OfKind { kind: kind.name() }).set(count as i64);
        }
    }

    /// Only endpoints were built.
    pub fn built_endpoints(&self) {
        self.builds.get_or_create(&Path { path: "endpoints" }).inc();
    }

    /// How many Secrets and ConfigMaps in use cannot be read.
    pub fn held(&self, count: usize) {
        self.held.set(count as i64);
    }

    /// How many data planes are connected.
    pub fn sessions(&self, count: usize) {
        self.sessions.set(count as i64);
    }

    /// Counts sessions that are refused because there are too many.
    pub fn refused_sessions(&self) -> Counter {
        self.refused_sessions.clone()
    }

    /// Whether this replica leads.
    pub fn leader(&self, leads: bool) {
        if self.leader.set(leads.into()) != i64::from(leads) {
            self.leader_changes.inc();
        }
    }

    /// Of the watch of this resource.
    pub fn watch(&self, resource: &str) -> Heard {
        Heard(self.watches.get_or_create(&OfResource { resource: resource.to_owned() }).clone())
    }

    /// A kind was listed.
    pub fn listed(&self, kind: Kind) {
        self.relists.get_or_create(&OfKind { kind: kind.name() }).inc();
    }

    /// Whether a kind counts as empty because the controller may not list it.
    pub fn forbidden(&self, kind: Kind, forbidden: bool) {
        self.forbidden.get_or_create(&OfKind { kind: kind.name() }).set(forbidden.into());
    }

    /// A status was written, or not.
    pub fn status_written(&self, kind: Kind, success: bool) {
        let result = if success { "success" } else { "error" };
        self.status_writes.get_or_create(&Written { kind: kind.name(), result }).inc();
    }

    /// How many statuses could not be written the last time.
    pub fn statuses_failing(&self, count: usize) {
        self.statuses_failing.set(count as i64);
    }

    /// How many problems have no Event, since their objects have so many.
    pub fn events_left_out(&self, count: usize) {
        self.events_left_out.set(count as i64);
    }

    /// All of it as text.
    pub fn text(&self) -> String {
        self.log_lines_dropped.inner().store(diagnostics::dropped(), Relaxed);
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(), // writing to a String does not fail
        }
    }
}
