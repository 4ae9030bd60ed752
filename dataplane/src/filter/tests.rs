use std::net::IpAddr;
use std::time::Duration;

use http::{Request, Version};
use snapshot::{LimitKey, PathRewrite};

use super::*;
use crate::forwarded::Origin;
use crate::reason::Reason;

/// A request to `http://shop.example:8080`, from 192.0.2.1.
struct Fixture {
    target: Target,
    forwarded: Forwarded,
    scheme: Scheme,
    port: u16,
    headers: HeaderMap,
}

fn request(scheme: Scheme, port: u16, path: &str) -> Fixture {
    let request = Request::builder().uri(path).version(Version::HTTP_11).header("host", "Shop.Example:8080");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    let origin = Origin::new(IpAddr::from([192, 0, 2, 1]), scheme, port);
    let forwarded = Forwarded::of(&origin, &parts.headers, None, &[]);
    Fixture { target: Target::of(&parts).unwrap(), forwarded, scheme, port, headers: HeaderMap::new() }
}

impl Fixture {
    fn run(&self, filter: snapshot::Filter, matched: PathMatched) -> Result<Outgoing, Answer> {
        let filters = compiled(filter);
        self.through(&filters, matched, Tick::at(Duration::from_secs(1000)), &mut Effects::default())
    }

    fn through(
        &self,
        filters: &[Filter],
        matched: PathMatched,
        now: Tick,
        effects: &mut Effects,
    ) -> Result<Outgoing, Answer> {
        let (target, forwarded) = (&self.target, &self.forwarded);
        let (listener_scheme, listener_port) = (self.scheme, self.port);
        let method = &Method::GET;
        let context = Context { method, target, forwarded, listener_scheme, listener_port, matched, now };
        let host = self.target.authority().cloned();
        let mut outgoing = Outgoing { headers: self.headers.clone(), path: self.target.path_and_query().clone(), host };
        on_request(filters, &context, &mut outgoing, effects).map(|()| outgoing)
    }

    fn location(&self, filter: snapshot::Filter, matched: PathMatched) -> Option<String> {
        let answer = self.run(filter, matched).err()?;
        Some(format!("{} {}", answer.status.as_u16(), answer.location.unwrap().to_str().unwrap()))
    }
}

fn compiled(filter: snapshot::Filter) -> Box<[Filter]> {
    Filter::compile_all(&[filter], &ClusterRegistry::default(), &mut LimiterRegistry::default()).unwrap().unwrap()
}

fn redirect() -> snapshot::Redirect {
    snapshot::Redirect { scheme: None, hostname: None, port: None, path: None, status: 302 }
}

#[test]
fn prefixes_are_replaced_as_the_specification_lists() {
    for (path, prefix, replacement, result) in [
        ("/foo/bar?q=/foo", "/foo", "/xyz", "/xyz/bar?q=/foo"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo", "/foo", "", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/bar", "", "/xyz", "/xyz/bar"),
        ("/", "", "/xyz", "/xyz/"),
        // What follows the prefix stays as it was sent,
        ("/f%6fo//a%20b%3F", "/foo", "/xyz", "/xyz//a%20b%3F"),
        ("/foo/a%2Fb", "/foo", "/xyz", "/xyz/a%2Fb"),
        ("//foo//bar", "/foo", "/xyz", "/xyz//bar"),
        ("/foo/%c3%a9?%2F", "/foo", "/xyz", "/xyz/%c3%a9?%2F"),
        ("/foo//", "/foo", "/xyz", "/xyz//"),
        ("/a//b/c//%ff", "/a/b", "/xyz", "/xyz/c//%ff"),
        ("//a%2Fb", "", "/xyz", "/xyz/a%2Fb"),
        // but for the separator behind the prefix, and where there are dot segments.
        ("/foo%2Fb%20c", "/foo", "/xyz", "/xyz/b%20c"),
        ("/foo%2Fb%2fc", "/foo", "/", "/b%2fc"),
        ("/foo%2F", "/foo", "/xyz", "/xyz/"),
        ("/a/../foo/b%20c", "/foo", "/xyz", "/xyz/b%20c"),
        ("/a//b/./c", "/a/b", "/xyz", "/xyz/c"),
        ("/./foo/b", "/foo", "/xyz", "/xyz/b"),
        ("/foo/x/../../foo/b", "/foo", "/xyz", "/xyz/b"),
        // Nothing behind the prefix becomes a host.
        ("/api//evil.example/x", "/api", "/", "/evil.example/x"),
        ("/api//evil.example/x", "/api", "", "/evil.example/x"),
        ("/api%2f%2fevil.example/x", "/api", "/", "/evil.example/x"),
        ("/api/\\evil.example/x", "/api", "/", "/evil.example/x"),
        ("/api//evil.example/x", "/api", "/xyz", "/xyz//evil.example/x"),
    ] {
        let path_rewrite = Some(PathRewrite::Prefix(replacement.into()));
        let rewrite = snapshot::Filter::Rewrite(snapshot::Rewrite { hostname: None, path: path_rewrite });
        let outgoing = request(Scheme::Http, 80, path).run(rewrite, PathMatched::Prefix(prefix.len())).unwrap();
        assert_eq!(outgoing.path, result, "{path} {replacement}");
        assert_eq!(outgoing.host.unwrap(), "Shop.Example:8080");
    }
}

#[test]
fn full_paths_and_hosts_are_replaced() {
    let path = Some(PathRewrite::Full("/one".into()));
    let rewrite = snapshot::Rewrite { hostname: Some("other.example".into()), path };
    let outgoing =
        request(Scheme::Http, 80, "/a/b?q").run(snapshot::Filter::Rewrite(rewrite), PathMatched::Exact).unwrap();
    assert_eq!(outgoing.path, "/one?q");
    assert_eq!(outgoing.host.unwrap(), "other.example");
}

#[test]
fn redirects_follow_the_port_rules() {
    use Scheme::{Http, Https};
    for (on, port, scheme, explicit, location) in [
        (Http, 80, None, None, "302 http://shop.example/a?q"),
        (Http, 8080, None, None, "302 http://shop.example:8080/a?q"),
        (Https, 443, None, None, "302 https://shop.example/a?q"),
        (Http, 8080, Some(Https), None, "302 https://shop.example/a?q"),
        (Http, 80, Some(Https), Some(8443), "302 https://shop.example:8443/a?q"),
        (Http, 80, Some(Http), Some(443), "302 http://shop.example:443/a?q"),
        (Https, 443, None, Some(443), "302 https://shop.example/a?q"),
        (Https, 443, Some(Http), Some(80), "302 http://shop.example/a?q"),
    ] {
        let filter = snapshot::Filter::Redirect(snapshot::Redirect { scheme, port: explicit, ..redirect() });
        let found = request(on, port, "/a?q").location(filter, PathMatched::Exact);
        assert_eq!(found.as_deref(), Some(location), "{on:?} {port} {scheme:?} {explicit:?}");
    }
}

#[test]
fn redirects_change_host_and_path() {
    let source = snapshot::Redirect {
        hostname: Some("new.example".into()),
        path: Some(PathRewrite::Prefix("/new".into())),
        status: 301,
        ..redirect()
    };
    let found =
        request(Scheme::Http, 80, "/old/x").location(snapshot::Filter::Redirect(source), PathMatched::Prefix(4));
    assert_eq!(found.as_deref(), Some("301 http://new.example/new/x"));
}

#[test]
fn plain_requests_go_to_https_as_ingress_nginx_sends_them() {
    let filter = |port| snapshot::Filter::HttpsRedirect(snapshot::HttpsRedirect { port, status: 308 });
    for (path, location) in [
        ("/", "308 https://shop.example"),
        ("/a/", "308 https://shop.example/a"),
        ("/a/?x=1", "308 https://shop.example/a/?x=1"),
        ("//a%2F?x", "308 https://shop.example/a%2F?x"),
    ] {
        let found = request(Scheme::Http, 80, path).location(filter(None), PathMatched::Prefix(0));
        assert_eq!(found.as_deref(), Some(location));
    }
    let found = request(Scheme::Http, 80, "/a").location(filter(Some(8443)), PathMatched::Prefix(0));
    assert_eq!(found.as_deref(), Some("308 https://shop.example:8443/a"));
    assert!(request(Scheme::Https, 443, "/a").run(filter(None), PathMatched::Prefix(0)).is_ok());
    let acme = request(Scheme::Http, 80, "/.well-known/acme-challenge/token");
    assert!(acme.run(filter(None), PathMatched::Prefix(0)).is_ok());
}

#[test]
fn a_missing_trailing_slash_is_added_by_redirect() {
    let on = |scheme, port, path, matched| {
        request(scheme, port, path).location(snapshot::Filter::TrailingSlashRedirect, matched)
    };
    let found = |path, matched| on(Scheme::Http, 80, path, matched);
    let elsewhere = on(Scheme::Http, 8080, "/a", PathMatched::Exact);
    assert_eq!(elsewhere.as_deref(), Some("301 http://shop.example:8080/a/"));
    let secure = on(Scheme::Https, 443, "/a", PathMatched::Exact);
    assert_eq!(secure.as_deref(), Some("301 https://shop.example/a/"));
    assert_eq!(found("/a?q=1", PathMatched::Prefix(2)).as_deref(), Some("301 http://shop.example/a/?q=1"));
    assert_eq!(found("/a", PathMatched::Exact).as_deref(), Some("301 http://shop.example/a/"));
    assert_eq!(found("/a/", PathMatched::Prefix(2)), None);
    assert_eq!(found("/a/b", PathMatched::Prefix(2)), None);
}

#[test]
fn header_edits_set_then_add_then_remove() {
    let edit = snapshot::HeaderEdit {
        set: vec![("x-a".into(), "set".into())],
        add: vec![("x-a".into(), "added".into()), ("x-b".into(), "added".into())],
        remove: vec!["x-c".into()],
    };
    let mut fixture = request(Scheme::Http, 80, "/");
    for name in ["x-a", "x-b", "x-c"] {
        fixture.headers.insert(name, HeaderValue::from_static("before"));
    }
    let outgoing = fixture.run(snapshot::Filter::RequestHeaders(edit.clone()), PathMatched::Exact).unwrap();
    let values = |headers: &HeaderMap, name: &str| {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values(&outgoing.headers, "x-a"), ["set", "added"]);
    assert_eq!(values(&outgoing.headers, "x-b"), ["before", "added"]);
    assert!(values(&outgoing.headers, "x-c").is_empty());
    let mut response = HeaderMap::new();
    on_response(&compiled(snapshot::Filter::ResponseHeaders(edit)), false, &Effects::default(), &mut response);
    assert_eq!(values(&response, "x-b"), ["added"]);
}

#[test]
fn nginx_headers_are_added_and_underscores_dropped() {
    let mut fixture = request(Scheme::Http, 80, "/");
    fixture.headers.insert("a_b", HeaderValue::from_static("1"));
    fixture.headers.insert("x-original-forwarded-for", HeaderValue::from_static("forged"));
    let outgoing = fixture.run(snapshot::Filter::NginxHeaders, PathMatched::Exact).unwrap();
    assert_eq!(outgoing.headers["x-scheme"], "http");
    assert_eq!(outgoing.headers["x-forwarded-scheme"], "http");
    assert_eq!(outgoing.headers.len(), 2);
    let mut response: HeaderMap = [(http::header::SERVER, HeaderValue::from_static("backend"))].into_iter().collect();
    on_response(&compiled(snapshot::Filter::NginxHeaders), false, &Effects::default(), &mut response);
    assert!(response.is_empty());
}

#[test]
fn strict_transport_security_is_for_https_only_and_for_our_answers_too() {
    let filters = compiled(snapshot::Filter::StrictTransportSecurity("max-age=1".into()));
    for run in [on_response, on_answer] {
        let mut headers: HeaderMap =
            [(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("theirs"))].into_iter().collect();
        run(&filters, true, &Effects::default(), &mut headers);
        assert_eq!(headers[STRICT_TRANSPORT_SECURITY], "max-age=1");
        let mut plain = HeaderMap::new();
        run(&filters, false, &Effects::default(), &mut plain);
        assert!(plain.is_empty());
    }
}

#[test]
fn a_rate_limit_refuses_with_its_status_and_says_when_to_come_back() {
    let limit = |exempt: &str| {
        compiled(snapshot::Filter::RateLimit(snapshot::RateLimit {
            id: "a".into(),
            key: LimitKey::ClientIp,
            requests: 1,
            per: Duration::from_secs(10),
            burst: 1,
            status: 503,
            exempt: vec![exempt.parse().unwrap()],
        }))
    };
    let fixture = request(Scheme::Http, 80, "/");
    let filters = limit("10.0.0.0/8");
    let at = |millis| {
        fixture.through(&filters, PathMatched::Exact, Tick::at(Duration::from_millis(millis)), &mut Effects::default())
    };
    assert!(at(50_000).is_ok() && at(50_000).is_ok());
    let refused = at(50_500).unwrap_err();
    assert_eq!((refused.reason, refused.status.as_u16(), refused.retry_after), (Reason::RateLimited, 503, Some(10)));
    assert!(at(60_000).is_ok());
    let exempt = limit("192.0.2.0/24");
    for _ in 0..10 {
        let now = Tick::at(Duration::from_secs(50));
        assert!(fixture.through(&exempt, PathMatched::Exact, now, &mut Effects::default()).is_ok());
    }
}

#[test]
fn a_connection_limit_counts_while_the_guard_lives() {
    let filters = compiled(snapshot::Filter::ConnectionLimit(snapshot::ConnectionLimit {
        id: "a".into(),
        connections: 1,
        status: 429,
        exempt: vec![],
    }));
    let fixture = request(Scheme::Http, 80, "/");
    let now = Tick::at(Duration::from_secs(1));
    let mut effects = Effects::default();
    assert!(fixture.through(&filters, PathMatched::Exact, now, &mut effects).is_ok());
    let refused = fixture.through(&filters, PathMatched::Exact, now, &mut Effects::default()).unwrap_err();
    assert_eq!((refused.reason, refused.status.as_u16()), (Reason::ConnectionLimited, 429));
    effects.guards.clear();
    assert!(fixture.through(&filters, PathMatched::Exact, now, &mut effects).is_ok());
}

#[test]
fn unknown_filters_and_invalid_values_do_not_compile() {
    let (clusters, mut limiters) = (ClusterRegistry::default(), LimiterRegistry::default());
    assert!(Filter::compile_all(&[snapshot::Filter::Unknown], &clusters, &mut limiters).unwrap().is_none());
    for path in ["", "x", "/a b", "/a?b"] {
        let path = Some(PathRewrite::Full(path.into()));
        let rewrite = snapshot::Filter::Rewrite(snapshot::Rewrite { hostname: None, path });
        assert!(Filter::compile_all(&[rewrite], &clusters, &mut limiters).is_err());
    }
    let wrong = snapshot::Filter::Redirect(snapshot::Redirect { status: 200, ..redirect() });
    assert!(Filter::compile_all(&[wrong], &clusters, &mut limiters).is_err());
    let header = snapshot::HeaderEdit { set: vec![("a b".into(), "x".into())], ..Default::default() };
    assert!(Filter::compile_all(&[snapshot::Filter::RequestHeaders(header)], &clusters, &mut limiters).is_err());
    for name in snapshot::HeaderEdit::FIXED {
        let pair = || vec![(name.to_owned(), "1".to_owned())];
        let set = snapshot::HeaderEdit { set: pair(), ..Default::default() };
        let add = snapshot::HeaderEdit { add: pair(), ..Default::default() };
        let remove = snapshot::HeaderEdit { remove: vec![name.to_owned()], ..Default::default() };
        for edit in [&set, &add, &remove] {
            let response = snapshot::Filter::ResponseHeaders(edit.clone());
            assert!(Filter::compile_all(&[response], &clusters, &mut limiters).is_err(), "{edit:?}");
            let request = snapshot::Filter::RequestHeaders(edit.clone());
            let sets_host = name == "host" && !edit.set.is_empty();
            assert_eq!(Filter::compile_all(&[request], &clusters, &mut limiters).is_ok(), sets_host, "{edit:?}");
        }
    }
    let host = snapshot::HeaderEdit { set: vec![("host".into(), "a/b".into())], ..Default::default() };
    assert!(Filter::compile_all(&[snapshot::Filter::RequestHeaders(host)], &clusters, &mut limiters).is_err());
    for host in ["a..b", "a:80"] {
        let redirect = snapshot::Filter::Redirect(snapshot::Redirect { hostname: Some(host.into()), ..redirect() });
        assert!(Filter::compile_all(&[redirect], &clusters, &mut limiters).is_err());
        let rewrite = snapshot::Filter::Rewrite(snapshot::Rewrite { hostname: Some(host.into()), path: None });
        assert!(Filter::compile_all(&[rewrite], &clusters, &mut limiters).is_err());
    }
}

#[test]
fn an_edit_of_the_host_changes_where_the_request_goes() {
    let edit = snapshot::HeaderEdit { set: vec![("host".into(), "inner.example:81".into())], ..Default::default() };
    let outgoing = request(Scheme::Http, 80, "/").run(snapshot::Filter::RequestHeaders(edit), PathMatched::Exact);
    let outgoing = outgoing.unwrap();
    assert_eq!(outgoing.host.unwrap(), "inner.example:81");
    assert!(outgoing.headers.is_empty());
}

#[test]
fn behind_a_trusted_proxy_its_host_is_passed_on_and_what_came_stays_readable() {
    let mut fixture = request(Scheme::Http, 80, "/");
    fixture.headers.insert("x-forwarded-host", HeaderValue::from_static("outer.example:8443, b"));
    let origin = Origin::new(IpAddr::from([10, 0, 0, 1]), Scheme::Http, 80);
    fixture.forwarded = Forwarded::of(&origin, &fixture.headers, None, &["10.0.0.0/8".parse().unwrap()]);
    fixture.forwarded.write(&mut fixture.headers);
    let outgoing = fixture.run(snapshot::Filter::NginxHeaders, PathMatched::Exact).unwrap();
    assert_eq!(outgoing.host.unwrap(), "outer.example:8443");
    assert_eq!(outgoing.headers["x-forwarded-host"], "outer.example:8443");
    assert_eq!(outgoing.headers["x-original-forwarded-host"], "outer.example:8443, b");
}
