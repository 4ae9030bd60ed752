//! Filters. One that is not known here is [`Filter::Unknown`], never left out.

use std::time::Duration;

use super::{
    DecodeError, cidrs, enumeration, field, fields, list, nanoseconds, networks, not_blank, optional, port, positive,
    same_variants, status, unset,
};
use crate::{
    ConnectionLimit, Filter, HeaderEdit, HttpsRedirect, LimitKey, Mirror, PathRewrite, RateLimit, Redirect, Rewrite,
    Scheme, proto,
};

same_variants!(Scheme { Http, Https });

impl From<&Filter> for proto::Filter {
    fn from(filter: &Filter) -> Self {
        use proto::filter::Filter as Wire;
        let filter = match filter {
            Filter::RequestHeaders(edit) => Some(Wire::RequestHeaders(edit.into())),
            Filter::ResponseHeaders(edit) => Some(Wire::ResponseHeaders(edit.into())),
            Filter::Redirect(redirect) => Some(Wire::Redirect(redirect.into())),
            Filter::Rewrite(rewrite) => Some(Wire::Rewrite(rewrite.into())),
            Filter::HttpsRedirect(redirect) => Some(Wire::HttpsRedirect(redirect.into())),
            Filter::TrailingSlashRedirect => Some(Wire::TrailingSlashRedirect(proto::Empty {})),
            Filter::NginxHeaders => Some(Wire::NginxHeaders(proto::Empty {})),
            Filter::StrictTransportSecurity(value) => Some(Wire::StrictTransportSecurity(value.clone())),
            Filter::RateLimit(limit) => Some(Wire::RateLimit(limit.into())),
            Filter::ConnectionLimit(limit) => Some(Wire::ConnectionLimit(limit.into())),
            Filter::Mirror(mirror) => Some(Wire::Mirror(mirror.into())),
            Filter::Cors(cors) => Some(Wire::Cors(cors.into())),
            Filter::ExternalAuth(auth) => Some(Wire::ExternalAuth(auth.into())),
            Filter::Unknown => None,
        };
        Self { filter }
    }
}

impl TryFrom<proto::Filter> for Filter {
    type Error = DecodeError;

    fn try_from(wire: proto::Filter) -> Result<Self, DecodeError> {
        use proto::filter::Filter as Wire;
        Ok(match wire.filter {
            Some(Wire::RequestHeaders(edit)) => Filter::RequestHeaders(field(edit, "request_headers")?),
            Some(Wire::ResponseHeaders(edit)) => Filter::ResponseHeaders(field(edit, "response_headers")?),
            Some(Wire::Redirect(redirect)) => Filter::Redirect(field(redirect, "redirect")?),
            Some(Wire::Rewrite(rewrite)) => Filter::Rewrite(field(rewrite, "rewrite")?),
            Some(Wire::HttpsRedirect(redirect)) => Filter::HttpsRedirect(field(redirect, "https_redirect")?),
            Some(Wire::TrailingSlashRedirect(_)) => Filter::TrailingSlashRedirect,
            Some(Wire::NginxHeaders(_)) => Filter::NginxHeaders,
            Some(Wire::StrictTransportSecurity(value)) => {
                Filter::StrictTransportSecurity(header_value(value, "strict_transport_security")?)
            }
            Some(Wire::RateLimit(limit)) => Filter::RateLimit(field(limit, "rate_limit")?),
            Some(Wire::ConnectionLimit(limit)) => Filter::ConnectionLimit(field(limit, "connection_limit")?),
            Some(Wire::Mirror(mirror)) => Filter::Mirror(field(mirror, "mirror")?),
            Some(Wire::Cors(cors)) => Filter::Cors(field(cors, "cors")?),
            Some(Wire::ExternalAuth(auth)) => Filter::ExternalAuth(field(auth, "external_auth")?),
            None => Filter::Unknown,
        })
    }
}

impl From<&HeaderEdit> for proto::HeaderEdit {
    fn from(edit: &HeaderEdit) -> Self {
        Self { set: list(&edit.set), add: list(&edit.add), remove: edit.remove.clone() }
    }
}

impl TryFrom<proto::HeaderEdit> for HeaderEdit {
    type Error = DecodeError;

    fn try_from(wire: proto::HeaderEdit) -> Result<Self, DecodeError> {
        let remove = wire.remove.into_iter().map(|name| header_name(name, "remove")).collect::<Result<_, _>>()?;
        Ok(Self { set: fields(wire.set, "set")?, add: fields(wire.add, "add")?, remove })
    }
}

impl From<&(String, String)> for proto::Header {
    fn from((name, value): &(String, String)) -> Self {
        Self { name: name.clone(), value: value.clone() }
    }
}

impl TryFrom<proto::Header> for (String, String) {
    type Error = DecodeError;

    fn try_from(wire: proto::Header) -> Result<Self, DecodeError> {
        Ok((header_name(wire.name, "name")?, header_value(wire.value, "value")?))
    }
}

/// A `token` (RFC 9110, section 5.6.2) in lower case.
pub(super) fn header_name(name: String, field: &str) -> Result<String, DecodeError> {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(DecodeError::new(field, format!("{name:?} is not a header name in lower case")));
    }
    Ok(name)
}

/// No control characters but the tab: a value must not end its own line.
pub(super) fn header_value(value: String, field: &str) -> Result<String, DecodeError> {
    if value.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control()) {
        return Err(DecodeError::new(field, format!("{value:?} is not a header value")));
    }
    Ok(value)
}

impl From<&Redirect> for proto::Redirect {
    fn from(redirect: &Redirect) -> Self {
        Self {
            scheme: redirect.scheme.map(|scheme| proto::Scheme::from(scheme).into()),
            hostname: redirect.hostname.clone(),
            port: redirect.port.map(u32::from),
            path: redirect.path.as_ref().map(Into::into),
            status: redirect.status.into(),
        }
    }
}

impl TryFrom<proto::Redirect> for Redirect {
    type Error = DecodeError;

    fn try_from(wire: proto::Redirect) -> Result<Self, DecodeError> {
        Ok(Self {
            scheme: wire.scheme.map(|scheme| enumeration::<proto::Scheme, _>(scheme, "scheme")).transpose()?,
            hostname: wire.hostname,
            port: wire.port.map(|number| port(number, "port")).transpose()?,
            path: optional(wire.path, "path")?,
            status: status(wire.status, "status", |status| matches!(status, 301 | 302 | 303 | 307 | 308))?,
        })
    }
}

impl From<&PathRewrite> for proto::PathRewrite {
    fn from(rewrite: &PathRewrite) -> Self {
        use proto::path_rewrite::Rewrite as Wire;
        let rewrite = match rewrite {
            PathRewrite::Full(path) => Wire::Full(path.clone()),
            PathRewrite::Prefix(path) => Wire::Prefix(path.clone()),
        };
        Self { rewrite: Some(rewrite) }
    }
}

impl TryFrom<proto::PathRewrite> for PathRewrite {
    type Error = DecodeError;

    fn try_from(wire: proto::PathRewrite) -> Result<Self, DecodeError> {
        use proto::path_rewrite::Rewrite as Wire;
        match wire.rewrite.ok_or_else(|| unset("rewrite"))? {
            Wire::Full(path) => Ok(PathRewrite::Full(path)),
            Wire::Prefix(path) => Ok(PathRewrite::Prefix(path)),
        }
    }
}

impl From<&Rewrite> for proto::Rewrite {
    fn from(rewrite: &Rewrite) -> Self {
        Self { hostname: rewrite.hostname.clone(), path: rewrite.path.as_ref().map(Into::into) }
    }
}

impl TryFrom<proto::Rewrite> for Rewrite {
    type Error = DecodeError;

    fn try_from(wire: proto::Rewrite) -> Result<Self, DecodeError> {
        Ok(Self { hostname: wire.hostname, path: optional(wire.path, "path")? })
    }
}

impl From<&HttpsRedirect> for proto::HttpsRedirect {
    fn from(redirect: &HttpsRedirect) -> Self {
        Self { port: redirect.port.map(u32::from), status: redirect.status.into() }
    }
}

impl TryFrom<proto::HttpsRedirect> for HttpsRedirect {
    type Error = DecodeError;

    fn try_from(wire: proto::HttpsRedirect) -> Result<Self, DecodeError> {
        Ok(Self {
            port: wire.port.map(|number| port(number, "port")).transpose()?,
            status: status(wire.status, "status", |status| matches!(status, 301 | 302 | 307 | 308))?,
        })
    }
}

impl From<&RateLimit> for proto::RateLimit {
    fn from(limit: &RateLimit) -> Self {
        use proto::rate_limit::Key;
        let key = match &limit.key {
            LimitKey::ClientIp => Key::ClientIp(proto::Empty {}),
            LimitKey::Header(name) => Key::Header(name.clone()),
        };
        Self {
            id: limit.id.clone(),
            key: Some(key),
            requests: limit.requests,
            per: nanoseconds(limit.per),
            burst: limit.burst,
            status: limit.status.into(),
            exempt: cidrs(&limit.exempt),
        }
    }
}

impl TryFrom<proto::RateLimit> for RateLimit {
    type Error = DecodeError;

    fn try_from(wire: proto::RateLimit) -> Result<Self, DecodeError> {
        use proto::rate_limit::Key;
        let key = match wire.key.ok_or_else(|| unset("key"))? {
            Key::ClientIp(_) => LimitKey::ClientIp,
            Key::Header(name) => LimitKey::Header(header_name(name, "header")?),
        };
        if wire.per == 0 {
            return Err(DecodeError::new("per", "is 0"));
        }
        Ok(Self {
            id: wire.id,
            key,
            requests: positive(wire.requests, "requests")?,
            per: Duration::from_nanos(wire.per),
            burst: wire.burst,
            status: status(wire.status, "status", is_error)?,
            exempt: networks(wire.exempt, "exempt")?,
        })
    }
}

impl From<&ConnectionLimit> for proto::ConnectionLimit {
    fn from(limit: &ConnectionLimit) -> Self {
        Self {
            id: limit.id.clone(),
            connections: limit.connections,
            status: limit.status.into(),
            exempt: cidrs(&limit.exempt),
        }
    }
}

impl TryFrom<proto::ConnectionLimit> for ConnectionLimit {
    type Error = DecodeError;

    fn try_from(wire: proto::ConnectionLimit) -> Result<Self, DecodeError> {
        Ok(Self {
            id: wire.id,
            connections: positive(wire.connections, "connections")?,
            status: status(wire.status, "status", is_error)?,
            exempt: networks(wire.exempt, "exempt")?,
        })
    }
}

impl From<&Mirror> for proto::Mirror {
    fn from(mirror: &Mirror) -> Self {
        Self { cluster: mirror.cluster.clone(), numerator: mirror.numerator, denominator: mirror.denominator }
    }
}

impl TryFrom<proto::Mirror> for Mirror {
    type Error = DecodeError;

    fn try_from(wire: proto::Mirror) -> Result<Self, DecodeError> {
        if wire.numerator > wire.denominator {
            return Err(DecodeError::new("numerator", "is larger than the denominator"));
        }
        Ok(Self {
            cluster: not_blank(wire.cluster, "cluster")?,
            numerator: wire.numerator,
            denominator: positive(wire.denominator, "denominator")?,
        })
    }
}

fn is_error(status: u16) -> bool {
    (400..600).contains(&status)
}
