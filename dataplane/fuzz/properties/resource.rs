//! A resource of the snapshot that can be read is written in one way only, and is the same when it is read again.

use snapshot::Resource;

/// Panics where it does not hold.
pub fn holds(bytes: &[u8]) {
    let Ok(resource) = Resource::decode(bytes) else { return };
    let written = resource.encode();
    let again = Resource::decode(&written).expect("what was written can be read");
    assert_eq!(again.encode(), written);
    assert_eq!(again, resource);
}
