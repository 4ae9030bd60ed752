//! Commands that try out what a snapshot serves.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::compile::Compiler;
use dataplane::route::{RequestView, RouteTable};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use snapshot::{
    Action, ClientValidation, Filter, HostPattern, Kind, Match, PathMatch, Protocol, Resource, ResourceId, Rule,
    Snapshot, ValueMatch, ValuePattern,
};

/// One `curl` command for each rule, host and scheme, with the rule's name as a comment, sorted by host; then one for each
/// rate limit that exceeds it. Rules that only a regular expression selects are left out: which path to ask for is not known. So
/// are those before which another rule goes.
pub(super) fn commands(snapshot: &Snapshot, address: IpAddr) -> Vec<String> {
    let (mut commands, mut floods) = (BTreeMap::new(), BTreeMap::new());
    let (table, _) = Compiler::default().compile(snapshot);
    for sample in samples(snapshot, address).into_iter().filter(|sample| sample.is_answered(&table)) {
        let arguments = sample.request.arguments();
        let Sample { rule, target, request: Request { path, .. } } = sample;
        let curl = target.arguments(&path, &arguments);
        if let Some(requests) = rule.filters.iter().find_map(exceeding) {
            let each = format!("curl -s -o /dev/null -w '%{{http_code}} '{curl}");
            let flood = format!("for i in $(seq {requests}); do {each}; done; echo   # {}, its limit", rule.name);
            floods.entry((target.host.clone(), path.clone(), arguments.clone())).or_insert(flood);
        }
        let remark = target.remark();
        commands.insert((target.host, path, arguments, target.tls), format!("curl{curl}   # {}{}", rule.name, remark));
    }
    commands.into_values().chain(floods.into_values()).collect()
}

/// A `curl` command that opens a WebSocket, for the first rule that leads to a backend without TLS and without a limit. It
/// gives up after a second, for `curl` has nothing to say there.
pub(super) fn websocket(snapshot: &Snapshot, address: IpAddr) -> Option<String> {
    let plain =
        samples(snapshot, address).into_iter().filter(|sample| !sample.target.tls && sample.leads_to_a_backend());
    let key = |sample: &Sample| (sample.target.host.clone(), sample.request.path.clone(), sample.request.arguments());
    let (table, _) = Compiler::default().compile(snapshot);
    let Sample { rule, target, request } = plain.filter(|sample| sample.is_answered(&table)).min_by_key(key)?;
    let (path, mut arguments) = (&request.path, request.arguments());
    for header in WEBSOCKET {
        arguments.push_str(&format!(" -H {}", quoted(header)));
    }
    let curl = target.arguments(path, &arguments);
    Some(format!("curl -i -m 1 --http1.1{curl}   # {}, as a WebSocket: 101, then every message comes back", rule.name))
}

/// What asks for a WebSocket (RFC 6455, section 4.1); the key is any 16 bytes.
const WEBSOCKET: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
];

/// A request that a rule answers.
struct Sample<'s> {
    rule: &'s Rule,
    target: Target,
    request: Request,
}

/// What of a request a rule looks at.
struct Request {
    /// With the query.
    path: String,
    method: Option<String>,
    headers: Vec<(String, String)>,
}

impl Request {
    fn arguments(&self) -> String {
        let mut arguments = self.method.as_ref().map(|method| format!(" -X {method}")).unwrap_or_default();
        for (name, value) in &self.headers {
            arguments.push_str(&format!(" -H {}", quoted(&format!("{name}: {value}"))));
        }
        arguments
    }
}

impl Sample<'_> {
    /// Whether the request comes to this rule, and not to one that goes before it.
    fn is_answered(&self, table: &RouteTable) -> bool {
        let method = self.request.method.as_deref().unwrap_or("GET").parse().unwrap_or(Method::GET);
        let header = |(name, value): &(String, String)| {
            Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
        };
        let headers: HeaderMap = self.request.headers.iter().filter_map(header).collect();
        let (path, query) = match self.request.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.request.path.as_str(), None),
        };
        let request = RequestView { host: &self.target.host, path, query, method: &method, headers: &headers };
        table.find(self.target.port, &request).is_ok_and(|found| *found.rule.name == *self.rule.name)
    }

    fn leads_to_a_backend(&self) -> bool {
        let answers = |filter: &Filter| {
            matches!(
                filter,
                Filter::Redirect(_) | Filter::HttpsRedirect(_) | Filter::TrailingSlashRedirect | Filter::RateLimit(_)
            )
        };
        matches!(self.rule.action, Action::Forward(_)) && !self.rule.filters.iter().any(answers)
    }
}

fn samples(snapshot: &Snapshot, address: IpAddr) -> Vec<Sample<'_>> {
    let mut samples = Vec::new();
    for (_, hashed) in snapshot.iter().filter(|(id, _)| id.kind == Kind::Route) {
        let Resource::Route(route) = hashed.resource().as_ref() else { continue };
        for attachment in &route.attachments {
            let id = ResourceId::new(Kind::Listener, &attachment.listener);
            let Some(Resource::Listener(listener)) = snapshot.get(&id).map(|held| held.resource().as_ref()) else {
                continue;
            };
            let (tls, certified) = match &listener.protocol {
                Protocol::Https(tls) => (true, matches!(tls.client_validation, Some(ClientValidation::Required(_)))),
                _ => (false, false),
            };
            for host in &attachment.hostnames {
                for rule in &route.rules {
                    let Some(request) = rule.matches.iter().find_map(request) else { continue };
                    let host = sample(host.narrower(&listener.hostname), address);
                    let target = Target { host, port: listener.port, tls, certified, address };
                    samples.push(Sample { rule, target, request });
                }
            }
        }
    }
    samples
}

/// How many requests at once are too many for this filter.
fn exceeding(filter: &Filter) -> Option<u32> {
    match filter {
        Filter::RateLimit(limit) => Some(limit.burst.saturating_add(3).min(200)),
        _ => None,
    }
}

struct Target {
    host: String,
    port: u16,
    tls: bool,
    /// Whether clients need a certificate.
    certified: bool,
    address: IpAddr,
}

impl Target {
    fn arguments(&self, path: &str, arguments: &str) -> String {
        let (insecure, scheme) = if self.tls { (" -k", "https") } else { ("", "http") };
        let url = quoted(&format!("{scheme}://{}:{}{path}", self.host, self.port));
        let certificate = if self.certified { " --cert client.pem" } else { "" };
        format!("{insecure}{certificate}{}{arguments} {url}", self.resolve())
    }

    fn remark(&self) -> &'static str {
        if self.certified { "; client.pem: your certificate and key, for clients need one" } else { "" }
    }

    /// Every resolver knows `localhost` and what is below it; other names have to be told.
    fn resolve(&self) -> String {
        let name = self.host.parse::<IpAddr>().is_err() && !self.host.starts_with('[');
        let local =
            (self.host == "localhost" || self.host.ends_with(".localhost")) && reachable(self.address).is_loopback();
        if name && !local {
            format!(" --resolve {}:{}:{}", self.host, self.port, reachable(self.address))
        } else {
            String::new()
        }
    }
}

/// Where a client on this machine reaches what is bound to `address`.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}

/// A host that the pattern matches.
fn sample(pattern: &HostPattern, address: IpAddr) -> String {
    match (pattern, reachable(address)) {
        (HostPattern::Exact(name), _) => name.clone(),
        (HostPattern::OneLabel(suffix) | HostPattern::AnyLabels(suffix), _) => format!("any.{suffix}"),
        (HostPattern::Any, IpAddr::V4(address)) => address.to_string(),
        (HostPattern::Any, IpAddr::V6(address)) => format!("[{address}]"),
    }
}

/// A request that the match selects.
fn request(selector: &Match) -> Option<Request> {
    let mut path = match &selector.path {
        PathMatch::Exact(path) | PathMatch::Prefix(path) => path.clone(),
        PathMatch::LastElement(_) | PathMatch::Regex(_) => return None,
    };
    for (separator, condition) in std::iter::once('?').chain(std::iter::repeat('&')).zip(&selector.query) {
        path.push_str(&format!("{separator}{}={}", condition.name, exact(&condition.value)?));
    }
    let header = |condition: &ValueMatch| Some((condition.name.clone(), exact(&condition.value)?.to_owned()));
    let headers = selector.headers.iter().map(header).collect::<Option<_>>()?;
    Some(Request { path, method: selector.method.clone(), headers })
}

fn exact(pattern: &ValuePattern) -> Option<&str> {
    match pattern {
        ValuePattern::Exact(value) => Some(value),
        ValuePattern::Regex(_) => None,
    }
}

/// Quoted for the shell, where it needs to be.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/%=@+,".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use snapshot::{Attachment, LimitKey, Listener, Rank, RateLimit, Refusal, Route, Timeouts};

    use super::*;

    fn rule(name: &str, path: PathMatch, headers: Vec<ValueMatch>, filters: Vec<Filter>) -> Rule {
        let rank = Rank { specificity: 0, created: 0, object: String::new(), rule: 0 };
        Rule {
            name: name.into(),
            matches: vec![Match { path, method: None, headers, query: Vec::new(), rank }],
            filters,
            action: Action::Refuse(Refusal::NotFound),
            timeouts: Timeouts { connect: None, read: None, send: None, request: None, backend_request: None },
            retry: None,
            persistence: None,
            max_body: None,
            origins: Vec::new(),
        }
    }

    #[test]
    fn each_rule_gets_a_command_that_selects_it() {
        let mut snapshot = Snapshot::default();
        let listener = |hostname| Resource::Listener(Listener { port: 8080, hostname, protocol: Protocol::Http });
        snapshot.insert("http", listener(HostPattern::Any));
        snapshot.insert("own", listener(HostPattern::Exact("own.localhost".into())));
        let header = ValueMatch { name: "x-a".into(), value: ValuePattern::Exact("it's".into()) };
        let limit = RateLimit {
            id: "l".into(),
            key: LimitKey::ClientIp,
            requests: 1,
            per: std::time::Duration::from_secs(1),
            burst: 2,
            status: 429,
            exempt: Vec::new(),
        };
        let route = Route {
            attachments: vec![Attachment {
                listener: "http".into(),
                hostnames: vec![HostPattern::Exact("a.localhost".into()), HostPattern::AnyLabels("example.com".into())],
            }],
            rules: vec![
                rule("one", PathMatch::Prefix("/".into()), vec![header], Vec::new()),
                rule("two", PathMatch::Exact("/l".into()), Vec::new(), vec![Filter::RateLimit(limit)]),
                rule("three", PathMatch::Regex("/x.*".into()), Vec::new(), Vec::new()),
            ],
        };
        snapshot.insert("r", Resource::Route(route));
        let route = Route {
            attachments: vec![Attachment { listener: "own".into(), hostnames: vec![HostPattern::Any] }],
            rules: vec![rule("four", PathMatch::Prefix("/".into()), Vec::new(), Vec::new())],
        };
        snapshot.insert("s", Resource::Route(route));
        let found = commands(&snapshot, Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(
            found,
            [
                r"curl -H 'x-a: it'\''s' http://a.localhost:8080/   # one",
                "curl http://a.localhost:8080/l   # two",
                r"curl --resolve any.example.com:8080:127.0.0.1 -H 'x-a: it'\''s' http://any.example.com:8080/   # one",
                "curl --resolve any.example.com:8080:127.0.0.1 http://any.example.com:8080/l   # two",
                "curl http://own.localhost:8080/   # four",
                "for i in $(seq 5); do curl -s -o /dev/null -w '%{http_code} ' http://a.localhost:8080/l; done; echo   # two, its limit",
                "for i in $(seq 5); do curl -s -o /dev/null -w '%{http_code} ' --resolve any.example.com:8080:127.0.0.1 \
                 http://any.example.com:8080/l; done; echo   # two, its limit",
            ]
        );
    }
}
