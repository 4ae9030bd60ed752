//! A path that is accepted has one normal form, and what is forwarded is matched as what was received.

use dataplane::normalise::path;

/// Panics where it does not hold.
pub fn holds(bytes: &[u8]) {
    let Ok(raw) = std::str::from_utf8(bytes) else { return };
    let Ok(form) = path(raw) else { return };
    assert!(form.matched.starts_with('/') && form.forwarded.starts_with('/'));
    assert!(!form.forwarded.starts_with("//") && !form.forwarded.contains('\\'));
    let again = path(&form.forwarded).expect("what is forwarded is a path");
    assert_eq!((&again.matched, &again.forwarded), (&form.matched, &form.forwarded));
    assert!(form.matched.split('/').all(|element| element != "." && element != ".."));
}
