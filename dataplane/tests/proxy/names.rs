//! Backends by name, resolved by a DNS server of the test's own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dataplane::{LocalEndpoints, Options};
use snapshot::{Endpoints, Resource};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::backend::Backend;
use crate::client::fetch;
use crate::rig::{Rig, cluster, eventually, options, route, rule};

/// A DNS server that answers names it knows, and never the others. Ends when dropped.
struct Dns {
    address: SocketAddr,
    names: Arc<Mutex<Names>>,
    answering: JoinHandle<()>,
}

#[derive(Default)]
struct Names {
    addresses: HashMap<String, Vec<Ipv4Addr>>,
    /// How often the IPv4 addresses of a name were asked for.
    asked: HashMap<String, usize>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Dns {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let names: Arc<Mutex<Names>> = Arc::default();
        let known = names.clone();
        let answering = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query).await {
                let answer = known.lock().unwrap().answer(&query[..length]);
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Self { address, names, answering }
    }

    fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.names.lock().unwrap().addresses.insert(name.into(), addresses.to_vec());
    }

    fn asked(&self, name: &str) -> usize {
        self.names.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }

    fn options(&self, local_endpoints: LocalEndpoints) -> Options {
        Options { local_endpoints, dns_server: Some(self.address), ..options() }
    }
}

impl Names {
    /// RFC 1035, 4.1: the query's header and question, then the addresses, each valid for no time at all.
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        const HEADER: usize = 12;
        let mut name = String::new();
        let mut at = HEADER;
        while query[at] != 0 {
            let label = &query[at + 1..at + 1 + usize::from(query[at])];
            name += &String::from_utf8_lossy(label).to_ascii_lowercase();
            name.push('.');
            at += 1 + label.len();
        }
        let question = &query[HEADER..at + 5];
        let of_ipv4 = question[question.len() - 4..] == [0, 1, 0, 1];
        let name = name.trim_end_matches('.');
        if of_ipv4 {
            *self.asked.entry(name.to_owned()).or_default() += 1;
        }
        let addresses = self.addresses.get(name)?;
        let addresses = if of_ipv4 { addresses.as_slice() } else { &[] };
        let mut answer = vec![query[0], query[1], 0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0];
        answer.extend_from_slice(question);
        for address in addresses {
            answer.extend_from_slice(&[0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        Some(answer)
    }
}

fn named(name: &str, port: u16) -> Resource {
    Resource::Endpoints(Endpoints::Dns { name: name.into(), port })
}

/// Waits until a request to this path is answered by this backend.
async fn answered_by(rig: &Rig, path: &str, backend: &str) {
    for _ in 0..2000 {
        if fetch(rig.address(), path).await.header("x-backend") == backend {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{path} never leads to {backend}");
}

#[tokio::test]
async fn a_name_is_resolved_in_the_background_and_followed_when_it_changes() {
    let dns = Dns::start().await;
    let one = Backend::echo("one").await;
    let port = one.address.port();
    let two = Ipv4Addr::new(127, 0, 0, 2);
    let _two = Backend::echo_at("two", SocketAddr::new(two.into(), port)).await;
    dns.set("app.example", &[Ipv4Addr::LOCALHOST]);
    let mut rig = Rig::with(dns.options(LocalEndpoints::Allowed), &[], |snapshot| {
        snapshot.insert("app", named("app.example", port));
    });
    answered_by(&rig, "/", "one").await;
    dns.set("app.example", &[two]);
    answered_by(&rig, "/", "two").await;
    // Another name takes the place of the first at once, and its addresses with it.
    dns.set("other.example", &[Ipv4Addr::LOCALHOST]);
    rig.set("app", named("other.example", port));
    answered_by(&rig, "/", "one").await;
}

#[tokio::test]
async fn a_name_leads_to_no_address_of_this_machine() {
    let dns = Dns::start().await;
    let backend = Backend::echo("one").await;
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    dns.set("sly.example", &[Ipv4Addr::LOCALHOST, metadata]);
    let rig = Rig::with(dns.options(LocalEndpoints::Refused), &[], |snapshot| {
        snapshot.insert("app", named("sly.example", backend.address.port()));
    });
    // Who asks again has taken note of the answer before.
    eventually("the name is resolved", || dns.asked("sly.example") >= 2).await;
    let answer = fetch(rig.address(), "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (503, "no_endpoints"));
    assert_eq!(backend.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn names_that_nobody_answers_hold_up_neither_requests_nor_other_names() {
    const SILENT: usize = 40;
    let dns = Dns::start().await;
    let backend = Backend::echo("one").await;
    let mut rig = Rig::with(dns.options(LocalEndpoints::Allowed), &[], |snapshot| {
        let mut rules = Vec::new();
        for number in 0..SILENT {
            let name = format!("silent-{number}");
            snapshot.insert(&name, named(&format!("{name}.example"), 80));
            snapshot.insert(&name, Resource::Cluster(cluster(&name)));
            rules.push(rule(&name, &format!("/{name}"), &name));
        }
        rules.push(rule("app", "/", "app"));
        snapshot.insert("all", Resource::Route(route("web", rules)));
    });
    let all_asked = || (0..SILENT).all(|number| dns.asked(&format!("silent-{number}.example")) > 0);
    eventually("all names are asked for at once", all_asked).await;
    // A name that comes now is resolved while the others still wait.
    dns.set("app.example", &[Ipv4Addr::LOCALHOST]);
    rig.set("app", named("app.example", backend.address.port()));
    answered_by(&rig, "/", "one").await;
    let answer = fetch(rig.address(), "/silent-7").await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-reason")), (503, "no_endpoints"));
}
