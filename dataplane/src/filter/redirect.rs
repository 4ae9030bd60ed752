//! Redirects of the Gateway API.

use http::{HeaderValue, StatusCode};
use snapshot::Scheme;

use super::Context;
use super::rewrite::{rewritten, valid, with_query};
use crate::reason::{Answer, Reason};

/// A compiled [`snapshot::Redirect`].
#[derive(Debug)]
pub struct Redirect {
    source: snapshot::Redirect,
    status: StatusCode,
}

impl Redirect {
    pub(super) fn compile(source: &snapshot::Redirect) -> Result<Self, String> {
        if let Some(name) = &source.hostname {
            snapshot::normal_host_without_port(name).ok_or_else(|| format!("invalid host {name:?}"))?;
        }
        source.path.as_ref().map(valid).transpose()?;
        Ok(Self { source: source.clone(), status: status(source.status)? })
    }

    pub(super) fn answer(&self, context: &Context<'_>) -> Answer {
        let scheme = self.source.scheme.unwrap_or(context.forwarded.scheme);
        let port = self.source.port.or(self.source.scheme.map(well_known)).unwrap_or(context.forwarded.port);
        let host = self.source.hostname.as_deref().unwrap_or_else(|| requested_host(context));
        let path = match &self.source.path {
            Some(rewrite) => rewritten(rewrite, context),
            None => context.target.path_and_query().path().into(),
        };
        redirect_to(self.status, scheme, host, Some(port), &with_query(&path, context.target.query()))
    }
}

/// The status, if it is one that redirects.
pub(super) fn status(code: u16) -> Result<StatusCode, String> {
    match (code, StatusCode::from_u16(code)) {
        (301 | 302 | 303 | 307 | 308, Ok(status)) => Ok(status),
        _ => Err(format!("{code} is not the status of a redirect")),
    }
}

/// The host, without port, that the client asked for.
pub(super) fn requested_host<'a>(context: &Context<'a>) -> &'a str {
    context.forwarded.believed_host.as_deref().unwrap_or(context.target.host())
}

/// A redirect to this place. Well-known ports are left out; without a host the place is on this one.
pub(super) fn redirect_to(status: StatusCode, scheme: Scheme, host: &str, port: Option<u16>, rest: &str) -> Answer {
    let name = match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let location = match port.filter(|&port| port != well_known(scheme)) {
        _ if host.is_empty() => rest.to_owned(),
        Some(port) => format!("{name}://{host}:{port}{rest}"),
        None => format!("{name}://{host}{rest}"),
    };
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(location)) {
        Ok(location) => Answer::redirect(status, location),
        Err(_) => Answer::from(Reason::BadPath),
    }
}

fn well_known(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}
