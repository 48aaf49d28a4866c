use std::collections::VecDeque;

use proptest::prelude::any;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Value as Json, json};

use super::de::Error;
use super::{Message, Value, list_body, testing, unwrap};
use crate::api::Kind;

/// One object of each kind, with every field that is read.
fn objects() -> Vec<(Kind, Json)> {
    let meta = json!({
        "name": "n", "namespace": "a", "generateName": "n-", "uid": "f1f64c9c-ecb7-4ef6-a1a8-3c4ad8b63c65",
        "resourceVersion": "12", "creationTimestamp": "2026-11-26T10:00:00Z", "deletionTimestamp": "2026-11-26T11:00:00Z",
        "labels": {"app": "x", "empty": "", "ä": "ö"}, "annotations": {"ambient.istio.io/redirection": "enabled", "other": "y"},
        "ownerReferences": [
            {"kind": "A", "name": "not-this"}, {"kind": "ReplicaSet", "name": "rs", "controller": true},
        ],
    });
    let pod = json!({
        "metadata": meta,
        "spec": {
            "containers": [
                {"ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "dns", "containerPort": 53}]},
                {"ports": []},
            ],
            "initContainers": [{"restartPolicy": "Always", "ports": [{"name": "mesh", "containerPort": 15000}]}],
            "serviceAccountName": "sa", "nodeName": "node", "hostNetwork": true,
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
        },
    });
    let service = json!({
        "metadata": meta,
        "spec": {
            "type": "ClusterIP", "clusterIP": "10.1.0.1", "clusterIPs": ["10.1.0.1", "fd01::1"],
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "appProtocol": "http"},
                {"name": "named", "port": 81, "targetPort": "web"},
                {"name": "same", "port": 82, "targetPort": 0},
            ],
            "selector": {"app": "x"}, "ipFamilies": ["IPv4", "IPv6"], "internalTrafficPolicy": "Local",
            "trafficDistribution": "PreferClose", "publishNotReadyAddresses": true,
            "externalIPs": ["192.0.2.1", "192.0.2.2"], "externalName": "example.com",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.3"}, {"hostname": "lb.example.com"}]}},
    });
    let slice = json!({
        "metadata": meta, "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1"], "conditions": {"ready": false},
                "targetRef": {"kind": "Pod", "namespace": "a", "name": "n", "uid": "u"},
            },
            {"addresses": ["10.0.0.2", "10.0.0.3"]},
        ],
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {}],
    });
    let map = json!({"metadata": meta, "data": {"mesh": "trustDomain: td", "root-cert.pem": "PEM", "other": ""}});
    let secret = json!({"metadata": meta, "type": "kubernetes.io/tls", "data": {"tls.key": "aP8A/w==", "other": ""}});
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let ingress = json!({
        "metadata": meta,
        "spec": {
            "ingressClassName": "istio", "defaultBackend": {"resource": {"kind": "Bucket", "name": "b"}},
            "tls": [{"hosts": ["a.example.com", "b.example.com"], "secretName": "s"}, {}],
            "rules": [
                {"host": "a.example.com", "http": {"paths": [
                    {"path": "/", "pathType": "Prefix", "backend": backend},
                    {"backend": {"service": {"name": "web", "port": {"name": "http"}}}},
                ]}},
                {"host": "b.example.com"},
                {"http": {"paths": [{"path": "/c", "pathType": "Exact", "backend": backend}]}},
            ],
        },
    });
    let class = json!({"metadata": meta, "spec": {"controller": "istio.io/ingress-controller"}});
    let bare = json!({"metadata": meta});
    vec![
        (Kind::Pod, pod),
        (Kind::Service, service),
        (Kind::EndpointSlice, slice),
        (Kind::ConfigMap, map),
        (Kind::Secret, secret),
        (Kind::Ingress, ingress),
        (Kind::IngressClass, class),
        (Kind::Node, bare.clone()),
        (Kind::Namespace, bare.clone()),
        (Kind::CustomResourceDefinition, bare),
    ]
}

#[test]
fn both_encodings_of_an_object_are_the_same_object() {
    let mut kinds: Vec<_> = Kind::ALL.iter().copied().filter(|kind| Message::of(*kind).is_some()).collect();
    for (kind, json) in objects() {
        kinds.retain(|other| *other != kind);
        let read = kind.decode_protobuf(&testing::message(kind, &json)).expect("protobuf");
        let wanted = kind.decode_json(&json.to_string()).expect("JSON");
        assert_eq!(read, wanted);
        assert_eq!(read.meta().resource_version.0, 12);

        // An object with nothing in it, too.
        let read = kind.decode_protobuf(&testing::message(kind, &json!({"metadata": {}}))).expect("protobuf");
        assert_eq!(read, kind.decode_json(r#"{"metadata": {}}"#).expect("JSON"));
    }
    assert_eq!(kinds, [], "these are not tested");
}

#[test]
fn an_error_names_its_field() {
    let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{}, {"ports": [{"containerPort": 70000}]}]}});
    let error = Kind::Pod.decode_protobuf(&testing::message(Kind::Pod, &pod)).expect_err("a port that is none");
    assert_eq!(error.field, "spec.containers[1].ports[0].containerPort");
    assert!(error.reason.contains("70000"), "{}", error.reason);
    let pod = json!({"spec": {"nodeName": {"is": "no text"}}});
    let error = Kind::Pod.decode_protobuf(&testing::message(Kind::Pod, &pod)).expect_err("no text");
    assert_eq!((&*error.field, &*error.reason), ("spec.nodeName", "a text that is not UTF-8"));
    assert!(Kind::ServiceEntry.decode_protobuf(b"").is_err());
}

#[test]
fn a_list_is_found_however_little_of_it_is_there() {
    let document = testing::envelope(&[b'x'; 300]);
    let start = document.len() - 300 - 4;
    for length in 0..document.len() {
        let found = list_body(&document[..length]).expect("nothing wrong");
        // The length is read with what follows it.
        assert_eq!(found, (length >= start).then_some((start, 300)), "{length}");
    }
    assert_eq!(unwrap(&document), Ok(&[b'x'; 300][..]));
    assert!(list_body(b"k9").is_err());
    assert_eq!(unwrap(b"{}"), Err(Error::Envelope));
}

proptest::proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200), at: usize, flip: u8) {
        for (kind, json) in objects() {
            let _ = kind.decode_protobuf(&bytes);
            let mut message = testing::message(kind, &json);
            let at = at % message.len();
            message[at] ^= flip;
            let _ = kind.decode_protobuf(&message);
        }
        let _ = (list_body(&bytes), unwrap(&bytes));
    }
}

/// Every field that a model asks for is in the table: a model that learns to
/// read a field must not do so in JSON only.
#[test]
fn tables_have_what_models_read() {
    for kind in Kind::ALL.iter().copied() {
        let Some(message) = Message::of(kind) else { continue };
        kind.decode(Probe(Value::Message(message))).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
}

/// A deserializer that has one of everything in a table, and fails if it is
/// asked for a field that the table lacks.
struct Probe(Value);

impl<'de> serde::Deserializer<'de> for Probe {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Text | Value::Bytes | Value::IntOrString => visitor.visit_borrowed_str(""),
            Value::Int | Value::Time => visitor.visit_i64(1),
            Value::Bool => visitor.visit_bool(true),
            Value::Message(message) | Value::Inline(message) => visitor.visit_map(Each(fields(message).into(), None)),
            Value::List(element) => visitor.visit_seq(Once(Some(*element))),
            Value::Map(_) => visitor.visit_map(Each(VecDeque::new(), None)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        read: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Value::Message(message) = self.0 {
            let known = fields(message);
            for field in read {
                if !known.iter().any(|(known, _)| known == field) {
                    return Err(Error::Model(format!("{name} reads {field}, which is not in the table")));
                }
            }
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The fields of a message as JSON has them.
fn fields(message: &'static Message) -> Vec<(&'static str, Value)> {
    let each = |(_, name, value): &(u32, &'static str, Value)| match value {
        Value::Inline(message) => fields(message),
        value => vec![(*name, *value)],
    };
    message.0.iter().flat_map(each).collect()
}

struct Each(VecDeque<(&'static str, Value)>, Option<Value>);

impl<'de> MapAccess<'de> for Each {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.0.pop_front() else { return Ok(None) };
        self.1 = Some(value);
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Probe(self.1.take().expect("a key before")))
    }
}

struct Once(Option<Value>);

impl<'de> SeqAccess<'de> for Once {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|value| seed.deserialize(Probe(value))).transpose()
    }
}
