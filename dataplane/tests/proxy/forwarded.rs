//! What proxies in front of the data plane are believed.

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use snapshot::*;

use crate::backend::Backend;
use crate::client::{Answer, send};
use crate::rig::{Rig, addresses, cluster, options, route, rule, settings};

/// Serves behind a proxy at 127.0.0.1, or at an address that nobody has.
fn behind(proxy: &str, backend: &Backend, filters: Vec<Filter>) -> Rig {
    let options = dataplane::Options { workers: Some(1), ..options() };
    Rig::with(options, &[backend.address], |snapshot| {
        let trusted_proxies = vec![proxy.parse().unwrap()];
        snapshot.insert("settings", Resource::Settings(Settings { trusted_proxies, ..settings() }));
        let mut limited = rule("limited", "/limited", "app");
        limited.filters = vec![Filter::RateLimit(RateLimit {
            id: "limit".into(),
            key: LimitKey::ClientIp,
            requests: 1,
            per: std::time::Duration::from_secs(3600),
            burst: 0,
            status: 429,
            exempt: vec!["127.0.0.0/8".parse().unwrap()],
        })];
        let mut refused = rule("refused", "/refused", "none");
        refused.filters = filters.clone();
        let open = Rule { filters, ..rule("open", "/", "app") };
        let cookie = AffinityCookie {
            cookie: "stick".into(),
            mode: AffinityMode::Persistent,
            path: None,
            domain: None,
            expires: None,
            max_age: None,
            same_site: Some(SameSite::None),
            secure: CookieSecure::OnHttps,
        };
        let sticky = Cluster { persistence: Some(Persistence::Affinity(cookie)), ..cluster("app") };
        snapshot.insert("app", Resource::Cluster(sticky));
        snapshot.insert("none", Resource::Endpoints(addresses(&[])));
        snapshot.insert("none", Resource::Cluster(cluster("none")));
        snapshot.insert("all", Resource::Route(route("web", vec![limited, refused, open])));
    })
}

async fn get(rig: &Rig, path: &str, name: &str, value: &[u8]) -> Answer {
    let request = Request::get(path).header("host", "a").header(name, HeaderValue::from_bytes(value).unwrap());
    send(rig.address(), request.body(Full::<Bytes>::default()).unwrap()).await
}

#[tokio::test]
async fn no_byte_makes_a_client_look_like_the_proxy() {
    let backend = Backend::echo("one").await;
    let rig = behind("127.0.0.0/8", &backend, Vec::new());
    for (line, address) in [
        (&b"\xff, 203.0.113.7"[..], "203.0.113.7"),
        (b"127.0.0.1, 203.0.113.8:50123", "203.0.113.8"),
        (b"x, [2001:db8::7]:443", "2001:db8::7"),
        (b"127.0.0.1, \xff", "0.0.0.0"),
    ] {
        let response = get(&rig, "/", "x-forwarded-for", line).await;
        assert!(response.body.contains(&format!("x-real-ip: {address}\n")), "{address}: {}", response.body);
        let chain = format!("x-forwarded-for: {}, 127.0.0.1\n", String::from_utf8_lossy(line));
        assert!(response.body.contains(&chain), "{chain}: {}", response.body);
        // The exemption is the proxy's alone.
        assert_eq!(get(&rig, "/limited", "x-forwarded-for", line).await.status, 200, "{address}");
        assert_eq!(get(&rig, "/limited", "x-forwarded-for", line).await.status, 429, "{address}");
    }
}

#[tokio::test]
async fn secure_cookies_and_hsts_follow_the_scheme_that_a_trusted_proxy_tells() {
    let backend = Backend::echo("one").await;
    let hsts = || vec![Filter::StrictTransportSecurity("max-age=9".into())];
    let (trusting, strict) = (behind("127.0.0.0/8", &backend, hsts()), behind("192.0.2.1/32", &backend, hsts()));
    for (rig, scheme, secure) in
        [(&trusting, "https", true), (&trusting, "http", false), (&strict, "https", false), (&strict, "http", false)]
    {
        let response = get(rig, "/", "x-forwarded-proto", scheme.as_bytes()).await;
        assert_eq!(response.header("set-cookie").contains("; Secure"), secure, "{response:?}");
        assert_eq!(response.header("strict-transport-security") == "max-age=9", secure, "{response:?}");
        let refusal = get(rig, "/refused", "x-forwarded-proto", scheme.as_bytes()).await;
        assert_eq!(refusal.status, 503);
        assert_eq!(refusal.header("strict-transport-security") == "max-age=9", secure, "{refusal:?}");
    }
}
