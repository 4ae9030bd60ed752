//! Which rule answers: translation and the data plane's table together, against an oracle that reads the specification's text and
//! looks at every match of every route.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Debug;

use dataplane::compile::Compiler;
use dataplane::route::RequestView;
use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::TestCaseError;
use regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use translate::objects::{GRPCRoute, Gateway, GatewayClass, HTTPRoute};
use translate::{DataPlane, ObjectKey, Resources, Settings, Stored, translate};

use crate::object;

/// So many inputs with so many requests each.
const CASES: u32 = 52;
const REQUESTS: usize = 200;

const LISTENER_HOSTS: &[&str] = &["", "*.example", "a.example", "*.a.example", "b.a.example"];
const ROUTE_HOSTS: &[&str] = &["*.example", "a.example", "*.a.example", "b.a.example", "c.b.a.example", "other"];
const HOSTS: &[&str] =
    &["", "example", "x.example", "a.example", "x.a.example", "b.a.example", "c.b.a.example", "other", "another"];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/x/c", "/ab", "/abc", "/A", "/b/c"];
const PATH_CONDITIONS: &[(&str, &str)] = &[
    ("Exact", "/"),
    ("Exact", "/a"),
    ("Exact", "/a/"),
    ("Exact", "/a/b"),
    ("Exact", "/ab"),
    ("PathPrefix", "/"),
    ("PathPrefix", "/a"),
    ("PathPrefix", "/a/"),
    ("PathPrefix", "/a/b"),
    ("PathPrefix", "/a/b/c"),
    ("PathPrefix", "/ab"),
    ("RegularExpression", "/a.*"),
    ("RegularExpression", "/a|/ab"),
    ("RegularExpression", "/[ab]/.*"),
    ("RegularExpression", ".*/c"),
];
const VALUE_CONDITIONS: &[(&str, &str)] = &[("Exact", "1"), ("Exact", "2"), ("RegularExpression", "[12]")];
const SERVICES: &[&str] = &["a.S", "a.Sv", "a.Svc"];
const METHODS: &[&str] = &["M", "Me", "Met"];

/// A listener: its port, and the host name or nothing.
type Listener = (u16, &'static str);

/// A route as its owner writes it.
#[derive(Clone, Debug)]
struct Route<C> {
    namespace: &'static str,
    name: String,
    /// Seconds of the minute in which all were created.
    created: u8,
    /// The listeners that it names, by number; none means all.
    listeners: Vec<usize>,
    hostnames: Vec<&'static str>,
    /// Rules with their matches.
    rules: Vec<Vec<C>>,
}

/// One of a rule's matches.
trait Condition: Clone + Debug {
    type Object: Stored + DeserializeOwned;
    fn manifest(&self) -> Value;
    fn holds(&self, request: &Request, regexes: &Regexes) -> bool;
    /// Greater goes first.
    fn specificity(&self) -> Vec<usize>;
    /// What a rule without matches matches.
    fn everything() -> Self;
}

#[derive(Clone, Debug)]
struct Request {
    port: u16,
    host: &'static str,
    path: String,
    method: Method,
    query: Option<&'static str>,
    headers: HeaderMap,
}

/// A condition on a header or a query parameter: name, type and value.
type ValueCondition = (&'static str, (&'static str, &'static str));

#[derive(Clone, Debug)]
struct HttpCondition {
    path: Option<(&'static str, &'static str)>,
    method: Option<&'static str>,
    headers: Vec<ValueCondition>,
    query: Vec<ValueCondition>,
}

impl Condition for HttpCondition {
    type Object = HTTPRoute;

    fn manifest(&self) -> Value {
        let path = self.path.map(|(kind, value)| json!({ "type": kind, "value": value }));
        json!({
            "path": path, "method": self.method, "headers": values(&self.headers), "queryParams": values(&self.query),
        })
    }

    fn holds(&self, request: &Request, regexes: &Regexes) -> bool {
        let (kind, value) = self.path.unwrap_or(("PathPrefix", "/"));
        let path = match kind {
            "Exact" => request.path == value,
            "RegularExpression" => regexes.is_match(value, &request.path),
            // By element; a trailing slash is ignored.
            _ => {
                let wanted: Vec<_> = value.split('/').filter(|element| !element.is_empty()).collect();
                let elements: Vec<_> = request.path.split('/').skip(1).collect();
                elements.starts_with(&wanted)
            }
        };
        // Of a repeated parameter the first value counts.
        let parameter = |name: &str| {
            let mut pairs = request.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
            pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
        };
        path && self.method.is_none_or(|method| method == request.method.as_str())
            && headers_hold(&self.headers, request, regexes)
            && self.query.iter().all(|(name, value)| parameter(name).is_some_and(|found| regexes.holds(*value, found)))
    }

    fn specificity(&self) -> Vec<usize> {
        let (kind, value) = self.path.unwrap_or(("PathPrefix", "/"));
        // The place of expressions is for implementations to choose: docs/gateway-api.md.
        let (place, characters) = match kind {
            "Exact" => (2, 0),
            "RegularExpression" => (1, 0),
            _ => (0, value.trim_end_matches('/').len()),
        };
        let method = usize::from(self.method.is_some());
        vec![place, characters, method, effective(&self.headers).len(), self.query.len()]
    }

    fn everything() -> Self {
        Self { path: None, method: None, headers: Vec::new(), query: Vec::new() }
    }
}

#[derive(Clone, Debug)]
struct GrpcCondition {
    service: Option<&'static str>,
    method: Option<&'static str>,
    headers: Vec<ValueCondition>,
}

impl Condition for GrpcCondition {
    type Object = GRPCRoute;

    fn manifest(&self) -> Value {
        let method = (self.service.is_some() || self.method.is_some())
            .then(|| json!({ "service": self.service, "method": self.method }));
        json!({ "method": method, "headers": values(&self.headers) })
    }

    fn holds(&self, request: &Request, regexes: &Regexes) -> bool {
        let (service, method) = request.path[1..].split_once('/').unwrap();
        self.service.is_none_or(|wanted| wanted == service)
            && self.method.is_none_or(|wanted| wanted == method)
            && headers_hold(&self.headers, request, regexes)
    }

    fn specificity(&self) -> Vec<usize> {
        vec![self.service.map_or(0, str::len), self.method.map_or(0, str::len), effective(&self.headers).len()]
    }

    fn everything() -> Self {
        Self { service: None, method: None, headers: Vec::new() }
    }
}

fn values(conditions: &[ValueCondition]) -> Value {
    let value = |(name, (kind, value)): &ValueCondition| json!({ "name": name, "type": kind, "value": value });
    conditions.iter().map(value).collect()
}

/// Of equivalent names the first entry counts; names of headers are compared without case.
fn effective(conditions: &[ValueCondition]) -> Vec<ValueCondition> {
    let mut effective: Vec<ValueCondition> = Vec::new();
    for condition in conditions {
        if effective.iter().all(|earlier| !earlier.0.eq_ignore_ascii_case(condition.0)) {
            effective.push(*condition);
        }
    }
    effective
}

fn headers_hold(conditions: &[ValueCondition], request: &Request, regexes: &Regexes) -> bool {
    let found = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
    let holds = |(name, value): ValueCondition| found(name).is_some_and(|found| regexes.holds(value, found));
    effective(conditions).into_iter().all(holds)
}

/// Every expression of the tables above, compiled once.
struct Regexes(HashMap<&'static str, Regex>);

impl Regexes {
    fn new() -> Self {
        let all = PATH_CONDITIONS.iter().chain(VALUE_CONDITIONS).filter(|(kind, _)| *kind == "RegularExpression");
        Self(all.map(|(_, text)| (*text, Regex::new(&format!("^(?:{text})$")).unwrap())).collect())
    }

    fn is_match(&self, expression: &str, text: &str) -> bool {
        self.0[expression].is_match(text)
    }

    fn holds(&self, (kind, wanted): (&str, &str), found: &str) -> bool {
        if kind == "Exact" { wanted == found } else { self.is_match(wanted, found) }
    }
}

/// A wildcard stands for one or more labels; an empty host name for everything.
fn host_matches(hostname: &str, host: &str) -> bool {
    match hostname.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => hostname.is_empty() || hostname == host,
    }
}

/// The text of HTTPRouteSpec and GRPCRouteSpec. A request belongs to one listener, that with the most specific host name
/// (Gateway, `listeners`); there, characters of a host name without wildcard count first, then those of one with.
fn oracle<C: Condition>(
    listeners: &[Listener],
    routes: &[Route<C>],
    request: &Request,
    regexes: &Regexes,
) -> Option<String> {
    let characters = |hostname: &str| match hostname.starts_with('*') {
        true => (0, hostname.len()),
        false => (hostname.len(), hostname.len()),
    };
    let answering = listeners.iter().enumerate();
    let answering = answering.filter(|(_, (port, name))| *port == request.port && host_matches(name, request.host));
    let (serving, _) = answering.max_by_key(|(_, (_, hostname))| characters(hostname))?;
    let everything = [C::everything()];
    let mut candidates = Vec::new();
    for route in routes {
        if !route.listeners.is_empty() && !route.listeners.contains(&serving) {
            continue;
        }
        let hostnames = if route.hostnames.is_empty() { &[""][..] } else { &route.hostnames };
        let matching = hostnames.iter().filter(|hostname| host_matches(hostname, request.host));
        let Some(hostname) = matching.map(|hostname| characters(hostname)).max() else { continue };
        for (index, matches) in route.rules.iter().enumerate() {
            let matches = if matches.is_empty() { &everything } else { matches.as_slice() };
            for one in matches.iter().filter(|one| one.holds(request, regexes)) {
                let object = format!("{}/{}", route.namespace, route.name);
                let specific = Reverse((hostname, one.specificity()));
                candidates.push((specific, route.created, object, index));
            }
        }
    }
    let (_, _, object, index) = candidates.into_iter().min()?;
    Some(format!("{} {object} rule {index}", C::Object::KIND))
}

fn resources<C: Condition>(listeners: &[Listener], routes: &[Route<C>]) -> Resources {
    let mut resources = Resources::default();
    resources.insert(object::<GatewayClass>(json!({
        "metadata": {"name": "sluice"}, "spec": {"controllerName": "sluice.dev/gateway-controller"},
    })));
    let listeners: Vec<_> = (0..)
        .zip(listeners)
        .map(|(index, (port, hostname)): (usize, _)| {
            json!({
                "name": format!("l{index}"), "port": port, "protocol": "HTTP",
                "hostname": (!hostname.is_empty()).then_some(hostname),
                "allowedRoutes": {"namespaces": {"from": "All"}},
            })
        })
        .collect();
    resources.insert(object::<Gateway>(json!({
        "metadata": {"namespace": "a", "name": "edge"}, "spec": {"gatewayClassName": "sluice", "listeners": listeners},
    })));
    for route in routes {
        let parent = |section: Option<String>| json!({"namespace": "a", "name": "edge", "sectionName": section});
        let parents: Vec<_> = match route.listeners.is_empty() {
            true => vec![parent(None)],
            false => route.listeners.iter().map(|index| parent(Some(format!("l{index}")))).collect(),
        };
        let rule = |matches: &Vec<C>| json!({"matches": matches.iter().map(C::manifest).collect::<Vec<_>>()});
        let created = format!("2026-01-01T00:00:{:02}Z", route.created);
        let metadata = json!({"namespace": route.namespace, "name": route.name, "creationTimestamp": created});
        let spec = json!({
            "parentRefs": parents, "hostnames": route.hostnames, "rules": route.rules.iter().map(rule).collect::<Vec<_>>(),
        });
        resources.insert(object::<C::Object>(json!({"metadata": metadata, "spec": spec})));
    }
    resources
}

fn check<C: Condition>(listeners: &[Listener], routes: &[Route<C>], requests: &[Request]) -> Result<(), TestCaseError> {
    let translation = translate(&resources(listeners, routes), &Settings::default());
    let snapshot = &translation.snapshots[&DataPlane::Gateway(ObjectKey::new("a", "edge"))];
    let (table, rejections) = Compiler::default().compile(snapshot);
    prop_assert_eq!(rejections, vec![]);
    let regexes = Regexes::new();
    for request in requests {
        let Request { host, path, method, query, headers, .. } = request;
        let view = RequestView { host, path, query: *query, method, headers };
        let found = table.find(request.port, &view).ok().map(|found| found.rule.name.to_string());
        prop_assert_eq!(found, oracle(listeners, routes, request, &regexes), "{:?}", request);
    }
    Ok(())
}

/// Distinct ones of each port, as the API server demands.
fn listeners() -> impl Strategy<Value = Vec<Listener>> {
    let all: Vec<_> =
        [81, 82].into_iter().flat_map(|port| LISTENER_HOSTS.iter().map(move |host| (port, *host))).collect();
    let any: Vec<Listener> = vec![(81, "")];
    prop_oneof![1 => Just(any), 2 => subsequence(all, 1..=6)]
}

/// A few routes, or hundreds, most of them for one host.
fn routes<C: Condition + 'static>(
    listeners: usize,
    condition: impl Fn() -> BoxedStrategy<C>,
) -> impl Strategy<Value = Vec<Route<C>>> {
    let route = || {
        let hostnames = prop_oneof![
            2 => Just(vec!["a.example"]),
            1 => subsequence(ROUTE_HOSTS, 0..=3),
        ];
        let section = prop_oneof![3 => Just(Vec::new()), 1 => subsequence((0..listeners).collect::<Vec<_>>(), 1)];
        let rules = prop::collection::vec(prop::collection::vec(condition(), 0..4), 1..4);
        (select(&["b", "a", "a-b"][..]), 0..4_u8, section, hostnames, rules)
    };
    prop_oneof![5 => prop::collection::vec(route(), 1..12), 1 => prop::collection::vec(route(), 100..250)].prop_map(
        |routes| {
            let route = |(index, (namespace, created, listeners, hostnames, rules))| Route {
                namespace,
                name: format!("r{index}"),
                created,
                listeners,
                hostnames,
                rules,
            };
            routes.into_iter().enumerate().map(route).collect()
        },
    )
}

/// Conditions on some of these names, as the lists of the API have it: each spelling once.
fn value_conditions(names: &'static [&'static str]) -> impl Strategy<Value = Vec<ValueCondition>> {
    let names = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(names, 1..=names.len()).prop_shuffle()];
    names.prop_flat_map(|names| {
        let value = |name| select(VALUE_CONDITIONS).prop_map(move |value| (name, value));
        names.into_iter().map(value).collect::<Vec<_>>()
    })
}

fn http_condition() -> BoxedStrategy<HttpCondition> {
    let path = prop::option::weighted(0.9, select(PATH_CONDITIONS));
    let method = prop::option::weighted(0.3, select(&["GET", "POST"][..]));
    (path, method, value_conditions(&["X-H", "x-h", "x-i"]), value_conditions(&["q", "p"]))
        .prop_map(|(path, method, headers, query)| HttpCondition { path, method, headers, query })
        .boxed()
}

fn grpc_condition() -> BoxedStrategy<GrpcCondition> {
    (prop::option::of(select(SERVICES)), prop::option::of(select(METHODS)), value_conditions(&["X-H", "x-h", "x-i"]))
        .prop_map(|(service, method, headers)| GrpcCondition { service, method, headers })
        .boxed()
}

fn requests(path: BoxedStrategy<String>) -> impl Strategy<Value = Vec<Request>> {
    let value = || prop::option::weighted(0.7, select(&["1", "2", "12"][..]));
    let host = prop_oneof![1 => Just("a.example"), 2 => select(HOSTS)];
    let query = prop::option::weighted(0.7, select(&["q=1", "q=2&q=1", "p=1", "q", "q=1&p=2"][..]));
    let method = select(vec![Method::GET, Method::POST, Method::PUT]);
    let request = (81..83_u16, host, path, method, query, value(), value()).prop_map(
        |(port, host, path, method, query, h, i)| {
            let header = |name: &'static str, value: &str| (HeaderName::from_static(name), value.parse().unwrap());
            let h = h.map(|value| header("x-h", value));
            let headers = h.into_iter().chain(i.map(|value| header("x-i", value))).collect();
            Request { port, host, path, method, query, headers }
        },
    );
    prop::collection::vec(request, REQUESTS)
}

type Input<C> = (Vec<Listener>, Vec<Route<C>>, Vec<Request>);

fn input<C: Condition + 'static>(
    condition: impl Fn() -> BoxedStrategy<C> + Copy + 'static,
    path: impl Fn() -> BoxedStrategy<String> + 'static,
) -> impl Strategy<Value = Input<C>> {
    listeners().prop_flat_map(move |listeners| {
        let count = listeners.len();
        (Just(listeners), routes(count, condition), requests(path()))
    })
}

fn http_input() -> impl Strategy<Value = Input<HttpCondition>> {
    input(http_condition, || select(PATHS).prop_map(str::to_owned).boxed())
}

fn grpc_input() -> impl Strategy<Value = Input<GrpcCondition>> {
    input(grpc_condition, || {
        let service = prop_oneof![3 => select(SERVICES), 1 => Just("other.S")];
        let method = prop_oneof![3 => select(METHODS), 1 => Just("Other")];
        (service, method).prop_map(|(service, method)| format!("/{service}/{method}")).boxed()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::with_cases(CASES) })]

    /// HTTPRoutes of several owners, on several listeners, together.
    #[test]
    fn the_rule_that_the_specification_names_answers((listeners, routes, requests) in http_input()) {
        check(&listeners, &routes, &requests)?;
    }

    /// The same for GRPCRoutes, whose precedence is another.
    #[test]
    fn the_rule_that_the_specification_names_answers_calls((listeners, routes, requests) in grpc_input()) {
        check(&listeners, &routes, &requests)?;
    }
}
