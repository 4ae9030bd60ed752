//! However objects come, change and go: what is built in the end is what a fresh start builds of those that are there.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::kinds::Watched;
use crate::last_good::Record;
use crate::status::Target;

/// An object with its versions.
struct Pooled {
    kind: Kind,
    key: ObjectKey,
    versions: Vec<Value>,
}

/// Those of `pool.yaml`, and Secrets and a ConfigMap with certificates.
static POOL: LazyLock<Vec<Pooled>> = LazyLock::new(|| {
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(include_str!("pool.yaml")).unwrap();
    for namespace in ["a", "b"] {
        for _ in 0..2 {
            let made =
                rcgen::generate_simple_self_signed(vec!["a.example".to_owned(), "set.example".to_owned()]).unwrap();
            let data = json!({
                "tls.crt": STANDARD.encode(made.cert.pem()), "tls.key": STANDARD.encode(made.signing_key.serialize_pem()),
            });
            let metadata = json!({"namespace": namespace, "name": "tls"});
            documents.push(json!({"kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": data}));
        }
    }
    for _ in 0..2 {
        let made = rcgen::generate_simple_self_signed(vec!["authority.example".to_owned()]).unwrap();
        let metadata = json!({"namespace": "b", "name": "authority"});
        documents.push(json!({"kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": made.cert.pem()}}));
    }
    let mut pool: Vec<Pooled> = Vec::new();
    for document in documents {
        let kind = *Kind::ALL.iter().find(|kind| document["kind"] == kind.name()).unwrap();
        let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default();
        let key = ObjectKey::new(text("namespace"), text("name"));
        match pool.iter_mut().find(|known| known.kind == kind && known.key == key) {
            Some(known) => known.versions.push(document),
            None => pool.push(Pooled { kind, key, versions: vec![document] }),
        }
    }
    pool
});

/// What the API server holds, by place in the pool.
type Present = BTreeMap<usize, Value>;

/// Something that happens to an object.
#[derive(Clone, Debug)]
struct Event {
    object: usize,
    happening: Happening,
    /// Whether a build follows at once; else it sees what comes next, too.
    build: bool,
}

#[derive(Clone, Debug)]
enum Happening {
    /// It is created, or changed, to this version.
    Apply(usize),
    /// It goes.
    Delete,
    /// It goes while the watch is interrupted.
    DeleteUnseen,
    /// It goes and comes back as another object of the same name while the watch is interrupted.
    Recreate(usize),
    /// Nothing; the watch lists everything again.
    Relist,
}

impl Event {
    /// Changes what is there. Returns what the watches tell.
    fn happen(&self, present: &mut Present, now: usize) -> Vec<Change> {
        let kind = POOL[self.object].kind;
        let all = |present: &Present| {
            let keys = present.keys().map(|index| &POOL[*index]).filter(|pooled| pooled.kind == kind);
            kinds::of_kind!(kind, listed(keys.map(|pooled| pooled.key.clone()).collect()))
        };
        match self.happening {
            Happening::Apply(version) => {
                let before = present.get(&self.object).map(|object| object["metadata"].clone());
                vec![self.put(present, version, before, now)]
            }
            Happening::Recreate(version) => {
                let object = self.put(present, version, None, now);
                vec![object, all(present)]
            }
            Happening::Delete => match present.remove(&self.object) {
                Some(_) => vec![kinds::of_kind!(kind, delete(POOL[self.object].key.clone()))],
                None => Vec::new(),
            },
            Happening::DeleteUnseen => {
                present.remove(&self.object);
                vec![all(present)]
            }
            Happening::Relist => vec![all(present)],
        }
    }

    fn put(&self, present: &mut Present, version: usize, before: Option<Value>, now: usize) -> Change {
        let Pooled { kind, versions, .. } = &POOL[self.object];
        let mut object = versions[version % versions.len()].clone();
        let metadata = &mut object["metadata"];
        match before {
            Some(before) => {
                metadata["uid"] = before["uid"].clone();
                metadata["creationTimestamp"] = before["creationTimestamp"].clone();
                metadata["generation"] = json!(before["generation"].as_i64().unwrap() + 1);
            }
            None => {
                metadata["uid"] = json!(format!("{}-{now}", self.object));
                metadata["creationTimestamp"] = json!(format!("2026-01-01T00:{:02}:{:02}Z", now / 60, now % 60));
                metadata["generation"] = json!(1);
            }
        }
        present.insert(self.object, object.clone());
        kinds::of_kind!(*kind, apply(object))
    }
}

fn apply<T: Watched>(object: Value) -> Change {
    Change::apply(kinds::stored::<T>(serde_json::from_value(object).unwrap()))
}

fn delete<T: Watched>(key: ObjectKey) -> Change {
    Change::delete::<T>(key)
}

fn listed<T: Watched>(keys: BTreeSet<ObjectKey>) -> Change {
    Change::listed::<T>(keys)
}

/// As much of an API server as it takes to fetch the objects that are kept on demand. A number is the code with which it
/// fails.
async fn serve(listener: TcpListener, objects: Arc<Mutex<HashMap<String, Value>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let objects = objects.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let objects = objects.clone();
            async move {
                let objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
                let (status, body) = match objects.get(request.uri().path()) {
                    Some(Value::Number(code)) => (code.as_u64().unwrap() as u16, failure(code.as_u64().unwrap())),
                    Some(object) => (200, object.clone()),
                    None => (404, failure(404)),
                };
                let response = Response::builder().status(status).body(Full::new(Bytes::from(body.to_string())));
                Ok::<_, hyper::Error>(response.unwrap())
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn failure(code: u64) -> Value {
    json!({"kind": "Status", "status": "Failure", "message": "", "reason": "Failed", "code": code})
}

/// A controller without watches and writers.
struct Rig {
    builder: Builder,
    built: Built,
    controllers: Vec<String>,
    fetchable: Arc<Mutex<HashMap<String, Value>>>,
}

impl Rig {
    async fn start(present: &Present) -> Self {
        let mut rig = Self::filled(present).await;
        rig.build().await;
        rig
    }

    /// One that has built nothing yet.
    async fn filled(present: &Present) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fetchable = Arc::default();
        tokio::spawn(serve(listener, Arc::clone(&fetchable)));
        let settings = Settings::default();
        let controllers = vec![settings.gateway_controller.clone(), settings.ingress_controller.clone()];
        let mut rig = Self {
            builder: Builder {
                fetcher: Fetcher::new(kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()),
                store: Store::new(Kind::ALL.iter().copied(), controllers.clone()),
                settings: watch::channel(Arc::new(settings)).1,
                shared: ServiceAccount { namespace: "sluice".into(), name: "dataplane".into() },
                shared_service: None,
                publisher: Publisher::new(Counter::default()),
                outputs: Outputs {
                    unwritten: watch::Sender::default(),
                    reports: watch::Sender::default(),
                    infrastructure: watch::Sender::default(),
                    classes: watch::Sender::default(),
                    unrecorded: watch::Sender::default(),
                    ready: watch::Sender::default(),
                },
                leads: watch::channel(true).1,
                taken: watch::channel(Arc::default()).1,
                metrics: Metrics::default(),
                memo: Memo::default(),
            },
            built: Built::default(),
            controllers,
            fetchable,
        };
        rig.offer(present);
        for (index, object) in present {
            let change = kinds::of_kind!(POOL[*index].kind, apply(object.clone()));
            rig.builder.store.change(change);
        }
        for kind in Kind::ALL {
            let keys = present.keys().map(|index| &POOL[*index]).filter(|pooled| pooled.kind == *kind);
            let keys = keys.map(|pooled| pooled.key.clone()).collect();
            rig.builder.store.change(kinds::of_kind!(*kind, listed(keys)));
        }
        rig.builder.store.change(Change::recorded(Record::default()));
        assert!(rig.builder.store.ready());
        rig
    }

    /// Lets these be fetched.
    fn offer(&self, present: &Present) {
        let of_kind = |kind: Kind| match kind {
            Kind::Secret => Some("secrets"),
            Kind::ConfigMap => Some("configmaps"),
            _ => None,
        };
        let fetchable = present.iter().filter_map(|(index, object)| {
            let Pooled { kind, key, .. } = &POOL[*index];
            let path = format!("/api/v1/namespaces/{}/{}/{}", key.namespace, of_kind(*kind)?, key.name);
            Some((path, object.clone()))
        });
        *self.fetchable.lock().unwrap_or_else(PoisonError::into_inner) = fetchable.collect();
    }

    async fn build(&mut self) {
        self.builder.follow(&mut self.built, false).await.unwrap();
        assert_eq!(self.builder.fetcher.failed(), 0, "everything that is referred to can be fetched");
        self.tell();
    }

    fn tell(&mut self) {
        let acks = self.builder.publisher.acks().borrow().clone();
        self.builder.tell(&mut self.built, &acks);
    }
}

/// Everything that leaves the build is the same.
fn same(after_all: &Rig, fresh: &Rig) -> Result<(), TestCaseError> {
    prop_assert_eq!(&after_all.built.snapshots, &fresh.built.snapshots);
    prop_assert_eq!(&after_all.built.identities, &fresh.built.identities);
    let (one, other) = (&after_all.builder.outputs, &fresh.builder.outputs);
    prop_assert_eq!(&**one.unwritten.borrow(), &**other.unwritten.borrow());
    prop_assert_eq!(&**one.reports.borrow(), &**other.reports.borrow());
    prop_assert_eq!(&**one.infrastructure.borrow(), &**other.infrastructure.borrow());
    prop_assert_eq!(&**one.classes.borrow(), &**other.classes.borrow());
    for (target, write) in &**one.unwritten.borrow() {
        let observed =
            crate::status::Observed::new(target.kind, Some(write.status.clone()), &[], &after_all.controllers);
        prop_assert_eq!(observed.fingerprint, write.fingerprint, "written, it is not written again: {:?}", target);
    }
    prop_assert!(one.unrecorded.borrow().is_none() && other.unrecorded.borrow().is_none());
    Ok(())
}

fn event() -> impl Strategy<Value = Event> {
    let happening = prop_oneof![
        4 => (0..3_usize).prop_map(Happening::Apply),
        4 => Just(Happening::Delete),
        1 => Just(Happening::DeleteUnseen),
        1 => (0..3_usize).prop_map(Happening::Recreate),
        1 => Just(Happening::Relist),
    ];
    (0..POOL.len(), happening, any::<bool>()).prop_map(|(object, happening, build)| Event { object, happening, build })
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 500, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_sequence_of_events_ends_where_a_fresh_start_does(
        absent in prop::collection::btree_set(0..POOL.len(), 0..6),
        events in prop::collection::vec(event(), 1..32),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut present = Present::new();
            for object in (0..POOL.len()).filter(|object| !absent.contains(object)) {
                Event { object, happening: Happening::Apply(0), build: false }.happen(&mut present, object);
            }
            let mut rig = Rig::start(&present).await;
            let resources: usize = rig.built.snapshots.values().map(|snapshot| snapshot.iter().count()).sum();
            prop_assert!(!absent.is_empty() || resources > 20, "the pool makes a whole");
            for (event, now) in events.iter().zip(POOL.len()..) {
                let changes = event.happen(&mut present, now);
                rig.offer(&present);
                changes.into_iter().for_each(|change| rig.builder.store.change(change));
                if event.build {
                    rig.build().await;
                }
            }
            rig.build().await;
            same(&rig, &Rig::start(&present).await)
        })?;
    }
}

/// All objects of the pool in their first version.
fn whole() -> Present {
    let mut present = Present::new();
    for object in 0..POOL.len() {
        Event { object, happening: Happening::Apply(0), build: false }.happen(&mut present, object);
    }
    present
}

/// The path of a Secret of namespace `a`.
fn path_of(secret: &str) -> String {
    format!("/api/v1/namespaces/a/secrets/{secret}")
}

impl Rig {
    /// Has the API server respond so to reads of a Secret of namespace `a`.
    fn respond(&self, secret: &str, response: Value) {
        self.fetchable.lock().unwrap_or_else(PoisonError::into_inner).insert(path_of(secret), response);
    }

    async fn follow(&mut self) {
        self.builder.follow(&mut self.built, false).await.unwrap();
        self.tell();
    }

    /// Waits until what could not be fetched could be.
    async fn fetched(&mut self) {
        let (object, change) =
            tokio::time::timeout(Duration::from_secs(60), self.builder.fetcher.next()).await.unwrap();
        self.builder.store.fetched(&object, change);
        self.follow().await;
    }

    /// The hosts of namespace `a` and the certificates that the Gateway `edge` shows, in the order of its listeners.
    fn certificates(&self) -> Vec<String> {
        let plane = DataPlane::Gateway(ObjectKey::new("a", "edge"));
        let listeners = self.built.snapshots[&plane].iter().filter_map(|(_, resource)| match &**resource.resource() {
            snapshot::Resource::Listener(listener) => match &listener.protocol {
                snapshot::Protocol::Https(tls) => Some(tls.clone()),
                _ => None,
            },
            _ => None,
        });
        let names = listeners.flat_map(|tls| {
            tls.certificates.into_iter().map(|certificate| certificate.certificate).chain(tls.default_certificate)
        });
        names.collect()
    }
}

#[tokio::test]
async fn a_secret_that_the_api_server_does_not_give_out_holds_back_only_what_needs_it() {
    let present = whole();
    let mut rig = Rig::start(&present).await;
    let served = rig.certificates();
    assert!(served.contains(&"a/tls".to_owned()), "{served:?}");

    // A listener comes to use another certificate that is not to be had yet: it stays as it is, and all else changes.
    let place = |kind: Kind, name: &str| {
        POOL.iter().position(|pooled| pooled.kind == kind && pooled.key == ObjectKey::new("a", name)).unwrap()
    };
    let mut secret = present[&place(Kind::Secret, "tls")].clone();
    secret["metadata"]["name"] = json!("other");
    rig.builder.store.change(apply::<k8s_openapi::api::core::v1::Secret>(secret.clone()));
    let mut gateway = present[&place(Kind::Gateway, "edge")].clone();
    gateway["spec"]["listeners"][1]["tls"]["certificateRefs"][0] = json!({"name": "other"});
    let mut new = gateway["spec"]["listeners"][0].clone();
    (new["name"], new["port"]) = (json!("new"), json!(8081));
    gateway["spec"]["listeners"].as_array_mut().unwrap().push(new);
    rig.builder.store.change(apply::<crds::gateway::Gateway>(gateway));
    let mut slice = present[&place(Kind::EndpointSlice, "web-1")].clone();
    slice["endpoints"][0]["addresses"] = json!(["10.9.9.9"]);
    rig.builder.store.change(apply::<k8s_openapi::api::discovery::v1::EndpointSlice>(slice));
    rig.respond("other", json!(500));
    rig.follow().await;
    assert_eq!(rig.certificates(), served, "what needs the Secret stays as it is");
    let plane = DataPlane::Gateway(ObjectKey::new("a", "edge"));
    let published = serde_json::to_string(&*rig.built.snapshots[&plane]).unwrap();
    assert!(published.contains("10.9.9.9") && published.contains("8081"), "{published}");
    let reports = &rig.built.reports;
    let told =
        |report: &Report| report.problem.kind == Kind::Gateway && report.problem.message.contains("does not give out");
    assert!(reports.iter().any(told), "{reports:?}");
    assert!(rig.builder.metrics.text().contains("sluice_controller_held 1"));

    rig.respond("other", secret);
    rig.fetched().await;
    assert!(rig.certificates().contains(&"a/other".to_owned()));
    assert!(rig.builder.metrics.text().contains("sluice_controller_held 0"));
}

#[tokio::test]
async fn a_controller_starts_without_what_the_api_server_does_not_give_out() {
    let present = whole();
    for code in [403, 429, 500] {
        let mut rig = Rig::filled(&present).await;
        rig.respond("tls", json!(code));
        rig.follow().await;
        assert!(*rig.builder.outputs.ready.borrow());
        assert!(!rig.certificates().contains(&"a/tls".to_owned()));
        rig.offer(&present);
        rig.fetched().await;
        assert!(rig.certificates().contains(&"a/tls".to_owned()));
        same(&rig, &Rig::start(&present).await).unwrap();
    }
}

#[tokio::test]
async fn what_a_data_plane_rejects_is_told_to_its_owner_and_noted_as_logged_where_there_is_none() {
    let mut rig = Rig::start(&whole()).await;
    let mut rejecting = crate::stream::Connected::new(1);
    let mut reject = |kind, name: &str| {
        rejecting.rejected.insert(ResourceId::new(kind, name), "it is bad".into());
    };
    reject(snapshot::Kind::Cluster, "ingress/a/web:80/HTTPS");
    reject(snapshot::Kind::Settings, "settings");
    let mut acks = rig.builder.publisher.acks().borrow().clone();
    acks.heard(&DataPlane::Shared, "pod", rejecting);
    rig.builder.tell(&mut rig.built, &acks);
    let reports = rig.builder.outputs.reports.borrow().clone();
    let of_the_service: Vec<_> =
        reports.iter().filter(|report| report.problem.reason == "RejectedByDataPlane").collect();
    let [Report { problem, uid: Some(_) }] = of_the_service[..] else { panic!("{of_the_service:?}") };
    assert_eq!((problem.kind, &problem.object), (Kind::Service, &ObjectKey::new("a", "web")));
    assert!(problem.message.contains("nothing of the past"), "{}", problem.message);
    let noted: Vec<_> = rig.built.told_of_none.iter().map(String::as_str).collect();
    assert_eq!(noted, ["the data planes shared do not take Settings settings: it is bad"]);
}

#[tokio::test]
async fn what_data_planes_lack_is_told_to_their_gateway_and_to_who_makes_it() {
    let mut rig = Rig::start(&whole()).await;
    let name = ObjectKey::new("a", "edge-sluice");
    let gateway = Target::of(Kind::Gateway, &ObjectKey::new("a", "edge")).unwrap();
    let lacking = |rig: &Rig| {
        let plan = rig.builder.outputs.infrastructure.borrow().clone();
        let kinds: Vec<_> = plan.as_ref().as_ref().unwrap().missing.iter().map(|(kind, _)| kind.clone()).collect();
        let unwritten = rig.builder.outputs.unwritten.borrow().clone();
        let conditions = unwritten[&gateway].status["conditions"].as_array().unwrap().clone();
        let programmed = conditions.into_iter().find(|condition| condition["type"] == "Programmed").unwrap();
        assert_eq!((&programmed["status"], &programmed["reason"]), (&json!("False"), &json!("Pending")));
        (kinds, programmed["message"].as_str().unwrap().to_owned())
    };
    let (kinds, message) = lacking(&rig);
    assert_eq!(kinds, ["Service"], "of Deployments nothing is known");
    assert!(message.contains("no Service a/edge-sluice"), "{message}");

    let service = json!({"metadata": {"namespace": "a", "name": "edge-sluice"}, "spec": {}});
    rig.builder.store.change(apply::<k8s_openapi::api::core::v1::Service>(service));
    rig.builder.store.change(Change::deployments(Some(BTreeSet::new())));
    rig.build().await;
    let (kinds, message) = lacking(&rig);
    assert_eq!(kinds, ["Deployment"]);
    assert!(message.contains("no Deployment a/edge-sluice"), "{message}");

    let service = ObjectKey::new("a", "edge-sluice");
    rig.builder.store.change(Change::delete::<k8s_openapi::api::core::v1::Service>(service));
    rig.build().await;
    let (kinds, message) = lacking(&rig);
    assert_eq!(kinds, ["Deployment", "Service"]);
    assert!(message.contains("no Deployment a/edge-sluice and no Service a/edge-sluice:"), "{message}");

    let service = json!({"metadata": {"namespace": "a", "name": "edge-sluice"}, "spec": {}});
    rig.builder.store.change(apply::<k8s_openapi::api::core::v1::Service>(service));
    rig.builder.store.change(Change::deployments(Some([name].into())));
    rig.build().await;
    let (kinds, message) = lacking(&rig);
    assert!(kinds.is_empty() && message.contains("No data plane"), "{kinds:?} {message}");
}
