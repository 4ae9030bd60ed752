//! A backend's response is read alike however its bytes arrive, and never more of it than there is.

use dataplane::fuzzing::read_response;
use http::Method;

/// Panics where it does not hold. The first byte chooses the request's method.
pub fn holds(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let method = if first % 2 == 0 { Method::GET } else { Method::HEAD };
    let whole = read_response(bytes, &method, bytes.len().max(1));
    for size in [1, 3, 17] {
        assert_eq!(read_response(bytes, &method, size), whole, "in pieces of {size}");
    }
    if let Some(response) = whole {
        assert!(response.rest <= bytes.len() && response.body.len() <= bytes.len());
        assert!(!response.keep_alive || response.rest == 0, "nothing stray is left for the next request");
    }
}
