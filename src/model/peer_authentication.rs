//! Whether callers must prove who they are: PeerAuthentication, resolved from
//! mesh to namespace to workload.
//! <https://istio.io/latest/docs/reference/config/security/peer_authentication/>

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::istio::{MutualTls, PeerAuthentication};
use crate::api::{Labels, Meta, ObjectKey};
use crate::graph::{Collection, Ctx, Graph, Index};

use super::{Scope, not_known, problem};

const KIND: &str = "PeerAuthentication";

/// A mutual TLS mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// As the wider scope says.
    Unset,
    /// The mutual TLS of sidecars is not taken, hence plaintext is.
    Disable,
    /// Plaintext is accepted.
    Permissive,
    /// Callers must prove who they are.
    Strict,
}

impl Mode {
    /// What it is to those who only take connections: `DISABLE` and `PERMISSIVE`
    /// are the same.
    pub fn inbound(self) -> Self {
        if self == Self::Disable { Self::Permissive } else { self }
    }
}

/// One object, parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its age, which decides between several.
    pub created: u32,
    /// The workloads it is for; `None` is all of its namespace.
    pub selector: Option<Labels>,
    /// The mode of ports that have none of their own.
    pub mode: Mode,
    /// Modes by workload port.
    pub ports: BTreeMap<u16, Mode>,
}

/// The resolved scopes.
#[derive(Clone, Copy)]
pub struct PeerAuthentications {
    /// Every object that is ours.
    pub policies: Collection<ObjectKey, Policy>,
    /// Objects with a selector, by namespace.
    selecting: Index<Arc<str>, ObjectKey, Policy>,
    /// The mode of each namespace that has one.
    namespaces: Collection<Arc<str>, Mode>,
}

/// Declares the collections.
pub fn peer_authentications(graph: &mut Graph, scope: &Scope) -> PeerAuthentications {
    let scope_of = scope.clone();
    let policies = graph.derive("peer_authentications", scope.inputs.peer_authentications, move |cx, key, object| {
        scope_of.configures(cx, &object.meta).then(|| (key.clone(), policy(cx, object)))
    });
    let selecting = graph.index(policies, |key: &ObjectKey, policy: &Policy, keys| {
        if policy.selector.is_some() {
            keys.push(key.namespace.clone());
        }
    });
    let wide = graph.index(policies, |key: &ObjectKey, policy: &Policy, keys| {
        if policy.selector.is_none() {
            keys.push(key.namespace.clone());
        }
    });
    let namespaces = graph.group("namespace_mtls", wide, move |cx, namespace| {
        oldest(cx.fetch(wide, namespace)).map(|(_, policy)| policy.mode)
    });
    PeerAuthentications { policies, selecting, namespaces }
}

/// The oldest counts; equal ages are decided by name.
fn oldest<'g>(policies: impl Iterator<Item = (&'g ObjectKey, &'g Policy)>) -> Option<(&'g ObjectKey, &'g Policy)> {
    policies.min_by_key(|(key, policy)| (policy.created, *key))
}

impl PeerAuthentications {
    /// The mode of workloads of a namespace that have no policy of their own.
    pub fn namespace_mode(&self, cx: &Ctx<'_>, scope: &Scope, namespace: &Arc<str>) -> Mode {
        let own = cx.get(self.namespaces, namespace).copied().unwrap_or(Mode::Unset);
        if own != Mode::Unset {
            return own;
        }
        let root = &scope.mesh(cx).root_namespace;
        cx.get(self.namespaces, root).copied().filter(|mode| *mode != Mode::Unset).unwrap_or(Mode::Permissive)
    }

    /// Whether a workload does not take the mutual TLS of sidecars on a port of
    /// its own.
    /// <https://istio.io/latest/docs/reference/config/security/peer_authentication/#PeerAuthentication-MutualTLS-Mode>
    pub fn disables(&self, cx: &Ctx<'_>, scope: &Scope, namespace: &Arc<str>, labels: &Labels, port: u16) -> bool {
        let own = self.of_workload(cx, scope, namespace, labels).map(|(_, policy)| policy);
        let mut modes = own.into_iter().flat_map(|own| own.ports.get(&port).copied().into_iter().chain([own.mode]));
        let said = modes.find(|mode| *mode != Mode::Unset);
        said.unwrap_or_else(|| self.namespace_mode(cx, scope, namespace)) == Mode::Disable
    }

    /// The policy that names a workload by its labels. In the root namespace
    /// selectors are not supported, as the documentation says.
    pub fn of_workload<'g>(
        &self,
        cx: &Ctx<'g>,
        scope: &Scope,
        namespace: &Arc<str>,
        labels: &Labels,
    ) -> Option<(&'g ObjectKey, &'g Policy)> {
        if *namespace == scope.mesh(cx).root_namespace {
            return None;
        }
        let all = cx.fetch(self.selecting, namespace);
        oldest(all.filter(|(_, policy)| policy.selector.as_ref().is_some_and(|selector| selector.select(labels))))
    }
}

fn policy(cx: &Ctx<'_>, object: &PeerAuthentication) -> Policy {
    let PeerAuthentication { meta, spec } = object;
    // A word that is not known may be meant for one that asks for STRICT.
    not_known(cx, KIND, meta, "spec", &spec.unknown);
    if let Some(selector) = &spec.selector {
        not_known(cx, KIND, meta, "spec.selector", &selector.unknown);
    }
    let mut ports = BTreeMap::new();
    for (text, tls) in &spec.port_level_mtls {
        let field = format!("spec.portLevelMtls[{text}]");
        match text.parse::<u16>() {
            Ok(port) if port > 0 => {
                ports.insert(port, mode(cx, meta, &field, tls));
            }
            _ => cx.diagnose(problem(KIND, meta, field, "InvalidPort", "not a port number; ignored")),
        }
    }
    let selector = spec.selector.as_ref().map(|selector| selector.match_labels.clone());
    // An empty selector selects everything, as does none.
    let selector = selector.filter(|selector| !selector.is_empty());
    if selector.is_none() && !ports.is_empty() {
        let message = "port modes need a selector; they are ignored";
        cx.diagnose(problem(KIND, meta, "spec.portLevelMtls", "UnsupportedValue", message));
    }
    Policy { created: meta.created, selector, mode: mode(cx, meta, "spec.mtls", &spec.mtls), ports }
}

fn mode(cx: &Ctx<'_>, meta: &Meta, field: &str, tls: &MutualTls) -> Mode {
    not_known(cx, KIND, meta, field, &tls.unknown);
    match &*tls.mode {
        "" | "UNSET" => Mode::Unset,
        "PERMISSIVE" => Mode::Permissive,
        "DISABLE" => Mode::Disable,
        "STRICT" => Mode::Strict,
        other => {
            // Whoever wrote it wanted something; refusing plaintext is the
            // mistake that shows and harms least.
            let message = format!("{other:?} is not a mode; STRICT is used");
            cx.diagnose(problem(KIND, meta, format!("{field}.mode"), "UnsupportedValue", message));
            Mode::Strict
        }
    }
}
