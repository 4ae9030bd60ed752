//! Generates the client of the stream, whose messages are those of the `snapshot` crate, and the messages of Envoy's protocol for
//! external authorization.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const STREAM: &str = "snapshot/proto";
    const OWN: &str = "proto";
    println!("cargo:rerun-if-changed={STREAM}");
    println!("cargo:rerun-if-changed={OWN}");
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .extern_path(".sluice.v1", "::snapshot::proto")
        .compile_fds(protox::compile(["stream.proto"], [STREAM])?)?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(false)
        .compile_fds(protox::compile(["ext_authz.proto"], [OWN])?)?;
    Ok(())
}
