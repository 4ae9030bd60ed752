//! The server name of a ClientHello is the same however its bytes arrive.

use dataplane::hello::{Scan, server_name};

/// Panics where it does not hold.
pub fn holds(bytes: &[u8]) {
    let whole = server_name(bytes);
    for size in [1, 7, 64] {
        let (mut scan, mut read) = (Scan::default(), 0);
        let pieces = loop {
            read = (read + size).min(bytes.len());
            match scan.server_name(&bytes[..read]) {
                Ok(None) if read < bytes.len() => {}
                end => break end,
            }
        };
        assert_eq!(pieces.is_ok(), whole.is_ok(), "in pieces of {size}");
        assert_eq!(pieces.ok(), whole.as_ref().ok().cloned());
    }
    if let Ok(Some(name)) = whole {
        assert!(name.len() <= 255);
    }
}
