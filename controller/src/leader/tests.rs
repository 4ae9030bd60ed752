use serde_json::{Value, json};

use super::*;
use crate::api_server::{self, Requests};
use crate::shutdown;

/// A candidate whose API server is the test.
struct Candidate {
    requests: Requests,
    ready: watch::Sender<bool>,
    leads: watch::Receiver<bool>,
    _stop: shutdown::Trigger,
}

impl Candidate {
    async fn start(ready: bool) -> Self {
        let (client, requests) = api_server::start().await;
        let (ready, ready_receiver) = watch::channel(ready);
        let (leads_sender, leads) = watch::channel(false);
        let election = Election {
            client,
            namespace: "sluice".into(),
            name: "leader".into(),
            identity: "me".into(),
            ready: ready_receiver,
            metrics: Metrics::default(),
        };
        let (stop, shutdown) = shutdown::channel();
        tokio::spawn(election.run(leads_sender, shutdown));
        Self { requests, ready, leads, _stop: stop }
    }

    /// Answers reads with this Lease until there is a write. Returns it, not answered.
    async fn written(&mut self, lease: &Value) -> api_server::Asked {
        loop {
            let asked = self.requests.next().await;
            match asked.what.starts_with("GET ") {
                true => asked.answer(200, lease),
                false => return asked,
            }
        }
    }

    /// Lets it take a free Lease.
    async fn elected() -> Self {
        let mut candidate = Self::start(true).await;
        let asked = candidate.written(&lease(&json!({}))).await;
        let body = asked.body.clone();
        asked.answer(200, &body);
        candidate.leads.wait_for(|leads| *leads).await.unwrap();
        candidate
    }
}

fn lease(spec: &Value) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "leader", "namespace": "sluice", "resourceVersion": "7"}, "spec": spec,
    })
}

fn spec(spec: Value) -> LeaseSpec {
    serde_json::from_value(spec).unwrap()
}

#[tokio::test]
async fn every_write_names_the_version_that_was_read() {
    let mut candidate = Candidate::start(true).await;
    let asked = candidate.written(&lease(&json!({"leaseTransitions": 3}))).await;
    assert_eq!(asked.what, "PUT /apis/coordination.k8s.io/v1/namespaces/sluice/leases/leader");
    assert_eq!(asked.body["metadata"]["resourceVersion"], "7");
    assert_eq!(asked.body["spec"]["holderIdentity"], "me");
    assert_eq!(asked.body["spec"]["leaseTransitions"], 4);
    asked
        .answer(409, &json!({"kind": "Status", "status": "Failure", "message": "", "reason": "Conflict", "code": 409}));
    let again = candidate.written(&lease(&json!({}))).await;
    assert!(!*candidate.leads.borrow(), "the other one was first");
    let body = again.body.clone();
    again.answer(200, &body);
    candidate.leads.wait_for(|leads| *leads).await.unwrap();
}

#[tokio::test]
async fn a_leader_whose_renewal_is_not_answered_ceases_to_lead() {
    let mut candidate = Candidate::elected().await;
    let _unanswered = candidate.requests.next().await;
    candidate.leads.wait_for(|leads| !leads).await.unwrap();
}

#[tokio::test]
async fn a_leader_whose_lease_another_has_ceases_to_lead() {
    let mut candidate = Candidate::elected().await;
    let other =
        json!({"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"});
    candidate.requests.next().await.answer(200, &lease(&other));
    candidate.leads.wait_for(|leads| !leads).await.unwrap();
}

#[tokio::test]
async fn only_who_is_ready_competes_and_gives_the_lease_up_otherwise() {
    let mut candidate = Candidate::start(false).await;
    tokio::task::yield_now().await;
    assert!(candidate.requests.none_yet(), "not ready");
    candidate.ready.send_replace(true);
    let asked = candidate.written(&lease(&json!({}))).await;
    let held = asked.body.clone();
    asked.answer(200, &held);
    candidate.leads.wait_for(|leads| *leads).await.unwrap();

    candidate.ready.send_replace(false);
    candidate.leads.wait_for(|leads| !leads).await.unwrap();
    let freed = candidate.written(&held).await;
    assert_eq!(freed.body["spec"].get("holderIdentity"), None);
}

#[test]
fn a_lease_ends_by_the_own_clock_and_only_while_it_does_not_change() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let renewed = |time: &str| spec(json!({"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": time}));
    // The other node's clock is years behind.
    let (first, second) = (renewed("2001-01-01T00:00:00.000000Z"), renewed("2001-01-01T00:00:02.000000Z"));
    let mut seen = Seen::default();
    assert!(!seen.ended(&first, start));
    assert!(!seen.ended(&first, after(14)));
    assert!(!seen.ended(&second, after(15)), "it was renewed");
    assert!(!seen.ended(&second, after(29)));
    assert!(seen.ended(&second, after(30)));
}
