//! Requests for one listener on a connection that was made for another (RFC 9110, 15.5.20; RFC 9113, 9.1.1).

use std::collections::BTreeMap;

use http::Request;
use http_body_util::Full;
use snapshot::*;

use crate::authority::{Authority, connect, trusting};
use crate::backend::Backend;
use crate::client::{collect, http2};
use crate::rig::{Rig, free_port, options, route, rule};

/// The case of the Gateway API's suite: a listener for every name, one for a name, one for a wildcard, one for a name below it.
#[tokio::test]
async fn a_request_is_served_by_the_listener_of_its_connection_or_refused_with_421() {
    let backend = Backend::echo("one").await;
    let authority = Authority::new();
    let port = free_port();
    let listeners = [
        ("any", HostPattern::Any, HostPattern::Exact("example.org".into())),
        ("exact", HostPattern::Exact("second-example.org".into()), HostPattern::Exact("second-example.org".into())),
        ("wild", HostPattern::AnyLabels("wildcard.org".into()), HostPattern::AnyLabels("wildcard.org".into())),
        (
            "below",
            HostPattern::Exact("fourth-example.wildcard.org".into()),
            HostPattern::Exact("fourth-example.wildcard.org".into()),
        ),
    ];
    let names = ["example.org", "second-example.org", "unknown-example.org", "*.wildcard.org"];
    let rig = Rig::with(options(), &[backend.address], |snapshot| {
        snapshot.insert("shown", Resource::Certificate(authority.server(&names)));
        for (name, hostname, host) in listeners {
            let tls =
                Tls { certificates: Vec::new(), default_certificate: Some("shown".into()), client_validation: None };
            snapshot.insert(name, Resource::Listener(Listener { port, hostname, protocol: Protocol::Https(tls) }));
            let mut route = route(name, vec![rule(name, "/", "app")]);
            route.attachments[0].hostnames = vec![host];
            snapshot.insert(format!("{name}-route"), Resource::Route(route));
        }
    });
    let address = std::net::SocketAddr::new(rig.address().ip(), port);
    let cases: [(&str, &[(&str, u16)]); 5] = [
        (
            "example.org",
            &[
                ("example.org", 200),
                ("EXAMPLE.org:443", 200),
                ("second-example.org", 421),
                ("fourth-example.wildcard.org", 421),
                ("unknown-example.org", 404),
            ],
        ),
        ("second-example.org", &[("second-example.org", 200), ("example.org", 421), ("unknown-example.org", 421)]),
        (
            "third-example.wildcard.org",
            &[
                ("third-example.wildcard.org", 200),
                ("fith-example.wildcard.org", 200),
                ("fourth-example.wildcard.org", 421),
                ("second-example.org", 421),
                ("unknown-example.org", 421),
            ],
        ),
        ("fourth-example.wildcard.org", &[("fourth-example.wildcard.org", 200), ("fith-example.wildcard.org", 421)]),
        ("unknown-example.org", &[("example.org", 200), ("unknown-example.org", 404)]),
    ];
    let mut reasons = BTreeMap::new();
    for (server_name, requests) in cases {
        let stream = connect(trusting(&[&authority], None), &[b"h2"], address, server_name).await.unwrap();
        let mut connection = http2(stream).await;
        for (host, expected) in requests {
            let request = Request::get(format!("https://{host}/")).body(Full::<bytes::Bytes>::default()).unwrap();
            let answer = collect(connection.send_request(request).await.unwrap()).await.unwrap();
            assert_eq!(answer.status.as_u16(), *expected, "{server_name}: {host}");
            reasons.insert(*expected, answer.header("x-sluice-reason").to_owned());
        }
    }
    assert_eq!(reasons[&421], "misdirected");
}
