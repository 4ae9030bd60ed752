//! Changes to headers.

use http::{HeaderMap, HeaderName, HeaderValue};

/// A compiled [`snapshot::HeaderEdit`].
#[derive(Debug)]
pub struct HeaderEdit {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
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
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("invalid header name {text:?}"))
}
