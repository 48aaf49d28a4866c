use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use fairway_proto::workload::{Address, Service, Workload, address};
use prost::Message;

use super::*;

fn workload(uid: &str) -> Workload {
    Workload { uid: uid.into(), name: "web".into(), namespace: "default".into(), ..Default::default() }
}

fn address(uid: &str) -> Vec<u8> {
    Address { r#type: Some(address::Type::Workload(workload(uid))) }.encode_to_vec()
}

fn resource(message: &[u8]) -> Resource {
    let keys = Keys { aliases: Box::new(["/10.0.0.1".into(), "/fd00::1".into()]), ..Default::default() };
    Resource::new(ResourceType::Address, "c//Pod/default/web", message, &keys)
}

/// Writes a resource and checks the length it announced.
fn written(resource: &Resource, ty: ResourceType, framing: Framing) -> BytesMut {
    let mut out = BytesMut::new();
    resource.write(ty, framing, &mut out);
    assert_eq!(out.len(), resource.encoded_len(ty, framing));
    if let Some(shared) = resource.shared_frames(ty, framing) {
        assert_eq!(out, shared.flatten().collect::<Vec<_>>());
    }
    out
}

#[test]
fn delta_frame_is_a_resources_field() {
    let message = address("c//Pod/default/web");
    let resource = resource(&message);
    for (framing, aliases) in [(Framing::Delta, 0), (Framing::DeltaWithAliases, 2)] {
        let out = written(&resource, ResourceType::Address, framing);
        let response = DeltaDiscoveryResponse::decode(out).unwrap();
        let [sent] = &response.resources[..] else { panic!("one resource") };
        assert_eq!(sent.name, "c//Pod/default/web");
        assert_eq!(sent.version, resource.version().to_string());
        assert_eq!(sent.aliases.len(), aliases);
        let any = sent.resource.as_ref().unwrap();
        assert_eq!(any.type_url, ResourceType::Address.type_url());
        assert_eq!(any.value, message);
    }
    assert_eq!(resource.message(ResourceType::Address), message);
}

#[test]
fn end_of_the_frame_is_a_sotw_resources_field() {
    let message = address("c//Pod/default/web");
    let out = written(&resource(&message), ResourceType::Address, Framing::Sotw);
    let response = DiscoveryResponse::decode(out).unwrap();
    assert_eq!(response.resources.len(), 1);
    assert_eq!(response.resources[0].value, message);
}

#[test]
fn workload_type_sends_the_inner_message() {
    let resource = resource(&address("c//Pod/default/web"));
    let inner = workload("c//Pod/default/web").encode_to_vec();
    for framing in [Framing::Delta, Framing::DeltaWithAliases] {
        let response = DeltaDiscoveryResponse::decode(written(&resource, ResourceType::Workload, framing)).unwrap();
        let any = response.resources[0].resource.as_ref().unwrap();
        assert_eq!(any.type_url, ResourceType::Workload.type_url());
        assert_eq!(any.value, inner);
        assert_eq!(response.resources[0].version, resource.version().to_string());
    }
    let sotw = DiscoveryResponse::decode(written(&resource, ResourceType::Workload, Framing::Sotw)).unwrap();
    assert_eq!(sotw.resources[0].value, inner);
    assert_eq!(resource.message(ResourceType::Workload), inner);
}

#[test]
fn services_are_not_workloads() {
    let service = Address { r#type: Some(address::Type::Service(Service::default())) }.encode_to_vec();
    let service = Resource::new(ResourceType::Address, "ns/host", &service, &Keys::default());
    assert!(ResourceType::Address.carries(&service));
    assert!(!ResourceType::Workload.carries(&service));
    assert!(!ResourceType::Authorization.carries(&service));
}

#[test]
fn version_is_a_portable_hash_of_the_content() {
    // Replicas and later builds must agree, so the very digits are fixed.
    let version = |message: &[u8]| resource(message).version();
    assert_eq!(version(b"").to_string(), format!("{:016x}", rapidhash_v3(b"")));
    assert_eq!(version(b"fairway").to_string(), EXPECTED);
    assert_eq!(Version::parse(EXPECTED.as_bytes()), Some(version(b"fairway")));
    for other in [&b""[..], b"fairway", &EXPECTED.as_bytes()[1..], b"zzzzzzzzzzzzzzzz", b"\xff\xff"] {
        assert_ne!(Version::parse(other), Some(version(b"fairway")));
    }
}

const EXPECTED: &str = "d4c092bc8b5c69f3";

#[test]
fn equality_is_that_of_name_content_and_keys() {
    let (keys, none) = (Keys { node: Some("n1".into()), ..Keys::default() }, Keys::default());
    let make = |name, message: &[u8], keys| Resource::new(ResourceType::Address, name, message, keys);
    let a = make("a", b"x", &keys);
    assert_eq!(a, make("a", b"x", &keys));
    for other in [make("b", b"x", &keys), make("a", b"y", &keys), make("a", b"x", &none)] {
        assert_ne!(a, other);
    }
    let version = a.version().to_string();
    let plain = make("a", b"x", &none);
    assert_ne!(plain, Resource::stub(ResourceType::Address, "a", version.as_bytes()));
}

#[test]
fn names_and_keys_of_any_length_are_found_again() {
    for length in [0, 1, 127, 128, 20_000] {
        let text = "x".repeat(length);
        let keys = Keys {
            aliases: Box::new([text.as_str().into(), "/b".into()]),
            related: Box::new([text.as_str().into()]),
            node: Some(text.as_str().into()),
        };
        let resource = Resource::new(ResourceType::Authorization, &text, text.as_bytes(), &keys);
        assert_eq!(resource.name(), text);
        assert_eq!(resource.ty(), ResourceType::Authorization);
        assert!(resource.aliases().eq([&text[..], "/b"]) && resource.related().eq([&text[..]]));
        assert_eq!(resource.node(), Some(&text[..]));
        assert_eq!(resource.message(ResourceType::Authorization), text.as_bytes());
        assert!(!resource.is_stub());
        let stub = Resource::stub(ResourceType::Address, &text, b"0123456789abcdef");
        assert!(stub.is_stub() && stub.name() == text && stub.version().to_string() == "0123456789abcdef");
    }
}

#[test]
fn keys_that_are_in_the_frame_are_not_kept_beside_it() {
    let keys = |node: &str| Keys {
        aliases: Box::new(["/10.0.0.1".into()]),
        related: Box::new(["ns/a-service.ns.svc.cluster.local".into()]),
        node: Some(node.into()),
    };
    let resource = |node: &str| {
        let message = format!("ns/a-service.ns.svc.cluster.local, node-1, node-2, {}", "x".repeat(200));
        Resource::new(ResourceType::Address, "a", message.as_bytes(), &keys(node))
    };
    let (one, other) = (resource("node-1"), resource("node-2"));
    assert!(one.facts.len() < 1 + "/10.0.0.1".len() + 3 * 4, "{}", one.facts.len());
    assert!(one.aliases().eq(["/10.0.0.1"]) && one.related().eq(["ns/a-service.ns.svc.cluster.local"]));
    assert_eq!((one.node(), other.node()), (Some("node-1"), Some("node-2")));
    assert!(one != other && one.fingerprint() != other.fingerprint() && one == resource("node-1"));
}

#[test]
fn table_is_ordered_by_rank() {
    assert!(ResourceType::ALL.is_sorted_by_key(|ty| (ty.family() as u8, ty.rank(), *ty)));
    for ty in ResourceType::ALL {
        assert_eq!(ResourceType::from_type_url(ty.type_url()), Some(ty));
        assert_eq!(ResourceType::ALL[ty as usize], ty);
    }
    assert_eq!(ResourceType::from_type_url("type.googleapis.com/unknown"), None);
}
