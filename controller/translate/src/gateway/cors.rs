//! The filter `CORS` (GEP-1767).

use crds::gateway::HTTPCORSFilter;
use http::{HeaderName, Method};
use snapshot::{AllowList, Cors, OriginPattern};

use super::rules::Unusable;

/// How many seconds the answer to a preflight request holds by default.
const MAX_AGE: i32 = 5;

/// Reads the filter.
pub(super) fn parse(filter: &HTTPCORSFilter) -> Result<Cors, Unusable> {
    let origins = filter.allow_origins.iter().flatten().enumerate();
    let origin = |(index, written): (usize, &String)| {
        origin(written).ok_or_else(|| {
            let message = format!("{written:?} is not an origin such as https://shop.example, https://*.example or *");
            Unusable::new(&format!("allowOrigins[{index}]"), message)
        })
    };
    let header = |name: &str| HeaderName::try_from(name).is_ok();
    let method = |name: &str| Method::from_bytes(name.as_bytes()).is_ok();
    let max_age = filter.max_age.unwrap_or(MAX_AGE);
    Ok(Cors {
        allow_origins: origins.map(origin).collect::<Result<_, _>>()?,
        allow_credentials: filter.allow_credentials.unwrap_or_default(),
        allow_methods: list(filter.allow_methods.as_deref(), "allowMethods", "a method", method)?,
        allow_headers: list(filter.allow_headers.as_deref(), "allowHeaders", "the name of a header", header)?,
        expose_headers: list(filter.expose_headers.as_deref(), "exposeHeaders", "the name of a header", header)?,
        max_age: u32::try_from(max_age).map_err(|_| Unusable::new("maxAge", format!("{max_age} is negative")))?,
    })
}

fn list(
    written: Option<&[String]>,
    field: &str,
    what: &str,
    valid: impl Fn(&str) -> bool,
) -> Result<AllowList, Unusable> {
    let written = written.unwrap_or_default();
    if written.iter().any(|name| name == "*") {
        return Ok(AllowList::Any);
    }
    match written.iter().position(|name| !valid(name)) {
        Some(index) => Err(Unusable::new(&format!("{field}[{index}]"), format!("{:?} is not {what}", written[index]))),
        None => Ok(AllowList::These(written.to_vec())),
    }
}

/// An origin without path; the port that is the scheme's own is left out, as browsers do. A wildcard stands for one or more
/// labels, by itself for every host.
fn origin(written: &str) -> Option<OriginPattern> {
    if written == "*" {
        return Some(OriginPattern::Any);
    }
    let (scheme, authority) = written.split_once("://")?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse::<u16>().ok().filter(|port| *port > 0)?)),
        _ => (authority, None),
    };
    let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
    let own = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port = port.filter(|port| Some(*port) != own);
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#*@".contains(&byte));
    match host.strip_prefix("*.") {
        Some(suffix) if plain(&scheme) && plain(suffix) => {
            Some(OriginPattern::Subdomains { scheme, suffix: suffix.into(), port })
        }
        None if plain(&scheme) && plain(&host) => {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            Some(OriginPattern::Exact(format!("{scheme}://{host}{port}")))
        }
        None if plain(&scheme) && host == "*" => {
            Some(OriginPattern::Subdomains { scheme, suffix: String::new(), port })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        let exact = |text: &str| Some(OriginPattern::Exact(text.into()));
        assert_eq!(origin("*"), Some(OriginPattern::Any));
        assert_eq!(origin("HTTPS://Shop.example:443"), exact("https://shop.example"));
        assert_eq!(origin("http://shop.example:8080"), exact("http://shop.example:8080"));
        assert_eq!(origin("http://[::1]:8080"), exact("http://[::1]:8080"));
        let subdomains =
            OriginPattern::Subdomains { scheme: "https".into(), suffix: "example".into(), port: Some(8443) };
        assert_eq!(origin("https://*.example:8443"), Some(subdomains));
        let everywhere = OriginPattern::Subdomains { scheme: "http".into(), suffix: String::new(), port: None };
        assert_eq!(origin("http://*:80"), Some(everywhere));
        for wrong in ["shop.example", "https://", "https://a.*.b", "https://a/b", "https://a:0", "https://a:x"] {
            assert_eq!(origin(wrong), None, "{wrong}");
        }
    }
}
