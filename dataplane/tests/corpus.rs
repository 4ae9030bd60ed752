//! Replays the corpora of the fuzz targets: what was found once is found for ever.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may stop at the first surprise")]

use std::fs;
use std::path::Path;

#[path = "../fuzz/properties/client_hello.rs"]
mod client_hello;
#[path = "../fuzz/properties/forwarded_for.rs"]
mod forwarded_for;
#[path = "../fuzz/properties/path.rs"]
mod path;
#[path = "../fuzz/properties/resource.rs"]
mod resource;
#[path = "../fuzz/properties/response.rs"]
mod response;

fn replay(target: &str, holds: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(folder).unwrap() {
        holds(&fs::read(entry.unwrap().path()).unwrap());
        inputs += 1;
    }
    assert!(inputs > 0, "{target} has a corpus");
}

#[test]
fn every_input_of_the_corpora_holds() {
    replay("client_hello", client_hello::holds);
    replay("forwarded_for", forwarded_for::holds);
    replay("path", path::holds);
    replay("resource", resource::holds);
    replay("response", response::holds);
}
