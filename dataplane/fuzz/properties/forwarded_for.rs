//! However the entries of `X-Forwarded-For` are spread over lines, the client is the same, and never a trusted proxy that hides
//! another address.

use dataplane::forwarded::client_of;

/// Panics where it does not hold.
pub fn holds(bytes: &[u8]) {
    let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    let joined = lines.join(&b","[..]);
    let client = client_of(lines.iter().copied(), &trusted);
    assert_eq!(client, client_of(std::iter::once(&joined[..]), &trusted));
    // What a client puts in front changes nothing once there is an address that no trusted proxy has.
    if client.is_some_and(|client| !trusted.iter().any(|network| network.contains(&client))) {
        let forged = [&b"198.51.100.1, \xff,"[..], &joined].concat();
        assert_eq!(client, client_of(std::iter::once(&forged[..]), &trusted));
    }
}
