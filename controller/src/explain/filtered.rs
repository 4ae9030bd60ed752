//! Takes a request through the data plane's own filters, so that what is told of redirects and rewrites is what happens.

use std::net::{IpAddr, Ipv4Addr};

use dataplane::check::Target;
use dataplane::filter::{self, Context, Effects, Filter, Outgoing};
use dataplane::forwarded::{Forwarded, Origin};
use dataplane::reason::{Answer, Reason};
use dataplane::route::PathMatched;
use dataplane::tick::Tick;
use http::{Method, Request, Version, header};
use serde::Serialize;
use snapshot::Scheme;

use super::Question;

/// A request as the data plane reads it, from a stranger.
pub(super) struct Asked {
    method: Method,
    target: Target,
    forwarded: Forwarded,
    scheme: Scheme,
    port: u16,
    outgoing: Outgoing,
}

/// What a backend gets.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// `Host`.
    pub host: String,
    /// Path and query.
    pub target: String,
}

/// What a client gets from a filter.
pub(super) struct Answered {
    /// The status and why.
    pub(super) text: String,
    /// `Location` of a redirect.
    pub(super) location: Option<String>,
    /// Whether this is what the filter is for: nothing is wrong.
    pub(super) is_meant: bool,
}

impl Asked {
    /// The request of a question that reaches a listener on `port`; fails with the answer to a malformed one.
    pub(super) fn new(question: &Question, port: u16, tls: bool) -> Result<Self, String> {
        let (scheme, well_known) = if tls { (Scheme::Https, 443) } else { (Scheme::Http, 80) };
        let host = question.url.host().unwrap_or_default();
        let authority = if port == well_known { host.to_owned() } else { format!("{host}:{port}") };
        let target = question.url.path_and_query().map_or("/", |target| target.as_str());
        // A URL may have a query without a path.
        let target = if target.starts_with('?') { format!("/{target}") } else { target.to_owned() };
        let request = Request::builder().version(Version::HTTP_11).method(&question.method).uri(target);
        let request = request.header(header::HOST, authority).body(()).map_err(|error| format!("400: {error}"))?;
        let (mut head, ()) = request.into_parts();
        head.headers.extend(question.headers.clone());
        let refused = |reason: Reason| Answered::from(Answer::from(reason)).text;
        let target = Target::of(&head).map_err(refused)?;
        let origin = Origin::new(IpAddr::V4(Ipv4Addr::LOCALHOST), scheme, port);
        let forwarded = Forwarded::of(&origin, &head.headers, target.authority(), &[]);
        let outgoing = Outgoing {
            headers: head.headers,
            path: target.path_and_query().clone(),
            host: target.authority().cloned(),
        };
        Ok(Self { method: question.method.clone(), target, forwarded, scheme, port, outgoing })
    }

    /// The request before any filter.
    pub(super) fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }

    /// The request after these filters; fails with the answer when one of them answers.
    pub(super) fn through(
        &self,
        filters: &[Filter],
        matched: PathMatched,
        mut outgoing: Outgoing,
    ) -> Result<Outgoing, Answered> {
        let context = Context {
            method: &self.method,
            target: &self.target,
            forwarded: &self.forwarded,
            listener_scheme: self.scheme,
            listener_port: self.port,
            matched,
            now: Tick::now(),
        };
        filter::on_request(filters, &context, &mut outgoing, &mut Effects::default())?;
        Ok(outgoing)
    }
}

impl Sent {
    /// What is sent.
    pub(super) fn of(outgoing: &Outgoing) -> Self {
        let host = outgoing.host.as_ref().map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
        Self { host: host.unwrap_or_default(), target: outgoing.path.to_string() }
    }
}

impl From<Answer> for Answered {
    fn from(answer: Answer) -> Self {
        let status = answer.status.as_u16();
        let location = answer.location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned());
        let text = match (&location, answer.reason) {
            (Some(location), _) => format!("{status}: redirect to {location}"),
            (None, Reason::Preflight) => format!("{status}: the preflight request is allowed"),
            (None, reason) => format!("{status}: {}", reason.as_str().replace('_', " ")),
        };
        let is_meant = location.is_some() || answer.reason == Reason::Preflight;
        Self { text, location, is_meant }
    }
}
