//! Compiles the contracts with protox, so that no `protoc` has to be installed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let served = ["istio/workload/workload.proto", "istio/security/authorization.proto", "istio/auth/ca.proto"];
    let described = ["envoy/discovery.proto"];
    println!("cargo:rerun-if-changed=istio");
    println!("cargo:rerun-if-changed=envoy");
    println!("cargo:rerun-if-changed=google");

    // One set for server reflection, with everything needed to expand an Any.
    let all = protox::compile(served.iter().chain(&described), ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), all.encode_to_vec())?;

    // Equal messages must encode equally (versions are content hashes), so
    // maps are ordered; addresses are cheap to clone as `Bytes`.
    tonic_prost_build::configure().btree_map(".").bytes(".").compile_fds(protox::compile(served, ["."])?)?;
    Ok(())
}
