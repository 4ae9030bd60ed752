use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message as _;

use super::DecodeError;
use crate::*;

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,12}"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9/.:-]{1,12}"
}

fn host() -> impl Strategy<Value = HostPattern> {
    let host = || "[a-z0-9-]{1,6}(\\.[a-z0-9-]{1,6}){0,2}";
    prop_oneof![
        host().prop_map(HostPattern::Exact),
        host().prop_map(HostPattern::OneLabel),
        host().prop_map(HostPattern::AnyLabels),
        Just(HostPattern::Any),
    ]
}

fn hosts() -> impl Strategy<Value = Vec<HostPattern>> {
    vec(host(), 1..3)
}

fn duration() -> impl Strategy<Value = Duration> {
    (1..u64::MAX).prop_map(Duration::from_nanos)
}

fn networks() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let network = (any::<IpAddr>(), 0..=32u8).prop_map(|(address, prefix)| ipnet::IpNet::new_assert(address, prefix));
    vec(network, 0..3)
}

fn der() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(vec(any::<u8>(), 0..20), 1..3)
}

fn refusal() -> impl Strategy<Value = Refusal> {
    select(&[Refusal::NotFound, Refusal::InvalidBackend, Refusal::Unavailable, Refusal::Unsupported])
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    let value = prop_oneof![text().prop_map(ValuePattern::Exact), text().prop_map(ValuePattern::Regex)];
    (name(), value).prop_map(|(name, value)| ValueMatch { name, value })
}

fn condition() -> impl Strategy<Value = Match> {
    let path = prop_oneof![
        text().prop_map(PathMatch::Exact),
        text().prop_map(PathMatch::Prefix),
        text().prop_map(PathMatch::LastElement),
        text().prop_map(PathMatch::Regex),
    ];
    (path, option::of("[A-Z]{1,5}"), vec(value_match(), 0..3), vec(value_match(), 0..3), rank())
        .prop_map(|(path, method, headers, query, rank)| Match { path, method, headers, query, rank })
}

fn path_rewrite() -> impl Strategy<Value = PathRewrite> {
    prop_oneof![text().prop_map(PathRewrite::Full), text().prop_map(PathRewrite::Prefix)]
}

fn header_edit() -> impl Strategy<Value = HeaderEdit> {
    let header_name = || "[a-z0-9!#$%&'*+.^_`|~-]{1,8}";
    let pairs = || vec((header_name(), text()), 0..3);
    (pairs(), pairs(), vec(header_name(), 0..3)).prop_map(|(set, add, remove)| HeaderEdit { set, add, remove })
}

fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let key = prop_oneof![Just(LimitKey::ClientIp), "[a-z-]{1,8}".prop_map(LimitKey::Header)];
    (name(), key, 1..u32::MAX, duration(), any::<u32>(), select(&[429, 503]), networks()).prop_map(
        |(id, key, requests, per, burst, status, exempt)| RateLimit { id, key, requests, per, burst, status, exempt },
    )
}

fn filter() -> impl Strategy<Value = Filter> {
    let port = || option::of(1..=u16::MAX);
    prop_oneof![
        header_edit().prop_map(Filter::RequestHeaders),
        header_edit().prop_map(Filter::ResponseHeaders),
        (
            option::of(select(&[Scheme::Http, Scheme::Https])),
            option::of(name()),
            port(),
            option::of(path_rewrite()),
            select(&[301, 302, 303, 307, 308])
        )
            .prop_map(|(scheme, hostname, port, path, status)| Filter::Redirect(Redirect {
                scheme,
                hostname,
                port,
                path,
                status
            })),
        (option::of(name()), option::of(path_rewrite()))
            .prop_map(|(hostname, path)| Filter::Rewrite(Rewrite { hostname, path })),
        (port(), select(&[301, 302, 307, 308]))
            .prop_map(|(port, status)| Filter::HttpsRedirect(HttpsRedirect { port, status })),
        Just(Filter::TrailingSlashRedirect),
        Just(Filter::NginxHeaders),
        text().prop_map(Filter::StrictTransportSecurity),
        rate_limit().prop_map(Filter::RateLimit),
        (name(), 1..u32::MAX, 400..600u16, networks()).prop_map(|(id, connections, status, exempt)| {
            Filter::ConnectionLimit(ConnectionLimit { id, connections, status, exempt })
        }),
        (name(), 0..=10u32, 10..20u32).prop_map(|(cluster, numerator, denominator)| {
            Filter::Mirror(Mirror { cluster, numerator, denominator })
        }),
        cors().prop_map(Filter::Cors),
        external_auth().prop_map(Filter::ExternalAuth),
        Just(Filter::Unknown),
    ]
}

fn external_auth() -> impl Strategy<Value = ExternalAuth> {
    let names = || vec("[a-z0-9!#$%&'*+.^_`|~-]{1,8}", 0..3);
    let allowed = || option::of(names()).prop_map(|these| these.map_or(AllowList::Any, AllowList::These));
    let http = ("(/[a-z]{1,6})?", names(), allowed()).prop_map(|(path_prefix, request_headers, response_headers)| {
        AuthProtocol::Http(HttpAuth { path_prefix, request_headers, response_headers })
    });
    let grpc = allowed().prop_map(|request_headers| AuthProtocol::Grpc(GrpcAuth { request_headers }));
    (name(), prop_oneof![http, grpc], any::<u16>()).prop_map(|(cluster, protocol, max_body)| ExternalAuth {
        cluster,
        protocol,
        max_body,
    })
}

fn cors() -> impl Strategy<Value = Cors> {
    let origin = prop_oneof![
        Just(OriginPattern::Any),
        name().prop_map(OriginPattern::Exact),
        (name(), name(), option::of(1..=u16::MAX)).prop_map(|(scheme, suffix, port)| OriginPattern::Subdomains {
            scheme,
            suffix,
            port
        }),
    ];
    let list = || prop_oneof![Just(AllowList::Any), vec(name(), 0..3).prop_map(AllowList::These)];
    (vec(origin, 0..3), any::<bool>(), list(), list(), list(), any::<u32>()).prop_map(
        |(allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age)| Cors {
            allow_origins,
            allow_credentials,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
        },
    )
}

fn action() -> impl Strategy<Value = Action> {
    let target = prop_oneof![name().prop_map(Target::Cluster), refusal().prop_map(Target::Refuse)];
    let backend = (any::<u32>(), target, vec(filter(), 0..2)).prop_map(|(weight, target, filters)| Backend {
        weight,
        target,
        filters,
    });
    prop_oneof![vec(backend, 1..3).prop_map(Action::Forward), refusal().prop_map(Action::Refuse)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let limit = || option::of(duration());
    let timeouts =
        (limit(), limit(), limit(), limit(), limit()).prop_map(|(connect, read, send, request, backend_request)| {
            Timeouts { connect, read, send, request, backend_request }
        });
    let retry = (1..=Retry::MOST_ATTEMPTS, vec(400..600u16, 0..3), duration())
        .prop_map(|(attempts, statuses, backoff)| Retry { attempts, statuses, backoff });
    let parts = (text(), vec(condition(), 1..3), vec(filter(), 0..3), action(), timeouts, option::of(retry));
    (parts, option::of(session()), option::of(any::<u64>()), vec(text(), 0..3)).prop_map(
        |((name, matches, filters, action, timeouts, retry), persistence, max_body, origins)| Rule {
            name,
            matches,
            filters,
            action,
            timeouts,
            retry,
            persistence,
            max_body,
            origins,
        },
    )
}

fn attachment() -> impl Strategy<Value = Attachment> {
    (name(), hosts()).prop_map(|(listener, hostnames)| Attachment { listener, hostnames })
}

fn l4_route() -> impl Strategy<Value = L4Route> {
    let target = prop_oneof![name().prop_map(Target::Cluster), refusal().prop_map(Target::Refuse)];
    let backend = (any::<u32>(), target).prop_map(|(weight, target)| L4Backend { weight, target });
    (text(), vec(attachment(), 0..3), rank(), vec(backend, 0..3))
        .prop_map(|(name, attachments, rank, backends)| L4Route { name, attachments, rank, backends })
}

fn rank() -> impl Strategy<Value = Rank> {
    (any::<u32>(), any::<i64>(), text(), any::<u32>()).prop_map(|(specificity, created, object, rule)| Rank {
        specificity,
        created,
        object,
        rule,
    })
}

fn route() -> impl Strategy<Value = Route> {
    (vec(attachment(), 0..3), vec(rule(), 0..3)).prop_map(|(attachments, rules)| Route { attachments, rules })
}

fn listener() -> impl Strategy<Value = Listener> {
    let certificate = (hosts(), name()).prop_map(|(hosts, certificate)| ServerCertificate { hosts, certificate });
    let validation = prop_oneof![der().prop_map(ClientValidation::Required), Just(ClientValidation::Requested)];
    let tls = (vec(certificate, 0..3), option::of(name()), option::of(validation))
        .prop_map(|(certificates, default_certificate, client_validation)| Tls {
            certificates,
            default_certificate,
            client_validation,
        })
        .boxed();
    let protocol = prop_oneof![
        Just(Protocol::Http),
        tls.clone().prop_map(Protocol::Https),
        Just(Protocol::TlsPassthrough),
        tls.prop_map(Protocol::TlsTerminate),
        Just(Protocol::Tcp),
        Just(Protocol::Udp),
    ];
    (1..=u16::MAX, host(), protocol).prop_map(|(port, hostname, protocol)| Listener { port, hostname, protocol })
}

fn backend_protocol() -> impl Strategy<Value = BackendProtocol> {
    let tls = || {
        let authorities = prop_oneof![Just(Authorities::WellKnown), der().prop_map(Authorities::These)];
        let san = prop_oneof![name().prop_map(SubjectAltName::Hostname), name().prop_map(SubjectAltName::Uri)];
        let required = (authorities, vec(san, 0..3))
            .prop_map(|(authorities, names)| Verification::Required { authorities, names });
        let verification = prop_oneof![Just(Verification::None), required];
        (option::of(name()), verification, option::of(name())).prop_map(
            |(server_name, verification, client_certificate)| BackendTls {
                server_name,
                verification,
                client_certificate,
            },
        )
    };
    prop_oneof![
        Just(BackendProtocol::Http1),
        Just(BackendProtocol::Http2),
        tls().prop_map(BackendProtocol::Https),
        tls().prop_map(BackendProtocol::Http2Tls),
        Just(BackendProtocol::Tcp),
        tls().prop_map(BackendProtocol::Tls),
        Just(BackendProtocol::Udp),
    ]
}

fn affinity() -> impl Strategy<Value = AffinityCookie> {
    let attributes = (option::of(text()), option::of(text()), option::of(any::<i64>()), option::of(any::<i64>()));
    let modes = (
        select(&[AffinityMode::Balanced, AffinityMode::Persistent]),
        option::of(select(&[SameSite::None, SameSite::Lax, SameSite::Strict])),
        select(&[CookieSecure::OnHttps, CookieSecure::Always]),
    );
    (name(), attributes, modes).prop_map(|(cookie, (path, domain, expires, max_age), (mode, same_site, secure))| {
        AffinityCookie { cookie, mode, path, domain, expires, max_age, same_site, secure }
    })
}

fn session() -> impl Strategy<Value = SessionPersistence> {
    let same_site = option::of(select(&[SameSite::None, SameSite::Lax, SameSite::Strict]));
    let lifetime = select(&[CookieLifetime::Session, CookieLifetime::Permanent]);
    let cookie = (option::of(text()), lifetime, same_site).prop_map(|(path, lifetime, same_site)| SessionCookie {
        path,
        lifetime,
        same_site,
    });
    (name(), option::of(cookie), duration(), any::<bool>(), option::of(duration())).prop_map(
        |(name, cookie, absolute, bounded, idle_timeout)| {
            let bounded = bounded || cookie.as_ref().is_some_and(|cookie| cookie.lifetime == CookieLifetime::Permanent);
            SessionPersistence {
                name,
                carrier: cookie.map_or(Carrier::Header, Carrier::Cookie),
                absolute_timeout: bounded.then_some(absolute),
                idle_timeout,
            }
        },
    )
}

fn persistence() -> impl Strategy<Value = Persistence> {
    prop_oneof![affinity().prop_map(Persistence::Affinity), session().prop_map(Persistence::Session)]
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let health = (1..u32::MAX, duration(), 1..=100u32).prop_map(|(consecutive_failures, ejection_time, percent)| {
        PassiveHealth { consecutive_failures, ejection_time, max_ejected_percent: percent }
    });
    (
        name(),
        backend_protocol(),
        select(&[Balancer::RoundRobin, Balancer::LeastRequest, Balancer::PeakEwma]),
        option::of(persistence()),
        option::of(health),
    )
        .prop_map(|(endpoints, protocol, balancer, persistence, passive_health)| Cluster {
            endpoints,
            protocol,
            balancer,
            persistence,
            passive_health,
        })
}

fn endpoints() -> impl Strategy<Value = Endpoints> {
    let endpoint = (any::<IpAddr>(), any::<u16>())
        .prop_map(|(address, port)| Endpoint { address: SocketAddr::new(address, port) });
    prop_oneof![
        vec(endpoint, 0..4).prop_map(Endpoints::Addresses),
        (name(), 1..=u16::MAX).prop_map(|(name, port)| Endpoints::Dns { name, port }),
    ]
}

fn settings() -> impl Strategy<Value = Settings> {
    let key = |length| vec(any::<u8>(), length..40usize).prop_map(Secret::new);
    let ports = vec(1..=u16::MAX, 0..3);
    (key(16), vec(key(32), 0..3), networks(), ports, select(&[AccessLog::Json, AccessLog::Off])).prop_map(
        |(cookie_key, ticket_keys, trusted_proxies, ingress_ports, access_log)| Settings {
            cookie_key,
            ticket_keys,
            trusted_proxies,
            ingress_ports,
            access_log,
        },
    )
}

fn certificate() -> impl Strategy<Value = Certificate> {
    (der(), vec(any::<u8>(), 1..20), text()).prop_map(|(chain, key, summary)| Certificate {
        chain,
        key: Secret::new(key),
        summary,
    })
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        settings().prop_map(Resource::Settings),
        certificate().prop_map(Resource::Certificate),
        listener().prop_map(Resource::Listener),
        endpoints().prop_map(Resource::Endpoints),
        cluster().prop_map(Resource::Cluster),
        route().prop_map(Resource::Route),
        l4_route().prop_map(Resource::L4Route),
    ]
}

/// Few names, so that two snapshots share some.
fn snapshot() -> impl Strategy<Value = Snapshot> {
    vec(("[a-d]", resource()), 0..8).prop_map(|resources| {
        let mut snapshot = Snapshot::default();
        resources.into_iter().for_each(|(name, resource)| snapshot.insert(name, resource));
        snapshot
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn decoding_reverses_encoding(resource in resource()) {
        prop_assert_eq!(Resource::decode(&resource.encode()), Ok(resource));
    }

    #[test]
    fn a_diff_is_empty_exactly_between_equals(old in snapshot(), new in snapshot()) {
        prop_assert_eq!(diff(old.held(), &new).is_empty(), old == new);
        prop_assert!(diff(new.held(), &new).is_empty());
    }

    #[test]
    fn versions_differ_exactly_when_the_content_does(one in snapshot(), other in snapshot()) {
        prop_assert_eq!(one.version() == other.version(), one == other);
    }

    #[test]
    fn an_upsert_survives_the_wire(resource in resource(), name in name()) {
        let upsert = (ResourceId::new(resource.kind(), name), Hashed::new(resource));
        let bytes = proto::Upsert::from(&upsert).encode_to_vec();
        prop_assert_eq!(proto::Upsert::decode(&bytes[..]).unwrap().try_into(), Ok(upsert));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Resource::decode(&bytes);
    }

    #[test]
    fn a_damaged_resource_never_panics(resource in resource(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = resource.encode();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Resource::decode(&bytes);
    }
}

#[test]
fn no_secret_is_shown() {
    const KEY: &[u8] = b"a-very-private-key-of-more-than-32-bytes";
    let settings = Settings {
        cookie_key: Secret::new(KEY.to_vec()),
        ticket_keys: vec![Secret::new(KEY.to_vec())],
        trusted_proxies: Vec::new(),
        ingress_ports: Vec::new(),
        access_log: AccessLog::Off,
    };
    let certificate =
        Certificate { chain: vec![vec![1]], key: Secret::new(KEY.to_vec()), summary: "shop.example".into() };
    let mut snapshot = Snapshot::default();
    snapshot.insert("settings", Resource::Settings(settings.clone()));
    snapshot.insert("shop", Resource::Certificate(certificate.clone()));
    let batch = proto::Batch::from(&diff(std::iter::empty(), &snapshot));
    let message = proto::ServerMessage { message: Some(proto::server_message::Message::Batch(batch.clone())) };

    let shown = [
        format!("{snapshot:?}"),
        format!("{:?}", proto::Settings::from(&settings)),
        format!("{:?}", proto::Certificate::from(&certificate)),
        format!("{message:?}"),
        format!("{:?}", proto::State { resources: batch.upserts, version: Vec::new() }),
        serde_json::to_string(&snapshot).unwrap(),
    ];
    let as_text = String::from_utf8(KEY.to_vec()).unwrap();
    let as_numbers = format!("{}, {}, {}", KEY[0], KEY[1], KEY[2]);
    for text in shown {
        assert!(!text.contains(&as_text) && !text.contains(&as_numbers), "{text}");
        assert!(!text.replace(' ', "").contains(&as_numbers.replace(' ', "")), "{text}");
    }
}

/// A route as another version may send it.
fn wire_route(change: impl FnOnce(&mut proto::Rule)) -> Vec<u8> {
    let condition = proto::Match {
        path: Some(proto::r#match::Path::Prefix("/".into())),
        rank: Some(proto::Rank::default()),
        ..Default::default()
    };
    let mut rule = proto::Rule {
        matches: vec![condition],
        action: Some(proto::rule::Action::Refuse(proto::Refusal::NotFound.into())),
        timeouts: Some(proto::Timeouts::default()),
        ..Default::default()
    };
    change(&mut rule);
    let route = proto::Route { attachments: Vec::new(), rules: vec![rule] };
    proto::Resource { resource: Some(proto::resource::Resource::Route(route)) }.encode_to_vec()
}

fn error(bytes: &[u8]) -> String {
    Resource::decode(bytes).unwrap_err().to_string()
}

#[test]
fn a_filter_of_a_newer_version_is_unknown() {
    // Field 1000, length-delimited and empty: an alternative that does not exist here.
    let newer = proto::Filter::decode(&[0xc2, 0x3e, 0x00][..]).unwrap();
    let route = Resource::decode(&wire_route(|rule| rule.filters.push(newer))).unwrap();
    let Resource::Route(route) = route else { panic!("not a route") };
    assert_eq!(route.rules[0].filters, [Filter::Unknown]);
}

#[test]
fn what_is_not_known_or_not_valid_is_named() {
    assert!(Resource::decode(&wire_route(|_| ())).is_ok());
    let session = |change: fn(&mut proto::SessionPersistence)| {
        wire_route(|rule| {
            let lifetime = proto::CookieLifetime::Permanent.into();
            let cookie = proto::SessionCookie { lifetime, ..Default::default() };
            let carrier = Some(proto::session_persistence::Carrier::Cookie(cookie));
            let day = Some(86_400_000_000_000);
            let mut session =
                proto::SessionPersistence { name: "stay".into(), carrier, absolute_timeout: day, ..Default::default() };
            change(&mut session);
            rule.persistence = Some(session);
        })
    };
    assert!(Resource::decode(&session(|_| ())).is_ok());
    let cases: [(Vec<u8>, &str); 11] = [
        (
            wire_route(|rule| rule.retry = Some(proto::Retry { attempts: 31, ..Default::default() })),
            "route.rules[0].retry.attempts: 31 is more than 30",
        ),
        (
            session(|session| session.absolute_timeout = None),
            "route.rules[0].persistence.absolute_timeout: is not set, so a permanent cookie would never end",
        ),
        (session(|session| session.idle_timeout = Some(0)), "route.rules[0].persistence.idle_timeout: is 0"),
        (Vec::new(), "resource: is of a kind that is not known here"),
        (wire_route(|rule| rule.action = None), "route.rules[0].action: is not set, or not known here"),
        (
            wire_route(|rule| rule.action = Some(proto::rule::Action::Refuse(99))),
            "route.rules[0].refuse: the value 99 is not known here",
        ),
        (wire_route(|rule| rule.action = Some(proto::rule::Action::Refuse(0))), "route.rules[0].refuse: is not set"),
        (
            wire_route(|rule| rule.matches[0].path = None),
            "route.rules[0].matches[0].path: is not set, or not known here",
        ),
        (wire_route(|rule| rule.matches.clear()), "route.rules[0].matches: is empty"),
        (
            wire_route(|rule| {
                let edit = proto::HeaderEdit { remove: vec!["a b".into()], ..Default::default() };
                let filter = proto::filter::Filter::RequestHeaders(edit);
                rule.filters.push(proto::Filter { filter: Some(filter) });
            }),
            "route.rules[0].filters[0].request_headers.remove: \"a b\" is not a header name in lower case",
        ),
        (
            wire_route(|rule| {
                let limit = proto::RateLimit {
                    key: Some(proto::rate_limit::Key::ClientIp(proto::Empty {})),
                    requests: 1,
                    per: 1,
                    status: 429,
                    exempt: vec!["10.0.0.0/33".into()],
                    ..Default::default()
                };
                rule.filters.push(proto::Filter { filter: Some(proto::filter::Filter::RateLimit(limit)) });
            }),
            "route.rules[0].filters[0].rate_limit.exempt[0]: \"10.0.0.0/33\" is not a CIDR",
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(error(&bytes), expected);
    }
}

#[test]
fn an_upsert_whose_name_is_of_another_kind_is_refused() {
    let endpoints = Hashed::new(Resource::Endpoints(Endpoints::Addresses(Vec::new())));
    let upsert = proto::Upsert::from(&(ResourceId::new(Kind::Route, "a"), endpoints));
    assert!(<(ResourceId, Hashed)>::try_from(upsert).is_err());
    let unknown =
        proto::Upsert { name: Some(proto::ResourceName { kind: 99, name: "a".into() }), resource: Vec::new() };
    let error: DecodeError = <(ResourceId, Hashed)>::try_from(unknown).unwrap_err();
    assert_eq!(error.to_string(), "name.kind: the value 99 is not known here");
}

#[test]
fn every_known_filter_is_a_capability() {
    let descriptor = include_str!("../../proto/snapshot.proto");
    let filter = descriptor.split_once("message Filter {").unwrap().1.split_once("  }").unwrap().0;
    let fields: Vec<&str> =
        filter.lines().filter_map(|line| line.split_once(" = ")?.0.split_whitespace().last()).collect();
    assert_eq!(fields, CAPABILITIES);
}
