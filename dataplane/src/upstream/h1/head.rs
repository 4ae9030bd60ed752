//! The heads of requests and responses as bytes.

use std::io::Write;
use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;

use super::super::BackendError;
use super::framing::{Chunk, Framing};
use super::{invalid, progress};

/// Largest head of a response.
const MAX_HEAD: usize = 64 * 1024;
/// Most header lines of a response.
const MAX_HEADERS: usize = 256;

/// How the body of a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Everything is written.
    Done,
    /// So many bytes are to come.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The head of a response, and what follows from it.
#[derive(Debug)]
pub struct Head {
    /// Status and headers.
    pub response: Response<()>,
    /// The body that follows.
    pub framing: Framing,
    /// Whether the endpoint keeps the connection open after it.
    pub keep_alive: bool,
}

/// Writes the head of a request and says how its body is to be written. The length of the body is what the body says,
/// not what the headers say.
pub fn write<B: Body>(request: &Request<B>, out: &mut Vec<u8>) -> Encoding {
    let body = request.body();
    let encoding = match body.size_hint().exact() {
        _ if body.is_end_stream() => Encoding::Done,
        Some(length) => Encoding::Length(length),
        None => Encoding::Chunked,
    };
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri().path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut length_named = false;
    for (name, value) in request.headers() {
        if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
            length_named = true;
            continue;
        }
        write_header(name, value, out);
    }
    // Without a body, methods that usually have one say so (RFC 9110, 8.6).
    let expects_body = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    match encoding {
        Encoding::Done if length_named || expects_body => out.extend_from_slice(b"content-length: 0\r\n"),
        Encoding::Done => {}
        // Writing to a vector does not fail.
        Encoding::Length(length) => _ = write!(out, "content-length: {length}\r\n"),
        Encoding::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
    encoding
}

/// Writes a header line.
pub fn write_header(name: &HeaderName, value: &HeaderValue, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Takes the head of a response to a request with this method from what has arrived; `None` when it is not complete.
/// The headers go into `spare`, an empty map with room.
///
/// # Errors
/// [`BackendError::Malformed`]; so is a response whose end two readers could see in two places (RFC 9112, 6.3).
pub fn parse(input: &mut BytesMut, method: &Method, spare: &mut HeaderMap) -> Result<Option<Head>, BackendError> {
    let (length, head) = match read(input, method, spare) {
        Ok(Some(read)) => read,
        Ok(None) => return Ok(None),
        Err(Unreadable::Malformed(error)) => return Err(error),
        Err(Unreadable::HeaderName) => match progress::end(input, 0) {
            Some(length) => {
                let kept = invalid::without_invalid_lines(&input[..length])?;
                let Ok(Some((_, head))) = read(&kept, method, spare) else {
                    return Err(BackendError::Malformed("the head"));
                };
                (length, head)
            }
            None if input.len() < MAX_HEAD => return Ok(None),
            None => return Err(BackendError::Malformed("the head is too large")),
        },
    };
    input.advance(length);
    Ok(Some(head))
}

/// Why a head cannot be read.
enum Unreadable {
    /// A line's name is invalid, or it has no colon.
    HeaderName,
    Malformed(BackendError),
}

impl From<BackendError> for Unreadable {
    fn from(error: BackendError) -> Self {
        Self::Malformed(error)
    }
}

/// The head at the beginning of `input` and its length, or `None` when it is not complete.
fn read(input: &[u8], method: &Method, spare: &mut HeaderMap) -> Result<Option<(usize, Head)>, Unreadable> {
    let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, input, &mut lines);
    let length = match status {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if input.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(BackendError::Malformed("the head is too large").into()),
        Err(httparse::Error::HeaderName) => return Err(Unreadable::HeaderName),
        Err(_) => return Err(BackendError::Malformed("the head").into()),
    };
    let code = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = code.ok_or(BackendError::Malformed("the status"))?;
    let current = parsed.version == Some(1);
    let mut facts = Facts { kept: current, closed: false, chunked: false, length: None };
    let mut headers = std::mem::take(spare);
    headers.reserve(parsed.headers.len());
    let bytes = Bytes::copy_from_slice(&input[..length]);
    let base = input.as_ptr().addr();
    for line in &*parsed.headers {
        let start = line.value.as_ptr().addr() - base;
        let value = HeaderValue::from_maybe_shared(bytes.slice(start..start + line.value.len()));
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(line.name.as_bytes()), value) else {
            return Err(BackendError::Malformed("a header").into());
        };
        // A length that is only repeated is not passed on, nor one of an answer that must not have any (RFC 9110, 8.6).
        if facts.note(&name, &value)? && !(status == StatusCode::NO_CONTENT && name == CONTENT_LENGTH) {
            headers.append(name, value);
        }
    }
    if facts.chunked && (!current || facts.length.is_some()) {
        return Err(BackendError::Malformed("the length is ambiguous").into());
    }
    let framing = facts.framing(method, status);
    // What would follow all the same must not pass for the next response (RFC 9112, 6.3), however late it comes.
    let bodiless = *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    facts.closed |= bodiless && (facts.chunked || facts.length.is_some_and(|length| length > 0));
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let keep_alive = facts.keep_alive() && framing != Framing::UntilClose;
    Ok(Some((length, Head { response, framing, keep_alive })))
}

/// What headers say about the connection and the body.
struct Facts {
    kept: bool,
    closed: bool,
    chunked: bool,
    length: Option<u64>,
}

impl Facts {
    /// Whoever says both closes (RFC 9112, 9.3).
    fn keep_alive(&self) -> bool {
        self.kept && !self.closed
    }

    /// Takes note of a header. Returns whether it says something new.
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, BackendError> {
        if name == CONTENT_LENGTH {
            let digits = value.as_bytes().iter().all(u8::is_ascii_digit);
            let length = value.to_str().ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let length = length.ok_or(BackendError::Malformed("the length"))?;
            let before = self.length.replace(length);
            if before.is_some_and(|before| before != length) {
                return Err(BackendError::Malformed("the length is ambiguous"));
            }
            return Ok(before.is_none());
        }
        if name == TRANSFER_ENCODING {
            // We ask for no other coding, and two of one are none that we know.
            if self.chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(BackendError::Malformed("the transfer coding"));
            }
            self.chunked = true;
        } else if name == CONNECTION {
            for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if token.eq_ignore_ascii_case(b"close") {
                    self.closed = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    self.kept = true;
                }
            }
        }
        Ok(true)
    }

    fn framing(&self, method: &Method, status: StatusCode) -> Framing {
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        match self.length {
            _ if *method == Method::HEAD || status.is_informational() || bodiless => Framing::Done,
            Some(0) => Framing::Done,
            Some(length) => Framing::Length(length),
            None if self.chunked => Framing::Chunked(Chunk::Size),
            None => Framing::UntilClose,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str, method: Method) -> Result<Option<Head>, BackendError> {
        parse(&mut BytesMut::from(head), &method, &mut HeaderMap::new())
    }

    fn framing(lines: &str) -> Option<(Framing, bool)> {
        let head = parsed(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), Method::GET).ok()??;
        Some((head.framing, head.keep_alive))
    }

    #[test]
    fn the_end_of_a_body_is_where_its_head_says() {
        assert_eq!(framing("Content-Length: 3\r\n"), Some((Framing::Length(3), true)));
        assert_eq!(framing("Content-Length: 3\r\ncontent-length: 3\r\n"), Some((Framing::Length(3), true)));
        assert_eq!(framing("Content-Length: 0\r\n"), Some((Framing::Done, true)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Some((Framing::Chunked(Chunk::Size), true)));
        assert_eq!(framing(""), Some((Framing::UntilClose, false)));
        assert_eq!(framing("Content-Length: 3\r\nConnection: x, Close\r\n"), Some((Framing::Length(3), false)));
        assert_eq!(
            framing("Content-Length: 3\r\nConnection: close, keep-alive\r\nConnection: keep-alive\r\n"),
            Some((Framing::Length(3), false))
        );
        let old = parsed("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", Method::GET).unwrap().unwrap();
        assert!(!old.keep_alive);
    }

    #[test]
    fn some_answers_have_no_body_whatever_their_head_says() {
        for (status, method) in [("204", Method::GET), ("304", Method::GET), ("200", Method::HEAD)] {
            let head = parsed(&format!("HTTP/1.1 {status} x\r\ncontent-length: 9\r\n\r\n"), method).unwrap().unwrap();
            // A body that comes all the same must not meet the next request.
            assert_eq!((head.framing, head.keep_alive), (Framing::Done, false));
            assert_eq!(head.response.headers().contains_key(CONTENT_LENGTH), status != "204");
        }
    }

    #[test]
    fn a_response_without_a_body_that_announces_none_keeps_its_connection() {
        for (lines, method) in [("304 x\r\n", Method::GET), ("200 x\r\ncontent-length: 0\r\n", Method::HEAD)] {
            let head = parsed(&format!("HTTP/1.1 {lines}\r\n"), method).unwrap().unwrap();
            assert_eq!((head.framing, head.keep_alive), (Framing::Done, true));
        }
    }

    #[test]
    fn lines_with_invalid_names_are_dropped_and_the_others_hold() {
        for line in ["x[a]: 1\r\n", "no colon\r\n", "x{}: content-length: 9\n", ": empty\r\n", "n\u{e9}: 1\r\n"] {
            let head = format!("HTTP/1.1 200 OK\r\na: b\r\n{line}content-length: 3\r\nc: d\r\n\r\nabc");
            for cut in [head.len(), 40] {
                let mut input = BytesMut::from(&head.as_bytes()[..cut]);
                let mut spare = HeaderMap::new();
                if cut < head.len() {
                    assert!(parse(&mut input, &Method::GET, &mut spare).unwrap().is_none(), "{line:?}");
                    input.extend_from_slice(&head.as_bytes()[cut..]);
                }
                let read = parse(&mut input, &Method::GET, &mut spare).unwrap().unwrap();
                assert_eq!((read.framing, read.keep_alive), (Framing::Length(3), true), "{line:?}");
                assert_eq!(read.response.headers().len(), 3, "{line:?}");
                assert_eq!(&input[..], b"abc", "{line:?}");
            }
        }
    }

    #[test]
    fn lines_that_others_could_read_differently_are_not_dropped() {
        for line in [
            "content-length : 3\r\n",
            "x[a] : 1\r\n",
            "x[a]\t: 1\r\n",
            "x[a]: 1\r\n folded\r\n",
            "(content-length): 3\r\n",
            "Transfer-Encoding@: chunked\r\n",
            "ho\u{e9}st: a\r\n",
            "{connection}: close\r\n",
            "content-length\r\n",
            "x[a]: 1\rcontent-length: 3\r\n",
            "x[a]: \0\r\n",
            "x[\u{b}]: 1\r\n",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\na: b\r\n{line}\r\n");
            assert!(parsed(&head, Method::GET).is_err(), "{line:?}");
        }
    }

    #[test]
    fn many_lines_and_unknown_statuses_are_accepted() {
        let lines: String = (0..256).map(|number| format!("x-{number}: 1\r\n")).collect();
        let head = parsed(&format!("HTTP/1.1 600 <none>\r\n{lines}\r\n"), Method::GET).unwrap().unwrap();
        assert_eq!((head.response.status().as_u16(), head.response.headers().len()), (600, 256));
        assert!(parsed(&format!("HTTP/1.1 200 OK\r\n{lines}y: 1\r\n\r\n"), Method::GET).is_err());
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        for lines in [
            "content-length: 3\r\ncontent-length: 4\r\n",
            "content-length: 3, 3\r\n",
            "content-length: +3\r\n",
            "content-length:\r\n",
            "content-length: 3\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "a b: c\r\n",
            "a : c\r\n",
            "a: b\r\n c\r\n",
            " a: b\r\n",
            "a: b\rc\r\n",
            "a: b\0\r\n",
            "content-length: 3\rcontent-length: 4\r\n",
            "content-length: 0x3\r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: chunked, chunked\r\n",
            "transfer-encoding: \u{b}chunked\r\n",
            "transfer-encoding: identity\r\n",
        ] {
            assert_eq!(framing(lines), None, "{lines:?}");
        }
        assert!(parsed("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Method::GET).is_err());
        assert!(parsed("SSH-2.0-x\r\n", Method::GET).is_err());
        assert!(parsed(&format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(MAX_HEAD)), Method::GET).is_err());
    }

    #[test]
    fn the_length_of_a_request_is_that_of_its_body() {
        let written = |method: &str, body: &'static str| {
            let request =
                Request::builder().method(method).uri("/a?b").header("host", "x").header("content-length", "7");
            let mut out = Vec::new();
            write(&request.body(http_body_util::Full::new(Bytes::from(body))).unwrap(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written("POST", "abc"), "POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n");
        assert_eq!(written("GET", ""), "GET /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
    }
}
