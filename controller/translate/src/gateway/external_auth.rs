//! The filter `ExternalAuth` (GEP-1494).

use crds::gateway::{GRPCAuthConfig, HTTPAuthConfig, HTTPExternalAuthFilter};
use http::HeaderName;
use snapshot::{AllowList, AuthProtocol, GrpcAuth, HeaderEdit, HttpAuth};

use super::backends::{Port, Unresolved};
use super::filters::Surroundings;
use super::rules::Unusable;
use crate::Kind;

/// A question to a service whether requests may pass.
pub(super) struct ExternalAuth<'a> {
    /// Who is asked, or why nobody can be: then no request passes.
    pub target: Result<Port<'a>, Unresolved>,
    /// How.
    pub protocol: AuthProtocol,
    /// Largest body in bytes that the service sees; 0 is none.
    pub max_body: u16,
}

/// What every service sees, whatever is listed.
const ATTRIBUTES: [&str; 4] = ["host", "method", "path", "content-length"];
/// The same for those that are asked by HTTP.
const ALWAYS_SEEN: [&str; 5] = ["host", "method", "path", "content-length", "authorization"];

/// Reads the filter.
pub(super) fn parse<'a>(
    filter: &HTTPExternalAuthFilter,
    surroundings: Surroundings<'_, 'a>,
) -> Result<ExternalAuth<'a>, Unusable> {
    let Surroundings { kind, namespace, backends, .. } = surroundings;
    let misplaced =
        |field, protocol| Unusable::new(field, format!("protocol {protocol} has no such settings: remove it"));
    let (protocol, spoken) = match (filter.protocol.as_str(), &filter.http, &filter.grpc) {
        ("HTTP", config, None) => {
            let config = config.clone().unwrap_or_default();
            (http(&config).map(AuthProtocol::Http).map_err(|unusable| unusable.within("http"))?, kind)
        }
        ("GRPC", None, config) => {
            let config = config.clone().unwrap_or_default();
            (grpc(&config).map(AuthProtocol::Grpc).map_err(|unusable| unusable.within("grpc"))?, Kind::GRPCRoute)
        }
        ("HTTP", _, Some(_)) => return Err(misplaced("grpc", "HTTP")),
        ("GRPC", Some(_), _) => return Err(misplaced("http", "GRPC")),
        (other, ..) => return Err(Unusable::new("protocol", format!("{other:?} is not HTTP or GRPC"))),
    };
    let max_body = filter.forward_body.as_ref().and_then(|body| body.max_size).unwrap_or_default();
    let target = backends.resolve_for(kind, namespace, &filter.backend_ref, spoken);
    Ok(ExternalAuth { target, protocol, max_body })
}

fn grpc(config: &GRPCAuthConfig) -> Result<GrpcAuth, Unusable> {
    let written = config.allowed_headers.as_deref().unwrap_or_default();
    let seen = names(written, "allowedHeaders", &ATTRIBUTES)?;
    Ok(GrpcAuth { request_headers: if written.is_empty() { AllowList::Any } else { AllowList::These(seen) } })
}

fn http(config: &HTTPAuthConfig) -> Result<HttpAuth, Unusable> {
    let request_headers = names(config.allowed_headers.as_deref().unwrap_or_default(), "allowedHeaders", &ALWAYS_SEEN)?;
    let allowed = config.allowed_response_headers.as_deref().unwrap_or_default();
    let response_headers = names(allowed, "allowedResponseHeaders", &[])?;
    Ok(HttpAuth {
        path_prefix: prefix(config.path.as_deref().unwrap_or_default())?,
        request_headers,
        response_headers: if response_headers.is_empty() { AllowList::Any } else { AllowList::These(response_headers) },
    })
}

/// A path to which that of a request can be added.
fn prefix(path: &str) -> Result<String, Unusable> {
    let fits = |byte: u8| byte.is_ascii_graphic() && !br#"?#\"<>[]^`{|}"#.contains(&byte);
    let climbs = path.split('/').any(|element| element == "." || element == "..");
    if !path.bytes().all(fits) || climbs || path.contains("%2e") || path.contains("%2E") {
        return Err(Unusable::new("path", format!("{path:?} is not a path, or one with dots that climb")));
    }
    match path.trim_matches('/') {
        "" => Ok(String::new()),
        path => Ok(format!("/{path}")),
    }
}

/// Names of headers, in lower case, without those of `seen`, which need not be listed.
fn names(names: &[String], field: &str, seen: &[&str]) -> Result<Vec<String>, Unusable> {
    let mut parsed = Vec::new();
    for (index, written) in names.iter().enumerate() {
        let unusable = |message| Unusable::new(&format!("{field}[{index}]"), message);
        let name = HeaderName::try_from(written);
        let name = name.map_err(|_| unusable(format!("{written:?} is not the name of a header")))?;
        match name.as_str() {
            name if seen.contains(&name) => {}
            fixed if HeaderEdit::FIXED.contains(&fixed) => {
                let message = format!("{fixed:?} belongs to the connection, not to the message: remove it");
                return Err(unusable(message));
            }
            name => parsed.push(name.to_owned()),
        }
    }
    Ok(parsed)
}
