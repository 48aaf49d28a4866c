//! The images that the manifests of the Gateway API's conformance suite name.
//! `make conformance` builds what is in them.

use std::path::PathBuf;

use super::{Image, Runs};
use crate::cluster::repository;

pub(super) const IMAGES: &[Image] = &[
    // The suite's own server, for the tests of gateways.
    Image {
        name: "registry.k8s.io/gateway-api/echo-basic",
        runs: Runs::Process,
        files: || vec![("echo-basic", program("echo-basic"))],
        entrypoint: &["/app/echo-basic"],
        command: &[],
        environment: &[],
    },
    // What the tests of meshes have in its place: server and client. The suite
    // calls the client by its name.
    Image {
        name: "registry.k8s.io/gateway-api/echo-advanced",
        runs: Runs::Process,
        files: || vec![("echo-advanced", program("echo-advanced")), ("client", program("echo-advanced"))],
        entrypoint: &["/app/echo-advanced"],
        command: &[],
        environment: &[],
    },
    // The backend of the tests of UDP, which are not run. The suite waits for
    // its pod all the same. The arguments go to the shell, which has no use for
    // them.
    Image {
        name: "registry.k8s.io/coredns/coredns",
        runs: Runs::Process,
        files: Vec::new,
        entrypoint: &["/bin/sh", "-c", "exec sleep infinity"],
        command: &[],
        environment: &[],
    },
];

/// Where `make conformance` puts its programs.
pub(crate) fn folder() -> PathBuf {
    std::env::var_os("FAIRWAY_CONFORMANCE").map_or_else(|| repository().join(".cache/conformance"), PathBuf::from)
}

fn program(name: &str) -> PathBuf {
    folder().join(name)
}
