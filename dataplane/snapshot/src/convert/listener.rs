//! Listeners and host names.

use super::{DecodeError, field, fields, list, not_blank, not_empty, optional, port, required, unset};
use crate::{ClientValidation, HostPattern, Listener, Protocol, ServerCertificate, Tls, proto};

impl From<&HostPattern> for proto::HostPattern {
    fn from(pattern: &HostPattern) -> Self {
        use proto::host_pattern::Pattern;
        let pattern = match pattern {
            HostPattern::Exact(name) => Pattern::Exact(name.clone()),
            HostPattern::OneLabel(suffix) => Pattern::OneLabel(suffix.clone()),
            HostPattern::AnyLabels(suffix) => Pattern::AnyLabels(suffix.clone()),
            HostPattern::Any => Pattern::Any(proto::Empty {}),
        };
        Self { pattern: Some(pattern) }
    }
}

impl TryFrom<proto::HostPattern> for HostPattern {
    type Error = DecodeError;

    fn try_from(wire: proto::HostPattern) -> Result<Self, DecodeError> {
        use proto::host_pattern::Pattern;
        match wire.pattern.ok_or_else(|| unset("pattern"))? {
            Pattern::Exact(name) => host(name, "exact").map(HostPattern::Exact),
            Pattern::OneLabel(suffix) => host(suffix, "one_label").map(HostPattern::OneLabel),
            Pattern::AnyLabels(suffix) => host(suffix, "any_labels").map(HostPattern::AnyLabels),
            Pattern::Any(_) => Ok(HostPattern::Any),
        }
    }
}

fn host(name: String, field: &str) -> Result<String, DecodeError> {
    let name = not_blank(name, field)?;
    if name.ends_with('.') || name.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii_graphic()) {
        return Err(DecodeError::new(field, format!("{name:?} is not a host name in lower case")));
    }
    Ok(name)
}

impl From<&Listener> for proto::Listener {
    fn from(listener: &Listener) -> Self {
        use proto::listener::Protocol as Wire;
        let protocol = match &listener.protocol {
            Protocol::Http => Wire::Http(proto::Empty {}),
            Protocol::Https(tls) => Wire::Https(tls.into()),
            Protocol::TlsPassthrough => Wire::TlsPassthrough(proto::Empty {}),
            Protocol::TlsTerminate(tls) => Wire::TlsTerminate(tls.into()),
            Protocol::Tcp => Wire::Tcp(proto::Empty {}),
            Protocol::Udp => Wire::Udp(proto::Empty {}),
        };
        Self { port: listener.port.into(), hostname: Some((&listener.hostname).into()), protocol: Some(protocol) }
    }
}

impl TryFrom<proto::Listener> for Listener {
    type Error = DecodeError;

    fn try_from(wire: proto::Listener) -> Result<Self, DecodeError> {
        use proto::listener::Protocol as Wire;
        let protocol = match wire.protocol.ok_or_else(|| unset("protocol"))? {
            Wire::Http(_) => Protocol::Http,
            Wire::Https(tls) => Protocol::Https(field(tls, "https")?),
            Wire::TlsPassthrough(_) => Protocol::TlsPassthrough,
            Wire::TlsTerminate(tls) => Protocol::TlsTerminate(field(tls, "tls_terminate")?),
            Wire::Tcp(_) => Protocol::Tcp,
            Wire::Udp(_) => Protocol::Udp,
        };
        Ok(Self { port: port(wire.port, "port")?, hostname: required(wire.hostname, "hostname")?, protocol })
    }
}

impl From<&Tls> for proto::Tls {
    fn from(tls: &Tls) -> Self {
        Self {
            certificates: list(&tls.certificates),
            default_certificate: tls.default_certificate.clone(),
            client_validation: tls.client_validation.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::Tls> for Tls {
    type Error = DecodeError;

    fn try_from(wire: proto::Tls) -> Result<Self, DecodeError> {
        Ok(Self {
            certificates: fields(wire.certificates, "certificates")?,
            default_certificate: wire.default_certificate,
            client_validation: optional(wire.client_validation, "client_validation")?,
        })
    }
}

impl From<&ClientValidation> for proto::ClientValidation {
    fn from(validation: &ClientValidation) -> Self {
        use proto::client_validation::Validation as Wire;
        let validation = match validation {
            ClientValidation::Required(authorities) => {
                Wire::Required(proto::Certificates { certificates: authorities.clone() })
            }
            ClientValidation::Requested => Wire::Requested(proto::Empty {}),
        };
        Self { validation: Some(validation) }
    }
}

impl TryFrom<proto::ClientValidation> for ClientValidation {
    type Error = DecodeError;

    fn try_from(wire: proto::ClientValidation) -> Result<Self, DecodeError> {
        use proto::client_validation::Validation as Wire;
        match wire.validation.ok_or_else(|| unset("validation"))? {
            Wire::Required(authorities) => {
                not_empty(authorities.certificates, "required.certificates").map(ClientValidation::Required)
            }
            Wire::Requested(_) => Ok(ClientValidation::Requested),
        }
    }
}

impl From<&ServerCertificate> for proto::ServerCertificate {
    fn from(certificate: &ServerCertificate) -> Self {
        Self { hosts: list(&certificate.hosts), certificate: certificate.certificate.clone() }
    }
}

impl TryFrom<proto::ServerCertificate> for ServerCertificate {
    type Error = DecodeError;

    fn try_from(wire: proto::ServerCertificate) -> Result<Self, DecodeError> {
        Ok(Self {
            hosts: not_empty(fields(wire.hosts, "hosts")?, "hosts")?,
            certificate: not_blank(wire.certificate, "certificate")?,
        })
    }
}
