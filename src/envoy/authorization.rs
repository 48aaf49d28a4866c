//! AuthorizationPolicies as filters: whom a proxy lets ask what.
//!
//! A request passes CUSTOM, AUDIT, DENY and ALLOW policies in this order, and
//! tokens are verified after CUSTOM. Each action is a filter of its own. The
//! names that tools look for are Istio's: ids of rules, prefixes of metadata.
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/>
//!
//! What cannot be honoured lets less through, never more, and is reported:
//! `rule.rs` for parts of rules. A policy with an action that is not known
//! refuses everything; one whose authorizer cannot be asked refuses whatever
//! it would have asked about.

mod attribute;
mod identity;
pub mod matcher;
mod node;
pub mod provider;
mod rule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::{Filter, filter};
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action as RbacAction;
use envoy_types::pb::envoy::config::rbac::v3::{Policy, Rbac};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher;
use envoy_types::pb::google::protobuf::Any;

use crate::api::Meta;
use crate::api::istio::AuthorizationPolicy;
use crate::graph::Diagnostic;
use crate::model::problem;

use super::encode::any;
use matcher::{metadata, prefix, text};
use node::{always, never};
use provider::{Provider, Usable, usable};
use rule::Reader;

/// The filter state that has the peer's identity where its certificate is
/// another hop's: behind a waypoint's CONNECT listener.
pub const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

/// The filter state that has the peer's address there, where that of the
/// connection is the waypoint's own.
pub const PEER_ADDRESS: &str = "fairway.peer_address";

/// What is in the identity of every workload of a namespace, and in no other.
pub fn caller_of(namespace: &str) -> String {
    format!("/ns/{namespace}/")
}

const HTTP_RBAC: &str = "envoy.filters.http.rbac";
const HTTP_EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
const NETWORK_EXT_AUTHZ: &str = "envoy.filters.network.ext_authz";
const NETWORK_STAT_PREFIX: &str = "tcp.";
const DRY_RUN: &str = "istio.io/dry-run";
/// Before the metadata that shadow rules leave for the authorizer's filter.
const EXT_AUTHZ_METADATA: &str = "istio_ext_authz_";
/// Before the ids of rules that an authorizer is asked about.
const EXT_AUTHZ_ID: &str = "istio-ext-authz";

/// What may influence the filters besides the policies.
pub struct Request<'a> {
    /// The mesh's trust domain, then those that mean the same.
    pub trust_domains: &'a [Arc<str>],
    /// Where the peer's identity is.
    pub identity: Identity,
    /// Whether the peer's address is in filter state, where the identity is.
    pub knows_address: bool,
    /// The authorizers of the mesh configuration.
    pub providers: &'a [Provider],
    /// The cluster of a service (`hostname` or `namespace/hostname`) and port.
    pub cluster: &'a dyn Fn(&str, u16) -> Option<String>,
}

/// Where the peer's identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// In the filter state `io.istio.peer_principal`: at waypoints.
    FilterState,
    /// In the connection's certificate.
    Certificate,
    /// Nowhere: there may be a certificate, and anybody may have made it. Envoy
    /// does not ask whether it was verified when it compares names.
    Unverified,
}

/// The filters of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Filters<F> {
    /// For CUSTOM policies; tokens are verified after these.
    pub custom: Vec<F>,
    /// For AUDIT, DENY and ALLOW policies.
    pub rules: Vec<F>,
    /// What is wrong with the policies.
    pub problems: Vec<Diagnostic>,
}

/// What is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traffic {
    Http,
    Tcp,
}

/// What a policy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

/// The HTTP filters for policies that apply to a chain.
pub fn http_filters(request: &Request<'_>, policies: &[&AuthorizationPolicy]) -> Filters<HttpFilter> {
    let plan = plan(request, Traffic::Http, policies);
    let filter = |name: &str, config: Any| HttpFilter {
        name: name.into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    let rbac = |step: Step| {
        let config = HttpRbac {
            rules: step.rules,
            shadow_rules: step.shadow_rules,
            shadow_rules_stat_prefix: step.shadow_prefix.into(),
            ..Default::default()
        };
        filter(HTTP_RBAC, any(&config))
    };
    let custom = plan.custom.into_iter().flat_map(|(step, ask)| {
        let ask =
            ask.map(|Ask { usable, name }| filter(HTTP_EXT_AUTHZ, any(&usable.http(matched_by(HTTP_RBAC, &name)))));
        [Some(rbac(step)), ask].into_iter().flatten()
    });
    Filters { custom: custom.collect(), rules: plan.rules.into_iter().map(rbac).collect(), problems: plan.problems }
}

/// The network filters for policies that apply to a chain of opaque TCP.
pub fn network_filters(request: &Request<'_>, policies: &[&AuthorizationPolicy]) -> Filters<Filter> {
    let plan = plan(request, Traffic::Tcp, policies);
    let filter = |name: &str, config: Any| Filter {
        name: name.into(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    };
    let rbac = |step: Step| {
        let config = NetworkRbac {
            rules: step.rules,
            shadow_rules: step.shadow_rules,
            shadow_rules_stat_prefix: step.shadow_prefix.into(),
            stat_prefix: NETWORK_STAT_PREFIX.into(),
            ..Default::default()
        };
        filter(NETWORK_RBAC, any(&config))
    };
    let custom = plan.custom.into_iter().flat_map(|(step, ask)| {
        let ask = ask.and_then(|Ask { usable, name }| usable.network(matched_by(NETWORK_RBAC, &name)));
        let ask = ask.map(|config| filter(NETWORK_EXT_AUTHZ, any(&config)));
        [Some(rbac(step)), ask].into_iter().flatten()
    });
    Filters { custom: custom.collect(), rules: plan.rules.into_iter().map(rbac).collect(), problems: plan.problems }
}

/// One RBAC filter.
#[derive(Default)]
struct Step {
    rules: Option<Rbac>,
    shadow_rules: Option<Rbac>,
    shadow_prefix: &'static str,
}

/// An authorizer, to be asked when a rule under its name matched.
struct Ask<'a> {
    usable: Usable<'a>,
    name: Arc<str>,
}

struct Plan<'a> {
    custom: Vec<(Step, Option<Ask<'a>>)>,
    rules: Vec<Step>,
    problems: Vec<Diagnostic>,
}

/// Rules by id, in force or only to be logged.
#[derive(Default)]
struct Rules {
    enforced: Option<HashMap<String, Policy>>,
    dry_run: Option<HashMap<String, Policy>>,
}

impl Rules {
    fn of(&mut self, dry_run: bool) -> &mut HashMap<String, Policy> {
        if dry_run { &mut self.dry_run } else { &mut self.enforced }.get_or_insert_default()
    }

    fn step(self, action: RbacAction, shadow_prefix: &'static str) -> Option<Step> {
        if self.enforced.is_none() && self.dry_run.is_none() {
            return None;
        }
        let shadow_prefix = if self.dry_run.is_some() { shadow_prefix } else { "" };
        let rbac = |policies| rbac(action, policies);
        Some(Step { rules: self.enforced.map(rbac), shadow_rules: self.dry_run.map(rbac), shadow_prefix })
    }
}

fn rbac(action: RbacAction, policies: HashMap<String, Policy>) -> Rbac {
    Rbac { action: action.into(), policies, audit_logging_options: None }
}

fn plan<'a>(request: &Request<'a>, traffic: Traffic, policies: &[&AuthorizationPolicy]) -> Plan<'a> {
    let mut policies = policies.to_vec();
    policies.sort_unstable_by_key(|policy| (&policy.meta.namespace, &policy.meta.name));
    let mut problems = Vec::new();
    let (mut audit, mut deny, mut allow) = (Rules::default(), Rules::default(), Rules::default());
    let mut custom: BTreeMap<Arc<str>, Vec<&AuthorizationPolicy>> = BTreeMap::new();
    for policy in policies {
        let AuthorizationPolicy { meta, spec } = policy;
        let dry_run = dry_run(meta, &mut problems);
        let action = match &*spec.action {
            "" | "ALLOW" => Action::Allow,
            "DENY" => Action::Deny,
            "AUDIT" => Action::Audit,
            "CUSTOM" => Action::Custom,
            other => {
                let message = format!("{other:?} is not an action; everything the policy is for is refused");
                problems.push(problem("AuthorizationPolicy", meta, "spec.action", "UnsupportedValue", message));
                deny.of(dry_run).insert(id(meta, 0), always());
                continue;
            }
        };
        if dry_run && matches!(action, Action::Audit | Action::Custom) {
            let message = format!("{} cannot be tried out; the policy has no effect", spec.action);
            let field = format!("metadata.annotations[{DRY_RUN}]");
            problems.push(problem("AuthorizationPolicy", meta, field, "UnsupportedValue", message));
            continue;
        }
        let rules = match action {
            Action::Allow => allow.of(dry_run),
            Action::Deny => deny.of(dry_run),
            Action::Audit => audit.of(dry_run),
            Action::Custom => {
                let name = spec.provider.as_ref().map(|provider| provider.name.clone()).unwrap_or_default();
                custom.entry(name).or_default().push(policy);
                continue;
            }
        };
        add_rules(request, traffic, action, policy, &mut problems, &mut |at, policy| {
            rules.insert(id(meta, at), policy);
        });
    }
    let custom = custom.into_iter();
    let custom = custom.map(|(name, policies)| ask(request, traffic, name, &policies, &mut problems)).collect();
    let rules = [
        audit.step(RbacAction::Log, ""),
        deny.step(RbacAction::Deny, "istio_dry_run_deny_"),
        allow.step(RbacAction::Allow, "istio_dry_run_allow_"),
    ];
    Plan { custom, rules: rules.into_iter().flatten().collect(), problems }
}

fn add_rules(
    request: &Request<'_>,
    traffic: Traffic,
    action: Action,
    AuthorizationPolicy { meta, spec }: &AuthorizationPolicy,
    problems: &mut Vec<Diagnostic>,
    add: &mut dyn FnMut(usize, Policy),
) {
    let mut whole = true;
    for name in spec.unknown.names() {
        whole = false;
        let effect =
            if action == Action::Allow { "the policy allows nothing" } else { "the policy applies without it" };
        let message = format!("the field is not known; {effect}");
        problems.push(problem("AuthorizationPolicy", meta, format!("spec.{name}"), "UnsupportedValue", message));
    }
    if spec.rules.is_empty() || (action == Action::Allow && !whole) {
        // It is there and matches nothing, so an ALLOW policy allows nothing.
        return add(0, never());
    }
    let mut reader = Reader::new(request, traffic, action, meta, problems);
    for (at, rule) in spec.rules.iter().enumerate() {
        if let Some(policy) = reader.rule(at, rule) {
            add(at, policy);
        }
    }
}

/// The filters for all policies with one provider. Shadow rules find out what
/// is to be asked about and leave the id of the rule in metadata, where the
/// authorizer's filter looks. Providers come in the order of their names, so
/// the id that a filter finds under its own name is from its own rules.
fn ask<'a>(
    request: &Request<'a>,
    traffic: Traffic,
    name: Arc<str>,
    policies: &[&AuthorizationPolicy],
    problems: &mut Vec<Diagnostic>,
) -> (Step, Option<Ask<'a>>) {
    let usable = usable(request, &name).and_then(|usable| match traffic {
        Traffic::Tcp if usable.network(MetadataMatcher::default()).is_none() => {
            Err(format!("authorizer {name:?} is asked over HTTP and cannot decide on TCP connections"))
        }
        Traffic::Tcp | Traffic::Http => Ok(usable),
    });
    let mut rules = HashMap::new();
    for policy in policies {
        let id = |at| match name.is_empty() {
            true => format!("{EXT_AUTHZ_ID}-{}", id(&policy.meta, at)),
            false => format!("{EXT_AUTHZ_ID}-{name}-{}", id(&policy.meta, at)),
        };
        add_rules(request, traffic, Action::Custom, policy, problems, &mut |at, policy| {
            let bad = if usable.is_err() { "-deny-due-to-bad-CUSTOM-action" } else { "" };
            rules.insert(format!("{}{bad}", id(at)), policy);
        });
        if let Err(why) = &usable {
            let message = format!("{why}; what it would be asked about is refused");
            problems.push(problem("AuthorizationPolicy", &policy.meta, "spec.provider", "ProviderUnusable", message));
        }
    }
    let rules = Some(rbac(RbacAction::Deny, rules));
    match usable {
        Err(_) => (Step { rules, ..Default::default() }, None),
        Ok(usable) => {
            let step = Step { rules: None, shadow_rules: rules, shadow_prefix: EXT_AUTHZ_METADATA };
            (step, Some(Ask { usable, name }))
        }
    }
}

/// Matches when a rule of this provider is what the RBAC filter found last.
fn matched_by(rbac: &str, provider: &str) -> MetadataMatcher {
    let key = format!("{EXT_AUTHZ_METADATA}shadow_effective_policy_id");
    metadata(rbac, &[&key], text(prefix(format!("{EXT_AUTHZ_ID}-{provider}"))))
}

fn id(meta: &Meta, rule: usize) -> String {
    format!("ns[{}]-policy[{}]-rule[{rule}]", meta.namespace, meta.name)
}

/// Whether a policy is only to be logged. A value that is no boolean is none.
fn dry_run(meta: &Meta, problems: &mut Vec<Diagnostic>) -> bool {
    match meta.annotation(DRY_RUN) {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some(other) => {
            let message = format!("{other:?} is not a boolean; the policy is enforced");
            let field = format!("metadata.annotations[{DRY_RUN}]");
            problems.push(problem("AuthorizationPolicy", meta, field, "InvalidValue", message));
            false
        }
    }
}
