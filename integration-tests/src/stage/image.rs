//! The images that can be run: THE table. An image is some files of this
//! machine and how to begin.

mod conformance;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::echo::{Backend, Echo};
use crate::{envoy, fairway};

/// Where the files of an image are.
pub(super) const FOLDER: &str = "/app";

/// What a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// A process.
    Process,
    /// The stand-in for ztunnel, which is part of the stage: it takes
    /// connections in all pods of its node.
    Ztunnel,
}

/// An image.
pub(super) struct Image {
    name: &'static str,
    pub(super) runs: Runs,
    /// Names in [`FOLDER`], and where the files are.
    pub(super) files: fn() -> Vec<(&'static str, PathBuf)>,
    pub(super) entrypoint: &'static [&'static str],
    /// The arguments, if the container has none.
    pub(super) command: &'static [&'static str],
    pub(super) environment: &'static [(&'static str, &'static str)],
}

const IMAGES: &[Image] = &[
    // Answers HTTP at port 9080, or PORT, with what it was asked.
    Image {
        name: "fairway.test/echo",
        runs: Runs::Process,
        files: || vec![("echo", this())],
        entrypoint: &["/app/echo"],
        command: &[],
        environment: &[(PROGRAM, "echo")],
    },
    // Waits to be told what to do.
    Image {
        name: "fairway.test/sleep",
        runs: Runs::Process,
        files: Vec::new,
        entrypoint: &[],
        command: &["/bin/sleep", "infinity"],
        environment: &[],
    },
    proxy("fairway.test/proxy"),
    // What charts of users name, whose arguments and environment are the same.
    proxy("istio/proxyv2"),
    Image {
        name: "fairway.test/discovery",
        runs: Runs::Process,
        // The other name is the one that istioctl calls.
        files: || vec![("fairway", fairway::binary()), ("pilot-discovery", fairway::binary())],
        entrypoint: &["/app/fairway"],
        command: &["discovery"],
        environment: &[],
    },
    Image {
        name: "fairway.test/ztunnel",
        runs: Runs::Ztunnel,
        files: Vec::new,
        entrypoint: &[],
        command: &[],
        environment: &[],
    },
];

/// A stock Envoy, as docs/agent.md says.
const fn proxy(name: &'static str) -> Image {
    Image {
        name,
        runs: Runs::Process,
        files: || vec![("fairway", fairway::binary()), ("envoy", envoy::binary())],
        entrypoint: &["/app/fairway", "agent"],
        command: &[],
        environment: &[("ENVOY", "/app/envoy")],
    }
}

/// All of them.
fn all() -> impl Iterator<Item = &'static Image> {
    IMAGES.iter().chain(conformance::IMAGES)
}

/// What the images are called.
pub fn names() -> Vec<&'static str> {
    all().map(|image| image.name).collect()
}

/// The image of a name, with or without a tag.
pub(super) fn find(name: &str) -> Option<&'static Image> {
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    all().find(|image| image.name == name)
}

impl Image {
    /// A file of it that is not there.
    pub(super) fn missing(&self) -> Option<PathBuf> {
        (self.files)().into_iter().map(|(_, file)| file).find(|file| !file.exists())
    }
}

/// Which of the programs in this one to be.
const PROGRAM: &str = "FAIRWAY_STAGE_PROGRAM";

fn this() -> PathBuf {
    std::env::current_exe().expect("this program is a file")
}

/// Runs an image that is part of this program, in a process that is one of it.
pub(super) fn run_if_asked() -> Option<ExitCode> {
    match std::env::var(PROGRAM).ok()?.as_str() {
        "echo" => echo(),
        other => panic!("{PROGRAM}: nothing here is called {other:?}"),
    }
    Some(ExitCode::SUCCESS)
}

fn echo() {
    let who = std::env::var("HOSTNAME").unwrap_or_default();
    let port = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()).unwrap_or(9080);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        let _backend = Backend::http(([0, 0, 0, 0], port).into(), &Echo::new(&who)).await;
        terminate.recv().await;
    });
}

/// Fails early, and says what to do, if a file of an image is not there that
/// every stage needs.
pub(super) fn assert_complete() {
    if let Some(file) = IMAGES.iter().find_map(Image::missing) {
        panic!("{} is missing", file.display());
    }
}
