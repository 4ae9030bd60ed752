//! The real server over TLS on loopback, spoken to by the data plane's own client, or message by message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dataplane::{Rejection, source};
use prometheus_client::metrics::counter::Counter;
use rustls::pki_types::pem::PemObject as _;
use snapshot::proto::{self, ClientMessage, ServerMessage, client_message, server_message};
use snapshot::{Endpoints, Hash, Kind, MAX_MESSAGE, Resource, ResourceId, SERVER_NAME, Snapshot};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use translate::DataPlane;

use super::parts::Limits;
use super::server::serve_within;
use super::{Acks, Authenticator, Publisher, ServiceAccount};
use crate::ca::{InstallationSecret, KeyPairPem};

const TOKEN: &str = "token-of-the-proxy";
/// Its claims are `{"exp":1700000000}`: it ended long ago, so that its sessions end after the grace.
const ENDED: &str = "e30.eyJleHAiOjE3MDAwMDAwMDB9.c2lnbmF0dXJl";
const STRANGER: &str = "token-of-a-stranger";

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn account(name: &str) -> ServiceAccount {
    ServiceAccount { namespace: "sluice".into(), name: name.into() }
}

/// A snapshot of these endpoints, each by name and port.
fn snapshot(ports: &[(&str, u16)]) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (name, port) in ports {
        let endpoints = Endpoints::Dns { name: "shop.example".into(), port: *port };
        snapshot.insert(*name, Resource::Endpoints(endpoints));
    }
    Arc::new(snapshot)
}

fn publish(publisher: &Publisher, snapshot: &Arc<Snapshot>) -> u64 {
    publisher.publish(
        BTreeMap::from([(DataPlane::Shared, snapshot.clone())]),
        BTreeMap::from([(account("proxy"), DataPlane::Shared)]),
    )
}

/// A controller replica; dropping it kills it.
struct Controller {
    address: SocketAddr,
    publisher: Publisher,
    identity: watch::Sender<KeyPairPem>,
    task: JoinHandle<()>,
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Controller {
    async fn start(secret: &InstallationSecret) -> Self {
        Self::start_at(secret, "127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_at(secret: &InstallationSecret, address: SocketAddr) -> Self {
        Self::start_within(Limits::default(), secret, address).await
    }

    async fn start_within(limits: Limits, secret: &InstallationSecret, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (identity, identity_receiver) = watch::channel(secret.issue_server().unwrap());
        let accounts = [(TOKEN, "proxy"), (ENDED, "proxy"), (STRANGER, "stranger")];
        let accounts = accounts.map(|(token, name)| (token.to_owned(), account(name))).into();
        let publisher = Publisher::new(Counter::default());
        let served = publisher.clone();
        let task = tokio::spawn(async move {
            serve_within(limits, listener, identity_receiver, Authenticator::Static(accounts), served).await.unwrap();
        });
        Self { address, publisher, identity, task }
    }

    /// Waits until the one connected data plane runs this version, and returns what it rejects.
    async fn wait_for_ack(&self, version: Hash) -> BTreeMap<ResourceId, String> {
        let mut acks = self.publisher.acks();
        let wait =
            acks.wait_for(|acks| acks.connected(&DataPlane::Shared).any(|(_, state)| state.version == Some(version)));
        let acks = tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap();
        let (_, state) = acks.connected(&DataPlane::Shared).next().unwrap();
        state.rejected.clone()
    }
}

/// A data plane's source; dropping it kills it.
struct Proxy {
    task: JoinHandle<()>,
    applied: watch::Receiver<Vec<Snapshot>>,
    ready: watch::Sender<bool>,
    rejections: watch::Sender<Vec<Rejection>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Takes everything except resources with the name `bad`.
    fn start(directory: &Path, secret: &InstallationSecret, controllers: &[SocketAddr]) -> Self {
        std::fs::write(directory.join("token"), format!("{TOKEN}\n")).unwrap();
        Self::start_with(directory, secret, controllers)
    }

    /// The same, with the token that is there.
    fn start_with(directory: &Path, secret: &InstallationSecret, controllers: &[SocketAddr]) -> Self {
        std::fs::write(directory.join("ca.crt"), secret.trusted()).unwrap();
        let config = source::Config {
            controllers: controllers.iter().map(ToString::to_string).collect(),
            token_file: directory.join("token"),
            ca_file: directory.join("ca.crt"),
            state_dir: Some(directory.to_owned()),
        };
        let (sender, applied) = watch::channel(Vec::new());
        let rejections = watch::Sender::new(Vec::new());
        let (rejecting, are_rejected) = (rejections.clone(), rejections.subscribe());
        let apply = move |snapshot: Snapshot| {
            let bad = snapshot.iter().filter(|(id, _)| id.name == "bad");
            rejecting.send_replace(
                bad.map(|(id, _)| Rejection { id: id.clone(), reason: "it is bad".to_owned() }).collect(),
            );
            sender.send_modify(|applied: &mut Vec<Snapshot>| applied.push(snapshot));
        };
        let (ready, is_ready) = watch::channel(true);
        let task = tokio::spawn(async move {
            source::run(config, is_ready, are_rejected, apply).await.unwrap();
        });
        Self { task, applied, ready, rejections }
    }

    /// Waits until the newest applied snapshot is this one.
    async fn wait_for(&mut self, snapshot: &Snapshot) {
        let wait = self.applied.wait_for(|applied| applied.last() == Some(snapshot));
        tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap();
    }
}

/// One session, message by message.
struct Raw {
    outbound: mpsc::Sender<ClientMessage>,
    inbound: Streaming<ServerMessage>,
}

impl Raw {
    /// Says Hello and an ack, and waits for the answer.
    async fn open(
        secret: &InstallationSecret,
        address: SocketAddr,
        token: &str,
        held: Option<&Snapshot>,
    ) -> Result<Self, Status> {
        let authority = Certificate::from_pem(secret.trusted());
        let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name(SERVER_NAME);
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
        let channel = endpoint.connect().await.map_err(|_| Status::unavailable("cannot connect"))?;
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_MESSAGE);
        client.ready().await.unwrap();

        let (outbound, outbox) = mpsc::channel(8);
        let messages = futures::stream::unfold(outbox, |mut outbox| async { Some((outbox.recv().await?, outbox)) });
        let mut request = Request::new(messages);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let held_names = held.map(|held| {
            let held =
                held.iter().map(|(id, resource)| proto::Held { name: Some(id.into()), hash: resource.hash().into() });
            held.collect()
        });
        let hello = proto::Hello {
            instance: "raw".into(),
            held: held_names.unwrap_or_default(),
            feed: true,
            ..Default::default()
        };
        outbound.send(message(client_message::Message::Hello(hello))).await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/sluice.v1.Stream/Subscribe");
        let codec = tonic_prost::ProstCodec::<ClientMessage, ServerMessage>::default();
        let inbound = client.streaming(request, path, codec).await?.into_inner();
        let raw = Self { outbound, inbound };
        raw.ack(held.map(Snapshot::version)).await;
        Ok(raw)
    }

    async fn ack(&self, version: Option<Hash>) {
        let version = version.map(Into::into).unwrap_or_default();
        let ack = proto::Ack { version, rejected: Vec::new(), ready: true };
        self.outbound.send(message(client_message::Message::Ack(ack))).await.unwrap();
    }

    async fn batch(&mut self) -> Result<proto::Batch, Status> {
        let message = tokio::time::timeout(PATIENCE, self.inbound.message()).await.unwrap()?;
        let Some(server_message::Message::Batch(batch)) = message.unwrap().message else { panic!("not a batch") };
        Ok(batch)
    }
}

fn message(message: client_message::Message) -> ClientMessage {
    ClientMessage { message: Some(message) }
}

/// What a batch does: the names of its upserts, of its removals, and the version it leads to.
fn effect(batch: &proto::Batch) -> (Vec<&str>, Vec<&str>, Hash) {
    (
        batch.upserts.iter().map(|upsert| upsert.name.as_ref().unwrap().name.as_str()).collect(),
        batch.removals.iter().map(|name| name.name.as_str()).collect(),
        Hash::try_from(batch.version.as_slice()).unwrap(),
    )
}

#[tokio::test]
async fn only_differences_are_sent_and_only_when_there_are_any() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start(&secret).await;
    let first = snapshot(&[("a", 1), ("b", 1)]);
    publish(&controller.publisher, &first);
    let mut raw = Raw::open(&secret, controller.address, TOKEN, None).await.unwrap();
    assert_eq!(effect(&raw.batch().await.unwrap()), (vec!["a", "b"], vec![], first.version()));
    raw.ack(Some(first.version())).await;
    controller.wait_for_ack(first.version()).await;

    publish(&controller.publisher, &snapshot(&[("a", 1), ("b", 1)])); // the same again
    let second = snapshot(&[("b", 2), ("c", 2)]);
    publish(&controller.publisher, &second);
    assert_eq!(effect(&raw.batch().await.unwrap()), (vec!["b", "c"], vec!["a"], second.version()));
}

#[tokio::test]
async fn a_slow_data_plane_skips_what_lies_between() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start(&secret).await;
    let first = snapshot(&[("a", 1)]);
    publish(&controller.publisher, &first);
    let mut raw = Raw::open(&secret, controller.address, TOKEN, None).await.unwrap();
    raw.batch().await.unwrap();

    publish(&controller.publisher, &snapshot(&[("a", 1), ("b", 2)]));
    let last = snapshot(&[("a", 1), ("c", 3)]);
    let publication = publish(&controller.publisher, &last);
    raw.ack(None).await; // a change of readiness is no answer to the batch
    raw.ack(Some(first.version())).await;
    assert_eq!(effect(&raw.batch().await.unwrap()), (vec!["c"], vec![], last.version()));
    assert!(
        controller.publisher.acks().borrow().programmed(&DataPlane::Shared, publication, &BTreeSet::new()).is_err()
    );
    raw.ack(Some(last.version())).await;
    controller.wait_for_ack(last.version()).await;
    assert!(controller.publisher.acks().borrow().programmed(&DataPlane::Shared, publication, &BTreeSet::new()).is_ok());
}

/// Four endpoints to a message, and some fifty to a batch.
const SMALL: Limits = Limits { message: 300, batch: 3000, unused: PATIENCE };

fn many(ports: std::ops::Range<u16>) -> Arc<Snapshot> {
    let names: Vec<_> = ports.map(|port| (format!("shop-{port}"), port)).collect();
    snapshot(&names.iter().map(|(name, port)| (name.as_str(), *port)).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_batch_larger_than_a_message_comes_in_parts_and_is_applied_whole() {
    let (secret, directory) = (InstallationSecret::generate().unwrap(), TempDir::new().unwrap());
    let controller = Controller::start_within(SMALL, &secret, "127.0.0.1:0".parse().unwrap()).await;
    let first = many(100..140);
    publish(&controller.publisher, &first);
    let mut raw = Raw::open(&secret, controller.address, TOKEN, None).await.unwrap();
    let part = raw.batch().await.unwrap();
    assert!(part.more && part.upserts.len() < 10, "{part:?}");
    drop(raw);

    let mut proxy = Proxy::start(directory.path(), &secret, &[controller.address]);
    proxy.wait_for(&first).await;
    controller.wait_for_ack(first.version()).await;
    let second = many(120..160);
    publish(&controller.publisher, &second);
    proxy.wait_for(&second).await;
    controller.wait_for_ack(second.version()).await;
    assert_eq!(*proxy.applied.borrow(), [first.as_ref().clone(), second.as_ref().clone()]);
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_not_sent_and_the_session_goes_on() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start_within(SMALL, &secret, "127.0.0.1:0".parse().unwrap()).await;
    publish(&controller.publisher, &many(100..300));
    let mut raw = Raw::open(&secret, controller.address, TOKEN, None).await.unwrap();
    let mut acks = controller.publisher.acks();
    let heard = acks.wait_for(|acks| acks.connected(&DataPlane::Shared).next().is_some());
    drop(tokio::time::timeout(PATIENCE, heard).await.unwrap().unwrap()); // after it the batch was due

    let fits = snapshot(&[("a", 1)]);
    publish(&controller.publisher, &fits);
    assert_eq!(effect(&raw.batch().await.unwrap()), (vec!["a"], vec![], fits.version()));
}

#[tokio::test]
async fn a_reconnect_that_finds_nothing_new_is_sent_nothing() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start(&secret).await;
    let held = snapshot(&[("a", 1), ("b", 1)]);
    publish(&controller.publisher, &held);
    let mut raw = Raw::open(&secret, controller.address, TOKEN, Some(&held)).await.unwrap();
    controller.wait_for_ack(held.version()).await;
    let next = snapshot(&[("a", 1), ("b", 2)]);
    publish(&controller.publisher, &next);
    assert_eq!(effect(&raw.batch().await.unwrap()), (vec!["b"], vec![], next.version()));
}

#[tokio::test]
async fn nobody_is_answered_before_the_first_publication() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start(&secret).await;
    let first = snapshot(&[("a", 1)]);
    let address = controller.address;
    let mut opening = Box::pin(Raw::open(&secret, address, TOKEN, None));
    tokio::select! {
        biased;
        _ = &mut opening => panic!("answered"),
        // Another client's refusal shows that the server is at work.
        refused = Raw::open(&secret, address, "nonsense", None) => assert!(refused.is_err()),
    }
    publish(&controller.publisher, &first);
    let mut raw = opening.await.unwrap();
    assert_eq!(effect(&raw.batch().await.unwrap()).2, first.version());
}

#[tokio::test]
async fn only_the_accounts_of_data_planes_get_anything() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start(&secret).await;
    publish(&controller.publisher, &snapshot(&[("a", 1)]));
    let refusal = async |token: &str| match Raw::open(&secret, controller.address, token, None).await {
        Ok(_) => panic!("{token:?} was let in"),
        Err(status) => status,
    };
    assert_eq!(refusal("nonsense").await.code(), Code::Unauthenticated);
    assert_eq!(refusal("").await.code(), Code::Unauthenticated);
    let stranger = refusal(STRANGER).await;
    assert_eq!(stranger.code(), Code::PermissionDenied);
    assert!(stranger.message().contains("sluice/stranger"), "{stranger}");

    // A controller of another installation is not believed.
    let other = InstallationSecret::generate().unwrap();
    assert!(Raw::open(&other, controller.address, TOKEN, None).await.is_err());

    // An account that loses its data plane loses its session.
    let mut raw = Raw::open(&secret, controller.address, TOKEN, None).await.unwrap();
    raw.batch().await.unwrap();
    controller.publisher.publish(BTreeMap::from([(DataPlane::Shared, snapshot(&[("a", 2)]))]), BTreeMap::new());
    assert_eq!(raw.batch().await.unwrap_err().code(), Code::PermissionDenied);
    let mut acks = controller.publisher.acks();
    let gone = acks.wait_for(|acks| acks.connected(&DataPlane::Shared).next().is_none());
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_the_data_plane_comes_back_with_the_present_one() {
    let (secret, directory) = (InstallationSecret::generate().unwrap(), TempDir::new().unwrap());
    let controller = Controller::start(&secret).await;
    let first = snapshot(&[("a", 1)]);
    publish(&controller.publisher, &first);
    let mut raw = Raw::open(&secret, controller.address, ENDED, None).await.unwrap();
    raw.batch().await.unwrap();
    let status = raw.batch().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("ended"), "{status}");

    std::fs::write(directory.path().join("token"), ENDED).unwrap();
    let mut proxy = Proxy::start_with(directory.path(), &secret, &[controller.address]);
    controller.wait_for_ack(first.version()).await;
    let of = |acks: &Acks| acks.connected(&DataPlane::Shared).map(|(_, state)| state.session).next();
    let before = of(&controller.publisher.acks().borrow());
    std::fs::write(directory.path().join("token"), TOKEN).unwrap();
    let mut acks = controller.publisher.acks();
    let again = acks.wait_for(|acks| of(acks).is_some() && of(acks) != before);
    tokio::time::timeout(PATIENCE, again).await.unwrap().unwrap();
    let second = snapshot(&[("a", 2)]);
    publish(&controller.publisher, &second);
    proxy.wait_for(&second).await;
    assert_eq!(*proxy.applied.borrow(), [first.as_ref().clone(), second.as_ref().clone()]);
}

#[tokio::test]
async fn a_new_server_certificate_needs_no_restart_and_ends_no_session() {
    let (former, next) = (InstallationSecret::generate().unwrap(), InstallationSecret::generate().unwrap());
    let both = InstallationSecret { next_authority: Some(next.authority.clone()), ..former.clone() };
    let controller = Controller::start(&former).await;
    let first = snapshot(&[("a", 1)]);
    publish(&controller.publisher, &first);
    let mut raw = Raw::open(&both, controller.address, TOKEN, None).await.unwrap();
    raw.batch().await.unwrap();
    raw.ack(Some(first.version())).await;
    assert!(Raw::open(&next, controller.address, TOKEN, None).await.is_err());

    controller.identity.send_replace(next.issue_server().unwrap());
    let changed = async {
        while Raw::open(&next, controller.address, TOKEN, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    assert!(Raw::open(&both, controller.address, TOKEN, None).await.is_ok(), "trusted since before it was shown");
    assert!(Raw::open(&former, controller.address, TOKEN, None).await.is_err());
    let second = snapshot(&[("a", 2)]);
    publish(&controller.publisher, &second);
    assert_eq!(effect(&raw.batch().await.unwrap()).2, second.version());
}

#[tokio::test]
async fn a_source_applies_what_comes_and_rejects_single_resources() {
    let (secret, directory) = (InstallationSecret::generate().unwrap(), TempDir::new().unwrap());
    let controller = Controller::start(&secret).await;
    let first = snapshot(&[("a", 1)]);
    publish(&controller.publisher, &first);
    let mut proxy = Proxy::start(directory.path(), &secret, &[controller.address]);
    proxy.wait_for(&first).await;
    assert!(controller.wait_for_ack(first.version()).await.is_empty());

    let second = snapshot(&[("a", 2), ("bad", 2)]);
    let publication = publish(&controller.publisher, &second);
    proxy.wait_for(&second).await;
    let rejected = controller.wait_for_ack(second.version()).await;
    assert_eq!(rejected, BTreeMap::from([(ResourceId::new(Kind::Endpoints, "bad"), "it is bad".to_owned())]));
    assert!(controller.publisher.acks().borrow().programmed(&DataPlane::Shared, publication, &BTreeSet::new()).is_ok());

    // What is taken after all is no longer rejected, with the same version.
    proxy.rejections.send_replace(Vec::new());
    let mut acks = controller.publisher.acks();
    let taken = acks.wait_for(|acks| acks.rejected(&DataPlane::Shared).is_empty());
    drop(tokio::time::timeout(PATIENCE, taken).await.unwrap().unwrap());
    assert!(controller.wait_for_ack(second.version()).await.is_empty());
    assert_eq!(proxy.applied.borrow().len(), 2, "nothing was sent or applied again");

    proxy.ready.send_replace(false);
    let mut acks = controller.publisher.acks();
    let unready = acks.wait_for(|acks| acks.programmed(&DataPlane::Shared, publication, &BTreeSet::new()).is_err());
    tokio::time::timeout(PATIENCE, unready).await.unwrap().unwrap();
}

#[tokio::test]
async fn another_replica_takes_over_and_all_hear_the_acks() {
    let (secret, directory) = (InstallationSecret::generate().unwrap(), TempDir::new().unwrap());
    let one = Controller::start(&secret).await;
    let other = Controller::start(&secret).await;
    let publish_at = |controllers: &[&Controller], snapshot: &Arc<Snapshot>| {
        for controller in controllers {
            publish(&controller.publisher, snapshot);
        }
    };
    let first = snapshot(&[("a", 1)]);
    publish_at(&[&one, &other], &first);
    let mut proxy = Proxy::start(directory.path(), &secret, &[one.address, other.address]);
    one.wait_for_ack(first.version()).await;
    other.wait_for_ack(first.version()).await;

    // Whichever feeds, one of the two that die below was the feeder.
    let address = one.address;
    drop(one);
    let second = snapshot(&[("a", 2)]);
    publish_at(&[&other], &second);
    proxy.wait_for(&second).await;

    let one = Controller::start_at(&secret, address).await;
    publish_at(&[&one], &second);
    one.wait_for_ack(second.version()).await;
    drop(other);
    let third = snapshot(&[("a", 3)]);
    publish_at(&[&one], &third);
    proxy.wait_for(&third).await;
    one.wait_for_ack(third.version()).await;
    assert_eq!(proxy.applied.borrow().len(), 3, "nothing was sent twice");
}

/// Passes bytes on until told to stop, and then leaves both connections open, as a node does that loses its power.
async fn relay(to: SocketAddr, frozen: watch::Receiver<bool>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(to).await.unwrap();
            let mut frozen = frozen.clone();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => (),
                    () = async { drop(frozen.wait_for(|frozen| *frozen).await) } => std::future::pending().await,
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_replica_that_falls_silent_is_replaced_and_a_silent_data_plane_forgotten() {
    let (secret, directory) = (InstallationSecret::generate().unwrap(), TempDir::new().unwrap());
    let silent = Controller::start(&secret).await;
    let other = Controller::start(&secret).await;
    let (freeze, frozen) = watch::channel(false);
    let relayed = relay(silent.address, frozen).await;
    let first = snapshot(&[("a", 1)]);
    publish(&silent.publisher, &first);
    let mut proxy = Proxy::start(directory.path(), &secret, &[relayed, other.address]);
    silent.wait_for_ack(first.version()).await; // it feeds: the other has published nothing
    publish(&other.publisher, &first);
    other.wait_for_ack(first.version()).await;

    freeze.send_replace(true);
    let second = snapshot(&[("a", 2)]);
    publish(&other.publisher, &second);
    proxy.wait_for(&second).await;
    let mut acks = silent.publisher.acks();
    let gone = acks.wait_for(|acks| acks.connected(&DataPlane::Shared).next().is_none());
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_restarted_data_plane_serves_its_last_good_snapshot_without_controllers() {
    let (secret, directory) = (InstallationSecret::generate().unwrap(), TempDir::new().unwrap());
    let controller = Controller::start(&secret).await;
    let address = controller.address;
    let (first, good) = (snapshot(&[("a", 1), ("bad", 1)]), snapshot(&[("a", 1)]));
    publish(&controller.publisher, &first);
    let mut proxy = Proxy::start(directory.path(), &secret, &[controller.address]);
    proxy.wait_for(&first).await;
    let file = directory.path().join("snapshot.pb");
    tokio::time::timeout(PATIENCE, async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    drop(proxy);
    drop(controller);

    let mut proxy = Proxy::start(directory.path(), &secret, &[address]);
    proxy.wait_for(&good).await;

    // A controller that comes back sends only what is missing.
    let controller = Controller::start_at(&secret, address).await;
    publish(&controller.publisher, &good);
    controller.wait_for_ack(good.version()).await;
    let next = snapshot(&[("a", 2)]);
    publish(&controller.publisher, &next);
    proxy.wait_for(&next).await;
    assert_eq!(*proxy.applied.borrow(), [good.as_ref().clone(), next.as_ref().clone()]);
}

#[tokio::test]
async fn a_damaged_state_file_is_ignored() {
    let (secret, directory) = (InstallationSecret::generate().unwrap(), TempDir::new().unwrap());
    std::fs::write(directory.path().join("snapshot.pb"), b"nonsense").unwrap();
    let controller = Controller::start(&secret).await;
    let first = snapshot(&[("a", 1)]);
    publish(&controller.publisher, &first);
    let mut proxy = Proxy::start(directory.path(), &secret, &[controller.address]);
    proxy.wait_for(&first).await;
    assert_eq!(proxy.applied.borrow().len(), 1);
}

/// Without it, whoever reaches the port could take up every connection that is served.
#[tokio::test]
async fn a_connection_without_a_session_is_closed_and_one_with_a_session_stays() {
    let secret = InstallationSecret::generate().unwrap();
    let limits = Limits { unused: Duration::from_millis(50), ..Limits::default() };
    let controller = Controller::start_within(limits, &secret, "127.0.0.1:0".parse().unwrap()).await;
    publish(&controller.publisher, &snapshot(&[("a", 1)]));
    let mut raw = Raw::open(&secret, controller.address, TOKEN, None).await.unwrap();
    raw.batch().await.unwrap();

    let mut roots = rustls::RootCertStore::empty();
    let authority = rustls::pki_types::CertificateDer::from_pem_slice(secret.trusted().as_bytes()).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    for greeting in ["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let socket = TcpStream::connect(controller.address).await.unwrap();
        let mut silent = connector.connect(SERVER_NAME.try_into().unwrap(), socket).await.unwrap();
        silent.write_all(greeting.as_bytes()).await.unwrap();
        let mut farewell = Vec::new();
        let closed = silent.read_to_end(&mut farewell);
        let _ = tokio::time::timeout(PATIENCE, closed).await.expect("it is closed");
    }

    let next = snapshot(&[("a", 2)]);
    raw.ack(Some(snapshot(&[("a", 1)]).version())).await;
    publish(&controller.publisher, &next);
    assert_eq!(effect(&raw.batch().await.unwrap()).2, next.version());
}

#[tokio::test]
async fn sessions_of_tokens_without_a_pod_are_few_and_free_their_place() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start(&secret).await;
    publish(&controller.publisher, &snapshot(&[("a", 1)]));
    let mut open = Vec::new();
    let refusal = loop {
        match Raw::open(&secret, controller.address, TOKEN, None).await {
            Ok(session) => open.push(session),
            Err(status) => break status,
        }
        assert!(open.len() < 100);
    };
    assert_eq!((refusal.code(), open.len()), (Code::ResourceExhausted, 8));
    open.pop();
    let again = async {
        while Raw::open(&secret, controller.address, TOKEN, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn a_hello_full_of_made_up_names_gets_everything_and_is_forgotten() {
    let secret = InstallationSecret::generate().unwrap();
    let controller = Controller::start(&secret).await;
    let published = snapshot(&[("a", 1)]);
    publish(&controller.publisher, &published);
    let made_up: Vec<_> = (0..20_000).map(|number| (format!("made-up-{number}"), 1)).collect();
    let made_up = snapshot(&made_up.iter().map(|(name, port)| (name.as_str(), *port)).collect::<Vec<_>>());
    let mut raw = Raw::open(&secret, controller.address, TOKEN, Some(&made_up)).await.unwrap();
    assert_eq!(effect(&raw.batch().await.unwrap()), (vec!["a"], vec![], published.version()));
}
