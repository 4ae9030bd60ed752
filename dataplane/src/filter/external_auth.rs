//! Questions to a service whether a request may pass (GEP-1494).

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use snapshot::AuthProtocol;

use super::Outgoing;
use crate::cluster::{Cluster, ClusterRegistry};
use crate::hop_by_hop;

/// A compiled [`snapshot::ExternalAuth`].
#[derive(Debug)]
pub struct ExternalAuth {
    cluster: Arc<Cluster>,
    max_body: u16,
    path_prefix: Box<str>,
    /// What the service sees besides what it always sees.
    request_headers: Box<[HeaderName]>,
    /// What it may set; `None` is everything.
    response_headers: Option<Box<[HeaderName]>>,
}

impl ExternalAuth {
    pub(super) fn compile(source: &snapshot::ExternalAuth, clusters: &ClusterRegistry) -> Result<Self, String> {
        let cluster = clusters.get(&source.cluster);
        let cluster = cluster.ok_or_else(|| format!("the cluster {:?} does not exist", source.cluster))?.clone();
        let names = |names: &[String]| {
            let name = |name: &String| HeaderName::try_from(name).map_err(|_| format!("invalid header name {name:?}"));
            names.iter().map(name).collect::<Result<Box<[_]>, _>>()
        };
        let AuthProtocol::Http(http) = &source.protocol;
        Ok(Self {
            cluster,
            max_body: source.max_body,
            path_prefix: http.path_prefix.as_str().into(),
            request_headers: names(&http.request_headers)?,
            response_headers: match &http.response_headers {
                snapshot::AllowList::Any => None,
                snapshot::AllowList::These(these) => Some(names(these)?),
            },
        })
    }

    /// Who is asked.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Largest body in bytes that the service sees; 0 when it sees none.
    pub fn max_body(&self) -> u16 {
        self.max_body
    }

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
            }
            None => {
                for name in answer.keys().filter(|name| !is_of_message(name)) {
                    replace(&mut request.headers, name, &answer);
                }
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
