//! The typed model. Every value that exists is valid: what a user wrote was parsed into these types by `translate`,
//! and what arrives over the wire is parsed into them again by `convert`.
//!
//! `Serialize` is for people (golden files, `sluice explain -o json`); the wire format is protobuf.

use std::cmp::Reverse;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;

use crate::Secret;

/// The kinds of resources in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// See [`Settings`]; there is exactly one, named `settings`.
    Settings,
    /// See [`Certificate`].
    Certificate,
    /// See [`Listener`].
    Listener,
    /// See [`Endpoints`].
    Endpoints,
    /// See [`Cluster`].
    Cluster,
    /// See [`Route`].
    Route,
    /// See [`L4Route`].
    L4Route,
}

/// The name of a resource, unique in a snapshot and stable over edits of its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceId {
    /// The resource's kind.
    pub kind: Kind,
    /// The name within the kind, for example `shop/cart:80` of an [`Endpoints`] or `Ingress/shop/web/shop.example` of a [`Route`].
    pub name: String,
}

impl ResourceId {
    /// An id from its two parts.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

impl Serialize for ResourceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One resource of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Resource {
    /// Where connections are accepted.
    Listener(Listener),
    /// What answers which requests.
    Route(Route),
    /// Where which connections go.
    L4Route(L4Route),
    /// How a backend is reached.
    Cluster(Cluster),
    /// The addresses of a backend.
    Endpoints(Endpoints),
    /// A certificate with its key.
    Certificate(Certificate),
    /// What holds for the whole data plane.
    Settings(Settings),
}

impl Resource {
    /// The kind of this resource.
    pub fn kind(&self) -> Kind {
        match self {
            Resource::Listener(_) => Kind::Listener,
            Resource::Route(_) => Kind::Route,
            Resource::L4Route(_) => Kind::L4Route,
            Resource::Cluster(_) => Kind::Cluster,
            Resource::Endpoints(_) => Kind::Endpoints,
            Resource::Certificate(_) => Kind::Certificate,
            Resource::Settings(_) => Kind::Settings,
        }
    }
}

/// A set of host names, always in lower case and without a trailing dot.
///
/// The order of the variants is the order in which they are looked up: the most specific first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(String),
    /// `*.suffix` of an Ingress: exactly one label before the suffix (the field holds the suffix without `*.`).
    OneLabel(String),
    /// `*.suffix` of the Gateway API: one or more labels before the suffix (the field holds the suffix without `*.`).
    AnyLabels(String),
    /// Every name, and requests without one.
    Any,
}

impl HostPattern {
    /// Of two patterns that have names in common the one whose names are all in both: they are nested.
    pub fn narrower<'p>(&'p self, other: &'p Self) -> &'p Self {
        let width = |pattern: &Self| match pattern {
            Self::Exact(_) => (0, Reverse(0)),
            Self::OneLabel(suffix) | Self::AnyLabels(suffix) => (1, Reverse(suffix.len())),
            Self::Any => (2, Reverse(0)),
        };
        if width(other) < width(self) { other } else { self }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::OneLabel(suffix) | HostPattern::AnyLabels(suffix) => write!(f, "*.{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A port on which connections are accepted for a set of host names.
///
/// Listeners that share a port share its socket. A request belongs to the listener with the most specific host name
/// that matches (exact, longest wildcard, any) and is served by that listener's routes only; listeners with the
/// same port and host name are served as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// The port to bind, as it is: of UDP for [`Protocol::Udp`], else of TCP.
    pub port: u16,
    /// The names that this listener answers for.
    pub hostname: HostPattern,
    /// What is spoken on the port.
    pub protocol: Protocol,
}

/// What a listener speaks. HTTP/1.1 and HTTP/2 are both always offered (ALPN, or prior knowledge on plain ports).
///
/// Listeners of one port are all [`Protocol::Http`], or all [`Protocol::Tcp`], or all [`Protocol::Udp`], or told apart by
/// the server name of the ClientHello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Protocol {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS, terminated here.
    Https(Tls),
    /// TLS that is not opened; [`L4Route`]s choose by server name.
    TlsPassthrough,
    /// TLS, terminated here; what is inside goes where [`L4Route`]s say, which choose by server name.
    TlsTerminate(Tls),
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
}

/// The server's side of TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tls {
    /// Certificates by server name (SNI); the most specific pattern wins.
    pub certificates: Vec<ServerCertificate>,
    /// Name of the [`Certificate`] for clients whose server name matches none, or that sent none.
    /// Without one the handshake is refused.
    pub default_certificate: Option<String>,
    /// What clients have to show; `None` asks for nothing.
    pub client_validation: Option<ClientValidation>,
}

/// How certificates of clients are checked (GEP-91).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum ClientValidation {
    /// The handshake fails unless the client shows a certificate that chains to one of these authorities (DER).
    Required(#[serde(serialize_with = "count")] Vec<Vec<u8>>),
    /// A certificate is asked for; any will do, and none too (`AllowInsecureFallback`).
    Requested,
}

/// A certificate and the server names for which it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerCertificate {
    /// The server names.
    pub hosts: Vec<HostPattern>,
    /// Name of the [`Certificate`].
    pub certificate: String,
}

/// A certificate chain with its private key. The two have been checked to fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// The chain in DER, leaf first.
    #[serde(serialize_with = "count")]
    pub chain: Vec<Vec<u8>>,
    /// The private key in DER (PKCS#8, PKCS#1 or SEC1).
    pub key: Secret,
    /// For people: the leaf's names and end of life, for example `shop.example until 2027-01-31`.
    pub summary: String,
}

fn count<S: serde::Serializer>(chain: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("({} certificates)", chain.len()))
}

/// The rules that one user's object adds to some listeners, for one set of host names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where the rules apply.
    pub attachments: Vec<Attachment>,
    /// The rules; their order carries no meaning ([`Match::rank`] does).
    pub rules: Vec<Rule>,
}

/// A listener to which a route is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// Name of the [`Listener`].
    pub listener: String,
    /// The host names of the route on this listener. Never empty. They may be wider than the listener's: each has names in common
    /// with it, and only requests for those come to the listener.
    pub hostnames: Vec<HostPattern>,
}

/// Where one user's object sends connections, or datagrams, of some listeners that do not speak HTTP.
///
/// A connection belongs to the listener with the most specific host name for its server name, then to the route with the
/// most specific host name there, then to the one with the smallest `rank`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct L4Route {
    /// For people and metrics: the object, for example `TCPRoute shop/db`.
    pub name: String,
    /// Where it applies; without TLS, host names are [`HostPattern::Any`].
    pub attachments: Vec<Attachment>,
    /// Precedence among routes of the same listener and host name: only the smallest gets traffic.
    pub rank: Rank,
    /// One is chosen by weight for each connection, or each client's datagrams. Where there is none, or its target is
    /// refused, connections are closed and datagrams dropped.
    pub backends: Vec<L4Backend>,
}

/// One choice among an [`L4Route`]'s backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct L4Backend {
    /// The share of connections: weight divided by the sum of weights.
    pub weight: u32,
    /// Where this share goes.
    pub target: Target,
}

/// What happens to the requests that one of `matches` selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// For people and metrics: the object and the place in it, for example `HTTPRoute shop/cart rule 0`. Sessions are bound to it.
    pub name: String,
    /// Alternatives; never empty.
    pub matches: Vec<Match>,
    /// Applied in order: request filters on the way in, response filters on the way out.
    pub filters: Vec<Filter>,
    /// Where the request goes.
    pub action: Action,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// When it is tried again, besides failed connections.
    pub retry: Option<Retry>,
    /// How a client stays on its backend and endpoint; goes before the [`Cluster::persistence`] of the backends.
    pub persistence: Option<SessionPersistence>,
    /// Largest request body in bytes; `None` is unlimited.
    pub max_body: Option<u64>,
    /// Where policies on this rule come from, for `sluice explain`: one line each.
    pub origins: Vec<String>,
}

/// A condition on a request; all of its parts must hold.
///
/// Candidates are tried by host (exact, longest wildcard, any), then by path (exact, then regular expressions by
/// rank, then longest prefix), then by `rank`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Match {
    /// On the path.
    pub path: PathMatch,
    /// On the method, in upper case.
    pub method: Option<String>,
    /// On headers, all of them.
    pub headers: Vec<ValueMatch>,
    /// On query parameters, all of them; of a repeated parameter the first value counts.
    pub query: Vec<ValueMatch>,
    /// Precedence among matches on the same host and path: the smallest is tried first.
    pub rank: Rank,
}

impl Match {
    /// The regular expressions of the match: of its path, its headers and its query parameters.
    pub fn expressions(&self) -> impl Iterator<Item = &str> {
        let path = match &self.path {
            PathMatch::Regex(expression) => Some(expression.as_str()),
            PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::LastElement(_) => None,
        };
        let values = self.headers.iter().chain(&self.query).filter_map(|condition| match &condition.value {
            ValuePattern::Regex(expression) => Some(expression.as_str()),
            ValuePattern::Exact(_) => None,
        });
        path.into_iter().chain(values)
    }
}

/// A condition on the path, without the query.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum PathMatch {
    /// Exactly this path.
    Exact(String),
    /// This path and everything below it, by element: `/a` holds for `/a`, `/a/` and `/a/b`, not for `/ab`.
    /// Without trailing slash, except for `/` itself.
    Prefix(String),
    /// Any path whose last element is this: the method of a gRPC call, whatever its service. Ranks as the prefix `/`.
    LastElement(String),
    /// A regular expression (syntax of the `regex` crate) that must match the whole path.
    Regex(String),
}

/// A condition on a header or a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ValueMatch {
    /// The name; of headers in lower case.
    pub name: String,
    /// The value.
    pub value: ValuePattern,
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum ValuePattern {
    /// Exactly this value.
    Exact(String),
    /// A regular expression that must match the whole value.
    Regex(String),
}

/// The order among candidates that match the same host and path. Computed by `translate`; a data plane only compares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rank {
    /// Smaller is more specific (method, then number of headers, then of query parameters).
    pub specificity: u32,
    /// Creation of the object in seconds since 1970; the oldest goes first.
    pub created: i64,
    /// `namespace/name` of the object.
    pub object: String,
    /// Position of the rule in the object.
    pub rule: u32,
}

/// What a rule does with a request once its filters have passed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Sends it to one of the backends, chosen by weight. Never empty; the weights' sum may be 0, which refuses with
    /// [`Refusal::InvalidBackend`].
    Forward(Vec<Backend>),
    /// Answers without a backend.
    Refuse(Refusal),
}

/// One choice among a rule's backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// The share of requests: weight divided by the sum of weights.
    pub weight: u32,
    /// Where this share goes.
    pub target: Target,
    /// Filters of this backend only, applied after the rule's.
    pub filters: Vec<Filter>,
}

/// Where a backend's share of requests goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Target {
    /// Name of the [`Cluster`].
    Cluster(String),
    /// The reference is broken; its share is answered like this.
    Refuse(Refusal),
}

/// Why a rule answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Refusal {
    /// 404: a host or path that its owner left without a backend.
    NotFound,
    /// 500: the specification's answer for an invalid or missing backend (Gateway API).
    InvalidBackend,
    /// 503: the Service does not exist or a setting of the route cannot be honoured (ingress-nginx).
    Unavailable,
    /// 500: this rule carries something that this data plane does not know; it is not served without it.
    Unsupported,
}

/// Limits in time. `None` is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// From the first attempt to an established connection (TLS included), per attempt.
    #[serde(with = "seconds")]
    pub connect: Option<Duration>,
    /// Between two reads from the backend.
    #[serde(with = "seconds")]
    pub read: Option<Duration>,
    /// Between two writes to the backend.
    #[serde(with = "seconds")]
    pub send: Option<Duration>,
    /// The whole exchange from the request's arrival to the end of the response, retries included (GEP-1742 `request`).
    #[serde(with = "seconds")]
    pub request: Option<Duration>,
    /// One attempt at a backend, up to the end of the response (GEP-1742 `backendRequest`).
    #[serde(with = "seconds")]
    pub backend_request: Option<Duration>,
}

/// When a request is tried again (GEP-1731), on endpoints that it was not tried on as long as there are any. The budget that
/// bounds retries without this does not: who writes this gets the attempts that it says. All of them end with
/// [`Timeouts::request`]. A body of more than 64 KiB is not kept, so its request is sent once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retry {
    /// How many times after the first. At least 1, at most [`Retry::MOST_ATTEMPTS`].
    pub attempts: u32,
    /// The statuses, 400 to 599, that count as failed, whatever the method. So do connections that fail and attempts that take
    /// too long, where nothing was sent or the method is idempotent. When all attempts are used up, the last answer is the
    /// client's.
    pub statuses: Vec<u16>,
    /// How long to wait before the first retry; twice as long before each further one. Zero does not wait.
    #[serde(serialize_with = "one_duration")]
    pub backoff: Duration,
}

impl Retry {
    /// Most attempts after the first: with pauses that double from 25 ms these take more than ten minutes, and without pauses
    /// each request is already so many for its backends.
    pub const MOST_ATTEMPTS: u32 = 30;
}

mod seconds {
    use std::time::Duration;

    pub fn serialize<S: serde::Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(duration) => serializer.collect_str(&format_args!("{}s", duration.as_secs_f64())),
            None => serializer.serialize_none(),
        }
    }
}

/// A step that a request or its response goes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Filter {
    /// Changes the request's headers.
    RequestHeaders(HeaderEdit),
    /// Changes the response's headers.
    ResponseHeaders(HeaderEdit),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Changes host and path of the request.
    Rewrite(Rewrite),
    /// Answers plain requests with a redirect to HTTPS (ingress-nginx `ssl-redirect`).
    HttpsRedirect(HttpsRedirect),
    /// Answers a path without its trailing slash with a redirect to the path with it (ingress-nginx, a path written `/a/`).
    TrailingSlashRedirect,
    /// Request headers as ingress-nginx sends them besides ours: `X-Forwarded-Scheme`, `X-Scheme`,
    /// `X-Original-Forwarded-For`; names with an underscore are dropped; the response loses the backend's `Server`.
    NginxHeaders,
    /// `Strict-Transport-Security` with this value on every HTTPS answer, in place of the backend's.
    StrictTransportSecurity(String),
    /// At most so many requests in a time.
    RateLimit(RateLimit),
    /// At most so many requests at once.
    ConnectionLimit(ConnectionLimit),
    /// Sends a copy elsewhere and forgets its answer.
    Mirror(Mirror),
    /// Answers preflight requests, and says on other answers who may read them.
    Cors(Cors),
    /// Asks a service whether the request may pass.
    ExternalAuth(ExternalAuth),
    /// Sent by a newer controller; the rule is refused with [`Refusal::Unsupported`].
    Unknown,
}

/// Changes to headers, applied in the order set, add, remove. Names are valid header names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdit {
    /// Replaces all values of a name by one.
    pub set: Vec<(String, String)>,
    /// Adds a value, keeping those that are there.
    pub add: Vec<(String, String)>,
    /// Removes all values of a name.
    pub remove: Vec<String>,
}

impl HeaderEdit {
    /// Names that no edit may change, but for `host`, which an edit of requests may set: they say where a message ends
    /// and what becomes of its connection, which is between each two hops (RFC 9110, 7.6.1; RFC 9112, 6), and where a
    /// request goes.
    pub const FIXED: [&str; 10] = [
        "connection",
        "content-length",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
}

/// An answer that sends the client elsewhere (Gateway API `RequestRedirect`). What is `None` stays as requested;
/// the query is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The host name without port.
    pub hostname: Option<String>,
    /// The port. `None`: the well-known port of `scheme` where that is set, else the listener's. Well-known ports are
    /// left out of the `Location`.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A URL scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

/// A change of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    /// The whole path becomes this.
    Full(String),
    /// The matched prefix becomes this.
    Prefix(String),
}

/// A change of the request's target (Gateway API `URLRewrite`); the query is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// The new `Host`, a name without port.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathRewrite>,
}

/// See [`Filter::HttpsRedirect`]. One trailing slash of the request's path is cut, as ingress-nginx does;
/// paths under `/.well-known/acme-challenge` are left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpsRedirect {
    /// The port for the `Location`; `None` when it is 443.
    pub port: Option<u16>,
    /// 301, 302, 307 or 308.
    pub status: u16,
}

/// A token bucket per key, held by each data plane for itself (GCRA).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RateLimit {
    /// Names the buckets: they survive every change of the snapshot that keeps this id, `requests` and `per`.
    pub id: String,
    /// What has a bucket of its own.
    pub key: LimitKey,
    /// The rate is `requests` in `per`. At least 1.
    pub requests: u32,
    /// See `requests`.
    #[serde(serialize_with = "one_duration")]
    pub per: Duration,
    /// Requests beyond the rate that pass at once when the bucket is full: a key that was idle may send `burst + 1` at once.
    pub burst: u32,
    /// Status of the refusal: 429, or 503 as ingress-nginx answers.
    pub status: u16,
    /// Clients that are not limited.
    pub exempt: Vec<IpNet>,
}

fn one_duration<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}s", duration.as_secs_f64()))
}

/// What has a bucket of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum LimitKey {
    /// The client's address (IPv6: its /64).
    ClientIp,
    /// The value of this request header; requests without it share one bucket.
    Header(String),
}

/// At most `connections` requests of one client address at once (ingress-nginx `limit-connections`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionLimit {
    /// Names the counters, as [`RateLimit::id`].
    pub id: String,
    /// At least 1.
    pub connections: u32,
    /// Status of the refusal.
    pub status: u16,
    /// Clients that are not limited.
    pub exempt: Vec<IpNet>,
}

/// Copies of requests (Gateway API `RequestMirror`). The copy is as the request is at this place among the filters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mirror {
    /// Name of the [`Cluster`] that gets the copies.
    pub cluster: String,
    /// The share of requests that is copied: `numerator` of `denominator`, not more than all.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

/// Cross-origin requests (GEP-1767, the Fetch standard).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Whose scripts may read answers. Empty: nobody's.
    pub allow_origins: Vec<OriginPattern>,
    /// Whether they may with the user's credentials; then no `*` is ever sent.
    pub allow_credentials: bool,
    /// Methods besides the simple ones.
    pub allow_methods: AllowList,
    /// Request headers besides the simple ones.
    pub allow_headers: AllowList,
    /// Response headers that scripts may read.
    pub expose_headers: AllowList,
    /// How many seconds the answer to a preflight request holds.
    pub max_age: u32,
}

/// A question to a service whether a request may pass (GEP-1494); without an answer it may not. The service sees the request as
/// it is at this place among the filters, and what it refuses is answered as it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExternalAuth {
    /// Name of the [`Cluster`] that is asked.
    pub cluster: String,
    /// How it is asked.
    pub protocol: AuthProtocol,
    /// Largest request body in bytes that the service sees; larger ones are refused. 0: it sees none, however large.
    pub max_body: u16,
}

/// How a service is asked whether a request may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum AuthProtocol {
    /// With a request of the same method, host, path and query: 200 lets pass.
    Http(HttpAuth),
    /// With a call of Envoy's protocol, `envoy.service.auth.v3.Authorization/Check`. The cluster speaks HTTP/2.
    Grpc(GrpcAuth),
}

/// What a service that is asked by gRPC sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GrpcAuth {
    /// Headers that it sees, in lower case.
    pub request_headers: AllowList,
}

/// What a service that is asked by HTTP sees, and what it may say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpAuth {
    /// What stands before the path; empty, or with a leading and without a trailing slash.
    pub path_prefix: String,
    /// Headers that it sees besides `Authorization`, in lower case.
    pub request_headers: Vec<String>,
    /// Headers of its answer that go into a request that may pass, in lower case, in place of the client's. Of names that are
    /// listed nothing of the client's remains that the service did not see.
    pub response_headers: AllowList,
}

/// A set of origins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum OriginPattern {
    /// Every origin.
    Any,
    /// This one, as browsers write it: `https://shop.example`, with its port unless that is the scheme's own.
    Exact(String),
    /// Every name below a suffix.
    Subdomains {
        /// The scheme in lower case, without `://`.
        scheme: String,
        /// The suffix in lower case without `*.`; empty: every name.
        suffix: String,
        /// The port, unless it is the scheme's own.
        port: Option<u16>,
    },
}

/// A list of names, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum AllowList {
    /// `*`.
    Any,
    /// These, as written.
    These(Vec<String>),
}

/// How a backend is reached. Endpoints live in a resource of their own, so that their changes touch nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Name of the [`Endpoints`].
    pub endpoints: String,
    /// What is spoken with the endpoints.
    pub protocol: BackendProtocol,
    /// How one is chosen.
    pub balancer: Balancer,
    /// How a client stays on one.
    pub persistence: Option<Persistence>,
    /// When one is left out for failing.
    pub passive_health: Option<PassiveHealth>,
}

/// What is spoken with a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (gRPC, `kubernetes.io/h2c`).
    Http2,
    /// HTTP/1.1 over TLS.
    Https(BackendTls),
    /// HTTP/2 over TLS (`GRPCS`).
    Http2Tls(BackendTls),
    /// Bytes, for [`L4Route`]s.
    Tcp,
    /// Bytes over TLS, for [`L4Route`]s.
    Tls(BackendTls),
    /// Datagrams, for [`L4Route`]s.
    Udp,
}

impl BackendProtocol {
    /// How TLS is spoken; `None` without TLS.
    pub fn tls(&self) -> Option<&BackendTls> {
        match self {
            BackendProtocol::Https(tls) | BackendProtocol::Http2Tls(tls) | BackendProtocol::Tls(tls) => Some(tls),
            BackendProtocol::Http1 | BackendProtocol::Http2 | BackendProtocol::Tcp | BackendProtocol::Udp => None,
        }
    }
}

/// The client's side of TLS towards a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendTls {
    /// Server name to send (SNI); `None` sends none, as ingress-nginx does.
    pub server_name: Option<String>,
    /// Whether the backend's certificate counts.
    pub verification: Verification,
    /// Name of the [`Certificate`] to show to backends that ask for one.
    pub client_certificate: Option<String>,
}

/// How a backend's certificate is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Verification {
    /// Any certificate will do (ingress-nginx `proxy-ssl-verify: off`, its default).
    None,
    /// It must chain to one of `authorities` and hold one of `names`.
    Required {
        /// Whom to trust.
        authorities: Authorities,
        /// Whom to expect; empty means the server name.
        names: Vec<SubjectAltName>,
    },
}

/// Certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Authorities {
    /// Those that browsers trust.
    WellKnown,
    /// These (DER).
    These(#[serde(serialize_with = "count")] Vec<Vec<u8>>),
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SubjectAltName {
    /// A DNS name, or `*.` and a suffix for one label before it.
    Hostname(String),
    /// A URI, compared as it is.
    Uri(String),
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Balancer {
    /// In turn.
    RoundRobin,
    /// The one with fewer requests in flight of two taken at random.
    LeastRequest,
    /// The one with the smaller peak-sensitive average latency of two taken at random (10 s decay).
    PeakEwma,
}

/// How a client stays on its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Persistence {
    /// As ingress-nginx does it.
    Affinity(AffinityCookie),
    /// As the Gateway API does it.
    Session(SessionPersistence),
}

/// Persistent sessions (GEP-1619). The data plane keeps no state: whoever begins a session gets a token, and goes where
/// the token says as long as he shows it. A token holds keyed hashes of the cluster and the endpoint, and when its session
/// began and was last renewed. It is authenticated, and counts only for the rule, or the cluster, that has this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionPersistence {
    /// The name of the cookie or the header, a token of RFC 9110.
    pub name: String,
    /// What carries the token.
    pub carrier: Carrier,
    /// How long a session lasts at most. Not 0.
    #[serde(with = "seconds")]
    pub absolute_timeout: Option<Duration>,
    /// How long a session lasts without a request. Not 0.
    #[serde(with = "seconds")]
    pub idle_timeout: Option<Duration>,
}

/// What carries the token of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Carrier {
    /// A cookie.
    Cookie(SessionCookie),
    /// A header of answers, which the client sends back in its requests.
    Header,
}

/// The attributes of a session's cookie, besides `HttpOnly`, and `Secure` on HTTPS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionCookie {
    /// `Path`; `None` is the path that matched.
    pub path: Option<String>,
    /// When the client forgets it.
    pub lifetime: CookieLifetime,
    /// `SameSite`.
    pub same_site: Option<SameSite>,
}

/// When a client forgets a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum CookieLifetime {
    /// When it ends.
    Session,
    /// After [`SessionPersistence::absolute_timeout`] (`Max-Age`), which is there.
    Permanent,
}

/// A cookie that keeps a client on its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AffinityCookie {
    /// The cookie's name.
    pub cookie: String,
    /// What the cookie's value stands for.
    pub mode: AffinityMode,
    /// `Path`; `None` is the path that matched.
    pub path: Option<String>,
    /// `Domain`.
    pub domain: Option<String>,
    /// `Expires` as seconds from the answer.
    pub expires: Option<i64>,
    /// `Max-Age` in seconds.
    pub max_age: Option<i64>,
    /// `SameSite`.
    pub same_site: Option<SameSite>,
    /// When the cookie is `Secure`.
    pub secure: CookieSecure,
}

/// What the value of an [`AffinityCookie`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AffinityMode {
    /// A key that is hashed onto the endpoints: when endpoints come, some clients move to them.
    Balanced,
    /// A keyed hash of the endpoint: a client moves only when its endpoint is gone.
    Persistent,
}

/// The `SameSite` attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SameSite {
    /// `None`.
    None,
    /// `Lax`.
    Lax,
    /// `Strict`.
    Strict,
}

/// When a cookie carries `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum CookieSecure {
    /// On HTTPS requests.
    OnHttps,
    /// Always.
    Always,
}

/// When an endpoint is left out for failing: after `consecutive_failures` connection failures or 5xx gateway errors
/// (502, 503, 504) in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassiveHealth {
    /// At least 1.
    pub consecutive_failures: u32,
    /// How long the first ejection lasts; the n-th in a row lasts n times as long, ten times at most.
    #[serde(serialize_with = "one_duration")]
    pub ejection_time: Duration,
    /// At most this share of the endpoints is out at once, 1 to 100.
    pub max_ejected_percent: u32,
}

/// The addresses of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Endpoints {
    /// Known addresses, sorted, without repetition. May be empty: requests answer 503.
    Addresses(Vec<Endpoint>),
    /// A name that the data plane resolves (ExternalName Services).
    Dns {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
}

/// One address of a backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// Address and port.
    pub address: SocketAddr,
}

/// What holds for the whole data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// Key of the hashes in cookies and tokens of sessions, the same on every replica. At least 16 bytes.
    pub cookie_key: Secret,
    /// Keys for TLS session tickets, newest first: the first encrypts, all decrypt. 32 bytes each or more. May be empty: no tickets.
    pub ticket_keys: Vec<Secret>,
    /// Peers whose `X-Forwarded-*` headers are believed. Empty: nobody's.
    pub trusted_proxies: Vec<IpNet>,
    /// Ports that serve Ingresses: the head of a request may take longer there, as with ingress-nginx.
    pub ingress_ports: Vec<u16>,
    /// Whether each request is logged.
    pub access_log: AccessLog,
}

/// Whether each request is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AccessLog {
    /// One JSON line on standard output each.
    Json,
    /// Nothing.
    Off,
}
