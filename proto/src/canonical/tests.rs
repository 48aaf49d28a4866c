#![allow(clippy::unwrap_used, reason = "whatever fails here fails a test")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::cel::expr::SourceInfo;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac, permission, principal};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac as RbacFilter, RbacPerRoute};
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value, value};
use envoy_types::util::pack_any;
use proptest::prelude::*;
use prost::{Message, Name};
use prost_reflect::DescriptorPool;

use super::*;
use crate::describe;

/// What a message is made of, with an order of its own.
#[derive(Clone, Debug)]
enum Json {
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

type Objects = BTreeMap<String, BTreeMap<String, Json>>;
type Configs = BTreeMap<String, Config>;

#[derive(Clone, Debug)]
enum Config {
    Policies(Objects),
    AsJson(BTreeMap<String, Json>),
    Within(Box<Config>),
    Unknown(Vec<u8>),
}

#[derive(Clone, Debug, Default)]
struct Routes {
    filters: Configs,
    routes: Vec<(Objects, Configs)>,
}

/// A map with a random order; that of the input is turned as well.
fn hash_map<K: Clone + std::hash::Hash + Eq, V, W>(map: &BTreeMap<K, V>, of: impl Fn(&V) -> W) -> HashMap<K, W> {
    let mut shuffled = HashMap::with_capacity(map.len() * 2);
    shuffled.extend(map.iter().rev().map(|(key, value)| (key.clone(), of(value))));
    shuffled
}

fn structure(object: &BTreeMap<String, Json>) -> Struct {
    Struct { fields: hash_map(object, json_value) }
}

fn json_value(json: &Json) -> Value {
    let kind = match json {
        Json::Text(text) => value::Kind::StringValue(text.clone()),
        Json::List(list) => value::Kind::ListValue(ListValue { values: list.iter().map(json_value).collect() }),
        Json::Object(object) => value::Kind::StructValue(structure(object)),
    };
    Value { kind: Some(kind) }
}

fn metadata(by_filter: &Objects) -> Metadata {
    Metadata { filter_metadata: hash_map(by_filter, structure), ..Default::default() }
}

fn config(config: &Config) -> Any {
    match config {
        Config::Policies(policies) => {
            let policies = hash_map(policies, |object| Policy {
                permissions: vec![Permission { rule: Some(permission::Rule::Any(true)) }; object.len()],
                principals: vec![Principal { identifier: Some(principal::Identifier::Any(true)) }],
                ..Default::default()
            });
            let rules = Rbac { policies, ..Default::default() };
            let filter = RbacFilter { rules: Some(rules), ..Default::default() };
            pack_any(RbacPerRoute { rbac: Some(filter) })
        }
        Config::AsJson(object) => pack_any(crate::udpa::TypedStruct {
            type_url: "type.googleapis.com/acme.Filter".into(),
            value: Some(structure(object)),
        }),
        Config::Within(inner) => pack_any(self::config(inner)),
        Config::Unknown(bytes) => Any { type_url: "type.googleapis.com/acme.Filter".into(), value: bytes.clone() },
    }
}

fn routes(spec: &Routes) -> RouteConfiguration {
    let routes = spec.routes.iter().map(|(by_filter, filters)| Route {
        metadata: Some(metadata(by_filter)),
        typed_per_filter_config: hash_map(filters, config),
        ..Default::default()
    });
    RouteConfiguration {
        name: "80".into(),
        typed_per_filter_config: hash_map(&spec.filters, config),
        virtual_hosts: vec![VirtualHost { name: "host".into(), routes: routes.collect(), ..Default::default() }],
        ..Default::default()
    }
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-c]{1,3}", "\\PC{0,4}"]
}

fn json() -> impl Strategy<Value = Json> {
    let leaf = "[a-z]{0,3}".prop_map(Json::Text);
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
            prop::collection::btree_map(key(), inner, 0..6).prop_map(Json::Object),
        ]
    })
}

fn object() -> impl Strategy<Value = BTreeMap<String, Json>> {
    prop::collection::btree_map(key(), json(), 0..6)
}

fn any_config() -> impl Strategy<Value = Config> {
    let leaf = prop_oneof![
        prop::collection::btree_map(key(), object(), 0..6).prop_map(Config::Policies),
        object().prop_map(Config::AsJson),
        prop::collection::vec(any::<u8>(), 0..12).prop_map(Config::Unknown),
    ];
    leaf.prop_recursive(3, 3, 1, |inner| inner.prop_map(|inner| Config::Within(Box::new(inner))))
}

fn any_routes() -> impl Strategy<Value = Routes> {
    let filters = || prop::collection::btree_map(key(), any_config(), 0..5);
    let by_filter = prop::collection::btree_map(key(), object(), 0..4);
    (filters(), prop::collection::vec((by_filter, filters()), 0..3))
        .prop_map(|(filters, routes)| Routes { filters, routes })
}

fn canonical_of<M: Message + Name>(message: &M) -> Vec<u8> {
    canonical(&M::full_name(), &message.encode_to_vec())
}

/// What a message says, with all `Any`s written out.
fn meaning(full_name: &str, encoded: &[u8]) -> Option<serde_json::Value> {
    // For as long as the test runs, which has a thread of its own.
    thread_local! { static HELD: Arc<DescriptorPool> = describe::load().unwrap(); }
    HELD.with(|_| describe::to_json(full_name, encoded).ok())
}

/// Bytes that a reader cannot decode have a length only.
fn without_bytes(mut json: serde_json::Value) -> serde_json::Value {
    match &mut json {
        serde_json::Value::Object(fields) => {
            let is_any = fields.contains_key("@type");
            for (key, value) in fields.iter_mut() {
                *value = match value.as_str() {
                    Some(bytes) if is_any && key == "value" => bytes.len().into(),
                    _ => without_bytes(value.take()),
                };
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(|one| *one = without_bytes(one.take())),
        _ => {}
    }
    json
}

const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..Default::default() })]

    #[test]
    fn equal_messages_have_equal_bytes(spec in any_routes()) {
        let (one, other) = (routes(&spec), routes(&spec));
        let bytes = canonical_of(&one);
        prop_assert_eq!(&bytes, &canonical_of(&other));
        prop_assert_eq!(&canonical(ROUTES, &bytes), &bytes);
        prop_assert_eq!(meaning(ROUTES, &bytes), meaning(ROUTES, &one.encode_to_vec()));
    }

    /// Two messages one after the other are one with the maps of both.
    #[test]
    fn maps_in_pieces_are_put_together(one in any_routes(), other in any_routes()) {
        let bytes = [routes(&one).encode_to_vec(), routes(&other).encode_to_vec()].concat();
        let found = canonical(ROUTES, &bytes);
        prop_assert_eq!(meaning(ROUTES, &found), meaning(ROUTES, &bytes));
        prop_assert_eq!(&canonical(ROUTES, &found), &found);
    }

    /// Whatever a flaw does to the bytes, they mean what they meant.
    #[test]
    fn flawed_bytes_keep_their_meaning(
        spec in any_routes(), flaws in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = routes(&spec).encode_to_vec();
        for (at, byte) in flaws {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let found = canonical(ROUTES, &bytes);
        prop_assert_eq!(found.len(), bytes.len());
        prop_assert_eq!(meaning(ROUTES, &found).map(without_bytes), meaning(ROUTES, &bytes).map(without_bytes));
    }

    #[test]
    fn any_bytes_are_survived(name in prop::sample::select(&NAMES[..]), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let found = canonical(name, &bytes);
        prop_assert_eq!(found.len(), bytes.len());
        prop_assert_eq!(canonical(name, &found), found);
    }
}

/// The properties above would hold of messages without order, too.
#[test]
fn encodings_do_differ_before() {
    let object = |n: usize| (0..n).map(|key| (key.to_string(), Json::Text("x".into()))).collect::<BTreeMap<_, _>>();
    let config = Config::Within(Box::new(Config::AsJson(object(20))));
    let spec = Routes { filters: BTreeMap::from([("filter".to_string(), config)]), ..Default::default() };
    let encodings: Vec<_> = (0..8).map(|_| routes(&spec).encode_to_vec()).collect();
    assert!(encodings.iter().any(|other| *other != encodings[0]));
    let first = canonical(ROUTES, &encodings[0]);
    assert!(encodings.iter().all(|other| canonical(ROUTES, other) == first));
}

#[test]
fn keys_that_are_numbers_are_ordered() {
    let positions = || HashMap::from_iter((-20i64..20).map(|key| (key, 1)));
    let info = || SourceInfo { positions: positions(), ..Default::default() };
    let bytes = canonical_of(&info());
    assert_eq!(bytes, canonical_of(&info()));
    assert_eq!(SourceInfo::decode(&*bytes).unwrap(), info());
}

#[test]
fn entries_are_ordered_by_key_and_others_stay_where_they_are() {
    let entry = |key: &str| {
        let value = Value { kind: Some(value::Kind::BoolValue(true)) };
        Struct { fields: HashMap::from([(key.to_string(), value)]) }.encode_to_vec()
    };
    let bytes = [entry("b"), vec![0x10, 7], entry("a"), entry("")].concat();
    let expected = [entry(""), entry("a"), entry("b"), vec![0x10, 7]].concat();
    assert_eq!(canonical("google.protobuf.Struct", &bytes), expected);
    let cut = &bytes[..bytes.len() - 1];
    assert_eq!(canonical("google.protobuf.Struct", cut), cut, "what does not parse stays as it is");
    assert_eq!(canonical("acme.Unknown", &bytes), bytes, "and what nobody knows");
}

#[test]
fn depth_is_bounded() {
    let mut any = Any::default();
    for _ in 0..5000 {
        any = pack_any(any);
    }
    assert_eq!(canonical_of(&any), any.encode_to_vec());
}

#[test]
fn the_table_knows_what_is_sent() {
    let known = |name: &str| assert!(index(name).is_some(), "{name}");
    known("stats.PluginConfig");
    known("udpa.type.v1.TypedStruct");
    known("xds.type.matcher.v3.IPMatcher");
    known("envoy.config.bootstrap.v3.Bootstrap");
    known("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    known("envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig");
    assert!(NAMES.is_sorted());
    // Nothing to do: no map can be in there.
    assert_eq!(index("envoy.config.core.v3.Locality"), None);
}

/// What it costs, for `cargo test -- --nocapture`: nanoseconds, of which only
/// the order of magnitude is asked for here.
#[test]
fn cost_beside_encoding() {
    let text = |n: usize| (0..n).map(|key| (format!("key-{key}"), Json::Text("value".into()))).collect();
    let by_filter = BTreeMap::from([("istio".to_string(), text(3)), ("other".to_string(), text(2))]);
    let policies = (0..3).map(|n| (format!("ns[a]-policy[{n}]-rule[0]"), text(2))).collect();
    let filters = BTreeMap::from([
        ("envoy.filters.http.rbac".to_string(), Config::Policies(policies)),
        ("envoy.filters.http.fault".to_string(), Config::AsJson(text(4))),
    ]);
    let spec = Routes { filters: filters.clone(), routes: vec![(by_filter, filters); 50] };
    let message = routes(&spec);
    let best = |work: &mut dyn FnMut()| (0..20).map(|_| (Instant::now(), work()).0.elapsed()).min().unwrap_or_default();
    let mut bytes = vec![];
    let encode = best(&mut || bytes = message.encode_to_vec());
    let ordered = canonical(ROUTES, &bytes);
    let first = best(&mut || drop(canonical(ROUTES, &bytes)));
    let again = best(&mut || drop(canonical(ROUTES, &ordered)));
    println!("{} bytes: encode {encode:?}, put in order {first:?}, check {again:?}", bytes.len());
    assert!(first < encode * 50, "{first:?} beside {encode:?}");
}
