use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use snapshot::{ConnectionLimit, Filter, LimitKey, RateLimit, Resource};

use crate::backend::{Backend, full};
use crate::client::{fetch, get, http1};
use crate::rig::{Rig, eventually, options, route, rule};

fn rate(status: u16) -> Filter {
    Filter::RateLimit(RateLimit {
        id: "test".into(),
        key: LimitKey::ClientIp,
        requests: 1,
        per: Duration::from_secs(3600),
        burst: 2,
        status,
        exempt: Vec::new(),
    })
}

fn limited(backend: &Backend, filter: Filter) -> Rig {
    Rig::with(options(), &[backend.address], |snapshot| {
        let mut rule = rule("limited", "/", "app");
        rule.filters.push(filter);
        snapshot.insert("all", Resource::Route(route("web", vec![rule])));
    })
}

#[tokio::test]
async fn requests_beyond_the_rate_are_refused_with_the_time_to_wait_and_an_edit_refills_nothing() {
    let backend = Backend::echo("one").await;
    let mut rig = limited(&backend, rate(429));
    for _ in 0..3 {
        assert_eq!(fetch(rig.address(), "/").await.status, 200);
    }
    let answer = fetch(rig.address(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (429, "rate_limited"));
    let seconds: u32 = answer.header("retry-after").parse().unwrap();
    assert!((3000..=3600).contains(&seconds), "{seconds}");

    let mut edited = rule("edited", "/", "app");
    edited.filters.push(rate(503));
    rig.set("all", Resource::Route(route("web", vec![edited])));
    assert_eq!(fetch(rig.address(), "/").await.status, 503);
}

#[tokio::test]
async fn requests_at_once_are_limited_until_their_answers_are_complete() {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    let backend = Backend::http1(move |_: Request<Incoming>| {
        let mut released = receiver.clone();
        async move {
            released.wait_for(|released| *released).await.unwrap();
            full("done")
        }
    })
    .await;
    let limit = ConnectionLimit { id: "test".into(), connections: 1, status: 429, exempt: Vec::new() };
    let rig = limited(&backend, Filter::ConnectionLimit(limit));
    let mut client = http1(rig.address()).await;
    let first = tokio::spawn(client.send_request(get("/")));
    eventually("the first is at the backend", || backend.connections.load(std::sync::atomic::Ordering::SeqCst) > 0)
        .await;
    assert_eq!(fetch(rig.address(), "/").await.status, 429);
    sender.send(true).unwrap();
    assert_eq!(crate::client::collect(first.await.unwrap().unwrap()).await.unwrap().status, 200);
    assert_eq!(fetch(rig.address(), "/").await.status, 200);
}
