//! Generates the server of the stream. Its messages are those of the `snapshot` crate.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const PROTO: &str = "../dataplane/snapshot/proto";
    println!("cargo:rerun-if-changed={PROTO}");
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".sluice.v1", "::snapshot::proto")
        .compile_fds(protox::compile(["stream.proto"], [PROTO])?)?;
    Ok(())
}
