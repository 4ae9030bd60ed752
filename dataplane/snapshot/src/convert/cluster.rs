//! Clusters and endpoints.

use std::time::Duration;

use super::{
    DecodeError, enumeration, field, fields, list, nanoseconds, not_blank, not_empty, optional, port, positive,
    same_variants, unset,
};
use crate::{
    AffinityCookie, AffinityMode, Authorities, BackendProtocol, BackendTls, Balancer, Cluster, CookieSecure, Endpoint,
    Endpoints, PassiveHealth, Persistence, SubjectAltName, Verification, proto,
};

same_variants!(Balancer { RoundRobin, LeastRequest, PeakEwma });
same_variants!(AffinityMode { Balanced, Persistent });
same_variants!(CookieSecure { OnHttps, Always });

impl From<&Cluster> for proto::Cluster {
    fn from(cluster: &Cluster) -> Self {
        use proto::cluster::Protocol;
        let protocol = match &cluster.protocol {
            BackendProtocol::Http1 => Protocol::Http1(proto::Empty {}),
            BackendProtocol::Http2 => Protocol::Http2(proto::Empty {}),
            BackendProtocol::Https(tls) => Protocol::Https(tls.into()),
            BackendProtocol::Http2Tls(tls) => Protocol::Http2Tls(tls.into()),
            BackendProtocol::Tcp => Protocol::Tcp(proto::Empty {}),
            BackendProtocol::Tls(tls) => Protocol::Tls(tls.into()),
            BackendProtocol::Udp => Protocol::Udp(proto::Empty {}),
        };
        Self {
            endpoints: cluster.endpoints.clone(),
            protocol: Some(protocol),
            balancer: proto::Balancer::from(cluster.balancer).into(),
            persistence: cluster.persistence.as_ref().map(Into::into),
            passive_health: cluster.passive_health.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::Cluster> for Cluster {
    type Error = DecodeError;

    fn try_from(wire: proto::Cluster) -> Result<Self, DecodeError> {
        use proto::cluster::Protocol;
        let protocol = match wire.protocol.ok_or_else(|| unset("protocol"))? {
            Protocol::Http1(_) => BackendProtocol::Http1,
            Protocol::Http2(_) => BackendProtocol::Http2,
            Protocol::Https(tls) => BackendProtocol::Https(field(tls, "https")?),
            Protocol::Http2Tls(tls) => BackendProtocol::Http2Tls(field(tls, "http2_tls")?),
            Protocol::Tcp(_) => BackendProtocol::Tcp,
            Protocol::Tls(tls) => BackendProtocol::Tls(field(tls, "tls")?),
            Protocol::Udp(_) => BackendProtocol::Udp,
        };
        Ok(Self {
            endpoints: not_blank(wire.endpoints, "endpoints")?,
            protocol,
            balancer: enumeration::<proto::Balancer, _>(wire.balancer, "balancer")?,
            persistence: optional(wire.persistence, "persistence")?,
            passive_health: optional(wire.passive_health, "passive_health")?,
        })
    }
}

impl From<&BackendTls> for proto::BackendTls {
    fn from(tls: &BackendTls) -> Self {
        use proto::backend_tls::Verification as Wire;
        let verification = match &tls.verification {
            Verification::None => Wire::None(proto::Empty {}),
            Verification::Required { authorities, names } => {
                Wire::Required(proto::Verification { authorities: Some(authorities.into()), names: list(names) })
            }
        };
        Self {
            server_name: tls.server_name.clone(),
            verification: Some(verification),
            client_certificate: tls.client_certificate.clone(),
        }
    }
}

impl TryFrom<proto::BackendTls> for BackendTls {
    type Error = DecodeError;

    fn try_from(wire: proto::BackendTls) -> Result<Self, DecodeError> {
        use proto::backend_tls::Verification as Wire;
        let verification = match wire.verification.ok_or_else(|| unset("verification"))? {
            Wire::None(_) => Verification::None,
            Wire::Required(required) => Verification::Required {
                authorities: field(required.authorities.ok_or_else(|| unset("required.authorities"))?, "required")?,
                names: fields(required.names, "required.names")?,
            },
        };
        Ok(Self { server_name: wire.server_name, verification, client_certificate: wire.client_certificate })
    }
}

impl From<&Authorities> for proto::verification::Authorities {
    fn from(authorities: &Authorities) -> Self {
        match authorities {
            Authorities::WellKnown => Self::WellKnown(proto::Empty {}),
            Authorities::These(certificates) => Self::These(proto::Certificates { certificates: certificates.clone() }),
        }
    }
}

impl TryFrom<proto::verification::Authorities> for Authorities {
    type Error = DecodeError;

    fn try_from(wire: proto::verification::Authorities) -> Result<Self, DecodeError> {
        use proto::verification::Authorities as Wire;
        match wire {
            Wire::WellKnown(_) => Ok(Authorities::WellKnown),
            Wire::These(these) => not_empty(these.certificates, "these.certificates").map(Authorities::These),
        }
    }
}

impl From<&SubjectAltName> for proto::SubjectAltName {
    fn from(name: &SubjectAltName) -> Self {
        use proto::subject_alt_name::Name;
        let name = match name {
            SubjectAltName::Hostname(name) => Name::Hostname(name.clone()),
            SubjectAltName::Uri(uri) => Name::Uri(uri.clone()),
        };
        Self { name: Some(name) }
    }
}

impl TryFrom<proto::SubjectAltName> for SubjectAltName {
    type Error = DecodeError;

    fn try_from(wire: proto::SubjectAltName) -> Result<Self, DecodeError> {
        use proto::subject_alt_name::Name;
        match wire.name.ok_or_else(|| unset("name"))? {
            Name::Hostname(name) => not_blank(name, "hostname").map(SubjectAltName::Hostname),
            Name::Uri(uri) => not_blank(uri, "uri").map(SubjectAltName::Uri),
        }
    }
}

impl From<&Persistence> for proto::cluster::Persistence {
    fn from(persistence: &Persistence) -> Self {
        match persistence {
            Persistence::Affinity(cookie) => Self::Affinity(cookie.into()),
            Persistence::Session(session) => Self::Session(session.into()),
        }
    }
}

impl TryFrom<proto::cluster::Persistence> for Persistence {
    type Error = DecodeError;

    fn try_from(wire: proto::cluster::Persistence) -> Result<Self, DecodeError> {
        use proto::cluster::Persistence as Wire;
        match wire {
            Wire::Affinity(cookie) => field(cookie, "affinity").map(Persistence::Affinity),
            Wire::Session(session) => field(session, "session").map(Persistence::Session),
        }
    }
}

impl From<&AffinityCookie> for proto::AffinityCookie {
    fn from(persistence: &AffinityCookie) -> Self {
        Self {
            cookie: persistence.cookie.clone(),
            mode: proto::AffinityMode::from(persistence.mode).into(),
            path: persistence.path.clone(),
            domain: persistence.domain.clone(),
            expires: persistence.expires,
            max_age: persistence.max_age,
            same_site: persistence.same_site.map(|same_site| proto::SameSite::from(same_site).into()),
            secure: proto::CookieSecure::from(persistence.secure).into(),
        }
    }
}

impl TryFrom<proto::AffinityCookie> for AffinityCookie {
    type Error = DecodeError;

    fn try_from(wire: proto::AffinityCookie) -> Result<Self, DecodeError> {
        let same_site = wire.same_site.map(|same_site| enumeration::<proto::SameSite, _>(same_site, "same_site"));
        Ok(Self {
            cookie: not_blank(wire.cookie, "cookie")?,
            mode: enumeration::<proto::AffinityMode, _>(wire.mode, "mode")?,
            path: wire.path,
            domain: wire.domain,
            expires: wire.expires,
            max_age: wire.max_age,
            same_site: same_site.transpose()?,
            secure: enumeration::<proto::CookieSecure, _>(wire.secure, "secure")?,
        })
    }
}

impl From<&PassiveHealth> for proto::PassiveHealth {
    fn from(health: &PassiveHealth) -> Self {
        Self {
            consecutive_failures: health.consecutive_failures,
            ejection_time: nanoseconds(health.ejection_time),
            max_ejected_percent: health.max_ejected_percent,
        }
    }
}

impl TryFrom<proto::PassiveHealth> for PassiveHealth {
    type Error = DecodeError;

    fn try_from(wire: proto::PassiveHealth) -> Result<Self, DecodeError> {
        if !(1..=100).contains(&wire.max_ejected_percent) {
            return Err(DecodeError::new("max_ejected_percent", "is not between 1 and 100"));
        }
        Ok(Self {
            consecutive_failures: positive(wire.consecutive_failures, "consecutive_failures")?,
            ejection_time: Duration::from_nanos(wire.ejection_time),
            max_ejected_percent: wire.max_ejected_percent,
        })
    }
}

impl From<&Endpoints> for proto::Endpoints {
    fn from(endpoints: &Endpoints) -> Self {
        use proto::endpoints::Endpoints as Wire;
        let endpoints = match endpoints {
            Endpoints::Addresses(endpoints) => Wire::Addresses(proto::Addresses { endpoints: list(endpoints) }),
            Endpoints::Dns { name, port } => Wire::Dns(proto::DnsName { name: name.clone(), port: (*port).into() }),
        };
        Self { endpoints: Some(endpoints) }
    }
}

impl TryFrom<proto::Endpoints> for Endpoints {
    type Error = DecodeError;

    fn try_from(wire: proto::Endpoints) -> Result<Self, DecodeError> {
        use proto::endpoints::Endpoints as Wire;
        match wire.endpoints.ok_or_else(|| unset("endpoints"))? {
            Wire::Addresses(addresses) => fields(addresses.endpoints, "addresses").map(Endpoints::Addresses),
            Wire::Dns(dns) => {
                Ok(Endpoints::Dns { name: not_blank(dns.name, "dns.name")?, port: port(dns.port, "dns.port")? })
            }
        }
    }
}

impl From<&Endpoint> for proto::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self { address: endpoint.address.to_string() }
    }
}

impl TryFrom<proto::Endpoint> for Endpoint {
    type Error = DecodeError;

    fn try_from(wire: proto::Endpoint) -> Result<Self, DecodeError> {
        match wire.address.parse() {
            Ok(address) => Ok(Self { address }),
            Err(_) => Err(DecodeError::new("address", format!("{:?} is not an address with port", wire.address))),
        }
    }
}
