//! Headers that some receivers cannot tell apart: CGI, WSGI and the like read `_` in a name as they read `-`.
//!
//! Where a header is set, or believed, on behalf of somebody who is trusted, the client's `x_user` beside `x-user` could be what the
//! backend reads.

use http::HeaderMap;

/// Removes the headers whose name has underscores and would be one of these with hyphens in their place. `is_taken` gets the
/// name with hyphens, in lower case.
pub fn remove(headers: &mut HeaderMap, is_taken: impl Fn(&str) -> bool) {
    let stands_for_another =
        |name: &&http::HeaderName| name.as_str().contains('_') && is_taken(&name.as_str().replace('_', "-"));
    while let Some(name) = headers.keys().find(stands_for_another).cloned() {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn only_names_that_stand_for_a_taken_one_go() {
        let mut headers = HeaderMap::new();
        for name in ["x-user", "x_user", "x_user_", "other_name", "x-user-id"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        remove(&mut headers, |name| name == "x-user");
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["other_name", "x-user", "x-user-id", "x_user_"]);
    }
}
