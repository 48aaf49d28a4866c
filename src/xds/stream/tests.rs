//! Tables of (events → responses), by rule of the protocol, and a random walk
//! against a reference client.

use std::collections::BTreeMap;

use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use super::*;
use crate::xds::codec::request::{DeltaRequest, Rejection, SotwRequest};
use crate::xds::resource::Keys;
use crate::xds::view::InitialVersions;

mod delta;
mod envoy;
mod order;
mod random;
mod secrets;
mod sotw;

use ResourceType::{Address, Authorization, Workload};

/// What a test expects of a response: names with content, and removed names.
type Summary = (ResourceType, Vec<String>, Vec<String>);

/// A stream and the views it is offered.
struct Bench {
    stream: Stream,
    views: Arc<Views>,
    nonces: BTreeMap<ResourceType, String>,
    last: Option<Response>,
}

/// `w` names a workload, `s` a service; `p` a policy.
fn resource(name: &str, content: &str) -> Resource {
    let (ty, keys) = match name.as_bytes().first() {
        Some(b'p') => (Authorization, Keys::default()),
        Some(b's') => (Address, Keys { aliases: Box::new([format!("/vip-{name}").into()]), ..Default::default() }),
        // A workload's content lists its service and its node.
        _ => {
            let mut facts = content.split(',');
            let related = facts.next().filter(|svc| svc.starts_with('s')).map(Arc::from);
            let node = facts.next().map(Arc::from);
            let aliases = Box::new([format!("/ip-{name}").into()]);
            (Address, Keys { aliases, related: related.into_iter().collect(), node })
        }
    };
    let message = match name.as_bytes().first() {
        // Field 1 alone, as a workload in an `Address`.
        Some(b'w') => [&[0x0a, content.len() as u8], content.as_bytes()].concat(),
        _ => content.as_bytes().to_vec(),
    };
    Resource::new(ty, name, &message, &keys)
}

pub(crate) fn node() -> WireNode {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let metadata = Struct { fields: [("NODE_NAME".into(), text("n1"))].into() };
    WireNode {
        id: "ztunnel~1.1.1.1~zt.istio-system~istio-system.svc.cluster.local".into(),
        metadata: Some(metadata),
        ..Default::default()
    }
}

fn names(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

fn delta(ty: ResourceType) -> DeltaRequest {
    DeltaRequest { type_url: ty.type_url().into(), ..Default::default() }
}

fn sub(ty: ResourceType, subscribe: &[&str]) -> DeltaRequest {
    DeltaRequest { subscribe: names(subscribe), ..delta(ty) }
}

fn unsub(ty: ResourceType, unsubscribe: &[&str]) -> DeltaRequest {
    DeltaRequest { unsubscribe: names(unsubscribe), ..delta(ty) }
}

fn sotw(ty: ResourceType, resource_names: &[&str]) -> SotwRequest {
    SotwRequest { type_url: ty.type_url().into(), resource_names: names(resource_names), ..Default::default() }
}

impl Bench {
    fn new(variant: Variant, resources: &[(&str, &str)]) -> Self {
        let views = Arc::new(Views::new(1, Layer::default(), Layer::default()));
        let mut bench = Self { stream: Stream::new(variant, 7), views, nonces: BTreeMap::new(), last: None };
        bench.publish(resources, &[]);
        bench
    }

    /// Publishes the next view.
    fn publish(&mut self, upserts: &[(&str, &str)], removals: &[&str]) {
        let (mut addresses, mut authorizations) = (self.views.addresses.clone(), self.views.authorizations.clone());
        for (name, content) in upserts {
            let layer = if name.starts_with('p') { &mut authorizations } else { &mut addresses };
            layer.upsert(resource(name, content));
        }
        for name in removals {
            let layer = if name.starts_with('p') { &mut authorizations } else { &mut addresses };
            assert!(layer.remove(name));
        }
        self.views = Arc::new(Views::new(self.views.revision + 1, addresses, authorizations));
    }

    /// What a client lists when it comes back.
    fn held(&self, ty: ResourceType, versions: &[(&str, &str)]) -> Option<InitialVersions> {
        let mut held = InitialVersions::new(ty, &self.views);
        versions.iter().for_each(|(name, version)| held.add(name.as_bytes(), version.as_bytes()).unwrap());
        (!held.is_empty()).then_some(held)
    }

    fn request(&mut self, mut request: DeltaRequest) -> Received {
        if self.stream.node().is_none() {
            request.node = Some(node());
        }
        self.stream.on_delta_request(request).unwrap()
    }

    fn sotw_request(&mut self, mut request: SotwRequest) -> Received {
        if self.stream.node().is_none() {
            request.node = Some(node());
        }
        self.stream.on_sotw_request(request).unwrap()
    }

    /// Answers the latest response of a type.
    fn ack(&mut self, ty: ResourceType) -> Received {
        self.request(DeltaRequest { response_nonce: self.nonces[&ty].clone(), ..delta(ty) })
    }

    fn nack(&mut self, ty: ResourceType) -> Received {
        let rejection = Some(Rejection { message: "bad".into() });
        self.request(DeltaRequest { response_nonce: self.nonces[&ty].clone(), rejection, ..delta(ty) })
    }

    fn response(&mut self) -> Option<Summary> {
        let response = self.stream.next(&self.views)?;
        self.nonces.insert(response.ty, response.nonce.to_string());
        let sent = contents(&response);
        let removed: Vec<_> = response.removed.iter().map(|name| name.to_string()).collect();
        let mut seen = std::collections::BTreeSet::new();
        let all = sent.iter().map(|sent| sent.name()).chain(response.removed.iter().map(|name| &**name));
        all.for_each(|name| assert!(seen.insert(name.to_owned()), "{name} twice in one response"));
        let ty = response.ty;
        let sent = sent.iter().map(described).collect();
        self.last = Some(response);
        Some((ty, sent, removed))
    }

    /// Checks that exactly these responses follow, in this order.
    #[track_caller]
    fn expect(&mut self, expected: &[(ResourceType, &[&str], &[&str])]) {
        let mut found = Vec::new();
        while let Some(response) = self.response() {
            found.push(response);
        }
        let text = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let expected: Vec<_> = expected.iter().map(|(ty, sent, removed)| (*ty, text(sent), text(removed))).collect();
        assert_eq!(found, expected);
    }
}

/// The resources of a response as the wire would have them.
fn contents(response: &Response) -> Vec<Resource> {
    let mut contents = match &response.contents {
        Contents::Whole(layer) => layer.iter().filter(|resource| response.ty.carries(resource)).collect(),
        listed => listed.listed().to_vec(),
    };
    contents.sort_by(|a, b| a.name().cmp(b.name()));
    contents
}

/// `name=content`.
fn described(resource: &Resource) -> String {
    let message = resource.message(resource_type(resource));
    format!("{}={}", resource.name(), String::from_utf8_lossy(&message))
}

fn resource_type(resource: &Resource) -> ResourceType {
    match resource.name().as_bytes().first() {
        Some(b'p') => Authorization,
        Some(b'w') => Workload,
        _ => resource.ty(),
    }
}
