//! Generates the messages of `proto/snapshot.proto`, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["snapshot.proto"], ["proto"])?;
    // These hold keys: `proto.rs` gives them a Debug that shows none.
    let secret = [".sluice.v1.Certificate", ".sluice.v1.Settings", ".sluice.v1.Upsert"];
    prost_build::Config::new().skip_debug(secret).compile_fds(descriptors)?;
    Ok(())
}
