//! AuthorizationPolicy as ztunnel enforces it: the parts that can be decided
//! from a connection.
//!
//! What needs a request is not for ztunnel. An ALLOW rule that needs one is
//! left out, so what it would have allowed is refused; a DENY rule loses those
//! parts, so it refuses more. A value that cannot be read never makes a policy
//! let more through, also beside others that can: a DENY rule loses the whole
//! condition, or the exception; in an ALLOW rule nothing matches the value, and
//! an exception that has it is met by nobody.
//! <https://istio.io/latest/docs/ambient/usage/l4-policy/>

use std::net::IpAddr;
use std::sync::Arc;

use fairway_proto::security as proto;
use prost::Message;
use proto::string_match::MatchType;

use crate::api::Meta;
use crate::api::istio::{AuthorizationPolicy, Condition, Operation, Rule, Source};
use crate::graph::{Collection, Ctx, Graph};
use crate::model::authorization::{Action, Reach, enforced};
use crate::model::{Model, problem};
use crate::xds::resource::{Keys, Resource, ResourceType};

use super::octets;

/// The policies of all AuthorizationPolicies.
pub(super) fn authorizations(graph: &mut Graph, model: &Model) -> Collection<Arc<str>, Resource> {
    let scope = model.scope().clone();
    graph.derive("authorizations", model.inputs.authorization_policies, move |cx, _, policy| {
        let enforced = enforced(cx, &scope, policy, true)?;
        let AuthorizationPolicy { meta, spec } = policy;
        let conversion = Conversion { cx, meta, deny: enforced.action == Action::Deny };
        let rules = match enforced.action {
            // Without rules nothing is allowed.
            Action::Unknown => Vec::new(),
            Action::Allow | Action::Deny => {
                spec.rules.iter().enumerate().filter_map(|(at, rule)| conversion.rule(at, rule)).collect()
            }
        };
        let authorization = proto::Authorization {
            name: meta.name.to_string(),
            namespace: meta.namespace.to_string(),
            scope: match enforced.reach {
                Reach::Mesh => proto::Scope::Global,
                Reach::Namespace => proto::Scope::Namespace,
                Reach::Workloads(_) => proto::Scope::WorkloadSelector,
            }
            .into(),
            action: if conversion.deny { proto::Action::Deny } else { proto::Action::Allow }.into(),
            rules,
            dry_run: enforced.dry_run,
            ..Default::default()
        };
        Some(row(authorization))
    })
}

/// A policy under its name.
pub(super) fn row(policy: proto::Authorization) -> (Arc<str>, Resource) {
    let name: Arc<str> = format!("{}/{}", policy.namespace, policy.name).into();
    let message = policy.encode_to_vec();
    let resource = Resource::new(ResourceType::Authorization, &name, &message, &Keys::default());
    (name, resource)
}

/// What became of a list of values.
enum Values<T> {
    /// There were none: no condition.
    Absent,
    /// All can be read.
    All(Vec<T>),
    /// These can be read, if any, and others cannot.
    Some(Vec<T>),
}

/// One alternative of a clause.
enum Alternative {
    /// It may match. Without any field it matches nothing.
    Match(Box<proto::Match>),
    /// It never matches.
    Never,
    /// It always matches.
    Always,
}

struct Conversion<'a, 'g> {
    cx: &'a Ctx<'g>,
    meta: &'a Meta,
    deny: bool,
}

impl Conversion<'_, '_> {
    fn say(&self, field: &str, reason: &'static str, message: String) {
        self.cx.diagnose(problem("AuthorizationPolicy", self.meta, field, reason, message));
    }

    fn rule(&self, at: usize, rule: &Rule) -> Option<proto::Rule> {
        let mut clauses = Vec::new();
        let mut needs_request = false;
        let field = format!("spec.rules[{at}]");
        self.request_parts(&field, &[], rule.unknown.names(), &mut needs_request);
        for (to, entry) in rule.to.iter().enumerate() {
            self.request_parts(&format!("{field}.to[{to}]"), &[], entry.unknown.names(), &mut needs_request);
        }
        for (from, entry) in rule.from.iter().enumerate() {
            self.request_parts(&format!("{field}.from[{from}]"), &[], entry.unknown.names(), &mut needs_request);
        }
        let to = rule.to.iter().enumerate().map(|(to, entry)| {
            self.operation(&format!("{field}.to[{to}].operation"), &entry.operation, &mut needs_request)
        });
        let to: Vec<_> = to.collect();
        let from = rule.from.iter().enumerate().map(|(from, entry)| {
            self.source(&format!("{field}.from[{from}].source"), &entry.source, &mut needs_request)
        });
        let from: Vec<_> = from.collect();
        let when = rule.when.iter().enumerate().map(|(when, condition)| {
            vec![self.condition(&format!("{field}.when[{when}]"), condition, &mut needs_request)]
        });
        let when: Vec<_> = when.collect();
        if needs_request && !self.deny {
            return None;
        }
        for alternatives in [to, from].into_iter().chain(when).filter(|alternatives| !alternatives.is_empty()) {
            if let Some(clause) = clause(alternatives)? {
                clauses.push(clause);
            }
        }
        Some(proto::Rule { clauses })
    }

    fn operation(&self, field: &str, operation: &Operation, needs_request: &mut bool) -> Alternative {
        let request = [
            ("hosts", &operation.hosts[..]),
            ("notHosts", &operation.not_hosts[..]),
            ("methods", &operation.methods[..]),
            ("notMethods", &operation.not_methods[..]),
            ("paths", &operation.paths[..]),
            ("notPaths", &operation.not_paths[..]),
        ];
        let unknown = operation.unknown.names();
        self.request_parts(field, &request, unknown, needs_request);
        let mut builder = Builder::new(self);
        builder.positive(self.ports(Sign::Positive, &format!("{field}.ports"), &operation.ports), |one| {
            &mut one.destination_ports
        });
        builder.negative(self.ports(Sign::Negative, &format!("{field}.notPorts"), &operation.not_ports), |one| {
            &mut one.not_destination_ports
        });
        builder.finish()
    }

    fn source(&self, field: &str, source: &Source, needs_request: &mut bool) -> Alternative {
        let request = [
            ("requestPrincipals", &source.request_principals[..]),
            ("notRequestPrincipals", &source.not_request_principals[..]),
            ("trustDomains", &source.trust_domains[..]),
            ("notTrustDomains", &source.not_trust_domains[..]),
            ("remoteIpBlocks", &source.remote_ip_blocks[..]),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks[..]),
        ];
        self.request_parts(field, &request, source.unknown.names(), needs_request);
        let mut builder = Builder::new(self);
        builder.positive(self.blocks(Sign::Positive, &format!("{field}.ipBlocks"), &source.ip_blocks), |one| {
            &mut one.source_ips
        });
        builder.negative(self.blocks(Sign::Negative, &format!("{field}.notIpBlocks"), &source.not_ip_blocks), |one| {
            &mut one.not_source_ips
        });
        builder.positive(strings(&source.namespaces), |one| &mut one.namespaces);
        builder.negative(strings(&source.not_namespaces), |one| &mut one.not_namespaces);
        builder.positive(self.accounts(&source.service_accounts), |one| &mut one.service_accounts);
        builder.negative(self.accounts(&source.not_service_accounts), |one| &mut one.not_service_accounts);
        builder.positive(strings(&source.principals), |one| &mut one.principals);
        builder.negative(strings(&source.not_principals), |one| &mut one.not_principals);
        builder.finish()
    }

    fn condition(&self, field: &str, condition: &Condition, needs_request: &mut bool) -> Alternative {
        let Condition { key, values, not_values, unknown } = condition;
        self.request_parts(field, &[], unknown.names(), needs_request);
        let (yes, no) = (format!("{field}.values"), format!("{field}.notValues"));
        let mut builder = Builder::new(self);
        match &**key {
            "source.ip" => {
                builder.positive(self.blocks(Sign::Positive, &yes, values), |one| &mut one.source_ips);
                builder.negative(self.blocks(Sign::Negative, &no, not_values), |one| &mut one.not_source_ips);
            }
            "source.namespace" => {
                builder.positive(strings(values), |one| &mut one.namespaces);
                builder.negative(strings(not_values), |one| &mut one.not_namespaces);
            }
            "source.serviceAccount" => {
                builder.positive(self.accounts(values), |one| &mut one.service_accounts);
                builder.negative(self.accounts(not_values), |one| &mut one.not_service_accounts);
            }
            "source.principal" => {
                builder.positive(strings(values), |one| &mut one.principals);
                builder.negative(strings(not_values), |one| &mut one.not_principals);
            }
            "destination.ip" => {
                builder.positive(self.blocks(Sign::Positive, &yes, values), |one| &mut one.destination_ips);
                builder.negative(self.blocks(Sign::Negative, &no, not_values), |one| &mut one.not_destination_ips);
            }
            "destination.port" => {
                builder.positive(self.ports(Sign::Positive, &yes, values), |one| &mut one.destination_ports);
                builder.negative(self.ports(Sign::Negative, &no, not_values), |one| &mut one.not_destination_ports);
            }
            other => self.request_part(&format!("{field}.key"), other, needs_request),
        }
        builder.finish()
    }

    fn request_parts<'a>(
        &self,
        field: &str,
        parts: &[(&'a str, &[Arc<str>])],
        unknown: impl Iterator<Item = &'a str>,
        needs_request: &mut bool,
    ) {
        let used = parts.iter().filter(|(_, values)| !values.is_empty()).map(|(name, _)| *name);
        for name in used.chain(unknown) {
            self.request_part(&format!("{field}.{name}"), name, needs_request);
        }
    }

    fn request_part(&self, field: &str, name: &str, needs_request: &mut bool) {
        *needs_request = true;
        let effect = if self.deny { "the rule is enforced without it" } else { "the rule is left out" };
        self.say(field, "UnsupportedValue", format!("ztunnel cannot match {name:?}, which needs a waypoint; {effect}"));
    }

    fn ports(&self, sign: Sign, field: &str, values: &[Arc<str>]) -> Values<u32> {
        self.parsed(sign, field, values, "a port number", |text| text.parse::<u16>().ok().map(u32::from))
    }

    fn blocks(&self, sign: Sign, field: &str, values: &[Arc<str>]) -> Values<proto::Address> {
        self.parsed(sign, field, values, "an IP address or CIDR range", |text| {
            let (address, length) = match text.split_once('/') {
                Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
                None => (text, None),
            };
            let address: IpAddr = address.parse().ok()?;
            let full = if address.is_ipv4() { 32 } else { 128 };
            let length = length.unwrap_or(full);
            (length <= full).then(|| proto::Address { address: octets(address), length })
        })
    }

    /// `namespace/account`, or an account of the policy's own namespace.
    fn accounts(&self, values: &[Arc<str>]) -> Values<proto::ServiceAccountMatch> {
        let account = |value: &Arc<str>| {
            let (namespace, account) = value.split_once('/').unwrap_or((&self.meta.namespace, value));
            proto::ServiceAccountMatch { namespace: namespace.to_string(), service_account: account.to_string() }
        };
        if values.is_empty() { Values::Absent } else { Values::All(values.iter().map(account).collect()) }
    }

    fn parsed<T>(
        &self,
        sign: Sign,
        field: &str,
        values: &[Arc<str>],
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Values<T> {
        if values.is_empty() {
            return Values::Absent;
        }
        let mut good = Vec::with_capacity(values.len());
        for (at, value) in values.iter().enumerate() {
            match parse(value) {
                Some(value) => good.push(value),
                None => {
                    let effect = match (sign, self.deny) {
                        (Sign::Positive, true) => "the rule is enforced without this condition",
                        (Sign::Positive, false) => "nothing matches it",
                        (Sign::Negative, true) => "nobody is excepted by it",
                        (Sign::Negative, false) => "whoever this is about is not allowed",
                    };
                    let message = format!("{value:?} is not {what}; {effect}");
                    self.say(&format!("{field}[{at}]"), "InvalidValue", message);
                }
            }
        }
        if good.len() == values.len() { Values::All(good) } else { Values::Some(good) }
    }
}

/// Whether values are what is meant, or what is not.
#[derive(Clone, Copy)]
enum Sign {
    Positive,
    Negative,
}

/// Collects the conditions of one alternative, and what unreadable ones mean.
struct Builder {
    deny: bool,
    one: proto::Match,
    never: bool,
    /// A condition of a DENY rule that cannot be read was left out.
    widened: bool,
}

impl Builder {
    fn new(conversion: &Conversion<'_, '_>) -> Self {
        Self { deny: conversion.deny, one: proto::Match::default(), never: false, widened: false }
    }

    /// A condition of a DENY rule is left out if it might match more than can
    /// be read of it.
    fn positive<T>(&mut self, values: Values<T>, field: impl Fn(&mut proto::Match) -> &mut Vec<T>) {
        match values {
            Values::Absent => {}
            Values::All(values) => *field(&mut self.one) = values,
            Values::Some(_) if self.deny => self.widened = true,
            Values::Some(values) if values.is_empty() => self.never = true,
            Values::Some(values) => *field(&mut self.one) = values,
        }
    }

    /// An exception that cannot be read excepts nobody from a DENY, and is
    /// met by nobody in an ALLOW.
    fn negative<T>(&mut self, values: Values<T>, field: impl Fn(&mut proto::Match) -> &mut Vec<T>) {
        match values {
            Values::Absent => {}
            Values::All(values) => *field(&mut self.one) = values,
            Values::Some(_) if !self.deny => self.never = true,
            Values::Some(values) if values.is_empty() => self.widened = true,
            Values::Some(values) => *field(&mut self.one) = values,
        }
    }

    fn finish(self) -> Alternative {
        match self {
            Builder { never: true, .. } => Alternative::Never,
            Builder { widened: true, one, .. } if one == proto::Match::default() => Alternative::Always,
            Builder { one, .. } => Alternative::Match(Box::new(one)),
        }
    }
}

/// OR of alternatives: `None` if it can never match, `Some(None)` if it always
/// does, hence is no condition.
fn clause(alternatives: Vec<Alternative>) -> Option<Option<proto::Clause>> {
    if alternatives.iter().any(|one| matches!(one, Alternative::Always)) {
        return Some(None);
    }
    let matches: Vec<_> = alternatives
        .into_iter()
        .filter_map(|one| match one {
            Alternative::Match(one) => Some(*one),
            Alternative::Never | Alternative::Always => None,
        })
        .collect();
    // A clause without matches would match everything.
    (!matches.is_empty()).then_some(Some(proto::Clause { matches }))
}

/// `*` any, `*x` suffix, `x*` prefix, else exact: Istio's order of looking.
fn strings(values: &[Arc<str>]) -> Values<proto::StringMatch> {
    if values.is_empty() {
        return Values::Absent;
    }
    let convert = |value: &Arc<str>| {
        let matcher = match &**value {
            "*" => MatchType::Presence(()),
            text => match (text.strip_prefix('*'), text.strip_suffix('*')) {
                (Some(suffix), _) => MatchType::Suffix(suffix.to_string()),
                (None, Some(prefix)) => MatchType::Prefix(prefix.to_string()),
                (None, None) => MatchType::Exact(text.to_string()),
            },
        };
        proto::StringMatch { match_type: Some(matcher) }
    };
    Values::All(values.iter().map(convert).collect())
}
