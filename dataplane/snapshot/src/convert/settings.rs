//! Settings and certificates: all that carries keys.

use super::{DecodeError, cidrs, enumeration, networks, not_empty, port, same_variants};
use crate::{AccessLog, Certificate, Secret, Settings, proto};

same_variants!(AccessLog { Json, Off });

impl From<&Settings> for proto::Settings {
    fn from(settings: &Settings) -> Self {
        Self {
            cookie_key: settings.cookie_key.expose().to_vec(),
            ticket_keys: settings.ticket_keys.iter().map(|key| key.expose().to_vec()).collect(),
            trusted_proxies: cidrs(&settings.trusted_proxies),
            ingress_ports: settings.ingress_ports.iter().map(|port| (*port).into()).collect(),
            access_log: proto::AccessLog::from(settings.access_log).into(),
        }
    }
}

impl TryFrom<proto::Settings> for Settings {
    type Error = DecodeError;

    fn try_from(wire: proto::Settings) -> Result<Self, DecodeError> {
        if wire.cookie_key.len() < 16 {
            return Err(DecodeError::new("cookie_key", "is shorter than 16 bytes"));
        }
        if wire.ticket_keys.iter().any(|key| key.len() < 32) {
            return Err(DecodeError::new("ticket_keys", "one is shorter than 32 bytes"));
        }
        Ok(Self {
            cookie_key: Secret::new(wire.cookie_key),
            ticket_keys: wire.ticket_keys.into_iter().map(Secret::new).collect(),
            trusted_proxies: networks(wire.trusted_proxies, "trusted_proxies")?,
            ingress_ports: wire
                .ingress_ports
                .into_iter()
                .map(|each| port(each, "ingress_ports"))
                .collect::<Result<_, _>>()?,
            access_log: enumeration::<proto::AccessLog, _>(wire.access_log, "access_log")?,
        })
    }
}

impl From<&Certificate> for proto::Certificate {
    fn from(certificate: &Certificate) -> Self {
        Self {
            chain: certificate.chain.clone(),
            key: certificate.key.expose().to_vec(),
            summary: certificate.summary.clone(),
        }
    }
}

impl TryFrom<proto::Certificate> for Certificate {
    type Error = DecodeError;

    fn try_from(wire: proto::Certificate) -> Result<Self, DecodeError> {
        Ok(Self {
            chain: not_empty(wire.chain, "chain")?,
            key: Secret::new(not_empty(wire.key, "key")?),
            summary: wire.summary,
        })
    }
}
