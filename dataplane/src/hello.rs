//! The server name in a ClientHello (RFC 8446, 4.1.2; RFC 6066, 3), read without opening anything: what is passed through
//! may be of any version, so only what leads to the name is looked at.

use std::net::IpAddr;

/// The largest ClientHello that is read, with the headers of its records, in bytes. Those of today have 300 to 4,000.
pub const MAX_HELLO: usize = 16 * 1024;

/// A record's header, and a handshake message's (RFC 8446, 5.1 and 4).
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What came is no ClientHello, or one that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHello;

/// The name that a client asks for, in lower case and without a trailing dot; empty when it names none (an address is no
/// name). `None` while `bytes` do not hold the whole message.
pub fn server_name(bytes: &[u8]) -> Result<Option<Box<str>>, NoHello> {
    Scan::default().server_name(bytes)
}

/// Looks for the name while the message arrives. It goes on where it stopped, so that a message in many small pieces costs no
/// more than one in a single piece.
#[derive(Debug, Default)]
pub struct Scan {
    /// The records that have been read, in bytes.
    read: usize,
    /// What they hold.
    message: Vec<u8>,
}

impl Scan {
    /// As [`server_name`]. `bytes` are all that came so far: those of the call before, and what came since.
    pub fn server_name(&mut self, bytes: &[u8]) -> Result<Option<Box<str>>, NoHello> {
        let mut rest = Reader(bytes.get(self.read..).unwrap_or_default());
        loop {
            if let Some(header) = self.message.first_chunk::<MESSAGE_HEADER>() {
                let [kind, length @ ..] = *header;
                let length = length.into_iter().fold(0, |sum, byte| sum << 8 | usize::from(byte));
                if kind != CLIENT_HELLO || length > MAX_HELLO {
                    return Err(NoHello);
                }
                if let Some(body) = self.message.get(MESSAGE_HEADER..MESSAGE_HEADER + length) {
                    return named(body).map(Some).ok_or(NoHello);
                }
            }
            // As soon as something is wrong it is said; the client may be waiting for an answer to something else.
            if rest.0.first().is_some_and(|&kind| kind != HANDSHAKE) || rest.0.get(1).is_some_and(|&major| major != 3) {
                return Err(NoHello);
            }
            let Some(header) = rest.0.first_chunk::<RECORD_HEADER>() else { break };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if length == 0 {
                return Err(NoHello);
            }
            let Some(fragment) = rest.0.get(RECORD_HEADER..RECORD_HEADER + length) else { break };
            self.message.extend_from_slice(fragment);
            rest.take(RECORD_HEADER + length);
            self.read += RECORD_HEADER + length;
        }
        if bytes.len() < MAX_HELLO { Ok(None) } else { Err(NoHello) }
    }
}

/// `None` when the message is malformed.
fn named(body: &[u8]) -> Option<Box<str>> {
    let mut hello = Reader(body);
    // Version and random, session, cipher suites, compression.
    hello.take(2 + 32)?;
    hello.short_vector()?;
    hello.vector()?;
    hello.short_vector()?;
    if hello.0.is_empty() {
        return Some("".into());
    }
    let mut extensions = Reader(hello.vector()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector()?;
        if kind == SERVER_NAME {
            return host_name(content);
        }
    }
    Some("".into())
}

fn host_name(extension: &[u8]) -> Option<Box<str>> {
    let mut list = Reader(Reader(extension).vector()?);
    while !list.0.is_empty() {
        let kind = list.take(1)?[0];
        let name = list.vector()?;
        if kind == HOST_NAME {
            let name = std::str::from_utf8(name).ok()?.trim_end_matches('.');
            return Some(if name.parse::<IpAddr>().is_ok() { "".into() } else { name.to_ascii_lowercase().into() });
        }
    }
    Some("".into())
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn short_vector(&mut self) -> Option<&'b [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    fn vector(&mut self) -> Option<&'b [u8]> {
        let length = self.number()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut bytes = Vec::new();
        ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of so many bytes.
    fn fragmented(hello: &[u8], size: usize) -> Vec<u8> {
        let fragments = hello[RECORD_HEADER..].chunks(size);
        fragments.flat_map(|fragment| [&[22, 3, 1, 0, fragment.len() as u8], fragment].concat()).collect()
    }

    #[test]
    fn the_name_is_found_however_the_message_is_cut() {
        let whole = hello("Shop.Example");
        for bytes in [whole.clone(), fragmented(&whole, 1), fragmented(&whole, 100)] {
            for length in 0..bytes.len() {
                assert_eq!(server_name(&bytes[..length]), Ok(None), "{length} of {}", bytes.len());
            }
            assert_eq!(server_name(&bytes), Ok(Some("shop.example".into())));
            let mut scan = Scan::default();
            let pieces: Vec<_> = (0..=bytes.len()).map(|length| scan.server_name(&bytes[..length])).collect();
            assert_eq!(pieces.last(), Some(&Ok(Some("shop.example".into()))));
            assert!(pieces[..bytes.len()].iter().all(|piece| *piece == Ok(None)));
            assert_eq!(server_name(&[bytes, b"more".to_vec()].concat()), Ok(Some("shop.example".into())));
        }
    }

    #[test]
    fn what_has_been_read_is_not_read_again() {
        let bytes = fragmented(&hello("shop.example"), 1);
        let mut scan = Scan::default();
        let half = bytes.len() / 2;
        assert_eq!(scan.server_name(&bytes[..half]), Ok(None));
        // Were it read again it would be no hello.
        let mut rest = vec![0; half / 6 * 6];
        rest.extend_from_slice(&bytes[rest.len()..]);
        assert_eq!(scan.server_name(&rest), Ok(Some("shop.example".into())));
    }

    #[test]
    fn an_address_is_no_name() {
        assert_eq!(server_name(&hello("192.0.2.1")), Ok(Some("".into())));
    }

    #[test]
    fn what_is_no_hello_is_noticed_with_the_first_bytes() {
        for bytes in [b"GET / HTTP/1.1".as_slice(), b"\x16\x01", b"\x15\x03\x01\x00\x02", b"\x16\x03\x01\x00\x00"] {
            assert_eq!(server_name(bytes), Err(NoHello), "{bytes:?}");
        }
        assert_eq!(server_name(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"), Err(NoHello), "another message");
        assert_eq!(server_name(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff"), Err(NoHello), "too long a message");
        let endless: Vec<u8> = b"\x16\x03\x01\x00\x01\x01".repeat(MAX_HELLO / 6 + 1);
        assert_eq!(server_name(&endless), Err(NoHello), "it goes on for ever");
    }

    #[test]
    fn lengths_that_lead_nowhere_are_malformed() {
        let whole = hello("a.example");
        let name = whole.windows(9).position(|window| window == b"a.example").unwrap();
        // The lengths of the name, of the list and of the extension.
        for length in [name - 1, name - 4, name - 6] {
            let mut bytes = whole.clone();
            bytes[length] = 0xff;
            bytes[length - 1] = 0xff;
            assert_eq!(server_name(&bytes), Err(NoHello), "{length}");
        }
    }
}
