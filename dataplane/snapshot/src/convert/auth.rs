//! Questions whether requests may pass.

use super::filter::header_name;
use super::{DecodeError, field, not_blank, required, unset};
use crate::{AllowList, AuthProtocol, ExternalAuth, GrpcAuth, HttpAuth, proto};

impl From<&ExternalAuth> for proto::ExternalAuth {
    fn from(auth: &ExternalAuth) -> Self {
        use proto::external_auth::Protocol;
        let protocol = match &auth.protocol {
            AuthProtocol::Http(http) => Protocol::Http(http.into()),
            AuthProtocol::Grpc(grpc) => {
                Protocol::Grpc(proto::GrpcAuth { request_headers: Some((&grpc.request_headers).into()) })
            }
        };
        Self { cluster: auth.cluster.clone(), protocol: Some(protocol), max_body: auth.max_body.into() }
    }
}

impl TryFrom<proto::ExternalAuth> for ExternalAuth {
    type Error = DecodeError;

    fn try_from(wire: proto::ExternalAuth) -> Result<Self, DecodeError> {
        use proto::external_auth::Protocol;
        let protocol = match wire.protocol.ok_or_else(|| unset("protocol"))? {
            Protocol::Http(http) => AuthProtocol::Http(field(http, "http")?),
            Protocol::Grpc(grpc) => {
                AuthProtocol::Grpc(GrpcAuth { request_headers: allowed(grpc.request_headers, "grpc.request_headers")? })
            }
        };
        let max_body = u16::try_from(wire.max_body);
        Ok(Self {
            cluster: not_blank(wire.cluster, "cluster")?,
            protocol,
            max_body: max_body.map_err(|_| DecodeError::new("max_body", "is larger than what is kept of a body"))?,
        })
    }
}

impl From<&HttpAuth> for proto::HttpAuth {
    fn from(auth: &HttpAuth) -> Self {
        Self {
            path_prefix: auth.path_prefix.clone(),
            request_headers: auth.request_headers.clone(),
            response_headers: Some((&auth.response_headers).into()),
        }
    }
}

impl TryFrom<proto::HttpAuth> for HttpAuth {
    type Error = DecodeError;

    fn try_from(wire: proto::HttpAuth) -> Result<Self, DecodeError> {
        let prefix = wire.path_prefix;
        if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.ends_with('/')) {
            return Err(DecodeError::new("path_prefix", format!("{prefix:?} does not fit before a path")));
        }
        let response_headers = allowed(wire.response_headers, "response_headers")?;
        Ok(Self {
            path_prefix: prefix,
            request_headers: names(wire.request_headers, "request_headers")?,
            response_headers,
        })
    }
}

fn allowed(list: Option<proto::AllowList>, field: &str) -> Result<AllowList, DecodeError> {
    match required(list, field)? {
        AllowList::Any => Ok(AllowList::Any),
        AllowList::These(these) => names(these, field).map(AllowList::These),
    }
}

fn names(names: Vec<String>, field: &str) -> Result<Vec<String>, DecodeError> {
    names.into_iter().map(|name| header_name(name, field)).collect()
}
