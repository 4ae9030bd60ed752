//! Problems as Kubernetes Events on the object that they are about.

mod queue;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use snapshot::Hash;
use tokio::sync::watch;
use tokio::time::Instant;
use translate::{Problem, Severity};

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::write::{WriteError, reason, within};
use queue::Queue;

/// The controller that Events name as their source.
const REPORTER: &str = "sluice.dev/controller";
/// At most so often, whatever happens: a thousand broken objects must not flood the API server.
const PACE: Duration = Duration::from_millis(50);

/// A problem with the identity of the object that has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// What is wrong.
    pub problem: Problem,
    /// The object's `uid`, if it is known.
    pub uid: Option<String>,
}

/// The one writer of the Events of problems.
pub struct Teller {
    /// Access to the API server.
    pub client: Client,
    /// The name of this replica.
    pub instance: String,
    /// What is wrong, sorted; the latest list counts.
    pub reports: watch::Receiver<Arc<Vec<Report>>>,
    /// Whether this replica writes.
    pub leader: watch::Receiver<bool>,
    /// Counts what has no Event.
    pub metrics: Metrics,
}

impl Teller {
    /// Writes Events for what the latest list says, as leader; until `shutdown`.
    ///
    /// The name of an Event follows from what it says, so that neither a restart nor another leader tells it twice.
    pub async fn run(mut self, mut shutdown: Shutdown) {
        let mut queue = Queue::default();
        let mut known = None;
        let mut in_flight = FuturesUnordered::new();
        // Why telling these failed the last time.
        let mut failing: BTreeMap<Arc<Report>, String> = BTreeMap::new();
        let mut free = Instant::now();
        loop {
            let leads = *self.leader.borrow_and_update();
            let reports = self.reports.borrow_and_update().clone();
            let now = Instant::now();
            if !leads {
                queue.clear();
                failing.clear();
                known = None;
            } else if known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &reports)) {
                queue.update(&reports, known.is_none());
                failing.retain(|report, _| reports.binary_search(report).is_ok());
                self.metrics.events_left_out(queue.left_out());
                known = Some(reports);
            }
            let mut wake = free;
            if free <= now {
                match queue.next(now) {
                    Some((report, repeat)) => {
                        free = now + PACE;
                        wake = free;
                        in_flight.push(self.tell(report, repeat));
                    }
                    None => wake = queue.wake(now),
                }
            }
            tokio::select! {
                Some((report, result)) = in_flight.next(), if !in_flight.is_empty() => {
                    queue.finished(&report, result.is_ok(), Instant::now());
                    note(&mut failing, report, result);
                }
                Ok(()) = self.reports.changed() => {}
                Ok(()) = self.leader.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
                () = shutdown.requested() => return,
            }
        }
    }

    /// Tells one report. It borrows nothing, so that the loop may look at new ones meanwhile.
    fn tell(
        &self,
        report: Arc<Report>,
        repeat: bool,
    ) -> impl Future<Output = (Arc<Report>, Result<(), WriteError>)> + use<> {
        let (client, instance) = (self.client.clone(), self.instance.clone());
        async move {
            let result = within(tell(&client, &instance, &report, repeat)).await;
            (report, result)
        }
    }
}

/// Logs that telling begins to fail, or fails for another reason: not each attempt.
fn note(failing: &mut BTreeMap<Arc<Report>, String>, report: Arc<Report>, result: Result<(), WriteError>) {
    let Err(error) = result else {
        failing.remove(&report);
        return;
    };
    let (kind, object, reason) = (report.problem.kind, report.problem.object.clone(), reason(&error));
    if failing.insert(report, reason.clone()) != Some(reason) {
        tracing::warn!(%error, %kind, %object, "the Event is not written; trying again, ever less often");
    }
}

/// Creates the Event. When it is there already and `repeat` says that the problem came back, counts it.
pub(crate) async fn tell(client: &Client, instance: &str, report: &Report, repeat: bool) -> Result<(), WriteError> {
    let event = event(instance, report);
    let api: Api<Event> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    let created = api.create(&PostParams::default(), &event).await;
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 && repeat => {
            let name = event.metadata.name.unwrap_or_default();
            let count = api.get(&name).await?.series.map_or(2, |series| series.count.saturating_add(1));
            let series = EventSeries { count, last_observed_time: MicroTime(jiff::Timestamp::now()) };
            api.patch(&name, &PatchParams::default(), &Patch::Merge(json!({ "series": series }))).await?;
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        // The namespace is going away, and the object with it.
        Err(kube::Error::Api(status))
            if status.code == 404
                || status.code == 403
                    && status.reason == "Forbidden"
                    && status.message.contains("being terminated") =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn event(instance: &str, report: &Report) -> Event {
    let Problem { kind, object, field, reason, message, severity } = &report.problem;
    let hash = Hash::of(format!("{report:?}").as_bytes()).to_string();
    let name: String = object.name.chars().take(200).collect();
    let note = if field.is_empty() { message.clone() } else { format!("{field}: {message}") };
    let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(format!("{}.{}", name.trim_end_matches(['.', '-']), &hash[..16])),
            ..ObjectMeta::default()
        },
        regarding: Some(ObjectReference {
            api_version: Some(kind.api_version().into()),
            kind: Some(kind.name().into()),
            namespace: (!object.namespace.is_empty()).then(|| object.namespace.clone()),
            name: Some(object.name.clone()),
            uid: report.uid.clone(),
            ..ObjectReference::default()
        }),
        type_: Some(
            match severity {
                Severity::Warning => "Warning",
                Severity::Notice => "Normal",
            }
            .into(),
        ),
        reason: Some((*reason).into()),
        action: Some("Translate".into()),
        note: Some(note[..note.floor_char_boundary(1024)].into()), // the bound of the API
        event_time: Some(MicroTime(jiff::Timestamp::now())),
        reporting_controller: Some(REPORTER.into()),
        reporting_instance: Some(instance.chars().take(128).collect()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http_body_util::{BodyExt, Full};
    use hyper::body::{Bytes, Incoming};
    use hyper::service::service_fn;
    use hyper::{Request, Response, StatusCode};
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use translate::{Kind, ObjectKey};

    use super::*;
    use crate::shutdown;

    /// Refuses one object, then takes every one; tells what it answered.
    async fn refuse_once(listener: TcpListener, answers: mpsc::UnboundedSender<StatusCode>) {
        let refused = Arc::new(AtomicBool::new(false));
        while let Ok((stream, _)) = listener.accept().await {
            let (refused, answers) = (refused.clone(), answers.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let first = !refused.swap(true, Ordering::Relaxed);
                let answers = answers.clone();
                async move {
                    let created = request.into_body().collect().await?.to_bytes();
                    let refusal = json!({ "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403 });
                    let (status, body) = match first {
                        true => (StatusCode::FORBIDDEN, Bytes::from(refusal.to_string())),
                        false => (StatusCode::CREATED, created),
                    };
                    let _ = answers.send(status);
                    let mut response = Response::new(Full::new(body));
                    *response.status_mut() = status;
                    Ok::<_, hyper::Error>(response)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    }

    #[tokio::test]
    async fn an_event_that_was_refused_is_tried_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = crate::client::build(kube::Config::new(url.parse().unwrap()), &Metrics::default()).unwrap();
        let (sender, mut answers) = mpsc::unbounded_channel();
        tokio::spawn(refuse_once(listener, sender));
        let (_reports, reports) = watch::channel(Arc::new(vec![report("no Service", "1")]));
        let (_leads, leader) = watch::channel(true);
        let (trigger, shutdown) = shutdown::channel();
        let teller = Teller { client, instance: "pod".into(), reports, leader, metrics: Metrics::default() };
        let running = tokio::spawn(teller.run(shutdown));
        let mut answer = async || tokio::time::timeout(Duration::from_secs(60), answers.recv()).await.unwrap();
        assert_eq!(answer().await, Some(StatusCode::FORBIDDEN));
        assert_eq!(answer().await, Some(StatusCode::CREATED));
        trigger.stop();
        running.await.unwrap();
    }

    fn report(message: &str, uid: &str) -> Report {
        let problem = Problem {
            kind: Kind::Ingress,
            object: ObjectKey::new("shop", "web"),
            field: "spec.rules[0]".into(),
            reason: "ServiceNotFound",
            message: message.into(),
            severity: Severity::Warning,
        };
        Report { problem, uid: Some(uid.into()) }
    }

    #[test]
    fn the_name_follows_from_what_is_said_about_which_object() {
        let name = |report| event("a", &report).metadata.name;
        assert_eq!(name(report("no Service", "1")), event("b", &report("no Service", "1")).metadata.name);
        assert_ne!(name(report("no Service", "1")), name(report("no port", "1")));
        assert_ne!(name(report("no Service", "1")), name(report("no Service", "2")));
    }

    #[test]
    fn keeps_to_the_bounds_of_the_api() {
        let event = event("pod", &report(&"ü".repeat(5000), "1"));
        assert!(event.note.unwrap().len() <= 1024);
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
