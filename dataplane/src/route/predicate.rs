//! What a match demands besides host and path.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use regex::Regex;
use snapshot::{Match, PathMatch, ValuePattern};

use super::{RequestView, pattern};

/// The conditions of one match on method, headers, query and the end of the path; all must hold.
#[derive(Debug)]
pub(crate) struct Predicate {
    last_element: Option<Box<str>>,
    method: Option<Method>,
    headers: Box<[(HeaderName, Value)]>,
    query: Box<[(Box<str>, Value)]>,
}

#[derive(Debug)]
enum Value {
    Exact(Box<str>),
    Regex(Regex),
}

impl Predicate {
    /// Compiles the conditions.
    ///
    /// # Errors
    /// Says which method, header name or expression is invalid.
    pub(crate) fn compile(source: &Match) -> Result<Self, String> {
        let method = match &source.method {
            Some(name) => Some(Method::from_bytes(name.as_bytes()).map_err(|_| format!("invalid method {name:?}"))?),
            None => None,
        };
        let header = |condition: &snapshot::ValueMatch| {
            let name = HeaderName::from_bytes(condition.name.as_bytes());
            let name = name.map_err(|_| format!("invalid header name {:?}", condition.name))?;
            Ok((name, Value::compile(&condition.value)?))
        };
        let parameter =
            |condition: &snapshot::ValueMatch| Ok((condition.name.as_str().into(), Value::compile(&condition.value)?));
        let last_element = match &source.path {
            PathMatch::LastElement(element) => Some(element.as_str().into()),
            _ => None,
        };
        Ok(Self {
            last_element,
            method,
            headers: source.headers.iter().map(header).collect::<Result<_, String>>()?,
            query: source.query.iter().map(parameter).collect::<Result<_, String>>()?,
        })
    }

    /// Whether all conditions hold.
    pub(crate) fn holds(&self, request: &RequestView<'_>) -> bool {
        self.last_element.as_ref().is_none_or(|element| request.path.rsplit('/').next() == Some(element))
            && self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, value)| header_matches(request.headers, name, value))
            && self.query.iter().all(|(name, value)| query_matches(request.query, name, value))
    }
}

impl Value {
    fn compile(source: &ValuePattern) -> Result<Self, String> {
        Ok(match source {
            ValuePattern::Exact(value) => Value::Exact(value.as_str().into()),
            ValuePattern::Regex(expression) => Value::Regex(pattern::whole(expression)?),
        })
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Value::Exact(expected) => **expected == *value,
            Value::Regex(expression) => expression.is_match(value),
        }
    }
}

/// Several lines of a header are one list (RFC 9110, 5.3): what is matched is what a backend reads that joins them.
fn header_matches(headers: &HeaderMap, name: &HeaderName, value: &Value) -> bool {
    let mut lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let Some(first) = lines.next() else { return false };
    let matches = |found: &[u8]| match value {
        Value::Exact(expected) => found == expected.as_bytes(),
        Value::Regex(_) => std::str::from_utf8(found).is_ok_and(|found| value.matches(found)),
    };
    match lines.next() {
        None => matches(first),
        Some(second) => matches(&[first, second].into_iter().chain(lines).collect::<Vec<_>>().join(&b", "[..])),
    }
}

/// Of a repeated parameter the first value counts (Gateway API).
fn query_matches(query: Option<&str>, name: &str, value: &Value) -> bool {
    let parameters = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut named = parameters.filter(|(found, _)| form_decoded(found) == name);
    named.next().is_some_and(|(_, found)| value.matches(&form_decoded(found)))
}

/// Percent sequences and plus signs decoded; what is broken stays as it is.
fn form_decoded(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let spaced = text.replace('+', " ");
    match crate::normalise::percent_decode(&spaced) {
        Ok(decoded) => decoded.into_owned().into(),
        Err(_) => spaced.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_of_a_repeated_parameter_counts() {
        let exact = |value: &str| Value::Exact(value.into());
        assert!(query_matches(Some("a=1&b=2&a=3"), "a", &exact("1")));
        assert!(!query_matches(Some("a=1&b=2&a=3"), "a", &exact("3")));
        assert!(query_matches(Some("x%20y=a+b%2B"), "x y", &exact("a b+")));
        assert!(query_matches(Some("flag"), "flag", &exact("")));
        assert!(!query_matches(None, "", &exact("x")));
        assert!(query_matches(Some("a=50%"), "a", &exact("50%")));
    }

    #[test]
    fn several_lines_of_a_header_are_one_list() {
        let mut headers = HeaderMap::new();
        for value in ["one", "two"] {
            headers.append("version", HeaderValue::from_static(value));
        }
        let name = HeaderName::from_static("version");
        let matches = |value: &str| header_matches(&headers, &name, &Value::Exact(value.into()));
        assert_eq!(["one", "two", "one, two"].map(matches), [false, false, true]);
        let expression = Value::compile(&ValuePattern::Regex("one, .*".into())).unwrap();
        assert!(header_matches(&headers, &name, &expression));
    }

    #[test]
    fn expressions_match_the_whole_value() {
        let value = Value::compile(&ValuePattern::Regex("a|ab".into())).unwrap();
        assert!(value.matches("ab"));
        assert!(!value.matches("abc"));
    }
}
