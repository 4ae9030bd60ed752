//! The server's side of TLS: which certificate, which protocol, which session tickets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use snapshot::{ClientValidation, HostPattern, Listener, Tls};

use crate::client_certificates::verifier;
use crate::route::HostMap;
use crate::tickets::{Scope, TicketKeys, Tickets};

/// The certificates of one listener, by server name.
#[derive(Debug, Default)]
pub struct ListenerCertificates {
    named: HostMap<Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

/// All listeners' certificates of one port. A lookup costs the same however many there are.
#[derive(Debug, Default)]
pub struct PortCertificates {
    /// Listeners of one name in the order in which they were added.
    listeners: HostMap<Vec<ListenerCertificates>>,
}

impl ListenerCertificates {
    /// Looks the certificates up by name with `find`. A name that `find` does not know is left out, so that its hosts
    /// get the default certificate, as if it had been deleted.
    pub fn new(tls: &Tls, find: impl Fn(&str) -> Option<Arc<CertifiedKey>>) -> Self {
        let mut named = HostMap::default();
        for entry in &tls.certificates {
            let Some(key) = find(&entry.certificate) else { continue };
            for host in &entry.hosts {
                // The first one wins: translation lists them by precedence.
                named.get_or_insert_with(host, || key.clone());
            }
        }
        Self { named, default: tls.default_certificate.as_deref().and_then(find) }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.named.matching(name).next().or(self.default.as_ref())
    }
}

impl PortCertificates {
    /// Adds a listener of the port.
    pub fn add(&mut self, hostname: &HostPattern, certificates: ListenerCertificates) {
        self.listeners.get_or_insert_with(hostname, Vec::new).push(certificates);
    }

    /// The certificate for a server name, or for none. The most specific listener decides; a listener that has nothing
    /// to show passes the question on, so that a client gets some certificate wherever there is one.
    pub fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let name = name.unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        self.listeners.matching(&name).flatten().find_map(|certificates| certificates.find(&name)).cloned()
    }
}

/// Where a port's handshakes find the present certificates: replaced as a whole, so a new certificate holds from
/// the next handshake on.
#[derive(Default)]
pub struct CurrentCertificates(ArcSwap<PortCertificates>);

impl CurrentCertificates {
    /// Replaces them.
    pub fn store(&self, certificates: Arc<PortCertificates>) {
        self.0.store(certificates);
    }
}

impl fmt::Debug for CurrentCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificates")
    }
}

impl ResolvesServerCert for CurrentCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().find(hello.server_name())
    }
}

/// What becomes of the connections of a port, by the listener that the server name leads to.
#[derive(Default)]
pub struct PortTls {
    listeners: HostMap<Opening>,
    /// Where clients need a certificate, and whose.
    guarded: BTreeMap<HostPattern, Scope>,
    /// Whether a listener speaks something else than HTTP.
    mixed: bool,
}

/// What becomes of a connection that begins with a ClientHello.
#[derive(Clone, Debug)]
pub enum Opening {
    /// It is opened, and HTTP is inside.
    Http(Arc<ServerConfig>),
    /// It is opened, and what is inside goes to a backend.
    Terminated(Arc<ServerConfig>),
    /// It goes to a backend as it is.
    Passed,
    /// It is closed: what is asked of clients there cannot be checked.
    Refused,
}

/// What is inside of connections that are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Inside {
    /// HTTP/2 or HTTP/1.1, by ALPN.
    Http,
    /// Anything: what the client offers by ALPN is ignored.
    Bytes,
}

impl Opening {
    /// How the handshake is made, where it is made here.
    pub fn config(&self) -> Option<&Arc<ServerConfig>> {
        match self {
            Opening::Http(config) | Opening::Terminated(config) => Some(config),
            Opening::Passed | Opening::Refused => None,
        }
    }
}

impl PortTls {
    /// Adds a listener of the port that is not opened here.
    pub fn pass(&mut self, listener: &Listener) {
        self.mixed = true;
        self.listeners.insert(&listener.hostname, Opening::Passed);
    }

    /// Adds a listener of the port that is opened here; without a configuration it refuses. Of two with one name the one that
    /// needs certificates holds.
    pub fn open(&mut self, listener: &Listener, tls: &Tls, inside: Inside, config: Option<Arc<ServerConfig>>) {
        self.mixed |= inside != Inside::Http;
        if self.guarded.contains_key(&listener.hostname) {
            return;
        }
        if let Some(ClientValidation::Required(_)) = &tls.client_validation {
            self.guarded.insert(listener.hostname.clone(), Scope::of(tls.client_validation.as_ref()));
        }
        let opening = match (config, inside) {
            (Some(config), Inside::Http) => Opening::Http(config),
            (Some(config), Inside::Bytes) => Opening::Terminated(config),
            (None, _) => Opening::Refused,
        };
        self.listeners.insert(&listener.hostname, opening);
    }

    /// What becomes of a client that asks for this name (in lower case, empty for none). `None` closes the connection: no
    /// listener has this name.
    pub fn find(&self, server_name: &str) -> Option<&Opening> {
        self.listeners.matching(server_name).next()
    }

    /// Whether all listeners speak HTTP.
    pub fn is_http(&self) -> bool {
        !self.mixed
    }

    /// Whether somebody who connected under `before` may not have shown what is asked for now.
    pub fn asks_more_than(&self, before: &Self) -> bool {
        self.guarded.iter().any(|(hostname, scope)| before.guarded.get(hostname) != Some(scope))
    }
}

impl fmt::Debug for PortTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortTls({})", self.listeners.len())
    }
}

/// The configuration of handshakes: TLS 1.2 and 1.3. `None` where no client could pass. Also says which authorities of
/// clients cannot be used.
pub fn server_config(
    certificates: Arc<CurrentCertificates>,
    tickets: Arc<TicketKeys>,
    inside: Inside,
    clients: Option<&ClientValidation>,
) -> (Option<ServerConfig>, Option<String>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = match builder {
        Ok(builder) => builder,
        Err(error) => return (None, Some(error.to_string())),
    };
    let (builder, refused) = match clients.map(|validation| verifier(validation, &provider)) {
        None => (builder.with_no_client_auth(), None),
        Some((Some(verifier), refused)) => (builder.with_client_cert_verifier(verifier), refused),
        Some((None, refused)) => return (None, refused),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = match inside {
        Inside::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Inside::Bytes => Vec::new(),
    };
    // Tickets carry the whole session, so that any replica resumes it; a cache here would only serve this one.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    if matches!(clients, Some(ClientValidation::Required(_))) {
        // A resumed session would bring the certificate of its first handshake along, which has expired since or was renewed. So each
        // handshake is a whole one: the certificate is verified, and who has a new one shows it.
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = Arc::new(Tickets::new(tickets, Scope::of(clients)));
        config.send_tls13_tickets = 1;
    }
    (Some(config), refused)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::keys::certified_key;
    use snapshot::{Certificate, Secret, ServerCertificate};

    fn key(name: &str) -> Arc<CertifiedKey> {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        let certificate = Certificate {
            chain: vec![made.cert.der().to_vec()],
            key: Secret::new(made.signing_key.serialize_der()),
            summary: String::new(),
        };
        Arc::new(certified_key(&certificate).unwrap())
    }

    #[test]
    fn the_most_specific_name_wins_and_the_default_is_last() {
        let keys: HashMap<&str, _> =
            ["exact", "wild", "default"].into_iter().map(|name| (name, key("x.example"))).collect();
        let tls = Tls {
            certificates: vec![
                ServerCertificate {
                    hosts: vec![HostPattern::OneLabel("shop.example".into())],
                    certificate: "wild".into(),
                },
                ServerCertificate {
                    hosts: vec![HostPattern::Exact("a.shop.example".into())],
                    certificate: "exact".into(),
                },
                ServerCertificate {
                    hosts: vec![HostPattern::Exact("gone.example".into())],
                    certificate: "gone".into(),
                },
            ],
            default_certificate: Some("default".into()),
            client_validation: None,
        };
        let mut port = PortCertificates::default();
        port.add(&HostPattern::Any, ListenerCertificates::new(&tls, |name| keys.get(name).cloned()));
        let found = |name: Option<&str>| {
            let found = port.find(name).unwrap();
            *keys.iter().find(|(_, key)| Arc::ptr_eq(key, &found)).unwrap().0
        };
        assert_eq!(found(Some("a.shop.example")), "exact");
        assert_eq!(found(Some("A.Shop.example.")), "exact");
        assert_eq!(found(Some("b.shop.example")), "wild");
        assert_eq!(found(Some("c.b.shop.example")), "default");
        assert_eq!(found(Some("gone.example")), "default");
        assert_eq!(found(None), "default");
    }

    #[test]
    fn the_most_specific_listener_decides_and_one_without_certificates_passes_the_question_on() {
        let [of_any, of_wildcard] = ["any", "wildcard"].map(|_| key("x.example"));
        let of = |key: Option<&Arc<CertifiedKey>>| {
            let tls = Tls { certificates: Vec::new(), default_certificate: Some("it".into()), client_validation: None };
            ListenerCertificates::new(&tls, |_| key.cloned())
        };
        let mut port = PortCertificates::default();
        port.add(&HostPattern::Any, of(Some(&of_any)));
        port.add(&HostPattern::Exact("none.shop.example".into()), of(None));
        port.add(&HostPattern::OneLabel("shop.example".into()), of(None));
        port.add(&HostPattern::OneLabel("shop.example".into()), of(Some(&of_wildcard)));
        let found = |name: &str| Arc::ptr_eq(&port.find(Some(name)).unwrap(), &of_wildcard);
        assert!(found("a.shop.example") && found("none.shop.example"));
        assert!(!found("a.b.shop.example") && !found("shop.example") && !found(""));
    }

    #[test]
    fn a_port_without_certificates_shows_none() {
        assert!(PortCertificates::default().find(Some("a.example")).is_none());
    }
}
