//! One request, step by step.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, SET_COOKIE, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use snapshot::Scheme;

use crate::arriving::Arriving;
use crate::attempt;
use crate::authorize::{self, Denied, DeniedBody};
use crate::body::{Download, ResponseBody};
use crate::check::Target;
use crate::connection::Client;
use crate::exchange::Exchange;
use crate::filter::{self, Filter, Outgoing};
use crate::forwarded::{self, Forwarded};
use crate::hop_by_hop;
use crate::mirror;
use crate::normalise;
use crate::reason::{Answer, REASON_HEADER, Reason};
use crate::route::{self, PathMatched, RequestView};
use crate::shared::State;
use crate::tick::Tick;
use crate::tunnel::Switched;
use crate::upstream::{Sent, Upgraded};
use crate::watch::Signal;
use crate::worker::MAX_HEADERS;

/// Room for the headers that every backend gets from us, and a few that filters add.
const ADDED_HEADERS: usize = 12;

/// Serves one request. `switched` is where the rest of a connection of HTTP/1 is left that switches protocols.
pub async fn serve(
    client: Rc<Client>,
    request: Request<Incoming>,
    switched: Option<&Switched>,
) -> Response<ResponseBody> {
    let upgrade = switched.filter(|_| wants_upgrade(&request));
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(client, &parts);
    let state = exchange.client.worker.state();
    match forward(&mut exchange, &state, &mut parts, body, upgrade.is_some()).await {
        Ok(Reply::Stream(response, download)) => {
            finish(exchange, response, |exchange| ResponseBody::backend(download, exchange))
        }
        Ok(Reply::Whole(response, body)) => finish(exchange, response, |exchange| ResponseBody::own(body, exchange)),
        Ok(Reply::Switched(response, backend)) => switch(exchange, response, upgrade, backend),
        Err(answer) => {
            exchange.request_id.get_or_insert_with(|| forwarded::request_id(&mut parts.headers));
            refuse(exchange, answer)
        }
    }
}

/// Answers a request of plain HTTP that came to a port for TLS, as nginx does.
pub fn refuse_plain(client: Rc<Client>, request: Request<Incoming>) -> Response<ResponseBody> {
    let (mut parts, _) = request.into_parts();
    let mut exchange = Exchange::begin(client, &parts);
    exchange.request_id = Some(forwarded::request_id(&mut parts.headers));
    refuse(exchange, Reason::PlainHttp.into())
}

/// A backend's answer, or that of a service that refuses the request.
enum Reply {
    Stream(Response<()>, Download),
    Whole(Response<()>, Bytes),
    Switched(Response<()>, Upgraded),
}

/// All steps up to the head of the backend's answer.
async fn forward(
    exchange: &mut Exchange,
    state: &State,
    parts: &mut Parts,
    body: Incoming,
    upgrade: bool,
) -> Result<Reply, Answer> {
    let target = Target::of(parts)?;
    if parts.version == Version::HTTP_2 {
        normalise::cookies(&mut parts.headers);
        // The parser of HTTP/1.1 counts by itself.
        if parts.headers.len() > MAX_HEADERS {
            return Err(Reason::HeadersTooLarge.into());
        }
    }
    exchange.host = target.authority().cloned();
    let client = exchange.client.clone();
    let origin = &client.origin;
    let mut forwarded = Forwarded::of(origin, &parts.headers, target.authority(), &state.trusted_proxies);
    exchange.address = forwarded.client;
    exchange.https = forwarded.scheme == Scheme::Https;
    if state.table.misdirected(origin.port(), client.server_name.as_deref(), target.host()) {
        return Err(Reason::Misdirected.into());
    }
    let view = RequestView {
        host: target.host(),
        path: target.path(),
        query: target.query(),
        method: &parts.method,
        headers: &parts.headers,
    };
    let found = state.table.find(origin.port(), &view)?;
    let rule = found.rule;
    exchange.rule = Some(rule.clone());
    let (session, bound) = match (&rule.sessions, &rule.action) {
        (Some(sessions), route::Action::Forward(backends)) => {
            let reached = backends.iter().filter_map(|backend| Some((backend.target.cluster()?, backend)));
            let (session, bound) = sessions.resume(&parts.headers, &state.session_key, reached);
            (Some(session), bound)
        }
        _ => (None, None),
    };

    let protocol = if upgrade { parts.headers.get(UPGRADE).cloned() } else { None };
    let mut headers = std::mem::take(&mut parts.headers);
    hop_by_hop::strip(&mut headers);
    // Growing step by step would hash what is there again each time.
    headers.reserve(ADDED_HEADERS);
    forwarded.write(&mut headers);
    exchange.request_id = Some(forwarded::request_id(&mut headers));

    let now = Tick::now();
    let context = filter::Context {
        method: &parts.method,
        target: &target,
        forwarded: &forwarded,
        listener_scheme: origin.scheme(),
        listener_port: origin.port(),
        matched: found.path,
        now,
    };
    let mut outgoing = Outgoing { headers, path: target.path_and_query().clone(), host: target.authority().cloned() };
    let mut arriving = Arriving::new(body, &client.watch);
    if let Some(denied) = pass(exchange, rule, &rule.filters, &context, &mut outgoing, &mut arriving).await? {
        return Ok(denied);
    }

    let backend = match (&rule.action, bound) {
        // A session goes before the weights (GEP-1619).
        (route::Action::Forward(_), Some(bound)) => bound,
        (route::Action::Forward(backends), None) => backends.choose()?,
        (route::Action::Refuse(reason), _) => return Err((*reason).into()),
    };
    if let (route::Action::Forward(backends), false) = (&rule.action, backend.filters.is_empty()) {
        exchange.backend = backends.iter().position(|one| std::ptr::eq(one, backend));
    }
    let cluster = match &backend.target {
        route::Target::Cluster(cluster) => cluster,
        route::Target::Refuse(reason) => return Err((*reason).into()),
    };
    let session = session.or_else(|| cluster.session(&outgoing.headers));
    if let Some(denied) = pass(exchange, rule, &backend.filters, &context, &mut outgoing, &mut arriving).await? {
        return Ok(denied);
    }

    let body = arriving.for_backend(exchange, rule)?;
    // A copy of a request that leaves HTTP would be a request for something else.
    if !exchange.effects.duplicates.is_empty() && !upgrade {
        let duplicates = std::mem::take(&mut exchange.effects.duplicates);
        mirror::send(&client.worker, duplicates, &parts.method, body.recording(), rule.timeouts.connect);
    }
    let request = request(std::mem::take(&mut parts.method), outgoing, protocol, body);
    let answered = attempt::send(exchange, cluster, rule, session.as_ref(), request, now).await?;

    let https = exchange.https;
    let matched = matched_path(&target, found.path);
    let kept = match &session {
        Some(session) => session.answered(cluster, &answered.picked, &state.session_key, matched, https),
        None => answered.picked.cookie().and_then(|_| {
            let unix_now = jiff::Timestamp::now().as_second();
            Some((SET_COOKIE, cluster.set_cookie(&answered.picked, matched, https, unix_now)?))
        }),
    };
    let effects = &exchange.effects;
    let dress = |headers: &mut HeaderMap| {
        hop_by_hop::strip(headers);
        filter::on_response(&backend.filters, https, effects, headers);
        filter::on_response(&rule.filters, https, effects, headers);
        effects.of_answer.iter().for_each(|change| change.apply(headers));
        match kept {
            Some((SET_COOKIE, cookie)) => _ = headers.append(SET_COOKIE, cookie),
            Some((name, token)) => _ = headers.insert(name, token),
            None => {}
        }
    };
    let reply = match answered.sent {
        Sent::Answered(response, body) => {
            let (head, ()) = response.into_parts();
            let mut response = response_head(head.status, head.headers);
            dress(response.headers_mut());
            Reply::Stream(response, Download::new(body, rule.timeouts.read, answered.until))
        }
        Sent::Switched(response, backend) => {
            let (head, ()) = response.into_parts();
            let protocol = head.headers.get(UPGRADE).cloned();
            let mut response = response_head(head.status, head.headers);
            dress(response.headers_mut());
            mark_upgrade(response.headers_mut(), protocol);
            Reply::Switched(response, backend)
        }
    };
    exchange.picked = Some(answered.picked);
    Ok(reply)
}

/// Takes the request through filters. Where a service refuses it, this is the answer.
async fn pass(
    exchange: &mut Exchange,
    rule: &route::Rule,
    filters: &[Filter],
    context: &filter::Context<'_>,
    request: &mut Outgoing,
    arriving: &mut Arriving,
) -> Result<Option<Reply>, Answer> {
    for part in filters.split_inclusive(|filter| matches!(filter, Filter::ExternalAuth(_))) {
        filter::on_request(part, context, request, &mut exchange.effects)?;
        let Some(Filter::ExternalAuth(auth)) = part.last() else { break };
        // Few rules ask, so the others do not carry the room for it.
        let asked = Box::pin(authorize::ask(auth, exchange, rule, context, request, arriving));
        if let Some(denied) = asked.await? {
            return Ok(Some(deny(exchange, rule, denied)));
        }
    }
    Ok(None)
}

/// The refusal of a service that was asked.
fn deny(exchange: &mut Exchange, rule: &route::Rule, denied: Denied) -> Reply {
    exchange.failed(Reason::AuthDenied);
    exchange.picked = Some(denied.picked);
    let (head, ()) = denied.response.into_parts();
    let mut response = response_head(head.status, head.headers);
    let headers = response.headers_mut();
    hop_by_hop::strip(headers);
    for filters in rule.filters_of_responses(exchange.backend) {
        filter::on_answer(filters, exchange.https, &exchange.effects, headers);
    }
    headers.insert(REASON_HEADER, HeaderValue::from_static(Reason::AuthDenied.as_str()));
    match denied.body {
        DeniedBody::Streamed(body) => Reply::Stream(response, body),
        DeniedBody::Whole(_) if exchange.method == Method::HEAD => Reply::Whole(response, Bytes::new()),
        DeniedBody::Whole(body) => Reply::Whole(response, body),
    }
}

/// Whether the request leaves HTTP behind. An upgrade to HTTP/2 is none: it would be a tunnel for further requests, past
/// routes and limits. It is optional, so the request is answered as if it did not ask.
fn wants_upgrade(request: &Request<Incoming>) -> bool {
    let headers = request.headers();
    request.version() == Version::HTTP_11
        && headers.contains_key(UPGRADE)
        && names(headers, CONNECTION, b"upgrade")
        && !names(headers, UPGRADE, b"h2c")
}

/// Whether the list in all values of this header holds `item`.
fn names(headers: &HeaderMap, header: HeaderName, item: &[u8]) -> bool {
    let mut items = headers.get_all(header).into_iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    items.any(|listed| listed.trim_ascii().eq_ignore_ascii_case(item))
}

fn mark_upgrade(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// The request that `outgoing` describes, as HTTP/1.1 has it. `protocol` is what it wants to switch to.
pub fn request<B>(method: Method, outgoing: Outgoing, protocol: Option<HeaderValue>, body: B) -> Request<B> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = outgoing.path.into();
    *request.headers_mut() = outgoing.headers;
    mark_upgrade(request.headers_mut(), protocol);
    match outgoing.host {
        Some(host) => drop(request.headers_mut().insert(HOST, host)),
        None => drop(request.headers_mut().remove(HOST)),
    }
    request
}

fn response_head(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The part of the path that the rule's condition named: where a cookie belongs that names no path of its own.
fn matched_path(target: &Target, matched: PathMatched) -> &str {
    let path = match matched {
        PathMatched::Prefix(0) | PathMatched::Regex => "/",
        PathMatched::Prefix(length) => target.path().get(..length).unwrap_or("/"),
        PathMatched::Exact => target.path(),
    };
    // A browser sends the cookie where the path begins like this, as it writes the path.
    if target.path_and_query().path().starts_with(path) { path } else { "/" }
}

/// The answer leaves, with its body.
fn finish(
    mut exchange: Exchange,
    response: Response<()>,
    body: impl FnOnce(Exchange) -> ResponseBody,
) -> Response<ResponseBody> {
    let mut response = response;
    exchange.status.get_or_insert(response.status());
    let client = &exchange.client;
    let closes = exchange.reason.is_some_and(Reason::closes);
    if !client.http2 && (closes || client.worker.is_draining() || client.watch.asked() != Signal::None) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|()| body(exchange))
}

/// The data plane's own answer.
fn refuse(mut exchange: Exchange, answer: Answer) -> Response<ResponseBody> {
    exchange.failed(answer.reason);
    let grpc = if exchange.grpc { answer.reason.grpc_status() } else { None };
    exchange.status = Some(if grpc.is_some() { StatusCode::OK } else { answer.status });
    // 499 is for logs. A client that only stopped sending still reads, and sent a request that is not complete.
    let answer = if answer.reason == Reason::ClientGone { Answer::from(Reason::BadRequest) } else { answer };
    let response = match grpc {
        Some(status) => answer.into_grpc(status),
        None => answer.into_response(),
    };
    let (head, mut body) = response.into_parts();
    let mut response = response_head(head.status, head.headers);
    for filters in exchange.rule.iter().flat_map(|rule| rule.filters_of_responses(exchange.backend)) {
        filter::on_answer(filters, exchange.https, &exchange.effects, response.headers_mut());
    }
    if exchange.method == Method::HEAD {
        body.clear();
    }
    finish(exchange, response, |exchange| ResponseBody::own(body, exchange))
}

/// The connection leaves HTTP; it ends with its tunnel.
fn switch(
    mut exchange: Exchange,
    response: Response<()>,
    switched: Option<&Switched>,
    backend: Upgraded,
) -> Response<ResponseBody> {
    let Some(switched) = switched else {
        // A backend that switches without being asked to.
        return refuse(exchange, Reason::BadResponse.into());
    };
    exchange.status = Some(response.status());
    let idle = exchange.rule.as_ref().and_then(|rule| rule.timeouts.read);
    switched.set(exchange, backend, idle);
    response.map(|()| ResponseBody::none())
}
