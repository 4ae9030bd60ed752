//! The table against an oracle that reads the contract's text and looks at every match of every route.

use std::cell::RefCell;
use std::collections::HashMap;

use proptest::prelude::*;
use regex::Regex;
use snapshot::{
    Attachment, Backend, BackendProtocol, Balancer, Endpoints, HostPattern, Kind, Listener, Match, PathMatch, Protocol,
    Rank, Refusal, Resource, ResourceId, Route, Snapshot, Target, Timeouts, Tls, ValueMatch, ValuePattern,
};

use super::*;
use crate::cluster::ClusterRegistry;
use crate::compile::{Compiler, Rejection};
use crate::limit::LimiterRegistry;
use crate::reason::Reason;

const NO_TIMEOUTS: Timeouts = Timeouts { connect: None, read: None, send: None, request: None, backend_request: None };

#[derive(Debug)]
struct Request {
    port: u16,
    host: &'static str,
    path: &'static str,
    method: Method,
    query: Option<&'static str>,
    headers: HeaderMap,
}

impl Request {
    fn get(port: u16, host: &'static str, path: &'static str) -> Self {
        Self { port, host, path, method: Method::GET, query: None, headers: HeaderMap::new() }
    }

    fn view(&self) -> RequestView<'_> {
        let Self { host, path, method, query, headers, .. } = self;
        RequestView { host, path, query: *query, method, headers }
    }

    fn answered_by(&self, table: &RouteTable) -> Option<String> {
        table.find(self.port, &self.view()).ok().map(|found| found.rule.name.to_string())
    }
}

/// The contract's text, one match after the other.
fn oracle(snapshot: &Snapshot, request: &Request) -> Option<String> {
    let listeners: Vec<_> = snapshot
        .iter()
        .filter_map(|(id, hashed)| match hashed.resource().as_ref() {
            Resource::Listener(listener) => Some((&id.name, listener)),
            _ => None,
        })
        .filter(|(_, listener)| listener.port == request.port && host_matches(&listener.hostname, request.host))
        .collect();
    let serving = &listeners.iter().min_by_key(|(_, listener)| specificity(&listener.hostname))?.1.hostname;
    let names: Vec<_> =
        listeners.iter().filter(|(_, listener)| listener.hostname == *serving).map(|(name, _)| *name).collect();
    let mut candidates = Vec::new();
    for (_, hashed) in snapshot.iter() {
        let Resource::Route(route) = hashed.resource().as_ref() else { continue };
        let attached = route.attachments.iter().filter(|attachment| names.contains(&&attachment.listener));
        for host in
            attached.flat_map(|attachment| &attachment.hostnames).filter(|host| host_matches(host, request.host))
        {
            for rule in &route.rules {
                for condition in rule.matches.iter().filter(|condition| holds(condition, request)) {
                    let (kind, length) = match &condition.path {
                        PathMatch::Exact(_) => (0, 0),
                        PathMatch::Regex(_) => (1, 0),
                        PathMatch::Prefix(prefix) => (2, prefix.trim_end_matches('/').len()),
                        PathMatch::LastElement(_) => (2, 0),
                    };
                    let key = (specificity(host), kind, std::cmp::Reverse(length), &condition.rank);
                    candidates.push((key, &rule.name));
                }
            }
        }
    }
    candidates.into_iter().min_by(|one, other| one.0.cmp(&other.0)).map(|(_, name)| name.clone())
}

fn specificity(pattern: &HostPattern) -> (u8, std::cmp::Reverse<usize>, u8) {
    match pattern {
        HostPattern::Exact(_) => (0, std::cmp::Reverse(0), 0),
        HostPattern::OneLabel(suffix) => (1, std::cmp::Reverse(suffix.len()), 0),
        HostPattern::AnyLabels(suffix) => (1, std::cmp::Reverse(suffix.len()), 1),
        HostPattern::Any => (2, std::cmp::Reverse(0), 0),
    }
}

fn host_matches(pattern: &HostPattern, host: &str) -> bool {
    let before = |suffix: &String| host.strip_suffix(suffix.as_str()).and_then(|rest| rest.strip_suffix('.'));
    match pattern {
        HostPattern::Exact(name) => name == host,
        HostPattern::OneLabel(suffix) => before(suffix).is_some_and(|label| !label.contains('.')),
        HostPattern::AnyLabels(suffix) => before(suffix).is_some(),
        HostPattern::Any => true,
    }
}

fn holds(condition: &Match, request: &Request) -> bool {
    let value = |pattern: &ValuePattern, value: &str| match pattern {
        ValuePattern::Exact(expected) => expected == value,
        ValuePattern::Regex(expression) => whole(expression, value),
    };
    let path = match &condition.path {
        PathMatch::Exact(path) => path == request.path,
        PathMatch::Regex(expression) => whole(expression, request.path),
        PathMatch::LastElement(element) => request.path.rsplit('/').next() == Some(element),
        PathMatch::Prefix(prefix) => {
            let rest = request.path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    };
    let query = |name: &str| {
        let pairs = request.query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    };
    let header = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap());
    path && condition.method.as_ref().is_none_or(|method| method == request.method.as_str())
        && condition.headers.iter().all(|one| header(&one.name).is_some_and(|found| value(&one.value, found)))
        && condition.query.iter().all(|one| query(&one.name).is_some_and(|found| value(&one.value, found)))
}

fn whole(expression: &str, text: &str) -> bool {
    thread_local!(static COMPILED: RefCell<HashMap<String, Regex>> = RefCell::default());
    let compile = || Regex::new(&format!("^(?:{expression})$")).unwrap();
    COMPILED.with_borrow_mut(|held| held.entry(expression.to_owned()).or_insert_with(compile).is_match(text))
}

fn host_pattern() -> impl Strategy<Value = HostPattern> {
    let suffix = prop::sample::select(vec!["example", "a.example", "b.a.example"]);
    prop_oneof![
        prop::sample::select(vec!["example", "a.example", "b.a.example", "c.b.a.example"])
            .prop_map(|name| HostPattern::Exact(name.into())),
        suffix.clone().prop_map(|suffix| HostPattern::OneLabel(suffix.into())),
        suffix.prop_map(|suffix| HostPattern::AnyLabels(suffix.into())),
        Just(HostPattern::Any),
    ]
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab"]).prop_map(|path| PathMatch::Exact(path.into())),
        prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/ab"]).prop_map(|path| PathMatch::Prefix(path.into())),
        prop::sample::select(vec!["/a.*", "/a|/ab", "/[ab]/.*", ".*/c"]).prop_map(|path| PathMatch::Regex(path.into())),
    ]
}

fn value_match(name: &'static str) -> impl Strategy<Value = Vec<ValueMatch>> {
    let value = prop_oneof![
        Just(ValuePattern::Exact("1".into())),
        Just(ValuePattern::Exact("2".into())),
        Just(ValuePattern::Regex("[12]".into())),
    ];
    prop::collection::vec(value.prop_map(move |value| ValueMatch { name: name.into(), value }), 0..2)
}

fn condition() -> impl Strategy<Value = Match> {
    let method = prop::option::of(prop::sample::select(vec!["GET", "POST"]));
    let rank = (0..3_u32, 0..2_i64).prop_map(|(specificity, created)| Rank {
        specificity,
        created,
        object: String::new(),
        rule: 0,
    });
    (path_match(), method, value_match("x-h"), value_match("q"), rank).prop_map(
        |(path, method, headers, query, rank)| Match { path, method: method.map(str::to_owned), headers, query, rank },
    )
}

fn route() -> impl Strategy<Value = (Vec<Attachment>, Vec<Vec<Match>>)> {
    let attachment = (0..4_usize, prop::collection::vec(host_pattern(), 1..3))
        .prop_map(|(listener, hostnames)| Attachment { listener: format!("l{listener}"), hostnames });
    (prop::collection::vec(attachment, 1..3), prop::collection::vec(prop::collection::vec(condition(), 1..3), 1..4))
}

fn snapshots() -> impl Strategy<Value = (Snapshot, Snapshot)> {
    let listeners = prop::collection::vec((80..82_u16, host_pattern()), 4);
    let routes = prop::collection::vec(route(), 1..6);
    let edit = (any::<prop::sample::Index>(), route(), (80..82_u16, host_pattern()));
    (listeners, routes, edit).prop_map(|(mut listeners, mut routes, (index, route, listener))| {
        let before = snapshot(&listeners, &routes);
        *index.get_mut(&mut routes) = route;
        *index.get_mut(&mut listeners) = listener;
        (before, snapshot(&listeners, &routes))
    })
}

fn snapshot(listeners: &[(u16, HostPattern)], routes: &[(Vec<Attachment>, Vec<Vec<Match>>)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (index, (port, hostname)) in listeners.iter().enumerate() {
        snapshot.insert(format!("l{index}"), listener(*port, hostname.clone()));
    }
    for (index, (attachments, rules)) in routes.iter().enumerate() {
        let name = format!("r{index}");
        let rules = rules.iter().enumerate().map(|(rule, matches)| snapshot::Rule {
            name: format!("{name} rule {rule}"),
            matches: matches.clone(),
            filters: vec![],
            action: snapshot::Action::Refuse(Refusal::NotFound),
            timeouts: NO_TIMEOUTS,
            retry: None,
            persistence: None,
            max_body: None,
            origins: vec![],
        });
        let route = Route { attachments: attachments.clone(), rules: rules.collect() };
        snapshot.insert(&name, Resource::Route(route));
    }
    snapshot
}

fn listener(port: u16, hostname: HostPattern) -> Resource {
    Resource::Listener(Listener { port, hostname, protocol: Protocol::Http })
}

fn request() -> impl Strategy<Value = Request> {
    let value = || prop::option::of(prop::sample::select(vec!["1", "2", "12"]));
    (
        80..82_u16,
        prop::sample::select(vec!["", "example", "a.example", "b.a.example", "c.b.a.example", "x.a.example", "other"]),
        prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/x/c", "/ab", "/abc", "/b/c"]),
        prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]),
        prop::option::of(prop::sample::select(vec!["q=1", "q=2&q=1", "p=1", "q"])),
        value(),
    )
        .prop_map(|(port, host, path, method, query, header)| {
            let headers = header.map(|value| (::http::HeaderName::from_static("x-h"), value.parse().unwrap()));
            Request { port, host, path, method, query, headers: headers.into_iter().collect() }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_table_answers_as_the_contract_says_before_and_after_an_edit(
        (before, after) in snapshots(),
        requests in prop::collection::vec(request(), 30),
    ) {
        let mut compiler = Compiler::default();
        for snapshot in [&before, &after] {
            let (table, rejections) = compiler.compile(snapshot);
            prop_assert_eq!(rejections, vec![]);
            for request in &requests {
                let view = request.view();
                prop_assert_eq!(request.answered_by(&table), oracle(snapshot, request), "{} {:?}", request.port, view);
            }
        }
    }
}

fn prefix(path: &str) -> Match {
    let rank = Rank { specificity: 0, created: 0, object: String::new(), rule: 0 };
    Match { path: PathMatch::Prefix(path.into()), method: None, headers: vec![], query: vec![], rank }
}

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.into())
}

fn attached(hosts: &[&str]) -> Vec<Attachment> {
    vec![Attachment { listener: "l0".into(), hostnames: hosts.iter().map(|host| exact(host)).collect() }]
}

fn compile_routes(snapshot: &Snapshot, previous: &Arc<RouteTable>) -> (Arc<RouteTable>, Vec<Rejection>) {
    compile(snapshot, previous, &ClusterRegistry::default(), &mut LimiterRegistry::default())
}

#[test]
fn an_edit_leaves_other_hosts_as_they_are() {
    let any = [(80, HostPattern::Any)];
    let first = (attached(&["a"]), vec![vec![prefix("/")]]);
    let before = snapshot(&any, &[first.clone(), (attached(&["b"]), vec![vec![prefix("/")]])]);
    let after = snapshot(&any, &[first, (attached(&["b"]), vec![vec![prefix("/new")]])]);
    let (old, _) = compile_routes(&before, &Arc::default());
    let (new, _) = compile_routes(&after, &old);
    let rule = |table: &RouteTable, host, path| {
        table.find(80, &Request::get(80, host, path).view()).map(|found| found.rule.clone()).ok()
    };
    assert!(Arc::ptr_eq(&rule(&old, "a", "/").unwrap(), &rule(&new, "a", "/").unwrap()));
    assert!(rule(&new, "b", "/").is_none() && rule(&new, "b", "/new").is_some());
    assert!(Arc::ptr_eq(&new, &compile_routes(&after, &new).0), "nothing changed, nothing is built");
}

#[test]
fn a_bad_route_is_rejected_alone_and_keeps_its_last_good_version() {
    let any = [(80, HostPattern::Any)];
    let good = (attached(&["a"]), vec![vec![prefix("/")]]);
    let broken = Match { path: PathMatch::Regex("(".into()), ..prefix("/") };
    let dangling = vec![Attachment { listener: "nowhere".into(), hostnames: vec![HostPattern::Any] }];
    let (old, _) = compile_routes(&snapshot(&any, &[good.clone(), good.clone()]), &Arc::default());
    let routes = [good, (attached(&["a"]), vec![vec![broken]]), (dangling, vec![vec![prefix("/")]])];
    let (new, rejections) = compile_routes(&snapshot(&any, &routes), &old);
    let rejected: Vec<_> = rejections.iter().map(|rejection| rejection.id.name.as_str()).collect();
    assert_eq!(rejected, ["r1", "r2"]);
    assert!(rejections[0].reason.contains("r1 rule 0: invalid regular expression"), "{}", rejections[0].reason);
    assert!(new.routes.contains_key("r0") && new.routes.contains_key("r1") && !new.routes.contains_key("r2"));
    assert_eq!(compile_routes(&snapshot(&any, &routes), &new).1.len(), 2, "still rejected when nothing else changes");
}

/// An expression beside which there is room for a small one, and not for another large one.
const LARGE: &str = "/[a-z]{400}";
const SMALL: &str = "/small/[0-9]+";

fn room() -> usize {
    pattern::size(LARGE).unwrap() + pattern::size(SMALL).unwrap()
}

fn regex(expression: &str, created: i64) -> Vec<Vec<Match>> {
    let rank = Rank { created, ..prefix("/").rank };
    vec![vec![Match { path: PathMatch::Regex(expression.into()), rank, ..prefix("/") }]]
}

fn compile_in_room(snapshot: &Snapshot, previous: &Arc<RouteTable>) -> (Arc<RouteTable>, Vec<String>) {
    let (clusters, mut limiters) = (ClusterRegistry::default(), LimiterRegistry::default());
    let (table, rejections) = build::compile_within(room(), snapshot, previous, &clusters, &mut limiters);
    assert!(rejections.iter().all(|rejection| rejection.reason.contains("do not fit")), "{rejections:?}");
    (table, rejections.into_iter().map(|rejection| rejection.id.name).collect())
}

#[test]
fn a_route_that_does_not_fit_into_its_host_is_rejected_alone_and_keeps_its_last_good_version() {
    let any = [(80, HostPattern::Any)];
    let (a, other) = (attached(&["a"]), attached(&["a", "b"]));
    let large = "/".to_owned() + &"x".repeat(400);
    let letters: &'static str = large.leak();
    let first = [
        (a.clone(), regex(LARGE, 1)),
        (other.clone(), vec![vec![prefix("/old")]]),
        (a.clone(), vec![vec![prefix("/plain")]]),
    ];
    let (old, rejected) = compile_in_room(&snapshot(&any, &first), &Arc::default());
    assert_eq!(rejected, [""; 0]);
    let answer = |table: &RouteTable, host, path| Request::get(80, host, path).answered_by(table);
    assert_eq!(answer(&old, "a", letters).as_deref(), Some("r0 rule 0"));

    // The older of the two does not push out what is served, and fits into no part: not on the other host either.
    let edited = [
        first[0].clone(),
        (other, regex(LARGE, 0)),
        (a.clone(), vec![vec![prefix("/plainer")]]),
        (a.clone(), regex(SMALL, 2)),
    ];
    let edited = snapshot(&any, &edited);
    let (new, rejected) = compile_in_room(&edited, &old);
    assert_eq!(rejected, ["r1"]);
    assert_eq!(answer(&new, "a", letters).as_deref(), Some("r0 rule 0"));
    assert_eq!(answer(&new, "a", "/small/1").as_deref(), Some("r3 rule 0"));
    assert_eq!(answer(&new, "a", "/plainer").as_deref(), Some("r2 rule 0"));
    for host in ["a", "b"] {
        assert_eq!(answer(&new, host, "/old").as_deref(), Some("r1 rule 0"), "the last good version");
    }

    // It is rejected for as long as it is there, whether nothing changes or something else does.
    let (again, rejected) = compile_in_room(&edited, &new);
    assert_eq!(rejected, ["r1"]);
    assert!(Arc::ptr_eq(&again, &new), "nothing is built for it again");
    let mut elsewhere = edited.clone();
    elsewhere.insert("l1", listener(81, HostPattern::Any));
    let (table, rejected) = compile_in_room(&elsewhere, &again);
    assert_eq!(rejected, ["r1"]);
    assert_eq!(answer(&table, "a", "/old").as_deref(), Some("r1 rule 0"));

    // Room that becomes free is its.
    let mut freed = elsewhere;
    freed.remove(&ResourceId::new(Kind::Route, "r0"));
    let (table, rejected) = compile_in_room(&freed, &table);
    assert_eq!(rejected, [""; 0]);
    assert_eq!(answer(&table, "a", letters).as_deref(), Some("r1 rule 0"));
    assert_eq!(answer(&table, "b", "/old"), None);
}

#[test]
fn a_route_that_fits_into_none_of_its_hosts_keeps_its_last_good_version_too() {
    let any = [(80, HostPattern::Any)];
    let both = attached(&["a", "b"]);
    let first = [(both.clone(), regex(LARGE, 1)), (both.clone(), vec![vec![prefix("/old")]])];
    let (old, _) = compile_in_room(&snapshot(&any, &first), &Arc::default());
    let edited = [first[0].clone(), (both, regex(LARGE, 2))];
    let (new, rejected) = compile_in_room(&snapshot(&any, &edited), &old);
    assert_eq!(rejected, ["r1"]);
    for host in ["a", "b"] {
        assert_eq!(Request::get(80, host, "/old").answered_by(&new).as_deref(), Some("r1 rule 0"), "{host}");
    }
}

#[test]
fn of_new_routes_the_first_in_rank_get_the_room() {
    let any = [(80, HostPattern::Any)];
    let routes = [(attached(&["a"]), regex(LARGE, 2)), (attached(&["a"]), regex(LARGE, 1))];
    let (table, rejected) = compile_in_room(&snapshot(&any, &routes), &Arc::default());
    assert_eq!(rejected, ["r0"]);
    let letters: &'static str = ("/".to_owned() + &"x".repeat(400)).leak();
    assert_eq!(Request::get(80, "a", letters).answered_by(&table).as_deref(), Some("r1 rule 0"));
}

#[test]
fn a_route_whose_expressions_take_too_much_is_rejected_alone() {
    let any = [(80, HostPattern::Any)];
    let headers = (0..200).map(|number| snapshot::ValueMatch {
        name: format!("x{number}"),
        value: snapshot::ValuePattern::Regex(format!(r"[\p{{L}}\p{{N}}]{{8}}{number}")),
    });
    let costly = vec![vec![Match { headers: headers.collect(), ..prefix("/") }]];
    let routes = [(attached(&["a"]), costly), (attached(&["a"]), vec![vec![prefix("/")]])];
    let (clusters, mut limiters) = (ClusterRegistry::default(), LimiterRegistry::default());
    let (table, rejections) = build::compile(&snapshot(&any, &routes), &Arc::default(), &clusters, &mut limiters);
    let [rejection] = &rejections[..] else { panic!("{rejections:?}") };
    assert!(rejection.id.name == "r0" && rejection.reason.contains("more than 4 MiB"), "{rejection:?}");
    assert_eq!(Request::get(80, "a", "/").answered_by(&table).as_deref(), Some("r1 rule 0"));
}

#[test]
fn an_endpoint_change_leaves_the_table_alone() {
    let mut snapshot = snapshot(&[(80, HostPattern::Any)], &[]);
    let cluster = snapshot::Cluster {
        endpoints: "e".into(),
        protocol: BackendProtocol::Http1,
        balancer: Balancer::RoundRobin,
        persistence: None,
        passive_health: None,
    };
    let forward = Backend { weight: 1, target: Target::Cluster("c".into()), filters: vec![] };
    let rule = snapshot::Rule {
        name: "rule".into(),
        matches: vec![prefix("/")],
        filters: vec![],
        action: snapshot::Action::Forward(vec![forward]),
        timeouts: NO_TIMEOUTS,
        retry: None,
        persistence: None,
        max_body: None,
        origins: vec![],
    };
    snapshot.insert("c", Resource::Cluster(cluster));
    snapshot.insert("e", Resource::Endpoints(Endpoints::Addresses(vec![])));
    snapshot.insert("r", Resource::Route(Route { attachments: attached(&["a"]), rules: vec![rule] }));
    let mut compiler = Compiler::default();
    let (old, rejections) = compiler.compile(&snapshot);
    assert_eq!(rejections, []);
    let address = "10.0.0.1:80".parse().unwrap();
    snapshot.insert("e", Resource::Endpoints(Endpoints::Addresses(vec![snapshot::Endpoint { address }])));
    let (new, _) = compiler.compile(&snapshot);
    assert!(Arc::ptr_eq(&old, &new));
    assert_eq!(compiler.clusters().get("c").unwrap().endpoints().len(), 1);
    snapshot.remove(&ResourceId::new(Kind::Cluster, "c"));
    assert_eq!(compiler.compile(&snapshot).1.len(), 1, "a route whose cluster is gone is rejected");
}

#[test]
fn hosts_of_another_listener_are_misdirected() {
    let hosts = [HostPattern::Any, exact("second-example.org"), HostPattern::AnyLabels("wildcard.org".into())];
    let mut snapshot = snapshot(&[(80, HostPattern::Any)], &[]);
    for (index, hostname) in hosts.into_iter().enumerate() {
        let tls = Tls { certificates: vec![], default_certificate: None, client_validation: None };
        let listener = Listener { port: 443, hostname, protocol: Protocol::Https(tls) };
        snapshot.insert(format!("tls {index}"), Resource::Listener(listener));
    }
    let (table, _) = compile_routes(&snapshot, &Arc::default());
    for (server_name, host, misdirected) in [
        ("example.org", "second-example.org", true),
        ("example.org", "unknown-example.org", false),
        ("second-example.org", "unknown-example.org", true),
        ("second-example.org", "second-example.org", false),
        ("a.wildcard.org", "b.wildcard.org", false),
        ("", "second-example.org", true),
        ("", "other", false),
    ] {
        assert_eq!(table.misdirected(443, Some(server_name), host), misdirected, "{server_name} {host}");
    }
    // A connection that is older than what its port speaks now.
    assert!(table.misdirected(443, None, "a.example"));
    assert!(table.misdirected(80, Some("a"), "a"));
    assert!(!table.misdirected(80, None, "a"));
    assert!(!table.misdirected(81, Some("a"), "b"));
}

#[test]
fn a_port_speaks_one_protocol() {
    let mut snapshot = snapshot(&[(443, exact("a"))], &[(attached(&["a"]), vec![vec![prefix("/")]])]);
    let tls = Tls { certificates: vec![], default_certificate: None, client_validation: None };
    let listener = Listener { port: 443, hostname: exact("b"), protocol: Protocol::Https(tls) };
    snapshot.insert("z", Resource::Listener(listener));
    let (table, rejections) = compile_routes(&snapshot, &Arc::default());
    assert_eq!(table.ports().collect::<Vec<_>>(), [(443, PortKind::Http)]);
    assert_eq!(rejections.len(), 1);
    assert!(Request::get(443, "a", "/").answered_by(&table).is_some());
}

#[test]
fn found_says_how_much_of_the_path_matched() {
    let routes = [(attached(&["a"]), vec![vec![prefix("/a/b"), prefix("/")]])];
    let (table, _) = compile_routes(&snapshot(&[(80, HostPattern::Any)], &routes), &Arc::default());
    let matched = |path| table.find(80, &Request::get(80, "a", path).view()).unwrap().path;
    assert_eq!(matched("/a/b/c"), PathMatched::Prefix(4));
    assert_eq!(matched("/a"), PathMatched::Prefix(0));
    assert_eq!(table.find(81, &Request::get(81, "a", "/").view()).err(), Some(Reason::NoRoute));
}

#[test]
fn patterns_are_compared_decoded_and_absurd_depths_are_refused() {
    let deep = "/a".repeat(300);
    let routes = [(attached(&["a"]), vec![vec![prefix("/a%20b")]]), (attached(&["b"]), vec![vec![prefix(&deep)]])];
    let (table, rejections) = compile_routes(&snapshot(&[(80, HostPattern::Any)], &routes), &Arc::default());
    assert!(Request::get(80, "a", "/a b/c").answered_by(&table).is_some());
    assert_eq!(rejections.len(), 1);
}
