//! Questions to a service whether a request may pass (GEP-1494).

use std::collections::HashMap;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use snapshot::AllowList;

use super::Outgoing;
use crate::cluster::{Cluster, ClusterRegistry};
use crate::hop_by_hop;
use crate::underscores;

/// A compiled [`snapshot::ExternalAuth`].
#[derive(Debug)]
pub struct ExternalAuth {
    /// Who is asked.
    pub cluster: Arc<Cluster>,
    /// Largest body in bytes that the service sees; 0 when it sees none.
    pub max_body: u16,
    /// How it is asked.
    pub protocol: AuthProtocol,
}

/// How a service is asked.
#[derive(Debug)]
pub enum AuthProtocol {
    /// With a request like the client's.
    Http(HttpAuth),
    /// With a call of Envoy's protocol.
    Grpc(GrpcAuth),
}

/// A compiled [`snapshot::HttpAuth`].
#[derive(Debug)]
pub struct HttpAuth {
    path_prefix: Box<str>,
    /// What the service sees besides what it always sees.
    request_headers: Box<[HeaderName]>,
    /// What it may set; `None` is everything.
    response_headers: Option<Box<[HeaderName]>>,
}

/// A compiled [`snapshot::GrpcAuth`].
#[derive(Debug)]
pub struct GrpcAuth {
    /// What the service sees; `None` is everything.
    request_headers: Option<Box<[HeaderName]>>,
}

/// A change of a header that the service asks for.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each says what it does")]
pub enum HeaderChange {
    Set(HeaderName, HeaderValue),
    Append(HeaderName, HeaderValue),
    SetIfAbsent(HeaderName, HeaderValue),
    SetIfPresent(HeaderName, HeaderValue),
}

impl ExternalAuth {
    pub(super) fn compile(source: &snapshot::ExternalAuth, clusters: &ClusterRegistry) -> Result<Self, String> {
        let cluster = clusters.get(&source.cluster);
        let cluster = cluster.ok_or_else(|| format!("the cluster {:?} does not exist", source.cluster))?.clone();
        let protocol = match &source.protocol {
            snapshot::AuthProtocol::Http(http) => AuthProtocol::Http(HttpAuth {
                path_prefix: http.path_prefix.as_str().into(),
                request_headers: names(&http.request_headers)?,
                response_headers: allowed(&http.response_headers)?,
            }),
            snapshot::AuthProtocol::Grpc(grpc) => {
                AuthProtocol::Grpc(GrpcAuth { request_headers: allowed(&grpc.request_headers)? })
            }
        };
        Ok(Self { cluster, max_body: source.max_body, protocol })
    }
}

fn allowed(list: &AllowList) -> Result<Option<Box<[HeaderName]>>, String> {
    match list {
        AllowList::Any => Ok(None),
        AllowList::These(these) => names(these).map(Some),
    }
}

fn names(names: &[String]) -> Result<Box<[HeaderName]>, String> {
    let name = |name: &String| HeaderName::try_from(name).map_err(|_| format!("invalid header name {name:?}"));
    names.iter().map(name).collect()
}

impl HttpAuth {
    /// The question about a request, whose body is shown to the service or not. `None` when the path becomes too long.
    pub fn question(&self, method: &Method, request: &Outgoing, with_body: bool) -> Option<Request<()>> {
        let mut question = Request::new(());
        *question.method_mut() = method.clone();
        *question.uri_mut() = match &*self.path_prefix {
            "" => request.path.clone().into(),
            prefix => PathAndQuery::try_from(format!("{prefix}{}", request.path)).ok()?.into(),
        };
        let headers = question.headers_mut();
        for name in [AUTHORIZATION].iter().chain(&self.request_headers) {
            replace(headers, name, &request.headers);
        }
        if let Some(host) = &request.host {
            headers.insert(HOST, host.clone());
        }
        if !with_body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Some(question)
    }

    /// Whether this status lets the request pass.
    pub fn is_yes(&self, status: StatusCode) -> bool {
        status == StatusCode::OK
    }

    /// Takes over what the service says of a request that may pass. What it may say and does not is not what the client says
    /// instead, unless the service saw that.
    pub fn grant(&self, mut answer: HeaderMap, request: &mut Outgoing) {
        hop_by_hop::strip(&mut answer);
        match &self.response_headers {
            Some(names) => {
                for name in names {
                    if answer.contains_key(name) || !self.shows(name) {
                        replace(&mut request.headers, name, &answer);
                    }
                }
                underscores::remove(&mut request.headers, |name| names.iter().any(|taken| taken == name));
            }
            None => {
                for name in answer.keys().filter(|name| !is_of_message(name)) {
                    replace(&mut request.headers, name, &answer);
                }
                underscores::remove(&mut request.headers, |name| answer.contains_key(name));
            }
        }
    }

    fn shows(&self, name: &HeaderName) -> bool {
        *name == AUTHORIZATION || self.request_headers.contains(name)
    }
}

/// What belongs to the answer itself: where it comes from, and what its body is like.
fn is_of_message(name: &HeaderName) -> bool {
    *name == HOST || name.as_str().starts_with("content-")
}

/// Makes all values of this name those of another message.
fn replace(headers: &mut HeaderMap, name: &HeaderName, with: &HeaderMap) {
    headers.remove(name);
    for value in with.get_all(name) {
        headers.append(name.clone(), value.clone());
    }
}

impl GrpcAuth {
    /// The headers that the service sees, several values of a name joined by commas.
    pub fn shown(&self, headers: &HeaderMap) -> HashMap<String, String> {
        let mut shown = HashMap::<String, String>::new();
        let allowed = |name: &HeaderName| self.request_headers.as_ref().is_none_or(|names| names.contains(name));
        for (name, value) in headers.iter().filter(|(name, _)| allowed(name)) {
            let value = String::from_utf8_lossy(value.as_bytes());
            match shown.get_mut(name.as_str()) {
                Some(before) => {
                    before.push(',');
                    before.push_str(&value);
                }
                None => _ = shown.insert(name.as_str().to_owned(), value.into_owned()),
            }
        }
        shown
    }
}

impl HeaderChange {
    /// The header that is changed.
    pub fn name(&self) -> &HeaderName {
        match self {
            Self::Set(name, _) | Self::Append(name, _) | Self::SetIfAbsent(name, _) | Self::SetIfPresent(name, _) => {
                name
            }
        }
    }

    /// Makes the change.
    pub fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Set(name, value) => _ = headers.insert(name, value.clone()),
            Self::Append(name, value) => _ = headers.append(name, value.clone()),
            Self::SetIfAbsent(name, value) if !headers.contains_key(name) => _ = headers.insert(name, value.clone()),
            Self::SetIfPresent(name, value) if headers.contains_key(name) => _ = headers.insert(name, value.clone()),
            Self::SetIfAbsent(..) | Self::SetIfPresent(..) => {}
        }
    }
}
