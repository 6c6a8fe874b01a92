//! Compiles the wire contract without a `protoc` on the machine.
//!
//! One descriptor set has the gateway's own service, for reflection and proto-JSON. The other adds
//! the bot's service, which the gateway calls and does not serve, for the generated code. Both
//! come from the same files.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use prost_types::{FileDescriptorSet, field_descriptor_proto::Label};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let served = protox::compile(["duologue/v1/chat.proto"], ["proto"])?;
    let descriptors = served.encode_to_vec();
    fs::write(out.join("duologue_descriptor.bin"), &descriptors)?;
    let files =
        protox::compile(["duologue/v1/chat.proto", "duologue/v1/responder.proto"], ["proto"])?;

    let mut code = tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::proto::timestamp::Timestamp")
        // Clients take any channel; the gateway itself needs no transport of tonic's.
        .build_transport(false)
        .build_server(false)
        // An empty one costs nothing, and its order is that of the keys.
        .btree_map(".");
    // Deltas are the most frequent frames: the enum has their size, not that of the largest.
    for large in ["opened", "message", "reply_part"] {
        code = code.boxed(format!(".duologue.v1.ChatResponse.event.{large}"));
    }
    code.compile_fds(files.clone())?;

    // The servers: the responses of the streams are frames that are encoded already.
    let servers = out.join("servers");
    fs::create_dir_all(&servers)?;
    tonic_prost_build::configure()
        .extern_path(".duologue.v1", "crate::proto")
        .extern_path(".duologue.v1.ChatResponse", "crate::proto::frame::EncodedFrame")
        .codec_path("crate::proto::frame::FrameCodec")
        .build_client(false)
        .build_transport(false)
        .out_dir(&servers)
        .compile_fds(files)?;

    fs::write(out.join("duologue.v1.serde.rs"), json_code(&served, &descriptors)?)?;
    Ok(())
}

/// Returns the code of the proto-JSON form. Scalars are written out, so that a browser without a
/// protobuf library reads `index: 0` and not `undefined`. Empty lists and maps are left out: most
/// messages have some that are empty.
///
/// The generator knows only all or nothing, so its two results are merged line by line. They
/// differ in the conditions alone.
fn json_code(served: &FileDescriptorSet, descriptors: &[u8]) -> Result<String, Box<dyn Error>> {
    let generate = |builder: &mut pbjson_build::Builder| -> Result<String, Box<dyn Error>> {
        let written = builder
            .register_descriptors(descriptors)?
            .generate(&[".duologue.v1"], |_| Ok(Vec::new()))?;
        let code = written.into_iter().flat_map(|(_, code)| code).collect();
        Ok(String::from_utf8(code)?)
    };
    let full = generate(pbjson_build::Builder::new().btree_map(["."]).emit_fields())?;
    let lean = generate(pbjson_build::Builder::new().btree_map(["."]))?;
    let lists = lists(served);
    let mut message = "";
    let mut merged = String::with_capacity(full.len());
    for (full, lean) in full.lines().zip(lean.lines()) {
        if let Some(name) = full.strip_prefix("impl serde::Serialize for ") {
            message = name.trim_end_matches(" {");
        }
        let condition = lean.trim().strip_prefix("if !self.");
        let field = condition.and_then(|rest| rest.strip_suffix(".is_empty() {"));
        let is_list = field.is_some_and(|field| {
            let field = field.trim_start_matches("r#");
            lists.iter().any(|(of, list)| *of == message && *list == field)
        });
        merged.push_str(if is_list { lean } else { full });
        merged.push('\n');
    }
    Ok(merged)
}

/// Returns the repeated fields, which maps are too, with the names of their messages.
fn lists(served: &FileDescriptorSet) -> Vec<(&str, &str)> {
    let messages = served.file.iter().flat_map(|file| &file.message_type);
    let fields = messages.flat_map(|message| message.field.iter().map(move |f| (message, f)));
    let repeated = fields.filter(|(_, field)| field.label() == Label::Repeated);
    repeated.map(|(message, field)| (message.name(), field.name())).collect()
}
