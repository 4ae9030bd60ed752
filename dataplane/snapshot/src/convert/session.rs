//! Persistent sessions.

use std::time::Duration;

use super::{DecodeError, enumeration, field, nanoseconds, not_blank, same_variants, unset};
use crate::{Carrier, CookieLifetime, SameSite, SessionCookie, SessionPersistence, proto};

same_variants!(CookieLifetime { Session, Permanent });
same_variants!(SameSite { None, Lax, Strict });

impl From<&SessionPersistence> for proto::SessionPersistence {
    fn from(session: &SessionPersistence) -> Self {
        use proto::session_persistence::Carrier as Wire;
        let carrier = match &session.carrier {
            Carrier::Cookie(cookie) => Wire::Cookie(cookie.into()),
            Carrier::Header => Wire::Header(proto::Empty {}),
        };
        Self {
            name: session.name.clone(),
            carrier: Some(carrier),
            absolute_timeout: session.absolute_timeout.map(nanoseconds),
            idle_timeout: session.idle_timeout.map(nanoseconds),
        }
    }
}

impl TryFrom<proto::SessionPersistence> for SessionPersistence {
    type Error = DecodeError;

    fn try_from(wire: proto::SessionPersistence) -> Result<Self, DecodeError> {
        use proto::session_persistence::Carrier as Wire;
        let carrier = match wire.carrier.ok_or_else(|| unset("carrier"))? {
            Wire::Cookie(cookie) => Carrier::Cookie(field(cookie, "cookie")?),
            Wire::Header(_) => Carrier::Header,
        };
        let permanent = matches!(&carrier, Carrier::Cookie(cookie) if cookie.lifetime == CookieLifetime::Permanent);
        if permanent && wire.absolute_timeout.is_none() {
            return Err(DecodeError::new("absolute_timeout", "is not set, so a permanent cookie would never end"));
        }
        Ok(Self {
            name: not_blank(wire.name, "name")?,
            carrier,
            absolute_timeout: timeout(wire.absolute_timeout, "absolute_timeout")?,
            idle_timeout: timeout(wire.idle_timeout, "idle_timeout")?,
        })
    }
}

fn timeout(nanoseconds: Option<u64>, name: &str) -> Result<Option<Duration>, DecodeError> {
    match nanoseconds {
        Some(0) => Err(DecodeError::new(name, "is 0")),
        nanoseconds => Ok(nanoseconds.map(Duration::from_nanos)),
    }
}

impl From<&SessionCookie> for proto::SessionCookie {
    fn from(cookie: &SessionCookie) -> Self {
        Self {
            path: cookie.path.clone(),
            lifetime: proto::CookieLifetime::from(cookie.lifetime).into(),
            same_site: cookie.same_site.map(|same_site| proto::SameSite::from(same_site).into()),
        }
    }
}

impl TryFrom<proto::SessionCookie> for SessionCookie {
    type Error = DecodeError;

    fn try_from(wire: proto::SessionCookie) -> Result<Self, DecodeError> {
        let same_site = wire.same_site.map(|same_site| enumeration::<proto::SameSite, _>(same_site, "same_site"));
        Ok(Self {
            path: wire.path,
            lifetime: enumeration::<proto::CookieLifetime, _>(wire.lifetime, "lifetime")?,
            same_site: same_site.transpose()?,
        })
    }
}
