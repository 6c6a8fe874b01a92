//! Compiles the wire contract without a `protoc` on the machine.
//!
//! One descriptor set has the gateway's own service, for reflection and proto-JSON. The other adds
//! the bot's service, which the gateway calls and does not serve, for the generated code. Both
//! come from the same files.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let served = protox::compile(["duologue/v1/chat.proto"], ["proto"])?;
    let descriptors = served.encode_to_vec();
    fs::write(out.join("duologue_descriptor.bin"), &descriptors)?;
    let files =
        protox::compile(["duologue/v1/chat.proto", "duologue/v1/responder.proto"], ["proto"])?;

    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::proto::timestamp::Timestamp")
        // Clients take any channel; the gateway itself needs no transport of tonic's.
        .build_transport(false)
        .compile_fds(files)?;

    // Defaults are written out: a browser without a protobuf library should
    // read `index: 0`, not `undefined`.
    pbjson_build::Builder::new()
        .register_descriptors(&descriptors)?
        .emit_fields()
        .build(&[".duologue.v1"])?;
    Ok(())
}
