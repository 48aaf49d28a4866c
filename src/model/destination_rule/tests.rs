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
