//! The descriptors of Envoy's API, as the crate envoy-types was generated from
//! them. It ships the set among its sources, but does not export it.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::FileDescriptorSet;

const DESCRIPTORS: &str = "src/generated/types.bin";

/// All files.
pub fn descriptors() -> Result<FileDescriptorSet, Box<dyn Error>> {
    let path = package()?.join(DESCRIPTORS);
    println!("cargo:rerun-if-changed={}", path.display());
    let bytes = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(FileDescriptorSet::decode(&*bytes)?)
}

/// Where the sources of envoy-types are. Cargo knows, whatever they came from;
/// but it refuses to tell when a package that only tests need was not
/// downloaded, as in a build that makes just the binary. Those have a registry.
fn package() -> Result<PathBuf, Box<dyn Error>> {
    package_by_metadata().or_else(|metadata| {
        package_in_registry().ok_or_else(|| {
            format!(
                "the sources of envoy-types are needed and were not found.\n\
                 `cargo metadata` says: {metadata}\n\
                 In Cargo's own registry folder there is none of the version in Cargo.lock either.\n\
                 `cargo fetch` before the build helps."
            )
            .into()
        })
    })
}

fn package_by_metadata() -> Result<PathBuf, Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").ok_or("not run by cargo")?;
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--offline", "--locked"]);
    command.arg("--filter-platform").arg(std::env::var("TARGET")?);
    let output = command.current_dir(std::env::var("CARGO_MANIFEST_DIR")?).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("no packages")?;
    let found = packages.iter().find(|package| package["name"] == "envoy-types").ok_or("no package envoy-types")?;
    let manifest = found["manifest_path"].as_str().and_then(|path| Path::new(path).parent());
    Ok(manifest.ok_or("a package without a manifest")?.into())
}

fn package_in_registry() -> Option<PathBuf> {
    let lock = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).parent()?.join("Cargo.lock");
    let lock = std::fs::read_to_string(lock).ok()?;
    let version = lock.split("name = \"envoy-types\"\nversion = \"").nth(1)?.split('"').next()?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).ok()?;
    let mut found = registries.flatten().map(|registry| registry.path().join(format!("envoy-types-{version}")));
    found.find(|path| path.is_dir())
}
