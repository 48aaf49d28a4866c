//! Which DestinationRule counts for a client and a host, and what it says
//! about a port and a subset.
//! <https://istio.io/latest/docs/reference/config/networking/destination-rule/>

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::api::ObjectKey;
use crate::api::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, DestinationRule, LoadBalancerSettings, OutlierDetection, ProxyProtocol,
    RetryBudget, Subset, TrafficPolicy,
};
use crate::graph::{Collection, Ctx, Graph};

use super::Scope;
use super::backend_tls::{self, BackendTls};
use super::by_host::{ByHost, covers, exported};
use super::service::{Service, ServiceKey};

/// The rules, by where they are and what they are for.
#[derive(Clone, Copy)]
pub struct DestinationRules {
    by_host: ByHost<DestinationRule>,
    /// TLS that services ask for, where rules do not say anything of it.
    pub backend_tls: BackendTls,
    services: Collection<ServiceKey, Arc<Service>>,
}

/// Who opens the connections.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its namespace.
    pub namespace: &'a Arc<str>,
    /// The labels of its pod, which rules may select it by.
    pub labels: &'a [(Arc<str>, Arc<str>)],
}

/// What counts for a client and a host: one rule, or several of one host put
/// together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// For all traffic to the host.
    pub policy: Option<TrafficPolicy>,
    /// Parts of the host's endpoints.
    pub subsets: Vec<Subset>,
    /// TLS, where neither of these says anything of it: by port, and last for
    /// all ports.
    pub backend_tls: Vec<(Option<u16>, ClientTlsSettings)>,
    /// The first of the rules it comes from.
    pub origin: Option<ObjectKey>,
}

/// The policy for one port and subset.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Policy<'a> {
    /// How endpoints are chosen.
    pub load_balancer: Option<&'a LoadBalancerSettings>,
    /// Limits and times of connections.
    pub connection_pool: Option<&'a ConnectionPoolSettings>,
    /// When an endpoint is taken out.
    pub outlier_detection: Option<&'a OutlierDetection>,
    /// TLS of the connections.
    pub tls: Option<&'a ClientTlsSettings>,
    /// What precedes a connection.
    pub proxy_protocol: Option<&'a ProxyProtocol>,
    /// How much may be retried.
    pub retry_budget: Option<&'a RetryBudget>,
}

/// Declares the index.
pub(super) fn destination_rules(
    graph: &mut Graph,
    scope: &Scope,
    services: Collection<ServiceKey, Arc<Service>>,
) -> DestinationRules {
    let rules = scope.inputs.destination_rules;
    let domain = &scope.settings.domain;
    DestinationRules {
        by_host: ByHost::new(graph, rules, domain, |rule: &DestinationRule| std::slice::from_ref(&rule.spec.host)),
        backend_tls: backend_tls::backend_tls(graph, scope),
        services,
    }
}

impl DestinationRules {
    /// What counts for a client. Its own namespace comes first, then that of
    /// the service, then the root namespace.
    pub fn rule(&self, cx: &Ctx<'_>, scope: &Scope, client: Client<'_>, service: &ServiceKey) -> Option<Rule> {
        let mesh = scope.mesh(cx);
        let (own, root) = (client.namespace, &mesh.root_namespace);
        let default = &*mesh.default_destination_rule_export_to;
        let everybody = |place: &Arc<str>, rule: &DestinationRule| exported(&rule.spec.export_to, default, place, own);
        // Rules of the root namespace are for everybody, not for clients that
        // happen to be there, unless they say that they are.
        let here = |rule: &DestinationRule| match own == root {
            true => private(rule, default),
            false => private(rule, default) || everybody(own, rule),
        };
        let rule = self.in_namespace(cx, scope, own, client, service, here);
        let rule = rule.or_else(|| {
            let place = &service.namespace;
            self.in_namespace(cx, scope, place, client, service, |rule| everybody(place, rule))
        });
        let rule = rule.or_else(|| self.in_namespace(cx, scope, root, client, service, |rule| everybody(root, rule)));
        let backend_tls = match cx.get(self.services, service) {
            Some(service) => self.backend_tls.of_service(cx, scope, service),
            None => Vec::new(),
        };
        match backend_tls.is_empty() {
            true => rule,
            false => Some(Rule { backend_tls, ..rule.unwrap_or_default() }),
        }
    }

    /// Whether a rule in a namespace gives some of its clients, which it selects
    /// by labels, a subset of a service.
    pub fn gives_some(&self, cx: &Ctx<'_>, namespace: &Arc<str>, service: &ServiceKey, subset: &str) -> bool {
        let wide =
            self.by_host.wide(cx, namespace).into_iter().filter(|rule| covers(&rule.spec.host, &service.hostname));
        let mut rules = self.by_host.exact(cx, namespace, &service.hostname).into_iter().chain(wide);
        rules.any(|rule| {
            rule.spec.workload_selector.is_some()
                && rule.spec.subsets.iter().any(|one| one.is_known() && &*one.name == subset)
        })
    }

    fn in_namespace(
        &self,
        cx: &Ctx<'_>,
        scope: &Scope,
        place: &Arc<str>,
        client: Client<'_>,
        service: &ServiceKey,
        visible: impl Fn(&DestinationRule) -> bool,
    ) -> Option<Rule> {
        let visible =
            |rule: &&DestinationRule| scope.configures(cx, &rule.meta) && selected(rule, client) && visible(rule);
        let mut rules = self.by_host.exact(cx, place, &service.hostname);
        rules.retain(visible);
        if rules.is_empty() {
            rules = self.by_host.wide(cx, place);
            rules.retain(|rule| visible(rule) && covers(&rule.spec.host, &service.hostname));
            let longest = rules.iter().map(|rule| rule.spec.host.len()).max()?;
            rules.retain(|rule| rule.spec.host.len() == longest);
        }
        merged(alike(rules))
    }
}

/// Whether a rule is for its own namespace alone: it says so, or it is for
/// certain clients, which are always there.
fn private(rule: &DestinationRule, default: &[Arc<str>]) -> bool {
    let DestinationRule { meta, spec, .. } = rule;
    let export_to = if spec.export_to.is_empty() { default } else { &*spec.export_to };
    spec.workload_selector.is_some()
        || (!export_to.is_empty() && export_to.iter().all(|entry| &**entry == "." || *entry == meta.namespace))
}

/// Whether a rule is for a client: it selects it in the rule's namespace, or
/// selects nobody.
fn selected(rule: &DestinationRule, client: Client<'_>) -> bool {
    let Some(selector) = &rule.spec.workload_selector else { return true };
    let has = |key: &str, value: &str| client.labels.iter().any(|(name, own)| &**name == key && &**own == value);
    rule.meta.namespace == *client.namespace && selector.match_labels.iter().all(|(key, value)| has(key, value))
}

/// Of the rules for one host that are for a client, those that are put
/// together. Those that select it come before those that select nobody; rules
/// that select different clients, or are seen from different namespaces, stand
/// by themselves. Of several such, the one of those that select counts that is
/// the oldest, else the newest, as in Istio.
fn alike(mut rules: Vec<&DestinationRule>) -> Vec<&DestinationRule> {
    rules.sort_by_key(|rule| (rule.meta.created, rule.meta.name.clone(), rule.meta.namespace.clone()));
    if let Some(first) = rules.iter().copied().find(|rule| rule.spec.workload_selector.is_some()) {
        rules.retain(|rule| rule.spec.workload_selector == first.spec.workload_selector);
        return rules;
    }
    let export_to = |rule: &DestinationRule| {
        let mut names = rule.spec.export_to.to_vec();
        names.sort_unstable();
        names.dedup();
        names
    };
    let mut lists: Vec<_> = Vec::new();
    for list in rules.iter().map(|rule| export_to(rule)) {
        if !lists.contains(&list) {
            lists.push(list);
        }
    }
    rules.retain(|rule| lists.last().is_some_and(|list| *list == export_to(rule)));
    rules
}

/// Rules of one host: the oldest counts, later ones add subsets, and a policy
/// if there is none yet.
fn merged(mut rules: Vec<&DestinationRule>) -> Option<Rule> {
    rules.sort_by_key(|rule| (rule.meta.created, rule.meta.name.clone(), rule.meta.namespace.clone()));
    let mut whole = Rule { origin: Some(rules.first()?.meta.key()), ..Rule::default() };
    for rule in rules {
        if whole.policy.is_none() {
            whole.policy.clone_from(&rule.spec.traffic_policy);
        }
        for subset in rule.spec.subsets.iter().filter(|subset| subset.is_known()) {
            if whole.subsets.iter().all(|known| known.name != subset.name) {
                whole.subsets.push(subset.clone());
            }
        }
    }
    Some(whole)
}

impl Rule {
    /// A subset by its name.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| &*subset.name == name)
    }

    /// What it says about a port, for a subset or (if that is empty) for all.
    /// Settings of a port replace those of the policy as a whole; each setting
    /// of a subset replaces the host's.
    pub fn policy(&self, port: u16, subset: &str) -> Policy<'_> {
        let mut policy = Policy::default();
        if let Some(whole) = &self.policy {
            policy.apply(whole, port);
        }
        if let Some(own) = self.subset(subset).and_then(|subset| subset.traffic_policy.as_ref()) {
            policy.apply(own, port);
        }
        let of_port = |(only, _): &&(Option<u16>, ClientTlsSettings)| only.is_none_or(|only| only == port);
        policy.tls = policy.tls.or_else(|| self.backend_tls.iter().find(of_port).map(|(_, tls)| tls));
        policy
    }
}

impl<'a> Policy<'a> {
    /// Whether connections go to the address they were for, so that there are
    /// no endpoints to choose from.
    pub fn passthrough(&self) -> bool {
        self.load_balancer
            .is_some_and(|settings| settings.consistent_hash.is_none() && &*settings.simple == "PASSTHROUGH")
    }

    fn apply(&mut self, policy: &'a TrafficPolicy, port: u16) {
        fn set<'a, T>(setting: &mut Option<&'a T>, to: &'a Option<T>) {
            if to.is_some() {
                *setting = to.as_ref();
            }
        }
        set(&mut self.load_balancer, &policy.load_balancer);
        set(&mut self.connection_pool, &policy.connection_pool);
        set(&mut self.outlier_detection, &policy.outlier_detection);
        set(&mut self.tls, &policy.tls);
        set(&mut self.proxy_protocol, &policy.proxy_protocol);
        set(&mut self.retry_budget, &policy.retry_budget);
        let of_port = policy.port_level_settings.iter();
        let mut of_port = of_port.filter(|one| one.port.as_ref().is_some_and(|one| one.number == u32::from(port)));
        if let Some(own) = of_port.next() {
            self.load_balancer = own.load_balancer.as_ref();
            self.connection_pool = own.connection_pool.as_ref();
            self.outlier_detection = own.outlier_detection.as_ref();
            self.tls = own.tls.as_ref();
        }
    }
}
