//! Where a connection is accepted, and what it is shown there.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::net::IpAddr;

use snapshot::{ClientValidation, HostPattern, Kind, Listener, Protocol, Resource, Snapshot, Tls};

use super::journey::{CertificateStep, Journey, ListenerStep, known_hosts, resource};
use super::probe::listeners;
use super::spoken::Spoken;

/// What a listener takes from a connection.
pub(super) enum Carries<'h> {
    /// Requests, each with a rule of its own.
    Requests,
    /// All of it goes one way, by this server name; empty without one.
    Connections { server_name: &'h str },
}

/// The listener; otherwise, why there is none.
pub(super) fn listen<'h>(
    journey: &mut Journey,
    snapshot: &Snapshot,
    port: u16,
    spoken: Spoken,
    host: &'h str,
) -> Result<Carries<'h>, Vec<String>> {
    let datagrams = spoken == Spoken::Udp;
    let is_datagrams = |listener: &Listener| listener.protocol == Protocol::Udp;
    let (mut on_port, other): (Vec<_>, Vec<_>) = listeners(snapshot)
        .filter(|(_, listener)| listener.port == port)
        .partition(|(_, listener)| is_datagrams(listener) == datagrams);
    let Some(first) = on_port.first().map(|(_, listener)| greeting(&listener.protocol)) else {
        journey.answer = Some(match datagrams {
            true => format!("no answer: nothing listens for datagrams on port {port}"),
            false => format!("connection refused: nothing listens on port {port}"),
        });
        return Err(vec![match other.is_empty() {
            false if datagrams => format!("port {port} is listened on for connections: ask for tcp://{host}:{port}"),
            false => format!("port {port} is listened on for datagrams: ask for udp://{host}:{port}"),
            true => known_ports(snapshot),
        }]);
    };
    // The data plane rejects the others.
    on_port.retain(|(_, listener)| greeting(&listener.protocol) == first);
    let server_name = if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() { "" } else { host };
    let name = match first {
        Greeting::Http => host,
        Greeting::Tls => server_name,
        Greeting::Nothing => "",
    };
    wrong_protocol(journey, &on_port, port, spoken, first)?;
    let names = on_port.iter().map(|(_, listener)| &listener.hostname);
    let best = names.clone().filter(|pattern| matches(pattern, name)).min_by_key(|pattern| precedence(pattern));
    let Some(hostname) = best.cloned() else {
        journey.answer = Some(match first {
            Greeting::Http => "404: no listener on this port is for this host".into(),
            _ => {
                "the connection is closed before the handshake: no listener on this port is for this server name".into()
            }
        });
        return Err(vec![known_hosts(names, "listeners on this port")]);
    };
    let same: Vec<_> = on_port.iter().filter(|(_, listener)| listener.hostname == hostname).collect();
    let tls = || same.iter().filter_map(|(_, listener)| terminated(&listener.protocol));
    let certificate = tls().find_map(|tls| certificate(snapshot, tls, server_name));
    let refused = tls().next().is_some() && certificate.is_none();
    journey.listener = Some(ListenerStep {
        names: same.iter().map(|(name, _)| (*name).to_owned()).collect(),
        port,
        hostname: hostname.to_string(),
        certificate,
        clients: clients(tls().filter_map(|tls| tls.client_validation.as_ref())),
    });
    if refused {
        journey.answer =
            Some("the TLS handshake is refused: there is no certificate for this host and no default".into());
        return Err(Vec::new());
    }
    let requests = same.iter().any(|(_, listener)| matches!(listener.protocol, Protocol::Http | Protocol::Https(_)));
    match requests {
        true if !spoken.is_http() => {
            journey.answer = Some("400: there are no requests in what this client sends".into());
            Err(vec![format!("this listener takes HTTP over TLS: ask for https://{host}:{port}")])
        }
        true => Ok(Carries::Requests),
        false => Ok(Carries::Connections { server_name: name }),
    }
}

/// How clients of a port begin: all of its listeners agree.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Greeting {
    Http,
    Tls,
    /// With anything, or nothing.
    Nothing,
}

fn greeting(protocol: &Protocol) -> Greeting {
    match protocol {
        Protocol::Http => Greeting::Http,
        Protocol::Https(_) | Protocol::TlsPassthrough | Protocol::TlsTerminate(_) => Greeting::Tls,
        Protocol::Tcp | Protocol::Udp => Greeting::Nothing,
    }
}

/// Tells when the client begins with something else than the port wants.
fn wrong_protocol(
    journey: &mut Journey,
    on_port: &[(&str, &Listener)],
    port: u16,
    spoken: Spoken,
    greeting: Greeting,
) -> Result<(), Vec<String>> {
    let says = spoken.scheme();
    let (answer, speaks) = match greeting {
        Greeting::Nothing => return Ok(()),
        Greeting::Http if spoken == Spoken::Http => return Ok(()),
        Greeting::Tls if spoken.is_tls() => return Ok(()),
        Greeting::Http => ("connection closed: the port speaks another protocol", "plain HTTP"),
        Greeting::Tls => {
            let first = on_port.first().map(|(_, listener)| discriminant(&listener.protocol));
            let alike = on_port.iter().all(|(_, listener)| Some(discriminant(&listener.protocol)) == first);
            let https = on_port.iter().any(|(_, listener)| matches!(listener.protocol, Protocol::Https(_)));
            match (alike && https, spoken) {
                (true, Spoken::Http) => ("400: plain HTTP on a port for TLS", "HTTP over TLS"),
                (true, _) => ("connection closed: the port speaks another protocol", "HTTP over TLS"),
                (false, _) => ("connection closed: the port speaks another protocol", "TLS"),
            }
        }
    };
    journey.answer = Some(answer.into());
    Err(vec![format!("port {port} speaks {speaks}, but the URL says {says}")])
}

fn known_ports(snapshot: &Snapshot) -> String {
    let ports: BTreeSet<_> =
        listeners(snapshot).map(|(_, listener)| (listener.port, listener.protocol == Protocol::Udp)).collect();
    let port = |(port, datagrams)| format!("{port}{}", if datagrams { "/udp" } else { "" });
    let ports: Vec<_> = ports.into_iter().map(port).collect();
    match ports.as_slice() {
        [] => "there is no listener at all: no Ingress of this class has a rule, and no Gateway of this class a valid listener".into(),
        ports => format!("there are listeners on {}", ports.join(", ")),
    }
}

/// The server's side of TLS, where TLS ends at the listener.
fn terminated(protocol: &Protocol) -> Option<&Tls> {
    match protocol {
        Protocol::Https(tls) | Protocol::TlsTerminate(tls) => Some(tls),
        Protocol::Http | Protocol::TlsPassthrough | Protocol::Tcp | Protocol::Udp => None,
    }
}

fn certificate(snapshot: &Snapshot, tls: &Tls, server_name: &str) -> Option<CertificateStep> {
    let named =
        tls.certificates.iter().flat_map(|entry| entry.hosts.iter().map(move |pattern| (pattern, &entry.certificate)));
    let best =
        named.filter(|(pattern, _)| matches(pattern, server_name)).min_by_key(|(pattern, _)| precedence(pattern));
    let (chosen_by, name) = match (best, &tls.default_certificate) {
        (Some((pattern, name)), _) => (Some(pattern.to_string()), name),
        (None, Some(name)) => (None, name),
        (None, None) => return None,
    };
    let Some(Resource::Certificate(certificate)) = resource(snapshot, Kind::Certificate, name) else { return None };
    Some(CertificateStep { name: name.clone(), summary: certificate.summary.clone(), chosen_by })
}

/// What clients are asked for: where listeners are served as one, the strictest decides.
fn clients<'s>(asked: impl Iterator<Item = &'s ClientValidation>) -> Option<String> {
    let required = |validation: &&ClientValidation| matches!(validation, ClientValidation::Requested);
    match asked.min_by_key(required)? {
        ClientValidation::Required(authorities) => {
            let plural = if authorities.len() == 1 { "y" } else { "ies" };
            Some(format!(
                "required, of {} authorit{plural}; without it the handshake fails (tls.frontend of the Gateway)",
                authorities.len()
            ))
        }
        ClientValidation::Requested => {
            Some("asked for; any certificate passes, and none too (tls.frontend of the Gateway)".into())
        }
    }
}

/// Whether a name is one of the pattern's; the empty one, of clients that send none, only of the pattern for all.
pub(super) fn matches(pattern: &HostPattern, host: &str) -> bool {
    let labels = |suffix: &str| host.strip_suffix(suffix)?.strip_suffix('.').filter(|labels| !labels.is_empty());
    match pattern {
        HostPattern::Exact(name) => name == host,
        HostPattern::OneLabel(suffix) => labels(suffix).is_some_and(|labels| !labels.contains('.')),
        HostPattern::AnyLabels(suffix) => labels(suffix).is_some(),
        HostPattern::Any => true,
    }
}

/// Smaller is more specific: exact, then the longest wildcard, then any.
fn precedence(pattern: &HostPattern) -> (u8, usize) {
    match pattern {
        HostPattern::Exact(_) => (0, 0),
        HostPattern::OneLabel(suffix) | HostPattern::AnyLabels(suffix) => (1, usize::MAX - suffix.len()),
        HostPattern::Any => (2, 0),
    }
}
