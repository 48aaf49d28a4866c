//! Preferences as tables: where endpoints are, and in which order they come.

use super::*;
use crate::api::destination_rule::DestinationRuleSpec;
use crate::model::destination_rule::Rule;
use crate::model::endpoint::Address;

/// A proxy in `eu/eu-1/rack` on the node `near` with these labels.
fn place(labels: &[(&str, &str)]) -> Place {
    Place {
        region: "eu".into(),
        zone: "eu-1".into(),
        subzone: "rack".into(),
        node: "near".into(),
        labels: labels.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect(),
    }
}

/// An endpoint as `locality NODE LABEL=VALUE...`, the latter two if there are
/// any.
fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split(' ');
    let locality = Locality::parse(words.next().unwrap());
    let node = words.next().unwrap_or_default();
    Endpoint {
        address: Address::Ips(vec![]),
        ports: vec![],
        labels: words.filter_map(|label| label.split_once('=')).collect(),
        healthy: true,
        draining: false,
        hbone: false,
        locality,
        node: node.into(),
        network: if text.contains("far-network") { "far".into() } else { "".into() },
        weight: 1,
        namespace: "ns".into(),
        name: text.into(),
        workload: text.into(),
    }
}

/// The priority and weight that each locality has, or each part of one.
#[track_caller]
fn check(preference: &Preference<'_>, labels: &[(&str, &str)], endpoints: &[&str], wanted: &[(&str, u32, u32)]) {
    let endpoints: Vec<_> = endpoints.iter().map(|text| endpoint(text)).collect();
    let mut by_locality: std::collections::BTreeMap<&Locality, Vec<_>> = Default::default();
    for one in &endpoints {
        by_locality.entry(&one.locality).or_default().push((one, LbEndpoint::default()));
    }
    let groups = by_locality.into_iter().map(|(locality, endpoints)| Group::new(locality, endpoints)).collect();
    let found = arranged(groups, preference, &place(labels));
    let names = |group: &Group<'_>| {
        let names: Vec<_> = group.endpoints.iter().map(|(endpoint, _)| &*endpoint.name).collect();
        names.join(", ")
    };
    let found: Vec<_> = found.iter().map(|group| (names(group), group.priority, group.weight)).collect();
    let found: Vec<_> = found.iter().map(|(name, priority, weight)| (&**name, *priority, *weight)).collect();
    assert_eq!(found, wanted);
}

fn order<'a>(labels: &[&'a str], regions: Option<&'a [Failover]>) -> Preference<'a> {
    Preference::Order { labels: labels.to_vec(), regions }
}

#[test]
fn the_nearer_the_better_without_gaps() {
    let all = ["eu/eu-1/rack", "eu/eu-1/other", "eu/eu-2", "us/us-1"];
    check(
        &order(&[], Some(&[])),
        &[],
        &all,
        &[("eu/eu-1/other", 1, 1), ("eu/eu-1/rack", 0, 1), ("eu/eu-2", 2, 1), ("us/us-1", 3, 1)],
    );
    check(&order(&[], Some(&[])), &[], &["eu/eu-2", "us/us-1"], &[("eu/eu-2", 0, 1), ("us/us-1", 1, 1)]);
    check(&Preference::None, &[], &all[2..], &[("eu/eu-2", 0, 1), ("us/us-1", 0, 1)]);
}

#[test]
fn a_region_stands_in_for_another() {
    let failover = [Failover { from: "eu".into(), to: "us".into() }, Failover { from: "asia".into(), to: "eu".into() }];
    check(
        &order(&[], Some(&failover)),
        &[],
        &["asia/a", "eu/eu-2", "us/us-1"],
        &[("asia/a", 2, 1), ("eu/eu-2", 0, 1), ("us/us-1", 1, 1)],
    );
}

#[test]
fn labels_count_up_to_the_first_difference() {
    let preference = order(&["app", "version"], None);
    check(
        &preference,
        &[("app", "a"), ("version", "v1")],
        &["eu n app=a version=v1", "eu n app=a version=v2", "eu n app=b version=v1", "us n app=a version=v1"],
        &[
            ("eu n app=a version=v1", 0, 1),
            ("eu n app=a version=v2", 1, 1),
            ("eu n app=b version=v1", 2, 1),
            ("us n app=a version=v1", 0, 1),
        ],
    );
    // A value in the preference stands for the proxy's own.
    check(
        &order(&["version=v2"], None),
        &[("version", "v1")],
        &["eu n version=v1", "eu n version=v2"],
        &[("eu n version=v2", 0, 1), ("eu n version=v1", 1, 1)],
    );
}

#[test]
fn a_service_prefers_its_network_its_region_its_zone_and_its_node() {
    let near = [NETWORK, REGION, ZONE, SUBZONE, HOSTNAME];
    let endpoints =
        ["eu/eu-1/rack near", "eu/eu-1/rack other", "eu/eu-2 n", "eu/eu-1/rack near far-network=1", "us/us-1 n"];
    check(
        &order(&near, None),
        &[],
        &endpoints,
        &[
            ("eu/eu-1/rack near", 0, 1),
            ("eu/eu-1/rack other", 1, 1),
            ("eu/eu-1/rack near far-network=1", 4, 1),
            ("eu/eu-2 n", 2, 1),
            ("us/us-1 n", 3, 1),
        ],
    );
    // All of the zone are equal.
    check(
        &order(&near[..3], None),
        &[],
        &endpoints[..3],
        &[("eu/eu-1/rack near, eu/eu-1/rack other", 0, 2), ("eu/eu-2 n", 1, 1)],
    );
}

#[test]
fn labels_and_regions_together() {
    let failover = [Failover { from: "eu".into(), to: "us".into() }];
    check(
        &order(&["app"], Some(&failover)),
        &[("app", "a")],
        &["asia n app=a", "us n app=a", "eu/eu-1/rack n app=b"],
        &[("asia n app=a", 1, 1), ("eu/eu-1/rack n app=b", 2, 1), ("us n app=a", 0, 1)],
    );
}

fn shares(from: &str, to: &[(&str, u32)]) -> Distribute {
    Distribute { from: from.into(), to: to.iter().map(|(locality, share)| (Arc::from(*locality), *share)).collect() }
}

#[test]
fn shares_are_divided_among_the_localities_they_are_for() {
    let distribute = [shares("us", &[("us", 100)]), shares("eu/eu-1/*", &[("eu/*", 70), ("us/*", 30)])];
    check(
        &Preference::Shares(&distribute),
        &[],
        &["eu/eu-1 a", "eu/eu-1 b", "eu/eu-2 c", "us/us-1 d", "asia/a e"],
        &[("eu/eu-1 a, eu/eu-1 b", 0, 47), ("eu/eu-2 c", 0, 24), ("us/us-1 d", 0, 30)],
    );
    // Where nothing is set for the proxy's place, all stays as it is.
    check(&Preference::Shares(&distribute[..1]), &[], &["eu a", "us b"], &[("eu a", 0, 1), ("us b", 0, 1)]);
}

#[test]
fn who_is_named_closely_counts_as_that() {
    let distribute = [shares("*", &[("eu/*", 10), ("eu/eu-1/rack", 90), ("us", 0)])];
    check(
        &Preference::Shares(&distribute),
        &[],
        &["eu/eu-1/rack a", "eu/eu-2 b", "us c"],
        &[("eu/eu-1/rack a", 0, 90), ("eu/eu-2 b", 0, 10)],
    );
}

/// The preference that follows from a rule, a service's distribution and the
/// mesh.
fn preference(rule: &str, distribution: Distribution, mesh: &str) -> String {
    let spec: DestinationRuleSpec = serde_json::from_str(rule).unwrap();
    let rule = Rule { policy: spec.traffic_policy, ..Rule::default() };
    let mesh = MeshConfig::from_yaml(mesh).unwrap();
    let service = crate::model::service::Service {
        registry: crate::model::service::Registry::Kubernetes,
        meta: Default::default(),
        key: crate::model::service::ServiceKey { namespace: "ns".into(), hostname: "h".into() },
        addresses: vec![],
        ports: vec![],
        selector: Default::default(),
        resolution: crate::model::service::Resolution::Static,
        external: false,
        subject_alt_names: Default::default(),
        distribution,
        all_endpoints: false,
        families: Default::default(),
        export_to: Default::default(),
    };
    let preference = Preference::of(&rule.policy(80, ""), &service, &mesh);
    let what = match &preference {
        Preference::None => "none".into(),
        Preference::Shares(_) => "shares".into(),
        Preference::Order { labels, regions } => format!("{} labels, regions {}", labels.len(), regions.is_some()),
    };
    format!("{what}, weighted {}", preference.weighted())
}

#[test]
fn a_rule_comes_before_a_service_and_that_before_the_mesh() {
    let outlier = r#""outlierDetection": {"consecutive5xxErrors": 1}"#;
    let rule = |policy: &str| format!(r#"{{"host": "h", "trafficPolicy": {{{policy}}}}}"#);
    let locality =
        |setting: &str| rule(&format!(r#"{outlier}, "loadBalancer": {{"localityLbSetting": {{{setting}}}}}"#));
    let of = |rule: &str| preference(rule, Distribution::Any, "");
    assert_eq!(of(r#"{"host": "h"}"#), "none, weighted false");
    assert_eq!(of(&rule(outlier)), "0 labels, regions true, weighted false");
    assert_eq!(of(&locality(r#""enabled": false"#)), "none, weighted false");
    assert_eq!(of(&locality(r#""failover": [{"from": "a", "to": "b"}]"#)), "0 labels, regions true, weighted true");
    assert_eq!(of(&locality(r#""failoverPriority": ["a"]"#)), "1 labels, regions false, weighted true");
    let shares = r#""distribute": [{"from": "a", "to": {"b": 100}}]"#;
    assert_eq!(of(&locality(shares)), "shares, weighted true");
    let unwatched = rule(r#""loadBalancer": {"localityLbSetting": {"failoverPriority": ["a"]}}"#);
    assert_eq!(of(&unwatched), "none, weighted false");
    assert_eq!(of(&rule(r#""loadBalancer": {"zoneAwareLbSetting": {}}"#)), "none, weighted false");

    let near = Distribution::PreferSameZone;
    assert_eq!(preference(r#"{"host": "h"}"#, near, ""), "3 labels, regions false, weighted true");
    assert_eq!(preference(&locality(shares), near, ""), "shares, weighted true");
    let node = Distribution::PreferSameNode;
    let off = "localityLbSetting: {enabled: false}";
    assert_eq!(preference(&rule(outlier), node, off), "5 labels, regions false, weighted true");
    assert_eq!(preference(&rule(outlier), Distribution::Any, off), "none, weighted false");
    let mesh = "localityLbSetting: {distribute: [{from: a, to: {b: 100}}]}";
    assert_eq!(preference(r#"{"host": "h"}"#, Distribution::Any, mesh), "shares, weighted true");
    let watched = "defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}}";
    assert_eq!(preference(r#"{"host": "h"}"#, Distribution::Any, watched), "0 labels, regions true, weighted false");
}
