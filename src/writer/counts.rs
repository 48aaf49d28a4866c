//! Counts of what sources told and of what made proxies be told something, for
//! metrics. They are arrays: to count is an addition, and nobody is looked up.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::Kind;

/// What can become of an object.
pub const EVENTS: [&str; 3] = ["add", "update", "delete"];

/// Why proxies are told something, in istiod's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// An EndpointSlice or a WorkloadEntry.
    Endpoint,
    /// Any other object that somebody wrote.
    Config,
    /// A Service or a ServiceEntry.
    Service,
    /// A pod, or the node under it.
    Ambient,
    /// A namespace.
    Namespace,
    /// The configuration of the mesh.
    Global,
    /// A certificate or key.
    Secret,
    /// A proxy that came or went.
    Proxy,
    /// None of them: fetched keys of token issuers, what a proxy rejected, time.
    Unknown,
}

impl Trigger {
    /// All of them, in their order.
    pub const ALL: [Self; 9] = [
        Self::Endpoint,
        Self::Config,
        Self::Service,
        Self::Ambient,
        Self::Namespace,
        Self::Global,
        Self::Secret,
        Self::Proxy,
        Self::Unknown,
    ];

    /// The value of the label `type`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Config => "config",
            Self::Service => "service",
            Self::Ambient => "ambient",
            Self::Namespace => "namespace",
            Self::Global => "global",
            Self::Secret => "secret",
            Self::Proxy => "proxy",
            Self::Unknown => "unknown",
        }
    }

    /// What a change of an object is.
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::EndpointSlice | Kind::WorkloadEntry => Self::Endpoint,
            Kind::Service | Kind::ServiceEntry => Self::Service,
            Kind::Pod | Kind::Node => Self::Ambient,
            Kind::Namespace => Self::Namespace,
            Kind::ConfigMap => Self::Global,
            Kind::Secret => Self::Secret,
            _ => Self::Config,
        }
    }
}

/// Where changes of a kind are counted, and what the kind is called there: that
/// depends on which part of istiod reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// `pilot_k8s_reg_events`: where workloads and services come from.
    Registry(&'static str),
    /// `pilot_k8s_cfg_events`: what users configure. Two kinds may share a name,
    /// as those of one name in two groups do with istiod.
    Configuration(&'static str),
    /// Nowhere.
    None,
}

impl Reader {
    /// That of a kind.
    pub const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Pod => Self::Registry("Pods"),
            Kind::Service => Self::Registry("Services"),
            Kind::EndpointSlice => Self::Registry("EndpointSlice"),
            Kind::Node => Self::Registry("Nodes"),
            Kind::Namespace => Self::Registry("Namespaces"),
            Kind::ConfigMap | Kind::Secret | Kind::CustomResourceDefinition => Self::None,
            _ => Self::Configuration(kind.info().kind),
        }
    }
}

/// The counts. One thread adds, others read.
#[derive(Debug)]
pub struct Counts {
    objects: [[AtomicU64; EVENTS.len()]; Kind::ALL.len()],
    triggers: [AtomicU64; Trigger::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        let zeros = || array::from_fn(|_| AtomicU64::new(0));
        Self { objects: array::from_fn(|_| zeros()), triggers: array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl Counts {
    /// How many objects of a kind came, changed and went, in the order of
    /// [`EVENTS`].
    pub fn objects(&self, kind: Kind) -> [u64; EVENTS.len()] {
        self.objects[kind as usize].each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// How many changes of a sort were among those that made a push.
    pub fn triggers(&self, trigger: Trigger) -> u64 {
        self.triggers[trigger as usize].load(Ordering::Relaxed)
    }
}

/// What one commit changed.
#[derive(Default)]
pub(super) struct Tally {
    triggers: [u64; Trigger::ALL.len()],
}

impl Tally {
    /// Counts objects of a kind, and remembers what they are the reason for.
    pub(super) fn add(&mut self, counts: &Counts, kind: Kind, events: [u64; EVENTS.len()]) {
        for (count, events) in counts.objects[kind as usize].iter().zip(events) {
            count.fetch_add(events, Ordering::Relaxed);
        }
        self.triggers[Trigger::of(kind) as usize] += events.iter().sum::<u64>();
    }

    /// Remembers proxies that came or went.
    pub(super) fn proxies(&mut self, count: u64) {
        self.triggers[Trigger::Proxy as usize] += count;
    }

    /// Counts the reasons of a push.
    pub(super) fn pushed(mut self, counts: &Counts) {
        if self.triggers.iter().all(|count| *count == 0) {
            self.triggers[Trigger::Unknown as usize] = 1;
        }
        for (count, reasons) in counts.triggers.iter().zip(self.triggers) {
            count.fetch_add(reasons, Ordering::Relaxed);
        }
    }
}
