use std::collections::BTreeMap;

use crate::backend::Backend;
use crate::client::fetch;
use crate::rig::{LOOPBACK, Rig, free_port};

#[tokio::test]
async fn requests_take_turns() {
    let backends = [Backend::echo("one").await, Backend::echo("two").await];
    let rig = Rig::plain(&[backends[0].address, backends[1].address]);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..20 {
        *seen.entry(fetch(rig.address(), "/").await.header("x-backend").to_owned()).or_default() += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.values().all(|count| *count >= 8), "{seen:?}");
}

#[tokio::test]
async fn a_refused_connection_is_tried_at_another_endpoint() {
    let backend = Backend::echo("one").await;
    let gone = std::net::SocketAddr::new(LOOPBACK, free_port());
    let rig = Rig::plain(&[gone, backend.address]);
    for _ in 0..20 {
        assert_eq!(fetch(rig.address(), "/").await.header("x-backend"), "one");
    }
}
