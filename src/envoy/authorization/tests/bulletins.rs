//! Bulletins of Istio about policies that meant something else than they said.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::evaluator::{Call, run};
use super::*;

fn call(peer: &str, host: &str) -> Call {
    let address = "10.0.0.1".parse().unwrap();
    Call {
        peer: Some(peer.into()),
        source: address,
        remote: address,
        destination: address,
        port: 80,
        sni: String::new(),
        headers: [(":method", "GET"), (":path", "/"), (":authority", host)]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        claims: None,
        metadata: json!({}),
    }
}

/// Whether a policy with one rule refuses a call, of HTTP or of TCP.
fn refused(tcp: bool, identity: Identity, action: &str, rule: &Value, call: &Call) -> bool {
    let policy =
        json!({ "metadata": { "name": "p", "namespace": "ns" }, "spec": { "action": action, "rules": [rule] } });
    let policy: AuthorizationPolicy = serde_json::from_value(policy).unwrap();
    let request = Request {
        trust_domains: &["new".into(), "old".into()],
        identity,
        knows_address: true,
        providers: &[],
        cluster: &|_, _| None,
    };
    let filters = if tcp { network(&request, &[&policy]).0 } else { http(&request, &[&policy]).0 };
    run(&filters, call).refused
}

fn from(field: &str, value: &str) -> Value {
    json!({ "from": [{ "source": { field: [value] } }] })
}

/// A suffix became `spiffe:///…`, which no identity has, so that a DENY for
/// connections had no effect.
#[test]
fn cve_2020_16844_suffixes_in_denials_of_connections_have_an_effect() {
    let evil = call("spiffe://new/ns/x/sa/evil", "");
    let good = call("spiffe://new/ns/x/sa/good", "");
    for identity in [Identity::FilterState, Identity::Certificate] {
        for value in ["*/sa/evil", "*evil", "*/ns/x/sa/evil", "new/ns/x/sa/evil", "new/ns/x/sa/ev*"] {
            for tcp in [true, false] {
                assert!(refused(tcp, identity, "DENY", &from("principals", value), &evil), "{value} {tcp}");
                assert!(!refused(tcp, identity, "DENY", &from("principals", value), &good), "{value} {tcp}");
            }
        }
    }
}

/// Hosts are the same in any case, and one with a port is another one only to
/// those who say so.
#[test]
fn cve_2021_39155_hosts_are_compared_in_any_case() {
    let rule = |hosts: Value| json!({ "to": [{ "operation": { "hosts": hosts } }] });
    let denied = |hosts: Value, host: &str| {
        refused(false, Identity::Certificate, "DENY", &rule(hosts), &call("spiffe://new/ns/x/sa/y", host))
    };
    for host in ["shop.com", "SHOP.com", "Shop.Com"] {
        for hosts in [json!(["shop.com"]), json!(["Shop.COM"]), json!(["*.COM"]), json!(["SHOP.*"])] {
            assert!(denied(hosts.clone(), host), "{hosts} {host}");
        }
    }
    assert!(!denied(json!(["shop.com"]), "other.com"));
    assert!(denied(json!(["shop.com", "shop.com:*"]), "SHOP.com:8080"));
}

/// A name of what may be in an identity, most of it with a meaning in regular
/// expressions.
fn name() -> impl Strategy<Value = String> {
    "[ab.?+()\\[\\]{}|^$\\\\-]{1,8}"
}

/// The same name, or one that an expression of it might match.
fn alike() -> impl Strategy<Value = (String, String)> {
    (name(), name(), 0..4u8).prop_map(|(name, other, dice)| {
        let other = match dice {
            0 => name.clone(),
            1 => name.replace(|c: char| !c.is_ascii_alphabetic(), "a"),
            2 => name.replace(|c: char| !c.is_ascii_alphabetic(), ""),
            _ => other,
        };
        (name, if other.is_empty() { "a".into() } else { other })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Names that are legal had a meaning in the expressions that they became a
    /// part of, and so stood for others.
    #[test]
    fn cve_2026_39350_names_stand_for_themselves((name, other) in alike(), tcp in prop::bool::ANY) {
        let of = |domain: &str, namespace: &str, account: &str| format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        let fields = [
            ("serviceAccounts", format!("x/{name}"), of("third", "x", &other)),
            ("serviceAccounts", format!("{name}/x"), of("third", &other, "x")),
            ("namespaces", name.clone(), of("third", &other, "x")),
            ("principals", format!("third/ns/x/sa/{name}"), of("third", "x", &other)),
            ("principals", format!("*/sa/{name}"), of("third", "x", &other)),
            ("principals", format!("third/ns/{name}/*"), of("third", &other, "x")),
            ("trustDomains", name.clone(), of(&other, "x", "x")),
            ("trustDomains", format!("*.{name}"), of(&format!("sub.{other}"), "x", "x")),
        ];
        for (field, value, peer) in fields {
            // What is short may be the end of another.
            let same = if value.starts_with("*.") { format!("sub.{other}").ends_with(&value[1..]) } else { name == other };
            for identity in [Identity::FilterState, Identity::Certificate] {
                let rule = from(field, &value);
                let call = call(&peer, "");
                prop_assert_eq!(refused(tcp, identity, "DENY", &rule, &call), same, "DENY {} {} {}", field, value, &peer);
                prop_assert_eq!(refused(tcp, identity, "ALLOW", &rule, &call), !same, "ALLOW {} {} {}", field, value, &peer);
            }
        }
    }
}
