//! Istio's kinds. <https://istio.io/latest/docs/reference/config/>

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use super::intern::interned;
use super::meta::{Labels, Meta, nullable};
use super::unknown::{Unknown, keeps_unknown, keeps_unknown_below};

/// A service outside Kubernetes' registry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct ServiceEntry {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Hosts, addresses, endpoints.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceEntrySpec,
    /// Addresses allocated to it.
    #[serde(deserialize_with = "nullable")]
    pub status: ServiceEntryStatus,
    /// Paths of fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// `serviceEntry.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    /// Hostnames, possibly with a leading `*.`.
    #[serde(deserialize_with = "nullable")]
    pub hosts: Box<[Arc<str>]>,
    /// Virtual addresses or CIDR ranges.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Box<[Arc<str>]>,
    /// The ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Box<[ServiceEntryPort]>,
    /// `NONE` (also when empty), `STATIC`, `DNS`, `DNS_ROUND_ROBIN` or
    /// `DYNAMIC_DNS`.
    #[serde(deserialize_with = "interned")]
    pub resolution: Arc<str>,
    /// `MESH_EXTERNAL` (also when empty) or `MESH_INTERNAL`.
    #[serde(deserialize_with = "interned")]
    pub location: Arc<str>,
    /// Endpoints given in place.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Box<[WorkloadEntrySpec]>,
    /// Pods and workload entries behind it.
    pub workload_selector: Option<WorkloadSelector>,
    /// Identities its endpoints may have.
    #[serde(deserialize_with = "nullable")]
    pub subject_alt_names: Box<[Arc<str>]>,
    /// The namespaces that may see it; empty leaves that to the mesh.
    #[serde(deserialize_with = "nullable")]
    pub export_to: Box<[Arc<str>]>,
}

/// A selector over pods and workload entries.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct WorkloadSelector {
    /// Labels they must have.
    pub labels: Labels,
}

/// A port of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntryPort {
    /// The name.
    #[serde(deserialize_with = "interned")]
    pub name: Arc<str>,
    /// The number clients use.
    #[serde(deserialize_with = "nullable")]
    pub number: u16,
    /// `HTTP`, `GRPC`, `TCP`, `TLS` and the like.
    #[serde(deserialize_with = "interned")]
    pub protocol: Arc<str>,
    /// Where endpoints listen; 0 is the same port.
    #[serde(deserialize_with = "nullable")]
    pub target_port: u16,
}

/// `serviceEntry.status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ServiceEntryStatus {
    /// Addresses allocated by a control plane.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Box<[AllocatedAddress]>,
}

/// An address allocated to a host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AllocatedAddress {
    /// The address.
    #[serde(deserialize_with = "nullable")]
    pub value: Arc<str>,
    /// The host it stands for; empty for all hosts.
    #[serde(deserialize_with = "nullable")]
    pub host: Arc<str>,
}

/// A workload outside Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct WorkloadEntry {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// Where it is and who it runs as.
    #[serde(deserialize_with = "nullable")]
    pub spec: WorkloadEntrySpec,
    /// Paths of fields this version does not know.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// `workloadEntry.spec`, and an endpoint of a service entry.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEntrySpec {
    /// An address or a DNS name.
    #[serde(deserialize_with = "nullable")]
    pub address: Arc<str>,
    /// Port numbers by the service port's name.
    #[serde(deserialize_with = "nullable")]
    pub ports: BTreeMap<String, u16>,
    /// Labels; `None` if the field is not there.
    pub labels: Option<Labels>,
    /// The network it is on; empty is that of the cluster.
    #[serde(deserialize_with = "interned")]
    pub network: Arc<str>,
    /// `region/zone/subzone`.
    #[serde(deserialize_with = "interned")]
    pub locality: Arc<str>,
    /// Share of traffic; 0 is not set.
    #[serde(deserialize_with = "nullable")]
    pub weight: u32,
    /// The service account it runs as.
    #[serde(deserialize_with = "interned")]
    pub service_account: Arc<str>,
}

/// Who may talk to what.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct AuthorizationPolicy {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// The policy.
    #[serde(deserialize_with = "nullable")]
    pub spec: AuthorizationPolicySpec,
}

/// `authorizationPolicy.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct AuthorizationPolicySpec {
    /// The workloads it is for.
    pub selector: Option<PolicySelector>,
    /// What it is attached to, in the older singular form.
    pub target_ref: Option<PolicyTargetRef>,
    /// What it is attached to.
    #[serde(deserialize_with = "nullable")]
    pub target_refs: Box<[PolicyTargetRef]>,
    /// `ALLOW` (also when empty), `DENY`, `AUDIT` or `CUSTOM`.
    #[serde(deserialize_with = "interned")]
    pub action: Arc<str>,
    /// Who decides, for `CUSTOM`.
    pub provider: Option<PolicyProvider>,
    /// What it is about; any rule may match.
    #[serde(deserialize_with = "nullable")]
    pub rules: Box<[Rule]>,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// An extension provider of the mesh configuration.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PolicyProvider {
    /// Its name there.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
}

/// A workload selector of a policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct PolicySelector {
    /// Labels the workload must have.
    pub match_labels: Labels,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// What a policy is attached to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PolicyTargetRef {
    /// The API group; empty is the core group.
    #[serde(deserialize_with = "interned")]
    pub group: Arc<str>,
    /// The kind.
    #[serde(deserialize_with = "interned")]
    pub kind: Arc<str>,
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The namespace; empty, as it must be, is that of the policy.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
}

/// A rule: all of its parts must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct Rule {
    /// Who asks; any may match.
    #[serde(deserialize_with = "nullable")]
    pub from: Box<[From]>,
    /// What is asked; any may match.
    #[serde(deserialize_with = "nullable")]
    pub to: Box<[To]>,
    /// Further conditions; all must match.
    #[serde(deserialize_with = "nullable")]
    pub when: Box<[Condition]>,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// An entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct From {
    /// The source.
    #[serde(deserialize_with = "nullable")]
    pub source: Source,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// An entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct To {
    /// The operation.
    #[serde(deserialize_with = "nullable")]
    pub operation: Operation,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

type Texts = Box<[Arc<str>]>;

/// Properties of a caller. Different fields are AND-ed, values OR-ed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Source {
    #[serde(deserialize_with = "nullable")]
    pub principals: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_principals: Texts,
    #[serde(deserialize_with = "nullable")]
    pub request_principals: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_request_principals: Texts,
    #[serde(deserialize_with = "nullable")]
    pub namespaces: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_namespaces: Texts,
    #[serde(deserialize_with = "nullable")]
    pub service_accounts: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_service_accounts: Texts,
    #[serde(deserialize_with = "nullable")]
    pub trust_domains: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_trust_domains: Texts,
    #[serde(deserialize_with = "nullable")]
    pub ip_blocks: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_ip_blocks: Texts,
    #[serde(deserialize_with = "nullable")]
    pub remote_ip_blocks: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_remote_ip_blocks: Texts,
    /// Fields this version does not know. A policy must not become wider
    /// because a restriction in it was not understood.
    #[serde(skip)]
    pub unknown: Unknown,
}

/// Properties of a request. Different fields are AND-ed, values OR-ed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
#[allow(missing_docs)]
pub struct Operation {
    #[serde(deserialize_with = "nullable")]
    pub hosts: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_hosts: Texts,
    #[serde(deserialize_with = "nullable")]
    pub ports: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_ports: Texts,
    #[serde(deserialize_with = "nullable")]
    pub methods: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_methods: Texts,
    #[serde(deserialize_with = "nullable")]
    pub paths: Texts,
    #[serde(deserialize_with = "nullable")]
    pub not_paths: Texts,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A condition on an attribute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct Condition {
    /// The attribute, such as `source.ip`.
    #[serde(deserialize_with = "interned")]
    pub key: Arc<str>,
    /// Values of which one must match.
    #[serde(deserialize_with = "nullable")]
    pub values: Texts,
    /// Values of which none may match.
    #[serde(deserialize_with = "nullable")]
    pub not_values: Texts,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// Whether callers must prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PeerAuthentication {
    /// Name, labels and the like.
    #[serde(rename = "metadata")]
    pub meta: Meta,
    /// The policy.
    #[serde(deserialize_with = "nullable")]
    pub spec: PeerAuthenticationSpec,
}

/// `peerAuthentication.spec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", rename_all = "camelCase", default)]
pub struct PeerAuthenticationSpec {
    /// The workloads it is for.
    pub selector: Option<PolicySelector>,
    /// For all ports that have no mode of their own.
    #[serde(deserialize_with = "nullable")]
    pub mtls: MutualTls,
    /// By workload port.
    #[serde(deserialize_with = "nullable")]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

/// A mutual TLS setting.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(remote = "Self", default)]
pub struct MutualTls {
    /// `UNSET` (also when empty), `DISABLE`, `PERMISSIVE` or `STRICT`.
    #[serde(deserialize_with = "interned")]
    pub mode: Arc<str>,
    /// Fields this version does not know; see [`Source::unknown`].
    #[serde(skip)]
    pub unknown: Unknown,
}

keeps_unknown!(AuthorizationPolicySpec, Rule, From, To, Source, Operation, Condition);
keeps_unknown!(PolicySelector, PeerAuthenticationSpec, MutualTls);
keeps_unknown_below!(ServiceEntry, WorkloadEntry);
