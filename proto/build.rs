//! Compiles the contracts with protox, so that no `protoc` has to be installed,
//! and makes from the descriptors of Envoy's API what the crate needs of them.

#[path = "build/envoy_types.rs"]
mod envoy_types;
#[path = "build/table.rs"]
mod table;

use std::error::Error;
use std::path::PathBuf;

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use protox::file::{ChainFileResolver, DescriptorSetFileResolver, GoogleFileResolver, IncludeFileResolver};

/// What ztunnel and certificate signing speak.
const SERVED: [&str; 3] =
    ["istio/workload/workload.proto", "istio/security/authorization.proto", "istio/auth/ca.proto"];

/// What is sent to Envoys inside messages of envoy-types, and is not in there.
const SENT: [&str; 5] = [
    "istio/stats/config.proto",
    "istio/peer_metadata/config.proto",
    "udpa/typed_struct.proto",
    "xds/typed_struct.proto",
    "xds/ip_matcher.proto",
];

fn main() {
    if let Err(error) = build() {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    for folder in ["build", "istio", "envoy", "google", "udpa", "xds"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    // One set for server reflection, with everything needed to expand an Any.
    let reflected = protox::compile(SERVED.iter().chain(&["envoy/discovery.proto"]), ["."])?;
    std::fs::write(out.join("descriptors.bin"), reflected.encode_to_vec())?;

    // Equal messages must encode equally (versions are content hashes), so
    // maps are ordered; addresses are cheap to clone as `Bytes`.
    let served = protox::compile(SERVED, ["."])?;
    tonic_prost_build::configure().btree_map(".").bytes(".").compile_fds(served.clone())?;

    let envoy = envoy_types::descriptors()?;
    let sent = compile_beside(&envoy)?;
    generate_beside(sent.clone())?;

    // Everything that is ever printed.
    let mut all = envoy;
    for file in sent.file.into_iter().chain(served.file) {
        if !all.file.iter().any(|known| known.name() == file.name()) {
            all.file.push(file);
        }
    }
    all.file.iter_mut().for_each(|file| file.source_code_info = None);
    std::fs::write(out.join("described.bin"), all.encode_to_vec())?;
    std::fs::write(out.join("canonical_table.rs"), table::source(&all)?)?;
    Ok(())
}

/// Our own files for Envoys, and the files of Envoy's API that they import.
fn compile_beside(envoy: &FileDescriptorSet) -> Result<FileDescriptorSet, Box<dyn Error>> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(DescriptorSetFileResolver::new(envoy.clone()));
    resolver.add(IncludeFileResolver::new(".".into()));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_files(SENT)?;
    Ok(compiler.file_descriptor_set())
}

/// The types of our own files for Envoys. They go into messages of envoy-types
/// and are made of such.
fn generate_beside(sent: FileDescriptorSet) -> std::io::Result<()> {
    let mut config = prost_build::Config::new();
    config.btree_map(["."]).compile_well_known_types();
    config.enable_type_names().type_name_domain(["."], "type.googleapis.com");
    config.extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf");
    for file in sent.file.iter().filter(|file| !SENT.contains(&file.name())) {
        let package = file.package();
        let module = package.replace('.', "::").replace("::type::", "::r#type::");
        for name in file.message_type.iter().map(DescriptorProto::name) {
            config.extern_path(format!(".{package}.{name}"), format!("::envoy_types::pb::{module}::{name}"));
        }
    }
    let on_match = "::envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch";
    config.extern_path(".xds.type.matcher.v3.Matcher.OnMatch", on_match);
    config.compile_fds(sent)
}
