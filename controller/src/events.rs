//! Problems as Kubernetes Events on the object that they are about.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use snapshot::Hash;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use translate::{Problem, Severity};

use crate::shutdown::Shutdown;

/// The controller that Events name as their source.
const REPORTER: &str = "sluice.dev/controller";
/// An Event that is still true is told again before the API server's default of an hour makes it vanish.
const AGAIN: Duration = Duration::from_secs(50 * 60);
/// At most so often, whatever happens: a thousand broken objects must not flood the API server.
const PACE: Duration = Duration::from_millis(50);
/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A problem with the identity of the object that has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Report {
    /// What is wrong.
    pub problem: Problem,
    /// The object's `uid`, if it is known.
    pub uid: Option<String>,
}

/// Writes Events for what is new in the latest list, as leader; until `shutdown`.
///
/// The name of an Event follows from what it says, so that neither a restart nor another leader tells it twice.
pub async fn run(
    client: Client,
    instance: String,
    mut reports: watch::Receiver<Arc<Vec<Report>>>,
    mut leader: watch::Receiver<bool>,
    mut shutdown: Shutdown,
) {
    let mut told: BTreeMap<Report, Instant> = BTreeMap::new();
    let mut taken_over = false;
    loop {
        let leads = *leader.borrow_and_update();
        let current = reports.borrow_and_update().clone();
        told.retain(|report, _| leads && current.binary_search(report).is_ok());
        taken_over &= leads;
        let now = Instant::now();
        let fresh = |report: &&Report| told.get(*report).is_none_or(|at| now.duration_since(*at) > AGAIN);
        match current.iter().filter(|_| leads).find(fresh) {
            Some(report) => {
                match timeout(DEADLINE, tell(&client, &instance, report, taken_over)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, object = %report.problem.object, "the Event is not written")
                    }
                    Err(_) => tracing::warn!(object = %report.problem.object, "the API server takes no Event"),
                }
                told.insert(report.clone(), now);
                tokio::select! {
                    () = tokio::time::sleep(PACE) => {}
                    () = shutdown.requested() => return,
                }
            }
            None => {
                taken_over = leads;
                tokio::select! {
                    Ok(()) = reports.changed() => {}
                    Ok(()) = leader.changed() => {}
                    () = tokio::time::sleep(AGAIN / 10) => {}
                    () = shutdown.requested() => return,
                }
            }
        }
    }
}

/// Creates the Event. When it is there already and `repeat` says that the problem came back, counts it.
async fn tell(client: &Client, instance: &str, report: &Report, repeat: bool) -> kube::Result<()> {
    let event = event(instance, report);
    let api: Api<Event> = Api::namespaced(client.clone(), event.metadata.namespace.as_deref().unwrap_or("default"));
    let created = api.create(&PostParams::default(), &event).await;
    match created {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 && repeat => {
            let name = event.metadata.name.unwrap_or_default();
            let count = api.get(&name).await?.series.map_or(2, |series| series.count.saturating_add(1));
            let series = EventSeries { count, last_observed_time: MicroTime(jiff::Timestamp::now()) };
            api.patch(&name, &PatchParams::default(), &Patch::Merge(json!({ "series": series }))).await.map(drop)
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
        Err(error) => Err(error),
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
    use translate::{Kind, ObjectKey};

    use super::*;

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
