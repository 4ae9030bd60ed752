//! Header lines of responses whose name is invalid, or that have no colon: dropped, as ingress-nginx does
//! (`ignore-invalid-headers`), unless another reader could take them for something else.

use super::super::BackendError;

/// Names that say where a message ends and to whom it belongs: one that reads like these but for its invalid bytes is refused.
const NEVER_INVALID: [&[u8]; 4] = [b"content-length", b"transfer-encoding", b"host", b"connection"];

/// The head without such lines. `head` is complete.
///
/// # Errors
/// [`BackendError::Malformed`] where a line cannot be dropped safely: a continuation of the line before it, white space before
/// the colon, control characters, or a name as above.
pub fn without_invalid_lines(head: &[u8]) -> Result<Vec<u8>, BackendError> {
    let mut kept = Vec::with_capacity(head.len());
    for (number, line) in head.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if number == 0 || text.is_empty() || is_kept(text)? {
            kept.extend_from_slice(line);
        }
    }
    Ok(kept)
}

fn is_kept(line: &[u8]) -> Result<bool, BackendError> {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    if name.len() < line.len() && !name.is_empty() && name.iter().all(|byte| is_token(*byte)) {
        return Ok(true);
    }
    let reads_like: Vec<u8> = name.iter().copied().filter(|byte| is_token(*byte)).collect();
    let dangerous = line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
        || line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'))
        || name.len() < line.len() && name.iter().any(|byte| matches!(byte, b' ' | b'\t'))
        || NEVER_INVALID.iter().any(|never| reads_like.eq_ignore_ascii_case(never));
    if dangerous { Err(BackendError::Malformed("a header line")) } else { Ok(false) }
}

/// A byte of a header's name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
