//! One session: a state machine between what a data plane says and what is published.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use snapshot::proto::{self, ClientMessage, ServerMessage, client_message, server_message};
use snapshot::{CAPABILITIES, Hash, ResourceId, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Status, Streaming};
use translate::DataPlane;

use super::held::Held;
use super::parts::{Limits, cut};
use super::publisher::Published;
use super::{Connected, Identity, Publisher, ServiceAccount};
use crate::wait::until;

/// From the begin of a session to its Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// So many rejections are kept of one data plane, each with so many bytes of its reason.
const MAX_REJECTED: usize = 1000;
const MAX_REASON: usize = 1000;

/// Longer instance names are refused.
const MAX_INSTANCE: usize = 253;

/// So long after the end of its token a session ends: clocks differ, and a kubelet renews the token well before.
const EXPIRY_GRACE: Duration = Duration::from_secs(5);

pub(super) struct Session {
    account: ServiceAccount,
    data_plane: DataPlane,
    publisher: Publisher,
    published: watch::Receiver<Option<Arc<Published>>>,
    inbound: Streaming<ClientMessage>,
    number: u64,
    /// The pod's name; without one, what the data plane calls itself, which is no pod's name.
    instance: String,
    /// When the data plane has to show its present token.
    ends: Option<Instant>,
    /// What the data plane holds, when it is fed here.
    feeding: Option<Held>,
    /// What it will hold when it acknowledges the batch that is under way.
    in_flight: Option<Arc<Snapshot>>,
    /// What of it is still to be sent.
    unsent: VecDeque<proto::Batch>,
    acknowledged: Option<Hash>,
    /// A version that is too far from what is held to be sent.
    unsendable: Option<Hash>,
    limits: Limits,
}

impl Session {
    /// Begins a session with its Hello.
    pub(super) async fn begin(
        identity: Identity,
        data_plane: DataPlane,
        publisher: Publisher,
        mut inbound: Streaming<ClientMessage>,
        limits: Limits,
    ) -> Result<Self, Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came in time"))??;
        let Some(client_message::Message::Hello(hello)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("the first message must be a Hello"));
        };
        if hello.instance.is_empty() || hello.instance.len() > MAX_INSTANCE {
            return Err(Status::invalid_argument("the Hello must name the instance"));
        }
        let mut session = Self {
            number: publisher.next_session(),
            published: publisher.watch(),
            account: identity.account,
            data_plane,
            publisher,
            inbound,
            // Who holds a token speaks for the pod that it was made for and for no other.
            instance: identity.pod.unwrap_or_else(|| format!("unbound/{}", hello.instance)),
            ends: identity.expires.and_then(end),
            feeding: None,
            in_flight: None,
            unsent: VecDeque::new(),
            acknowledged: None,
            unsendable: None,
            limits,
        };
        session.introduce(&hello);
        session.greet(hello)?;
        Ok(session)
    }

    /// The next message for the data plane; `None` when it ended the session. Loses nothing when dropped and called again.
    pub(super) async fn next(&mut self) -> Option<Result<ServerMessage, Status>> {
        loop {
            match self.batch() {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => (),
                Err(status) => return Some(Err(status)),
            }
            let heard = tokio::select! {
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => self.hear(message),
                    Ok(None) => return None,
                    Err(status) => {
                        tracing::info!(data_plane = %self.data_plane, instance = %self.instance, %status, "a session broke");
                        return None;
                    }
                },
                () = until(self.ends) => Err(Status::unauthenticated("the token of this session has ended: connect again with the present one")),
                changed = self.published.changed() => changed.map_err(|_| Status::unavailable("the controller stops")),
            };
            if let Err(status) = heard {
                return Some(Err(status));
            }
        }
    }

    /// The batch that is due, if one is, or its next part.
    fn batch(&mut self) -> Result<Option<ServerMessage>, Status> {
        let published = self.published.borrow_and_update().clone();
        let Some(published) = published else { return Ok(None) };
        if published.data_plane(&self.account) != Some(&self.data_plane) {
            return Err(not_mapped(&self.account));
        }
        if let Some(part) = self.unsent.pop_front() {
            return Ok(Some(message(part)));
        }
        let (Some(held), None) = (&self.feeding, &self.in_flight) else { return Ok(None) };
        let Some(offer) = published.offer(&self.data_plane) else { return Ok(None) };
        if [self.acknowledged, self.unsendable].contains(&Some(offer.version)) {
            return Ok(None);
        }
        let batch = held.diff(&offer.snapshot);
        let mut parts = match cut(&batch, self.limits) {
            Ok(parts) => parts,
            Err(error) => {
                tracing::error!(
                    data_plane = %self.data_plane, instance = %self.instance, version = %batch.version, %error,
                    "cannot send a batch; the data plane stays at what it holds"
                );
                self.unsendable = Some(batch.version);
                return Ok(None);
            }
        };
        tracing::debug!(
            data_plane = %self.data_plane, instance = %self.instance, version = %batch.version,
            upserts = batch.upserts.len(), removals = batch.removals.len(), parts = parts.len(), "sends a batch"
        );
        let first = parts.pop_front();
        self.unsent = parts;
        self.in_flight = Some(offer.snapshot.clone());
        Ok(first.map(message))
    }

    fn hear(&mut self, message: ClientMessage) -> Result<(), Status> {
        match message.message {
            Some(client_message::Message::Hello(hello)) => self.greet(hello),
            Some(client_message::Message::Ack(ack)) => self.acknowledge(ack),
            // From a newer data plane, which must do without an answer.
            None => Ok(()),
        }
    }

    /// A Hello begins anew: whatever was in flight is not waited for.
    fn greet(&mut self, hello: proto::Hello) -> Result<(), Status> {
        self.in_flight = None;
        self.unsent.clear();
        self.unsendable = None;
        self.feeding = None;
        if !hello.feed {
            return Ok(());
        }
        let said = hello.held.len();
        let published = self.published.borrow().clone();
        let base = published.and_then(|published| Some(published.offer(&self.data_plane)?.snapshot.clone()));
        let held = Held::of(hello.held, base.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(format!("a held hash {error}")))?;
        // Who holds nothing has not acknowledged the empty snapshot. Who holds more than is known here (of a newer controller, or
        // of a longer past than a session keeps) is sent a batch in any case: it will not lead to the version it promises, and
        // the data plane asks for everything.
        let comparable = !held.is_empty() && held.len() == said;
        self.acknowledged = comparable.then(|| held.version());
        self.feeding = Some(held);
        Ok(())
    }

    fn acknowledge(&mut self, ack: proto::Ack) -> Result<(), Status> {
        self.acknowledged = match ack.version.as_slice() {
            [] => None,
            version => {
                Some(Hash::try_from(version).map_err(|error| Status::invalid_argument(format!("version {error}")))?)
            }
        };
        if let Some(offered) = self.in_flight.take_if(|offered| {
            self.unsent.is_empty() && self.acknowledged == Some(offered.version()) // another ack tells of readiness
        }) {
            self.feeding = Some(Held::from(offered));
        }
        let mut state = Connected::new(self.number);
        state.version = self.acknowledged;
        state.ready = ack.ready;
        let published = self.published.borrow().clone();
        let offer = published.as_ref().and_then(|published| published.offer(&self.data_plane));
        let rejected = ack.rejected.into_iter().take(MAX_REJECTED).filter_map(rejection);
        // Names that are not published here are of no use, and could be of any length.
        let known = |id: &ResourceId| offer.is_some_and(|offer| offer.snapshot.get(id).is_some());
        state.rejected = rejected.filter(|(id, _)| known(id)).collect();
        for (id, reason) in &state.rejected {
            tracing::debug!(data_plane = %self.data_plane, instance = %self.instance, resource = %id, reason, "rejected");
        }
        self.publisher.update_acks(|acks| acks.heard(&self.data_plane, &self.instance, state));
        Ok(())
    }

    fn introduce(&self, hello: &proto::Hello) {
        let known: BTreeSet<&str> = hello.capabilities.iter().map(String::as_str).collect();
        let missing: Vec<&str> = CAPABILITIES.iter().filter(|name| !known.contains(*name)).copied().collect();
        let (data_plane, instance) = (&self.data_plane, self.instance.as_str());
        tracing::info!(%data_plane, instance, version = %hello.version, account = %self.account, "a data plane connected");
        if !missing.is_empty() {
            tracing::warn!(%data_plane, instance, ?missing, "it is older and will answer 500 where these filters are used");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.publisher.update_acks(|acks| acks.ended(&self.data_plane, &self.instance, self.number));
    }
}

/// The end of a session whose token ends then; `None` when that is too far away to be told.
fn end(expires: SystemTime) -> Option<Instant> {
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now().checked_add(left + EXPIRY_GRACE)
}

/// The answer to an account that speaks for no data plane.
pub(super) fn not_mapped(account: &ServiceAccount) -> Status {
    Status::permission_denied(format!(
        "the ServiceAccount {account} does not belong to a data plane of this installation"
    ))
}

fn message(part: proto::Batch) -> ServerMessage {
    ServerMessage { message: Some(server_message::Message::Batch(part)) }
}

fn rejection(rejected: proto::Rejected) -> Option<(ResourceId, String)> {
    // A kind that is not known here was not sent from here.
    let id = ResourceId::try_from(rejected.name?).ok()?;
    let mut reason = rejected.reason;
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    Some((id, reason))
}
