use super::super::by_host::resolve;
use super::*;

fn rules(specs: &[&str]) -> Vec<DestinationRule> {
    let one = |(at, spec): (usize, &&str)| {
        let mut rule = DestinationRule::default();
        rule.meta.name = format!("rule-{at}").into();
        rule.meta.created = at as u32;
        rule.spec = serde_json::from_str(spec).unwrap();
        rule
    };
    specs.iter().enumerate().map(one).collect()
}

fn merge(specs: &[&str]) -> Rule {
    let rules = rules(specs);
    // The order in which they are found does not matter.
    let backwards = merged(rules.iter().rev().collect()).unwrap();
    assert_eq!(merged(rules.iter().collect()).unwrap(), backwards);
    backwards
}

#[test]
fn hosts_are_resolved_beside_the_object() {
    let resolved = |host: &str| resolve(&host.into(), "ns", "cluster.local").to_string();
    assert_eq!(resolved("reviews"), "reviews.ns.svc.cluster.local");
    assert_eq!(resolved("reviews.other"), "reviews.other");
    assert_eq!(resolved("*.example.com"), "*.example.com");
    assert_eq!((resolved("*"), resolved("")), ("*".into(), "".into()));
}

#[test]
fn wildcards_cover_what_is_longer() {
    assert!(covers("*.example.com", "a.example.com") && covers("*", "a") && covers("a", "a"));
    assert!(!covers("*.example.com", ".example.com") && !covers("a", "b") && !covers("*.com", "com"));
}

#[test]
fn export_to_says_who_sees_it() {
    let list = |entries: &[&str]| entries.iter().map(|entry| Arc::from(*entry)).collect::<Vec<_>>();
    assert!(exported(&[], &[], "a", "b"));
    assert!(!exported(&[], &list(&["."]), "a", "b") && exported(&[], &list(&["."]), "a", "a"));
    assert!(exported(&list(&["b"]), &[], "a", "b") && !exported(&list(&["c"]), &[], "a", "b"));
    assert!(!exported(&list(&["~"]), &[], "a", "a") && exported(&list(&["~", "*"]), &[], "a", "b"));
}

#[test]
fn the_oldest_rule_counts_and_later_ones_add_subsets() {
    let rule = merge(&[
        r#"{"host": "h", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]}"#,
        r#"{"host": "h", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}},
            "subsets": [{"name": "v1", "labels": {"version": "other"}}, {"name": "v2", "labels": {"version": "v2"}}]}"#,
        r#"{"host": "h", "trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}}"#,
    ]);
    assert_eq!(rule.origin.as_ref().unwrap().name, "rule-0".into());
    assert_eq!(rule.subsets.iter().map(|subset| &*subset.name).collect::<Vec<_>>(), ["v1", "v2"]);
    assert_eq!(rule.subset("v1").unwrap().labels.get("version"), Some("v1"));
    assert_eq!(&*rule.policy(80, "").load_balancer.unwrap().simple, "RANDOM");
}

#[test]
fn ports_replace_and_subsets_refine() {
    let rule = merge(&[r#"{"host": "h",
        "trafficPolicy": {
            "loadBalancer": {"simple": "RANDOM"},
            "outlierDetection": {"consecutive5xxErrors": 3},
            "portLevelSettings": [{"port": {"number": 90}, "loadBalancer": {"simple": "ROUND_ROBIN"}}]},
        "subsets": [
            {"name": "v1", "trafficPolicy": {"loadBalancer": {"simple": "PASSTHROUGH"}}},
            {"name": "v2", "trafficPolicy": {"portLevelSettings": [
                {"port": {"number": 80}, "outlierDetection": {"consecutive5xxErrors": 9}}]}}]}"#]);
    let lb = |port, subset| rule.policy(port, subset).load_balancer.map(|lb| lb.simple.to_string());
    let outlier = |port, subset| rule.policy(port, subset).outlier_detection.is_some();
    assert_eq!((lb(80, ""), outlier(80, "")), (Some("RANDOM".into()), true));
    // A port inherits nothing.
    assert_eq!((lb(90, ""), outlier(90, "")), (Some("ROUND_ROBIN".into()), false));
    assert_eq!((lb(80, "v1"), outlier(80, "v1")), (Some("PASSTHROUGH".into()), true));
    assert_eq!((lb(80, "v2"), outlier(80, "v2")), (None, true));
    assert_eq!(rule.policy(80, "unknown"), rule.policy(80, ""));
}

const PROXY: [(&str, &str); 2] = [("app", "proxy"), ("tier", "gold")];

/// The names of the rules that are put together for a proxy of `ns`.
fn together(specs: &[&str]) -> Vec<String> {
    let labels = PROXY.map(|(key, value)| (Arc::from(key), Arc::from(value)));
    let (ns, rules) = (Arc::from("ns"), rules(specs));
    let client = Client { namespace: &ns, labels: &labels };
    let namespaced = |mut rule: DestinationRule| {
        rule.meta.namespace = ns.clone();
        rule
    };
    let rules: Vec<_> = rules.into_iter().map(namespaced).collect();
    let names = |rules: Vec<&DestinationRule>| {
        let for_client = rules.into_iter().filter(|rule| selected(rule, client)).collect();
        alike(for_client).iter().map(|rule| rule.meta.name.to_string()).collect::<Vec<_>>()
    };
    let forwards = names(rules.iter().collect());
    assert_eq!(forwards, names(rules.iter().rev().collect()), "the order in which they are found does not matter");
    forwards
}

#[test]
fn rules_that_select_the_client_come_first() {
    let everybody = r#"{"host": "h"}"#;
    let gold = r#"{"host": "h", "workloadSelector": {"matchLabels": {"tier": "gold"}}}"#;
    let proxies = r#"{"host": "h", "workloadSelector": {"matchLabels": {"app": "proxy"}}}"#;
    let others = r#"{"host": "h", "workloadSelector": {"matchLabels": {"app": "other"}}}"#;
    assert_eq!(together(&[everybody, others, everybody]), ["rule-0", "rule-2"]);
    assert_eq!(together(&[everybody, others, gold, proxies, gold]), ["rule-2", "rule-4"]);
    assert!(together(&[others]).is_empty());
}

#[test]
fn a_selector_is_for_clients_of_its_own_namespace() {
    let mut rule = rules(&[r#"{"host": "h", "workloadSelector": {}}"#]).remove(0);
    let ns = Arc::from("ns");
    let client = Client { namespace: &ns, labels: &[] };
    assert!(!selected(&rule, client), "the rule is in another namespace");
    rule.meta.namespace = ns.clone();
    assert!(selected(&rule, client), "an empty selector selects all");
}

#[test]
fn rules_that_are_seen_from_different_namespaces_stand_by_themselves() {
    let all = r#"{"host": "h"}"#;
    let (ab, ba) = (r#"{"host": "h", "exportTo": ["a", "b"]}"#, r#"{"host": "h", "exportTo": ["b", "a"]}"#);
    assert_eq!(together(&[all, ab, all, ba]), ["rule-1", "rule-3"]);
    assert_eq!(together(&[ab, all, ba]), ["rule-1"]);
}

#[test]
fn a_private_rule_is_for_its_own_namespace_alone() {
    let check = |spec: &str, default: &[&str]| {
        let mut rule = rules(&[spec]).remove(0);
        rule.meta.namespace = "ns".into();
        private(&rule, &default.iter().map(|entry| Arc::from(*entry)).collect::<Vec<_>>())
    };
    assert!(!check(r#"{"host": "h"}"#, &["*"]) && !check(r#"{"host": "h"}"#, &[]) && check(r#"{"host": "h"}"#, &["."]));
    assert!(check(r#"{"host": "h", "exportTo": [".", "ns"]}"#, &["*"]));
    assert!(!check(r#"{"host": "h", "exportTo": [".", "other"]}"#, &["*"]));
    assert!(check(r#"{"host": "h", "exportTo": ["*"], "workloadSelector": {}}"#, &["*"]));
}
