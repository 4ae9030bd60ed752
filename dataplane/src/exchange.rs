//! The record of one request and its answer, from the first byte of one to the last byte of the other.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use snapshot::Scheme;
use tokio::time::Instant;

use crate::balance::Picked;
use crate::body::Upload;
use crate::connection::Client;
use crate::filter::Effects;
use crate::reason::Reason;
use crate::route::Rule;

/// What is known of an exchange so far. Dropping it ends the exchange: counts it, logs it, and releases what it held.
pub struct Exchange(Box<Record>);

/// The facts.
pub struct Record {
    /// The connection that the request came on.
    pub client: Rc<Client>,
    /// The client's address, as far as it is believed.
    pub address: IpAddr,
    /// Whether the client used HTTPS, as far as that is believed.
    pub https: bool,
    /// When the request's head was complete.
    pub start: Instant,
    /// The request's method.
    pub method: Method,
    /// The request's target as sent.
    pub uri: Uri,
    /// The request's protocol.
    pub version: Version,
    /// The request's host as sent.
    pub host: Option<HeaderValue>,
    /// The identifier that was passed on.
    pub request_id: Option<HeaderValue>,
    /// The rule that answers.
    pub rule: Option<Arc<Rule>>,
    /// The place of the backend that was chosen among those of the rule, where it has filters of its own.
    pub backend: Option<usize>,
    /// The endpoint that was asked last.
    pub endpoint: Option<SocketAddr>,
    /// How long the endpoint took to the head of its answer.
    pub upstream_took: Option<Duration>,
    /// The request's body.
    pub upload: Option<Rc<Upload>>,
    /// Whether it is a gRPC call, which takes no other answers.
    pub grpc: bool,
    /// The answer's status; none when the client left before.
    pub status: Option<StatusCode>,
    /// Why the data plane answered by itself, or ended the answer early.
    pub reason: Option<Reason>,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// What its filters left for later.
    pub effects: Effects,
    /// Counts at the endpoint until the end.
    pub picked: Option<Picked>,
}

impl Exchange {
    /// An exchange that begins now.
    pub fn begin(client: Rc<Client>, request: &Parts) -> Self {
        client.watch.request_begins();
        client.worker.stats.request_begins();
        Self(Box::new(Record {
            address: client.origin.peer(),
            https: client.origin.scheme() == Scheme::Https,
            client,
            start: Instant::now(),
            method: request.method.clone(),
            uri: request.uri.clone(),
            version: request.version,
            host: None,
            request_id: None,
            rule: None,
            backend: None,
            endpoint: None,
            upstream_took: None,
            upload: None,
            grpc: is_grpc(request),
            status: None,
            reason: None,
            bytes_out: 0,
            effects: Effects::default(),
            picked: None,
        }))
    }

    /// Bytes of the answer's body were passed on.
    pub fn sent(&mut self, bytes: u64) {
        self.0.bytes_out += bytes;
    }

    /// The answer ends early; the first reason stays.
    pub fn failed(&mut self, reason: Reason) {
        self.0.reason.get_or_insert(reason);
    }
}

/// Whether a client of gRPC sent this. Not one of gRPC-Web, which understands answers of HTTP.
fn is_grpc(request: &Parts) -> bool {
    let type_of = || request.headers.get(CONTENT_TYPE)?.as_bytes().strip_prefix(b"application/grpc");
    request.version == Version::HTTP_2
        && request.method == Method::POST
        && type_of().is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl std::ops::Deref for Exchange {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.0
    }
}

impl std::ops::DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut Record {
        &mut self.0
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("method", &self.method).field("status", &self.status).finish_non_exhaustive()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.0.status = Some(Reason::ClientGone.status());
            self.failed(Reason::ClientGone);
            self.client.worker.cancelled(&self.client.watch);
        }
        let took = self.start.elapsed();
        let client = self.client.clone();
        client.watch.request_ends();
        client.worker.finished(&self.0, took);
    }
}
