//! Random policies and calls: what Envoy decides by the filters is what the
//! policies say, and parts without a meaning never let a call pass.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::evaluator::{Call, Verdict, run};
use super::specification::{Reading, decide};
use super::{Arc, AuthorizationPolicy, Identity, Provider, Request, http, network};

const TRUST_DOMAINS: [&str; 2] = ["td1", "td2"];
const CASES: u32 = 1_000;
const CALLS: usize = 6;

/// A field or key, values that mean something, and some that mean nothing.
type Vocabulary = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const SOURCE: &[Vocabulary] = &[
    (
        "principals",
        "notPrincipals",
        &[
            "td1/ns/a/sa/x",
            "cluster.local/ns/a/sa/x",
            "td3/ns/a.b/sa/xy",
            "*/ns/a/sa/x",
            "*1/ns/a/sa/x",
            "td*/ns/a/sa/x",
            "td1/ns/a/sa/x*",
            "td1/ns/a*",
            "*sa/x",
            "*.b/sa/xy",
            "*",
        ],
        &[""],
    ),
    (
        "requestPrincipals",
        "notRequestPrincipals",
        &["https://i/s", "https://i/s/t", "i/*", "*/s", "*s", "*/s/t", "https:*", "https://i/s*", "i/s", "*"],
        &["", "alone"],
    ),
    ("namespaces", "notNamespaces", &["a", "a.b", "a*", "*b", "a*b", "*"], &[""]),
    ("serviceAccounts", "notServiceAccounts", &["x", "a/x", "a.b/xy"], &["", "a/b/c", "x*", "/x"]),
    ("trustDomains", "notTrustDomains", &["td1", "td3", "td*", "*1", "*"], &["", "t*1", "td1/ns", "**"]),
    (
        "ipBlocks",
        "notIpBlocks",
        &["10.0.0.0/8", "10.0.0.1", "fd00::/8"],
        &["", "10.0.0.0/33", "nowhere", "10.0.0.1/+8"],
    ),
    ("remoteIpBlocks", "notRemoteIpBlocks", &["10.0.0.0/8", "1.2.3.4", "0.0.0.0/0"], &["", "1.2.3"]),
];

const OPERATION: &[Vocabulary] = &[
    ("hosts", "notHosts", &["web.a", "WEB.A", "*.a", "web.a:*", "web*", "*"], &[""]),
    ("ports", "notPorts", &["80", "8080"], &["", "+80", "http", "65536"]),
    ("methods", "notMethods", &["GET", "POST", "P*", "*T", "*"], &[""]),
    (
        "paths",
        "notPaths",
        &["/", "/a", "/a/b", "/a*", "*b", "*", "/a/{*}", "/{*}/b", "/{**}", "/a/{**}", "/{**}/c", "/{*}/"],
        &["", "a/{*}", "/{**}/{*}", "/a{*}", "/a//{*}", "/a/{*}x"],
    ),
];

const WHEN: &[Vocabulary] = &[
    ("source.ip", "", &["10.0.0.0/8", "fd00::1"], &["", "x"]),
    ("remote.ip", "", &["10.0.0.0/8", "1.2.3.4"], &["", "x"]),
    ("source.namespace", "", &["a", "*b"], &[""]),
    ("source.serviceAccount", "", &["x", "a.b/xy"], &["*"]),
    ("source.principal", "", &["td2/ns/a/sa/x", "*"], &[""]),
    ("source.trustDomain", "", &["td2", "*"], &["a/b"]),
    ("request.auth.principal", "", &["https://i/s", "*"], &["none"]),
    ("request.auth.audiences", "", &["one", "t*", "*"], &[""]),
    ("request.auth.presenter", "", &["app", "*"], &[""]),
    ("request.auth.claims[groups]", "", &["one", "t*", "*"], &[""]),
    ("request.auth.claims[deep][er]", "", &["one", "two"], &[""]),
    ("request.headers[x-one]", "", &["1", "1*", "*1", "*"], &[""]),
    ("destination.ip", "", &["10.9.0.0/16", "10.9.9.9"], &["", "x"]),
    ("destination.port", "", &["80", "8080"], &["", "-1"]),
    ("connection.sni", "", &["web.a", "*.a", "*"], &[""]),
    ("experimental.envoy.filters.x[k]", "", &["one", "[one]", "[t*]", "*"], &["", "[]"]),
];

/// Keys that name nothing.
const NOTHING: &[&str] = &[
    "",
    "source.moon",
    "request.headers",
    "request.headers[]",
    "request.auth.claims[",
    "experimental.envoy.filters.x",
];

/// Some values of a list, with one that means nothing now and then.
fn values(
    good: &'static [&'static str],
    bad: &'static [&'static str],
    sound: bool,
) -> BoxedStrategy<Vec<&'static str>> {
    let good = prop::collection::vec(select(good), 1..3);
    if sound {
        return good.boxed();
    }
    prop_oneof![
        4 => good.clone(),
        1 => (good, select(bad)).prop_map(|(mut values, bad)| { values.push(bad); values }),
        1 => select(bad).prop_map(|bad| vec![bad]),
    ]
    .boxed()
}

/// An object with one to three of the fields.
fn part(fields: &'static [Vocabulary], sound: bool) -> BoxedStrategy<Value> {
    let field = select(fields).prop_flat_map(move |(yes, no, good, bad)| {
        (prop_oneof![2 => Just(yes), 1 => Just(no)], values(good, bad, sound))
    });
    let least = if sound { 1 } else { 0 };
    (prop::collection::vec(field, least..3), 0..10u8)
        .prop_map(move |(fields, dice)| {
            let mut object = Map::new();
            for (name, values) in fields {
                object.insert(name.into(), json!(values));
            }
            if !sound && dice == 0 {
                object.insert("sinceTomorrow".into(), json!(["x"]));
            }
            Value::Object(object)
        })
        .boxed()
}

fn condition(sound: bool) -> BoxedStrategy<Value> {
    let good = select(WHEN).prop_flat_map(move |(key, _, good, bad)| {
        let lists = (values(good, bad, sound), values(good, bad, sound), 0..if sound { 3 } else { 5u8 });
        lists.prop_map(move |(yes, no, which)| match which {
            0 => json!({"key": key, "values": yes}),
            1 => json!({"key": key, "notValues": no}),
            2 => json!({"key": key, "values": yes, "notValues": no}),
            3 => json!({"key": key, "values": yes, "unless": "tomorrow"}),
            _ => json!({"key": key}),
        })
    });
    if sound {
        return good.boxed();
    }
    let bad = select(NOTHING).prop_map(|key| json!({"key": key, "values": ["x"]}));
    prop_oneof![5 => good, 1 => bad].boxed()
}

fn rule(sound: bool) -> BoxedStrategy<Value> {
    let from = prop::collection::vec(part(SOURCE, sound), 0..3);
    let to = prop::collection::vec(part(OPERATION, sound), 0..3);
    let when = prop::collection::vec(condition(sound), 0..3);
    (from, to, when, 0..12u8)
        .prop_map(move |(from, to, when, dice)| {
            let mut rule = Map::new();
            let from: Vec<_> = from.into_iter().map(|source| json!({ "source": source })).collect();
            let to: Vec<_> = to.into_iter().map(|operation| json!({ "operation": operation })).collect();
            rule.insert("from".into(), json!(from));
            rule.insert("to".into(), json!(to));
            rule.insert("when".into(), json!(when));
            if !sound {
                match dice {
                    0 => rule.insert("whenever".into(), json!("x")),
                    1 => rule.insert("from".into(), json!([{"source": {}, "via": "y"}])),
                    2 => rule.insert("to".into(), json!([{}])),
                    _ => None,
                };
            }
            Value::Object(rule)
        })
        .boxed()
}

fn policies(sound: bool) -> impl Strategy<Value = Vec<Value>> {
    let actions: &[&str] =
        if sound { &["ALLOW", "ALLOW", "DENY", "AUDIT", "CUSTOM"] } else { &["ALLOW", "DENY", "CUSTOM", "PERMIT"] };
    let actions = actions.to_vec();
    let policy =
        (select(actions), prop::collection::vec(rule(sound), 0..3), select(vec!["asked", "asked", "unknown"]), 0..8u8);
    prop::collection::vec(policy, 1..4).prop_map(move |policies| {
        let policies = policies.into_iter().enumerate().map(|(at, (action, rules, provider, dice))| {
            let mut policy = json!({
                "metadata": {"name": format!("p{at}"), "namespace": "a"},
                "spec": {"action": action, "rules": rules},
            });
            if action == "CUSTOM" {
                policy["spec"]["provider"] = json!({ "name": provider });
            }
            match (sound, dice) {
                (true, 0) => policy["metadata"]["annotations"] = json!({"istio.io/dry-run": "true"}),
                (false, 0) => policy["spec"]["besides"] = json!("x"),
                _ => {}
            }
            policy
        });
        policies.collect()
    })
}

fn call() -> impl Strategy<Value = Call> {
    let peer = select(vec![
        None,
        Some("spiffe://td1/ns/a/sa/x"),
        Some("spiffe://td2/ns/a/sa/x"),
        Some("spiffe://td3/ns/a.b/sa/xy"),
        Some("spiffe://cluster.local/ns/a/sa/x"),
        Some("spiffe://td1/ns/aXb/sa/xy"),
        Some("spiffe://td1/ns/ab/sa/y"),
        Some("spiffe://td1/ns/a/sa/x/pod/p"),
    ]);
    let address = || select(vec!["10.0.0.1", "10.9.9.9", "1.2.3.4", "fd00::1"]);
    let addresses = (address(), address(), address());
    let connection = (select(vec![80u32, 8080, 443]), select(vec!["", "web.a", "db.a"]));
    let request = (
        select(vec!["GET", "POST", "PUT"]),
        select(vec!["/", "/a", "/a/b", "/a/b?q=/c", "/x/b/c", "/a/", "/ab"]),
        select(vec!["web.a", "Web.A", "web.a:8080", "db.b"]),
        select(vec![None, Some("1"), Some("12"), Some("21"), Some("")]),
    );
    let claims = select(vec![
        Value::Null,
        json!({"iss": "https://i", "sub": "s", "aud": "one", "azp": "app", "groups": ["one", "two"]}),
        json!({"iss": "https://i", "sub": "s/t", "aud": ["two"], "groups": "three", "deep": {"er": ["one"]}}),
        json!({"iss": "i", "sub": "s", "aud": [1, "one"], "deep": {"er": "two"}}),
        json!({"iss": "https://i"}),
    ]);
    let metadata = select(vec![json!({}), json!({"k": "one"}), json!({"k": ["one", "two"]}), json!({"k": 1})]);
    (peer, addresses, connection, request, claims, metadata).prop_map(
        |(peer, (source, remote, destination), (port, sni), (method, path, host, header), claims, metadata)| {
            let mut headers: Vec<(String, String)> = vec![
                (":method".into(), method.into()),
                (":path".into(), path.into()),
                (":authority".into(), host.into()),
            ];
            headers.extend(header.map(|value| ("X-One".to_string(), value.to_string())));
            Call {
                peer: peer.map(Into::into),
                source: source.parse().unwrap(),
                remote: remote.parse().unwrap(),
                destination: destination.parse().unwrap(),
                port,
                sni: sni.into(),
                headers,
                claims: Some(claims).filter(|claims| !claims.is_null()),
                metadata,
            }
        },
    )
}

fn generated(policies: &[Value], call: &Call, identity: Identity, tcp: bool) -> Verdict {
    let policies: Vec<AuthorizationPolicy> =
        policies.iter().map(|policy| serde_json::from_value(policy.clone()).unwrap()).collect();
    let policies: Vec<_> = policies.iter().collect();
    let trust_domains = TRUST_DOMAINS.map(Arc::<str>::from);
    let providers = [Provider { name: "asked".into(), service: "ask.a".into(), port: 9000, ..Default::default() }];
    let request = Request {
        trust_domains: &trust_domains,
        identity,
        knows_address: true,
        providers: &providers,
        cluster: &|service, port| Some(format!("{service}:{port}")),
    };
    let filters = if tcp { network(&request, &policies).0 } else { http(&request, &policies).0 };
    let mut call = call.clone();
    if tcp {
        call.headers.clear();
        call.claims = None;
    }
    run(&filters, &call)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn filters_decide_what_policies_say(policies in policies(true), calls in prop::collection::vec(call(), CALLS)) {
        for call in calls {
            // Without parts that mean nothing, any number will do.
            let mut reading = reading(0, false);
            let said = decide(&mut reading, &policies, &call);
            for identity in [Identity::FilterState, Identity::Certificate] {
                let verdict = generated(&policies, &call, identity, false);
                prop_assert!(said_of_tokens(&policies) || verdict.refused == said.refused, "{call:?}");
                prop_assert!(said_of_tokens(&policies) || verdict.asked.is_empty() != said.asks, "{call:?}");
            }
        }
    }

    #[test]
    fn what_means_nothing_lets_nothing_pass(
        policies in policies(false),
        calls in prop::collection::vec(call(), CALLS),
        meaning in 0..u64::MAX,
        tcp in prop::bool::ANY,
    ) {
        for call in calls {
            let said = decide(&mut reading(meaning, tcp), &policies, &call);
            let verdict = generated(&policies, &call, Identity::FilterState, tcp);
            prop_assert!(verdict.refused || !said.refused, "{call:?}");
            prop_assert!(verdict.refused || !said.asks || !verdict.asked.is_empty(), "{call:?}");
        }
    }
}

/// Whether a CUSTOM policy speaks of tokens, which are verified later.
fn said_of_tokens(policies: &[Value]) -> bool {
    policies.iter().any(|policy| {
        let text = policy["spec"]["rules"].to_string();
        policy["spec"]["action"] == "CUSTOM" && (text.contains("equestPrincipals") || text.contains("request.auth"))
    })
}

fn reading(meaning: u64, tcp: bool) -> Reading<'static> {
    Reading { trust_domains: &TRUST_DOMAINS, meaning, tcp, before_tokens: false, namespace: String::new() }
}
