//! Parts of a snapshot in words.

use snapshot::{
    AffinityMode, AuthProtocol, BackendProtocol, Balancer, Carrier, Cluster, Filter, HeaderEdit, LimitKey, Mirror,
    OriginPattern, PathRewrite, Persistence, Refusal, Retry, Rule, Scheme, SessionPersistence, Verification,
};

/// A rule's limits in time and size.
pub(super) fn limits(rule: &Rule) -> Vec<String> {
    let timeouts = &rule.timeouts;
    let times = [
        ("connect", timeouts.connect),
        ("read", timeouts.read),
        ("send", timeouts.send),
        ("request", timeouts.request),
        ("backend request", timeouts.backend_request),
    ];
    let times = times.into_iter().filter_map(|(name, time)| Some(format!("{name} timeout {:?}", time?)));
    let size = rule.max_body.map(|bytes| format!("bodies up to {bytes} bytes"));
    times.chain(size).chain(rule.retry.as_ref().map(retry)).chain(rule.persistence.as_ref().map(session)).collect()
}

fn session(session: &SessionPersistence) -> String {
    let carrier = match session.carrier {
        Carrier::Cookie(_) => "cookie",
        Carrier::Header => "header",
    };
    let most = session.absolute_timeout.map(|time| format!(", {time:?} at most"));
    let idle = session.idle_timeout.map(|time| format!(", {time:?} without a request"));
    let (most, idle) = (most.unwrap_or_default(), idle.unwrap_or_default());
    format!("sessions by the {carrier} {}{most}{idle}", session.name)
}

fn retry(retry: &Retry) -> String {
    let Retry { attempts, statuses, backoff } = retry;
    let statuses: Vec<_> = statuses.iter().map(u16::to_string).collect();
    let on = if statuses.is_empty() { "" } else { " and statuses " };
    format!("up to {attempts} retries after failed connections{on}{}, the first after {backoff:?}", statuses.join(", "))
}

/// What a filter does.
pub(super) fn filter(filter: &Filter) -> String {
    match filter {
        Filter::RequestHeaders(edit) => format!("request headers: {}", edits(edit)),
        Filter::ResponseHeaders(edit) => format!("response headers: {}", edits(edit)),
        Filter::Redirect(redirect) => {
            let scheme = redirect.scheme.map_or("", |scheme| match scheme {
                Scheme::Http => "http://",
                Scheme::Https => "https://",
            });
            let host = redirect.hostname.as_deref().unwrap_or("the same host");
            let port = redirect.port.map(|port| format!(":{port}")).unwrap_or_default();
            let path = redirect.path.as_ref().map_or("the path stays".to_owned(), path);
            format!("{}: redirect to {scheme}{host}{port}, {path}", redirect.status)
        }
        Filter::Rewrite(rewrite) => {
            let host = rewrite.hostname.as_ref().map(|host| format!("host becomes {host}"));
            let path = rewrite.path.as_ref().map(path);
            format!("rewrite: {}", host.into_iter().chain(path).collect::<Vec<_>>().join(", "))
        }
        Filter::HttpsRedirect(redirect) => format!("{}: redirect from http to https", redirect.status),
        Filter::TrailingSlashRedirect => "redirect to the path with a trailing slash".into(),
        Filter::NginxHeaders => "headers as ingress-nginx sends them".into(),
        Filter::StrictTransportSecurity(value) => format!("Strict-Transport-Security: {value}"),
        Filter::RateLimit(limit) => {
            let key = match &limit.key {
                LimitKey::ClientIp => "client address".to_owned(),
                LimitKey::Header(name) => format!("value of {name}"),
            };
            let (requests, per, burst, status) = (limit.requests, limit.per, limit.burst, limit.status);
            format!("at most {requests} requests in {per:?} for each {key}, {burst} more at once; then {status}")
        }
        Filter::ConnectionLimit(limit) => {
            format!(
                "at most {} requests of a client address at the same time; then {}",
                limit.connections, limit.status
            )
        }
        Filter::Mirror(mirror) => {
            let Mirror { cluster, numerator, denominator } = mirror;
            format!("copies {numerator} of {denominator} requests to {cluster}")
        }
        Filter::Cors(cors) => {
            let origins = cors.allow_origins.iter().map(|origin| match origin {
                OriginPattern::Any => "everywhere".to_owned(),
                OriginPattern::Exact(origin) => origin.clone(),
                OriginPattern::Subdomains { scheme, suffix, port } => {
                    format!("{scheme}://*.{suffix}{}", port.map(|port| format!(":{port}")).unwrap_or_default())
                }
            });
            format!("scripts from {} may read answers", origins.collect::<Vec<_>>().join(", "))
        }
        Filter::ExternalAuth(auth) => {
            let body = match auth.max_body {
                0 => String::new(),
                most => format!(", with bodies up to {most} bytes"),
            };
            let protocol = match auth.protocol {
                AuthProtocol::Http(_) => "HTTP",
                AuthProtocol::Grpc(_) => "gRPC",
            };
            format!("asks {} by {protocol} whether the request may pass{body}", auth.cluster)
        }
        Filter::Unknown => "something that this version does not know: the rule answers 500".into(),
    }
}

fn edits(edit: &HeaderEdit) -> String {
    let set = edit.set.iter().map(|(name, value)| format!("set {name}: {value}"));
    let add = edit.add.iter().map(|(name, value)| format!("add {name}: {value}"));
    let remove = edit.remove.iter().map(|name| format!("remove {name}"));
    set.chain(add).chain(remove).collect::<Vec<_>>().join(", ")
}

fn path(rewrite: &PathRewrite) -> String {
    match rewrite {
        PathRewrite::Full(path) => format!("path becomes {path}"),
        PathRewrite::Prefix(path) => format!("the matched part of the path becomes {path}"),
    }
}

/// How a cluster is reached.
pub(super) fn cluster(cluster: &Cluster) -> Vec<String> {
    let (protocol, tls) = match &cluster.protocol {
        BackendProtocol::Http1 => ("HTTP/1.1", None),
        BackendProtocol::Http2 => ("HTTP/2", None),
        BackendProtocol::Https(tls) => ("HTTP/1.1 over TLS", Some(tls)),
        BackendProtocol::Http2Tls(tls) => ("HTTP/2 over TLS", Some(tls)),
        BackendProtocol::Tcp => ("TCP", None),
        BackendProtocol::Tls(tls) => ("TLS", Some(tls)),
        BackendProtocol::Udp => ("UDP", None),
    };
    let mut words = vec![protocol.to_owned()];
    words.extend(tls.map(|tls| match tls.verification {
        Verification::None => "any certificate".to_owned(),
        Verification::Required { .. } => "verified certificate".to_owned(),
    }));
    let balancer = match cluster.balancer {
        Balancer::RoundRobin => "round robin",
        Balancer::LeastRequest => "least requests of two",
        Balancer::PeakEwma => "smallest latency of two",
    };
    words.push(balancer.to_owned());
    words.extend(cluster.persistence.as_ref().map(|persistence| match persistence {
        Persistence::Session(own) => session(own),
        Persistence::Affinity(affinity) => {
            let mode = match affinity.mode {
                AffinityMode::Balanced => "balanced",
                AffinityMode::Persistent => "persistent",
            };
            format!("kept by the cookie {} ({mode})", affinity.cookie)
        }
    }));
    words.extend(cluster.passive_health.as_ref().map(|health| {
        format!("left out for {:?} after {} failures in a row", health.ejection_time, health.consecutive_failures)
    }));
    words
}

/// What the client gets.
pub(super) fn refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound => "404: this host or path was left without a backend",
        Refusal::InvalidBackend => "500: the backend does not exist or may not be referred to",
        Refusal::Unavailable => "503: the Service does not exist, or a setting of the route cannot be honoured",
        Refusal::Unsupported => "500: the rule asks for something that this version does not know",
    }
}

/// What becomes of a connection, or of datagrams.
pub(super) fn refused_traffic(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound | Refusal::InvalidBackend => "refused: the backend does not exist or may not be referred to",
        Refusal::Unavailable => "refused: the Service cannot be used",
        Refusal::Unsupported => "refused: the route asks for something that this version does not know",
    }
}

/// What becomes of whatever goes to a Service without endpoints.
pub(super) fn no_endpoint(protocol: &BackendProtocol) -> &'static str {
    match protocol {
        BackendProtocol::Tcp | BackendProtocol::Tls(_) | BackendProtocol::Udp => {
            "refused: the Service has no ready endpoint"
        }
        _ => "503: the Service has no ready endpoint",
    }
}
