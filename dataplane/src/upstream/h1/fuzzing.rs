//! The reader of responses without a connection, for fuzz targets.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};

use super::framing::Framing;
use super::head;
use super::progress::Progress;

/// A response that was read to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadResponse {
    /// The final status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All data of its body.
    pub body: Vec<u8>,
    /// Its trailers, where there are some.
    pub trailers: Option<HeaderMap>,
    /// How much of the input follows it.
    pub rest: usize,
    /// Whether the connection would be used again.
    pub keep_alive: bool,
}

/// Reads the response to a request with this method as a connection does that receives `bytes` in pieces of `size` and then closes.
/// `None` where it is malformed or not complete.
pub fn read_response(bytes: &[u8], method: &Method, size: usize) -> Option<ReadResponse> {
    let (mut input, mut spare, mut progress) = (BytesMut::new(), HeaderMap::new(), Progress::default());
    let mut head = None;
    let (mut body, mut trailers) = (Vec::new(), None);
    for piece in bytes.chunks(size.max(1)) {
        input.extend_from_slice(piece);
        while head.is_none() && !input.is_empty() {
            let parsed = if progress.admits(&input) { head::parse(&mut input, method, &mut spare).ok()? } else { None };
            let Some(parsed) = parsed else {
                progress.incomplete(&input);
                break;
            };
            progress = Progress::default();
            let status = parsed.response.status();
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                head = Some(parsed);
            }
        }
        let Some(head) = &mut head else { continue };
        while let Some(frame) = head.framing.decode(&mut input).ok()? {
            match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
    }
    let head = head.filter(|head| matches!(head.framing, Framing::Done | Framing::UntilClose))?;
    let (parts, ()) = head.response.into_parts();
    let (status, headers) = (parts.status, parts.headers);
    Some(ReadResponse {
        status,
        headers,
        body,
        trailers,
        rest: input.len(),
        keep_alive: head.keep_alive && input.is_empty(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_the_same_however_it_is_cut() {
        let bytes =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx[a]: 1\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n\
            4;e=1\r\nwiki\r\n5\r\npedia\r\n0\r\nx-sum: 9\r\n\r\nHTTP";
        let whole = read_response(bytes, &Method::GET, bytes.len()).unwrap();
        assert_eq!((whole.status.as_u16(), &whole.body[..], whole.rest), (200, &b"wikipedia"[..], 4));
        assert_eq!((whole.trailers.as_ref().unwrap()["x-sum"].as_bytes(), whole.keep_alive), (&b"9"[..], false));
        for size in 1..bytes.len() {
            assert_eq!(read_response(bytes, &Method::GET, size).as_ref(), Some(&whole), "{size}");
        }
        assert_eq!(read_response(&bytes[..bytes.len() - 6], &Method::GET, 7), None);
    }
}
