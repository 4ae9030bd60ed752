//! Where the body of a response ends (RFC 9112, section 6), and its frames.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

use super::super::BackendError;
use super::progress;

/// Longest line that begins a chunk, with its extensions.
const MAX_CHUNK_LINE: usize = 4 * 1024;
/// Most trailers, and their size.
const MAX_TRAILERS: usize = 64;
const MAX_TRAILER_BYTES: usize = 16 * 1024;

/// What is left of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Nothing.
    Done,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// Everything until the connection closes.
    UntilClose,
}

/// The place within a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Before a chunk's size.
    Size,
    /// Before so many bytes of its data.
    Data(u64),
    /// Before the end of the line that ends its data.
    End,
    /// After the last chunk; so many bytes of the trailers were searched for their end.
    Trailers(usize),
}

impl Framing {
    /// The next frame of what has arrived, or `None` when more must arrive first or nothing is left.
    ///
    /// # Errors
    /// [`BackendError::Malformed`].
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame<Bytes>>, BackendError> {
        loop {
            match self {
                Framing::Done => return Ok(None),
                _ if input.is_empty() => return Ok(None),
                Framing::UntilClose => return Ok(Some(Frame::data(input.split().freeze()))),
                Framing::Length(left) => {
                    let data = take(input, left);
                    if *left == 0 {
                        *self = Framing::Done;
                    }
                    return Ok(Some(Frame::data(data)));
                }
                Framing::Chunked(chunk) => match chunk {
                    Chunk::Size => {
                        let Some(size) = chunk_size(input)? else { return Ok(None) };
                        *chunk = if size == 0 { Chunk::Trailers(0) } else { Chunk::Data(size) };
                    }
                    Chunk::Data(left) => {
                        let data = take(input, left);
                        if *left == 0 {
                            *chunk = Chunk::End;
                        }
                        return Ok(Some(Frame::data(data)));
                    }
                    Chunk::End => {
                        if input.len() < 2 {
                            return Ok(None);
                        }
                        if !input.starts_with(b"\r\n") {
                            return Err(BackendError::Malformed("a chunk is longer than its size"));
                        }
                        input.advance(2);
                        *chunk = Chunk::Size;
                    }
                    Chunk::Trailers(searched) => {
                        if !is_complete(input, *searched) {
                            *searched = input.len();
                            return Ok(None);
                        }
                        let Some(trailers) = trailers(input)? else { return Ok(None) };
                        *self = Framing::Done;
                        return Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)));
                    }
                },
            }
        }
    }

    /// What is known of the size.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Framing::Done => SizeHint::with_exact(0),
            Framing::Length(left) => SizeHint::with_exact(*left),
            Framing::Chunked(_) | Framing::UntilClose => SizeHint::new(),
        }
    }
}

fn take(input: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= length as u64;
    input.split_to(length).freeze()
}

/// `input` is not empty.
fn chunk_size(input: &mut BytesMut) -> Result<Option<u64>, BackendError> {
    let malformed = BackendError::Malformed("the size of a chunk");
    // httparse takes no digits for 0, which would end a body early.
    if !input.first().is_some_and(u8::is_ascii_hexdigit) {
        return Err(malformed);
    }
    // A line that comes byte by byte is parsed when it is complete.
    if !input.contains(&b'\n') && input.len() < MAX_CHUNK_LINE {
        return Ok(None);
    }
    match httparse::parse_chunk_size(input) {
        Ok(httparse::Status::Complete((length, size))) => {
            // It also takes whatever bytes for an extension. A line feed there is the end of the line to others.
            let line = input.split_to(length);
            let valid = line.strip_suffix(b"\r\n").is_some_and(|line| !line.iter().any(|byte| is_control(*byte)));
            if valid { Ok(Some(size)) } else { Err(malformed) }
        }
        Ok(httparse::Status::Partial) if input.len() < MAX_CHUNK_LINE => Ok(None),
        _ => Err(malformed),
    }
}

/// Whether trailers are worth parsing: they have their end, or more than they may have.
fn is_complete(input: &[u8], searched: usize) -> bool {
    let none = input.starts_with(b"\r\n") || input.starts_with(b"\n");
    none || input.len() >= MAX_TRAILER_BYTES || progress::end(input, searched).is_some()
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, BackendError> {
    let malformed = BackendError::Malformed("trailers");
    let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let (length, trailers) = match httparse::parse_headers(input, &mut lines) {
        Ok(httparse::Status::Complete((length, lines))) => {
            let mut trailers = HeaderMap::with_capacity(lines.len());
            for line in lines {
                let name = HeaderName::from_bytes(line.name.as_bytes());
                let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) else { return Err(malformed) };
                trailers.append(name, value);
            }
            (length, trailers)
        }
        Ok(httparse::Status::Partial) if input.len() < MAX_TRAILER_BYTES => return Ok(None),
        _ => return Err(malformed),
    };
    input.advance(length);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data and the trailers of a body that arrives in pieces of `size`, and what is left after it.
    fn decoded(mut framing: Framing, bytes: &[u8], size: usize) -> Result<(Vec<u8>, HeaderMap, usize), BackendError> {
        let (mut data, mut trailers, mut input) = (Vec::new(), HeaderMap::new(), BytesMut::new());
        for piece in bytes.chunks(size) {
            input.extend_from_slice(piece);
            while let Some(frame) = framing.decode(&mut input)? {
                match frame.into_data() {
                    Ok(bytes) => data.extend_from_slice(&bytes),
                    Err(frame) => trailers = frame.into_trailers().unwrap(),
                }
            }
        }
        assert!(framing == Framing::Done || framing == Framing::UntilClose, "{framing:?}");
        Ok((data, trailers, input.len()))
    }

    #[test]
    fn a_body_is_the_same_however_it_is_cut() {
        let chunked = b"4;x=\"y\"\r\nwiki\r\n5\r\npedia\r\n0\r\nx-sum: 9\r\n\r\nHTTP";
        for size in 1..chunked.len() {
            let (data, trailers, left) = decoded(Framing::Chunked(Chunk::Size), chunked, size).unwrap();
            assert_eq!((&data[..], left), (&b"wikipedia"[..], 4));
            assert_eq!(trailers["x-sum"], "9");
            let (data, _, left) = decoded(Framing::Length(5), b"hello!", size.min(6)).unwrap();
            assert_eq!((&data[..], left), (&b"hello"[..], 1));
            let (data, ..) = decoded(Framing::UntilClose, b"hello", size.min(5)).unwrap();
            assert_eq!(data, b"hello");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [
            &b"x\r\n"[..],
            b"4\r\nwikix\r\n",
            b"-1\r\n",
            b"0x4\r\nwiki\r\n0\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"\r\n\r\n",
            b";x\r\n\r\n",
            b" \r\n\r\n",
            b" 0\r\n\r\n",
            b"0\n\r\n",
            b"0\r\r\n\r\n",
            b"4;x\ny\r\nwiki\r\n0\r\n\r\n",
            b"4;x\0\r\nwiki\r\n0\r\n\r\n",
            b"4\r\nwiki\n0\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\nx : 1\r\n\r\n",
            b"0\r\nx: 1\r\n 2\r\n\r\n",
            b"0\r\nx: 1\r2\r\n\r\n",
            b"0\r\nx: 1\0\r\n\r\n",
        ] {
            assert!(decoded(Framing::Chunked(Chunk::Size), body, 64).is_err(), "{body:?}");
        }
        let endless = [b"1;".to_vec(), vec![b'x'; MAX_CHUNK_LINE]].concat();
        assert!(decoded(Framing::Chunked(Chunk::Size), &endless, 64).is_err());
    }
}
