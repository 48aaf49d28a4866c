//! One rule of a policy as one policy of Envoy's RBAC: permissions are what
//! is asked, principals are who asks. Both must match.
//!
//! Where a part of a rule cannot be matched, the rule errs to the safe side.
//! An ALLOW rule then matches nothing. Any other rule loses the condition
//! that has the part, so it matches more; an exception in it only loses the
//! value.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule as Permits;
use envoy_types::pb::envoy::config::rbac::v3::principal::{Authenticated, Identifier};
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal};
use envoy_types::pb::envoy::r#type::matcher::v3::filter_state_matcher::Matcher as StateMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::path_matcher;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    AddressMatcher, FilterStateMatcher, MetadataMatcher, PathMatcher, StringMatcher, ValueMatcher,
};
use envoy_types::pb::xds::core::v3::CidrRange as StateRange;

use crate::api::Meta;
use crate::api::istio::{Condition, Operation, Rule, Source};
use crate::api::unknown::Unknown;
use crate::graph::{Diagnostic, Severity};
use crate::model::problem;

use super::attribute::{Attribute, What, Who, attribute};
use super::matcher::{self, Refusal};
use super::node::{IntoNode, Node};
use super::{Action, Identity, PEER_ADDRESS, PEER_PRINCIPAL, Request, Traffic, identity};

const JWT_FILTER: &str = "envoy.filters.http.jwt_authn";
const JWT_PAYLOAD: &str = "payload";

/// Reads the rules of one policy.
pub struct Reader<'a> {
    /// What may influence the result besides the policy.
    pub request: &'a Request<'a>,
    /// What is filtered.
    pub traffic: Traffic,
    /// What the policy does.
    pub action: Action,
    /// The policy.
    pub meta: &'a Meta,
    /// What is wrong with it.
    pub problems: &'a mut Vec<Diagnostic>,
    /// Whether the rule at hand has a part that cannot be matched.
    refused: bool,
}

impl<'a> Reader<'a> {
    /// A reader of the policy's rules.
    pub fn new(
        request: &'a Request<'a>,
        traffic: Traffic,
        action: Action,
        meta: &'a Meta,
        problems: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self { request, traffic, action, meta, problems, refused: false }
    }

    /// A rule, or `None` for one of an ALLOW policy that cannot be honoured.
    pub fn rule(&mut self, at: usize, rule: &Rule) -> Option<Policy> {
        self.refused = false;
        let field = format!("spec.rules[{at}]");
        self.unknown(&field, &rule.unknown);
        let mut principals = Vec::new();
        for (from, entry) in rule.from.iter().enumerate() {
            let field = format!("{field}.from[{from}]");
            self.unknown(&field, &entry.unknown);
            principals.push(self.source(&format!("{field}.source"), &entry.source));
        }
        let mut permissions = Vec::new();
        for (to, entry) in rule.to.iter().enumerate() {
            let field = format!("{field}.to[{to}]");
            self.unknown(&field, &entry.unknown);
            permissions.push(self.operation(&format!("{field}.operation"), &entry.operation));
        }
        let (mut who, mut what) = (Vec::new(), Vec::new());
        for (when, condition) in rule.when.iter().enumerate() {
            self.condition(&format!("{field}.when[{when}]"), condition, &mut who, &mut what);
        }
        if self.refused && self.action == Action::Allow {
            return None;
        }
        Some(Policy {
            permissions: alternatives(permissions, &what),
            principals: alternatives(principals, &who),
            ..Default::default()
        })
    }

    fn source(&mut self, field: &str, source: &Source) -> Vec<Principal> {
        self.unknown(field, &source.unknown);
        let mut all = Vec::new();
        let at = |name: &str| format!("{field}.{name}");
        let pairs = [
            (Who::Principal, "principals", &source.principals, "notPrincipals", &source.not_principals),
            (
                Who::RequestPrincipal,
                "requestPrincipals",
                &source.request_principals,
                "notRequestPrincipals",
                &source.not_request_principals,
            ),
            (
                Who::ServiceAccount,
                "serviceAccounts",
                &source.service_accounts,
                "notServiceAccounts",
                &source.not_service_accounts,
            ),
            (Who::TrustDomain, "trustDomains", &source.trust_domains, "notTrustDomains", &source.not_trust_domains),
            (Who::Namespace, "namespaces", &source.namespaces, "notNamespaces", &source.not_namespaces),
            (
                Who::RemoteIp,
                "remoteIpBlocks",
                &source.remote_ip_blocks,
                "notRemoteIpBlocks",
                &source.not_remote_ip_blocks,
            ),
            (Who::SourceIp, "ipBlocks", &source.ip_blocks, "notIpBlocks", &source.not_ip_blocks),
        ];
        let mut empty = source.unknown.names().next().is_none();
        for (attribute, name, values, not_name, not_values) in pairs {
            empty &= values.is_empty() && not_values.is_empty();
            self.who(&attribute, (&at(name), values), (&at(not_name), not_values), &mut all);
        }
        if empty {
            self.refuse(field, Refusal::invalid("a source without any field says nothing"));
        }
        all
    }

    fn operation(&mut self, field: &str, operation: &Operation) -> Vec<Permission> {
        self.unknown(field, &operation.unknown);
        let mut all = Vec::new();
        let at = |name: &str| format!("{field}.{name}");
        let pairs = [
            (What::Host, "hosts", &operation.hosts, "notHosts", &operation.not_hosts),
            (What::Method, "methods", &operation.methods, "notMethods", &operation.not_methods),
            (What::Path, "paths", &operation.paths, "notPaths", &operation.not_paths),
            (What::Port, "ports", &operation.ports, "notPorts", &operation.not_ports),
        ];
        let mut empty = operation.unknown.names().next().is_none();
        for (attribute, name, values, not_name, not_values) in pairs {
            empty &= values.is_empty() && not_values.is_empty();
            self.what(&attribute, (&at(name), values), (&at(not_name), not_values), &mut all);
        }
        if empty {
            self.refuse(field, Refusal::invalid("an operation without any field says nothing"));
        }
        all
    }

    fn condition(&mut self, field: &str, condition: &Condition, who: &mut Vec<Principal>, what: &mut Vec<Permission>) {
        let Condition { key, values, not_values, unknown } = condition;
        self.unknown(field, unknown);
        if values.is_empty() && not_values.is_empty() {
            return self.refuse(field, Refusal::invalid("a condition without values says nothing"));
        }
        let attribute = match attribute(key) {
            Ok(attribute) => attribute,
            Err(refusal) => return self.refuse(&format!("{field}.key"), refusal),
        };
        let (yes, no) = (format!("{field}.values"), format!("{field}.notValues"));
        match attribute {
            Attribute::Who(attribute) => self.who(&attribute, (&yes, values), (&no, not_values), who),
            Attribute::What(attribute) => self.what(&attribute, (&yes, values), (&no, not_values), what),
        }
    }

    fn who(&mut self, attribute: &Who<'_>, yes: Values<'_>, no: Values<'_>, all: &mut Vec<Principal>) {
        let Reader { request, meta, .. } = *self;
        let from_identity = |matcher| principal_node(request.identity, matcher);
        let read = |value: &str| -> Result<Vec<Principal>, Refusal> {
            Ok(match attribute {
                Who::Principal => {
                    identity::principal(value, request.trust_domains)?.into_iter().map(from_identity).collect()
                }
                Who::Namespace => vec![from_identity(identity::namespace(value)?)],
                Who::ServiceAccount => vec![from_identity(identity::service_account(value, &meta.namespace)?)],
                Who::TrustDomain => {
                    identity::trust_domain(value, request.trust_domains)?.into_iter().map(from_identity).collect()
                }
                Who::SourceIp => vec![address_node(request, matcher::range(value)?)?],
                Who::RemoteIp => vec![Identifier::RemoteIp(matcher::range(value)?).into_node()],
                Who::RequestPrincipal => {
                    let pairs = identity::request_principal(value)?;
                    pairs.into_iter().map(|(issuer, subject)| issued(issuer, subject)).collect()
                }
                Who::Claim(path) => vec![claim(path, matcher::text_or_list(matcher::string(value)))],
                Who::Header(name) => vec![Identifier::Header(matcher::header(name, value, false)).into_node()],
            })
        };
        let beyond = match attribute {
            Who::Principal | Who::Namespace | Who::ServiceAccount | Who::TrustDomain
                if request.identity == Identity::Unverified =>
            {
                Some("certificates of unknown makers are accepted, so the names in them prove nothing")
            }
            Who::Header(_) => self.beyond(false),
            Who::RequestPrincipal | Who::Claim(_) => self.beyond(true),
            _ => None,
        };
        self.conditions(beyond, read, yes, no, all);
    }

    fn what(&mut self, attribute: &What<'_>, yes: Values<'_>, no: Values<'_>, all: &mut Vec<Permission>) {
        let read = |value: &str| -> Result<Vec<Permission>, Refusal> {
            let permits = match attribute {
                What::Host => Permits::Header(matcher::header(":authority", value, true)),
                What::Method => Permits::Header(matcher::header(":method", value, false)),
                What::Path if matcher::is_template(value) => Permits::UriTemplate(matcher::template(value)?),
                What::Path => {
                    let rule = Some(path_matcher::Rule::Path(matcher::string(value)));
                    Permits::UrlPath(PathMatcher { rule })
                }
                What::Port => Permits::DestinationPort(matcher::port(value)?),
                What::DestinationIp => Permits::DestinationIp(matcher::range(value)?),
                What::ServerName => Permits::RequestedServerName(matcher::string(value)),
                What::Metadata { filter, key } => {
                    let listed = value.strip_prefix('[').and_then(|value| value.strip_suffix(']'));
                    let value = match listed {
                        Some("") => return Err(Refusal::invalid("an empty list element matches nothing")),
                        Some(element) => matcher::list(matcher::string(element)),
                        None => matcher::text(matcher::string(value)),
                    };
                    permits_metadata(matcher::metadata(filter, &[key], value))
                }
            };
            Ok(vec![permits.into_node()])
        };
        let beyond = match attribute {
            What::Host | What::Method | What::Path => self.beyond(false),
            What::Port | What::DestinationIp | What::ServerName | What::Metadata { .. } => None,
        };
        self.conditions(beyond, read, yes, no, all);
    }

    /// Why a filter here cannot see what is in a request, or in its token.
    fn beyond(&self, token: bool) -> Option<&'static str> {
        match (self.traffic, self.action) {
            (Traffic::Tcp, _) => Some("a TCP connection has no requests"),
            (Traffic::Http, Action::Custom) if token => Some("tokens are verified after a CUSTOM action"),
            (Traffic::Http, _) => None,
        }
    }

    /// Adds the conditions that one of `yes` matches and none of `no` does.
    fn conditions<N: Node>(
        &mut self,
        beyond: Option<&'static str>,
        read: impl Fn(&str) -> Result<Vec<N>, Refusal>,
        yes: Values<'_>,
        no: Values<'_>,
        all: &mut Vec<N>,
    ) {
        for (negative, (field, values)) in [(false, yes), (true, no)] {
            if values.is_empty() {
                continue;
            }
            if let Some(why) = beyond {
                self.pass_over(field, why);
                continue;
            }
            let (mut nodes, mut complete) = (Vec::new(), true);
            for (at, value) in values.iter().enumerate() {
                let read = match value.is_empty() {
                    true => Err(Refusal::invalid("an empty value matches nothing")),
                    false => read(value),
                };
                match read {
                    Ok(read) => nodes.extend(read),
                    Err(refusal) => {
                        complete = false;
                        self.refuse(&format!("{field}[{at}]"), refusal);
                    }
                }
            }
            match negative {
                false if complete => all.push(N::or(nodes)),
                // Whatever the other values may mean could match as well.
                false => {}
                true if nodes.is_empty() => {}
                true => all.push(N::not(N::or(nodes))),
            }
        }
    }

    fn unknown(&mut self, field: &str, unknown: &Unknown) {
        for name in unknown.names() {
            self.refuse(&format!("{field}.{name}"), Refusal::unsupported("the field is not known"));
        }
    }

    fn refuse(&mut self, field: &str, Refusal { reason, message }: Refusal) {
        self.refused = true;
        let message = format!("{message}; {}", self.effect());
        self.problems.push(problem("AuthorizationPolicy", self.meta, field, reason, message));
    }

    /// What is no mistake, as another port of the same service may use it.
    fn pass_over(&mut self, field: &str, why: &str) {
        self.refused = true;
        let message = format!("{why}; {}", self.effect());
        let found = problem("AuthorizationPolicy", self.meta, field, "UnsupportedValue", message);
        self.problems.push(Diagnostic { severity: Severity::Warning, ..found });
    }

    fn effect(&self) -> &'static str {
        match self.action {
            Action::Allow => "the rule allows nothing",
            Action::Deny | Action::Audit | Action::Custom => "the rule applies without this condition",
        }
    }
}

type Values<'a> = (&'a str, &'a [Arc<str>]);

/// All of `shared`, with all of one of `alternatives` if there are any.
fn alternatives<N: Node>(alternatives: Vec<Vec<N>>, shared: &[N]) -> Vec<N> {
    let alternatives = if alternatives.is_empty() { vec![Vec::new()] } else { alternatives };
    let whole = alternatives.into_iter().map(|mut nodes| {
        nodes.extend_from_slice(shared);
        N::and(if nodes.is_empty() { vec![N::any()] } else { nodes })
    });
    whole.collect()
}

/// Matches the address that the connection comes from.
fn address_node(request: &Request<'_>, range: CidrRange) -> Result<Principal, Refusal> {
    let identifier = match (request.identity, request.knows_address) {
        (Identity::Certificate | Identity::Unverified, _) => Identifier::DirectRemoteIp(range),
        (Identity::FilterState, true) => {
            let CidrRange { address_prefix, prefix_len } = range;
            let ranges = vec![StateRange { address_prefix, prefix_len }];
            let matcher = StateMatcher::AddressMatch(AddressMatcher { ranges, ..Default::default() });
            Identifier::FilterState(FilterStateMatcher { key: PEER_ADDRESS.into(), matcher: Some(matcher) })
        }
        (Identity::FilterState, false) => {
            return Err(Refusal::unsupported("the proxy cannot tell where a caller is"));
        }
    };
    Ok(identifier.into_node())
}

fn principal_node(identity: Identity, matcher: StringMatcher) -> Principal {
    let identifier = match identity {
        Identity::Certificate | Identity::Unverified => {
            Identifier::Authenticated(Authenticated { principal_name: Some(matcher) })
        }
        Identity::FilterState => Identifier::FilterState(FilterStateMatcher {
            key: PEER_PRINCIPAL.into(),
            matcher: Some(StateMatcher::StringMatch(matcher)),
        }),
    };
    identifier.into_node()
}

fn issued(issuer: StringMatcher, subject: StringMatcher) -> Principal {
    Principal::and(vec![claim(&["iss"], matcher::text(issuer)), claim(&["sub"], matcher::text(subject))])
}

fn claim(path: &[&str], value: ValueMatcher) -> Principal {
    let path: Vec<_> = [JWT_PAYLOAD].iter().chain(path).copied().collect();
    identified_metadata(matcher::metadata(JWT_FILTER, &path, value)).into_node()
}

#[expect(deprecated, reason = "its successor is not known to the proxies of older Istio releases")]
fn identified_metadata(matcher: MetadataMatcher) -> Identifier {
    Identifier::Metadata(matcher)
}

#[expect(deprecated, reason = "its successor is not known to the proxies of older Istio releases")]
fn permits_metadata(matcher: MetadataMatcher) -> Permits {
    Permits::Metadata(matcher)
}
