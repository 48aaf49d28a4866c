//! In place of [`otlp`](super), in builds without traces.

use super::{Change, Push, Settings};

/// There is none.
#[derive(Clone, Debug)]
pub(super) enum Parent {}

pub(super) fn start(_: &Settings) -> anyhow::Result<()> {
    anyhow::bail!("this build has no traces: it is without the feature otel")
}

pub(super) fn stop() {}

pub(super) const fn on() -> bool {
    false
}

pub(super) fn changed(_: Change) {}

pub(super) fn follow(_: u64) -> Option<Parent> {
    None
}

pub(super) fn judged(_: Push, _: &str, _: Option<&str>) {}
