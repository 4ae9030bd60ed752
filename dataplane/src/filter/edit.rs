//! Changes to headers.

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Outgoing;
use crate::normalise;

/// A compiled [`snapshot::HeaderEdit`] of requests.
#[derive(Debug)]
pub struct RequestEdit {
    headers: HeaderEdit,
    host: Option<HeaderValue>,
}

/// A compiled [`snapshot::HeaderEdit`].
#[derive(Debug)]
pub struct HeaderEdit {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
}

impl RequestEdit {
    /// `Host` may be set, not added or removed: a request has exactly one.
    pub(super) fn compile(source: &snapshot::HeaderEdit) -> Result<Self, String> {
        let mut headers = source.clone();
        let host = headers.set.extract_if(.., |(name, _)| name.eq_ignore_ascii_case(HOST.as_str())).last();
        let host = host.map(|(_, host)| match normalise::host(&host) {
            Ok(_) => HeaderValue::try_from(&host).map_err(|_| format!("invalid host {host:?}")),
            Err(_) => Err(format!("invalid host {host:?}")),
        });
        Ok(Self { headers: HeaderEdit::compile(&headers)?, host: host.transpose()? })
    }

    pub(super) fn apply(&self, request: &mut Outgoing) {
        self.headers.apply(&mut request.headers);
        if let Some(host) = &self.host {
            request.host = Some(host.clone());
        }
    }
}

impl HeaderEdit {
    pub(super) fn compile(source: &snapshot::HeaderEdit) -> Result<Self, String> {
        Ok(Self {
            set: source.set.iter().map(pair).collect::<Result<_, _>>()?,
            add: source.add.iter().map(pair).collect::<Result<_, _>>()?,
            remove: source.remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
        })
    }

    /// Sets, adds, removes.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

fn pair((text, value): &(String, String)) -> Result<(HeaderName, HeaderValue), String> {
    let value = HeaderValue::from_str(value).map_err(|_| format!("invalid value of header {text:?}"))?;
    Ok((name(text)?, value))
}

fn name(text: &str) -> Result<HeaderName, String> {
    match HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if snapshot::HeaderEdit::FIXED.contains(&name.as_str()) => {
            Err(format!("header {text:?} is not for an edit to change"))
        }
        Ok(name) => Ok(name),
        Err(_) => Err(format!("invalid header name {text:?}")),
    }
}
