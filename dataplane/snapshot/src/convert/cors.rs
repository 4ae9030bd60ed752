//! Cross-origin requests.

use super::filter::header_value;
use super::{DecodeError, fields, list, not_blank, port, required, unset};
use crate::{AllowList, Cors, OriginPattern, proto};

impl From<&Cors> for proto::Cors {
    fn from(cors: &Cors) -> Self {
        Self {
            allow_origins: list(&cors.allow_origins),
            allow_credentials: cors.allow_credentials,
            allow_methods: Some((&cors.allow_methods).into()),
            allow_headers: Some((&cors.allow_headers).into()),
            expose_headers: Some((&cors.expose_headers).into()),
            max_age: cors.max_age,
        }
    }
}

impl TryFrom<proto::Cors> for Cors {
    type Error = DecodeError;

    fn try_from(wire: proto::Cors) -> Result<Self, DecodeError> {
        Ok(Self {
            allow_origins: fields(wire.allow_origins, "allow_origins")?,
            allow_credentials: wire.allow_credentials,
            allow_methods: required(wire.allow_methods, "allow_methods")?,
            allow_headers: required(wire.allow_headers, "allow_headers")?,
            expose_headers: required(wire.expose_headers, "expose_headers")?,
            max_age: wire.max_age,
        })
    }
}

impl From<&OriginPattern> for proto::OriginPattern {
    fn from(origin: &OriginPattern) -> Self {
        use proto::origin_pattern::Pattern;
        let pattern = match origin {
            OriginPattern::Any => Pattern::Any(proto::Empty {}),
            OriginPattern::Exact(origin) => Pattern::Exact(origin.clone()),
            OriginPattern::Subdomains { scheme, suffix, port } => Pattern::Subdomains(proto::Subdomains {
                scheme: scheme.clone(),
                suffix: suffix.clone(),
                port: port.map(u32::from),
            }),
        };
        Self { pattern: Some(pattern) }
    }
}

impl TryFrom<proto::OriginPattern> for OriginPattern {
    type Error = DecodeError;

    fn try_from(wire: proto::OriginPattern) -> Result<Self, DecodeError> {
        use proto::origin_pattern::Pattern;
        match wire.pattern.ok_or_else(|| unset("pattern"))? {
            Pattern::Any(_) => Ok(OriginPattern::Any),
            Pattern::Exact(origin) => header_value(not_blank(origin, "exact")?, "exact").map(OriginPattern::Exact),
            Pattern::Subdomains(subdomains) => Ok(OriginPattern::Subdomains {
                scheme: not_blank(subdomains.scheme, "subdomains.scheme")?,
                suffix: subdomains.suffix,
                port: subdomains.port.map(|number| port(number, "subdomains.port")).transpose()?,
            }),
        }
    }
}

impl From<&AllowList> for proto::AllowList {
    fn from(list: &AllowList) -> Self {
        match list {
            AllowList::Any => Self { any: true, these: Vec::new() },
            AllowList::These(these) => Self { any: false, these: these.clone() },
        }
    }
}

impl TryFrom<proto::AllowList> for AllowList {
    type Error = DecodeError;

    fn try_from(wire: proto::AllowList) -> Result<Self, DecodeError> {
        if wire.any {
            return Ok(AllowList::Any);
        }
        let these = wire.these.into_iter().map(|name| header_value(not_blank(name, "these")?, "these"));
        these.collect::<Result<_, _>>().map(AllowList::These)
    }
}
