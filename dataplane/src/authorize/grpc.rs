//! Questions in Envoy's protocol: the gRPC call `envoy.service.auth.v3.Authorization/Check`.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use prost::Message;
use snapshot::{HeaderEdit, Scheme};

use self::proto::check_response::HttpResponse;
use self::proto::{AppendAction, CheckRequest, CheckResponse, HeaderValueOption};
use crate::exchange::Exchange;
use crate::filter::{Context, GrpcAuth, HeaderChange, Outgoing};
use crate::upstream::BackendBody;

mod proto {
    #![allow(missing_docs, reason = "Envoy's own names")]
    tonic::include_proto!("envoy.service.auth.v3");
}

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Largest answer in bytes.
const MOST: usize = 256 * 1024;

/// What the service said.
pub(super) enum Verdict {
    /// The request may pass, with these changes of its headers, without these headers, and with these changes of its answer's.
    Passes(Vec<HeaderChange>, Vec<HeaderName>, Vec<HeaderChange>),
    /// It may not; this is the answer.
    Denied(Response<()>, Bytes),
}

/// The head of a question that is to be answered within `time`.
pub(super) fn head(time: Duration) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = Method::POST;
    *head.uri_mut() = Uri::from_static(PATH);
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if let Ok(timeout) = HeaderValue::try_from(format!("{}m", time.as_millis())) {
        headers.insert("grpc-timeout", timeout);
    }
    head
}

/// The question about a request, with the length that gRPC wants before it. `body` is what the service may see, `size` the
/// whole body's, where that is known.
pub(super) fn question(
    auth: &GrpcAuth,
    exchange: &Exchange,
    context: &Context<'_>,
    request: &Outgoing,
    body: &Bytes,
    size: Option<u64>,
) -> Bytes {
    let text = |value: Option<&HeaderValue>| {
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
    };
    let now = jiff::Timestamp::now();
    let (body, raw_body) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), Vec::new()),
        Err(_) => (String::new(), body.to_vec()),
    };
    let http = proto::HttpRequest {
        id: text(exchange.request_id.as_ref()),
        method: context.method.to_string(),
        headers: auth.shown(&request.headers),
        path: request.path.to_string(),
        host: text(request.host.as_ref()),
        scheme: match context.forwarded.scheme {
            Scheme::Http => "http".into(),
            Scheme::Https => "https".into(),
        },
        size: size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
        protocol: match exchange.version {
            Version::HTTP_2 => "HTTP/2".into(),
            Version::HTTP_10 => "HTTP/1.0".into(),
            _ => "HTTP/1.1".into(),
        },
        body,
        raw_body,
    };
    let address = proto::SocketAddress { address: exchange.address.to_string() };
    let source = proto::Peer { address: Some(proto::Address { socket_address: Some(address) }) };
    let time = proto::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() };
    let request = proto::Request { time: Some(time), http: Some(http) };
    let attributes = proto::AttributeContext { source: Some(source), request: Some(request) };
    let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    // What is shown of a request is far below 4 GiB.
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(&message);
    bytes.freeze()
}

/// Reads an answer; `None` for one that says nothing.
pub(super) async fn read(response: Response<()>, mut body: BackendBody) -> Option<Verdict> {
    if response.status() != StatusCode::OK {
        return None;
    }
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while !body.is_end_stream() {
        let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await else { break };
        match frame.ok()?.into_data() {
            Ok(data) if bytes.len() + data.len() > MOST => return None,
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    body.finish();
    let status = trailers.as_ref().unwrap_or(response.headers()).get("grpc-status")?;
    let (prefix, message) = bytes.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *prefix;
    if status != "0" || compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return None;
    }
    verdict(CheckResponse::decode(message).ok()?)
}

/// `None` for an answer that asks for what is not done here: then it is none.
fn verdict(answer: CheckResponse) -> Option<Verdict> {
    let passes = answer.status.unwrap_or_default().code == 0;
    match answer.http_response {
        Some(HttpResponse::OkResponse(ok)) if passes => {
            if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
                return None;
            }
            // What is no header, such as `:path`, is left alone.
            let removed = ok.headers_to_remove.iter().filter_map(|name| HeaderName::try_from(name).ok());
            let removed = removed.filter(may_change).collect();
            Some(Verdict::Passes(changes(ok.headers)?, removed, changes(ok.response_headers_to_add)?))
        }
        _ if passes => Some(Verdict::Passes(Vec::new(), Vec::new(), Vec::new())),
        Some(HttpResponse::DeniedResponse(denied)) => {
            let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
            let mut response = Response::new(());
            *response.status_mut() = code
                .and_then(|code| StatusCode::from_u16(code).ok())
                .filter(|status| !status.is_informational())
                .unwrap_or(StatusCode::FORBIDDEN);
            changes(denied.headers)?.iter().for_each(|change| change.apply(response.headers_mut()));
            Some(Verdict::Denied(response, denied.body.into()))
        }
        _ => {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::FORBIDDEN;
            Some(Verdict::Denied(response, Bytes::new()))
        }
    }
}

fn changes(options: Vec<HeaderValueOption>) -> Option<Vec<HeaderChange>> {
    let change = |option: HeaderValueOption| {
        let action = option.append_action();
        let header = option.header?;
        let name = HeaderName::try_from(header.key).ok()?;
        let value = if header.value.is_empty() { header.raw_value } else { header.value.into_bytes() };
        let value = HeaderValue::from_maybe_shared(Bytes::from(value)).ok()?;
        Some(match (option.append, action) {
            (Some(append), _) if append.value => HeaderChange::Append(name, value),
            (Some(_), _) | (None, AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd) => {
                HeaderChange::Set(name, value)
            }
            (None, AppendAction::AddIfAbsent) => HeaderChange::SetIfAbsent(name, value),
            (None, AppendAction::OverwriteIfExists) => HeaderChange::SetIfPresent(name, value),
        })
    };
    let changes = options.into_iter().map(change).collect::<Option<Vec<_>>>()?;
    Some(changes.into_iter().filter(|change| may_change(change.name())).collect())
}

/// Headers of the connection and the length of the body are not the service's to change.
fn may_change(name: &HeaderName) -> bool {
    !HeaderEdit::FIXED.contains(&name.as_str())
}

/// The body's size as the headers tell it.
pub(super) fn size(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
