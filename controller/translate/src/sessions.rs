//! Persistent sessions (GEP-1619), as routes and policies write them.

use std::time::Duration;

use http::HeaderName;
use snapshot::{Carrier, CookieLifetime, Hash, HeaderEdit, SameSite, SessionCookie, SessionPersistence};

use crate::duration;

/// What a user may write.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written<'w> {
    /// `sessionName`.
    pub name: Option<&'w str>,
    /// `type`: `Cookie` (default) or `Header`.
    pub type_: Option<&'w str>,
    /// `absoluteTimeout`; zero is none.
    pub absolute_timeout: Option<&'w str>,
    /// `idleTimeout`; zero is none.
    pub idle_timeout: Option<&'w str>,
    /// `cookieConfig`.
    pub cookie: Option<WrittenCookie<'w>>,
}

/// The same for cookies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WrittenCookie<'w> {
    /// `lifetimeType`: `Session` (default) or `Permanent`.
    pub lifetime: Option<&'w str>,
    /// `path`.
    pub path: Option<&'w str>,
    /// `sameSite`; `Lax` by default. GEP-1619 prefers `Strict`, which would begin another session whenever somebody follows a
    /// link from elsewhere.
    pub same_site: Option<&'w str>,
}

/// Sessions, complete but for a name that nobody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sessions {
    name: Option<String>,
    carrier: Carrier,
    absolute_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
}

impl Sessions {
    /// Reads them.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn parse(written: &Written) -> Result<Self, (&'static str, String)> {
        let absolute_timeout = timeout(written.absolute_timeout, "absoluteTimeout")?;
        let idle_timeout = timeout(written.idle_timeout, "idleTimeout")?;
        let carrier = match (written.type_.unwrap_or("Cookie"), written.cookie) {
            ("Cookie", config) => Carrier::Cookie(cookie(&config.unwrap_or_default())?),
            ("Header", None) => Carrier::Header,
            ("Header", Some(_)) => {
                return Err(("cookieConfig", "there is no cookie with type Header: remove it".into()));
            }
            (other, _) => return Err(("type", format!("{other:?} is not Cookie or Header"))),
        };
        let permanent = matches!(&carrier, Carrier::Cookie(cookie) if cookie.lifetime == CookieLifetime::Permanent);
        if permanent && absolute_timeout.is_none() {
            let message = "a cookie with lifetimeType Permanent needs an end: set absoluteTimeout, or use Session";
            return Err(("absoluteTimeout", message.into()));
        }
        if let Some(name) = written.name {
            check_name(name, &carrier).map_err(|message| ("sessionName", message))?;
        }
        Ok(Self { name: written.name.map(str::to_owned), carrier, absolute_timeout, idle_timeout })
    }

    /// The same with a name. Where nobody wrote one it follows from the owner's.
    pub fn named(&self, owner: &str) -> SessionPersistence {
        let Self { name, carrier, absolute_timeout, idle_timeout } = self.clone();
        let own = || {
            let hash = Hash::of(owner.as_bytes()).to_string();
            format!("sluice-{}", hash.get(..8).unwrap_or_default())
        };
        SessionPersistence { name: name.unwrap_or_else(own), carrier, absolute_timeout, idle_timeout }
    }
}

fn timeout(written: Option<&str>, field: &'static str) -> Result<Option<Duration>, (&'static str, String)> {
    match written.map(|text| (text, duration::parse(text))) {
        None => Ok(None),
        Some((_, Some(time))) => Ok(Some(time).filter(|time| !time.is_zero())),
        Some((text, None)) => Err((field, format!("{text:?} is not a duration such as 30m or 1h30m"))),
    }
}

fn cookie(written: &WrittenCookie) -> Result<SessionCookie, (&'static str, String)> {
    let lifetime = match written.lifetime.unwrap_or("Session") {
        "Session" => CookieLifetime::Session,
        "Permanent" => CookieLifetime::Permanent,
        other => return Err(("cookieConfig.lifetimeType", format!("{other:?} is not Session or Permanent"))),
    };
    if let Some(path) = written.path
        && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';'))
    {
        let message = format!("{path:?} is not a path: it must start with / and hold no blank or semicolon");
        return Err(("cookieConfig.path", message));
    }
    let same_site = match written.same_site.unwrap_or("Lax") {
        "None" => SameSite::None,
        "Lax" => SameSite::Lax,
        "Strict" => SameSite::Strict,
        other => return Err(("cookieConfig.sameSite", format!("{other:?} is not None, Lax or Strict"))),
    };
    Ok(SessionCookie { path: written.path.map(str::to_owned), lifetime, same_site: Some(same_site) })
}

/// Names of cookies and of headers are the same kind of token (RFC 6265, RFC 9110).
fn check_name(name: &str, carrier: &Carrier) -> Result<(), String> {
    let header = HeaderName::try_from(name);
    match (carrier, header) {
        (Carrier::Cookie(_), Ok(_)) => Ok(()),
        (Carrier::Cookie(_), Err(_)) => Err(format!("{name:?} is not a name for a cookie")),
        (Carrier::Header, Err(_)) => Err(format!("{name:?} is not the name of a header")),
        (Carrier::Header, Ok(header)) => {
            let name = header.as_str();
            let taken = HeaderEdit::FIXED.contains(&name) || ["cookie", "set-cookie"].contains(&name);
            if taken { Err(format!("the header {name} has a meaning of its own: use another name")) } else { Ok(()) }
        }
    }
}
