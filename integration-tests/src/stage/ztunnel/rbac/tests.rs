use std::net::Ipv4Addr;

use fairway_proto::security::string_match::MatchType;
use fairway_proto::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch};
use fairway_proto::workload::Workload;

use super::{Connection, allowed};
use crate::ztunnel::table::Table;

fn check(action: Action, matches: &[&[Match]], peer: Option<&str>) -> bool {
    let clauses = matches.iter().map(|matches| Clause { matches: matches.to_vec() }).collect();
    let policy = Authorization {
        name: "p".into(),
        namespace: "n".into(),
        scope: Scope::WorkloadSelector as i32,
        action: action as i32,
        rules: vec![Rule { clauses }],
        ..Authorization::default()
    };
    let mut table = Table::default();
    table.policies.insert("n/p".into(), policy);
    let workload =
        Workload { namespace: "n".into(), authorization_policies: vec!["n/p".into()], ..Workload::default() };
    let destination = ([10, 0, 0, 1], 80).into();
    allowed(&table, &workload, &Connection { peer, source: Ipv4Addr::new(10, 0, 0, 2), destination }).is_ok()
}

fn principal(exact: &str) -> StringMatch {
    StringMatch { match_type: Some(MatchType::Exact(exact.into())) }
}

const SLEEP: &str = "spiffe://cluster.local/ns/default/sa/sleep";

#[test]
fn only_principals_that_are_named() {
    let sleep = [Match { principals: vec![principal("cluster.local/ns/default/sa/sleep")], ..Match::default() }];
    assert!(check(Action::Allow, &[&sleep], Some(SLEEP)));
    assert!(!check(Action::Allow, &[&sleep], Some("spiffe://cluster.local/ns/default/sa/notsleep")));
    assert!(!check(Action::Allow, &[&sleep], None));
    assert!(!check(Action::Deny, &[&sleep], Some(SLEEP)));
    assert!(check(Action::Deny, &[&sleep], None));
}

#[test]
fn strict_refuses_whoever_has_no_identity() {
    let anybody = StringMatch { match_type: Some(MatchType::Presence(())) };
    let nobody = [Match { not_principals: vec![anybody], ..Match::default() }];
    assert!(!check(Action::Deny, &[&nobody], None));
    assert!(check(Action::Deny, &[&nobody], Some(SLEEP)));
}

#[test]
fn clauses_add_up_and_an_empty_match_is_none() {
    let port = [Match { destination_ports: vec![80], ..Match::default() }];
    let other = [Match { destination_ports: vec![81], ..Match::default() }];
    assert!(check(Action::Allow, &[&port, &[]], None));
    assert!(!check(Action::Allow, &[&port, &other], None));
    assert!(!check(Action::Allow, &[&port, &[Match::default()]], None));
    assert!(check(Action::Allow, &[], None), "a rule without clauses is for everything");
}
