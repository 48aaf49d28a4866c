//! What proxies are told, whoever they are.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Admin, Arguments, Shown, aside};
use crate::admin::render;
use crate::xds::resource::{Framing, ResourceType};
use crate::xds::view::{Layer, Views};

/// What all ztunnels are told.
pub(super) async fn ambientz(admin: &Admin) -> Shown {
    let views = admin.published.views.borrow().clone();
    aside(move || {
        let all = |ty, layer: &Layer| -> Vec<Value> {
            let mut resources: Vec<_> = layer.iter().collect();
            resources.sort_by(|a, b| a.name().cmp(b.name()));
            resources.iter().map(|one| render::resource(ty, one)).collect()
        };
        let addresses = all(ResourceType::Address, &views.addresses);
        let of = |kind: &str| -> Vec<Value> { addresses.iter().filter_map(|one| one.get(kind)).cloned().collect() };
        let policies = all(ResourceType::Authorization, &views.authorizations);
        json!({"revision": views.revision, "workloads": of("workload"), "services": of("service"), "policies": policies})
    })
    .await
}

/// What is encoded and shared: names by type, or how much it is.
pub(super) async fn cachez(admin: &Admin, arguments: &Arguments) -> Shown {
    let is_set = |name: &str| arguments.get(name).is_some_and(|value| !value.is_empty());
    if is_set("clear") {
        return Ok(json!("nothing is kept that could be out of date, so there is nothing to clear"));
    }
    let (views, sizes) = (admin.published.views.borrow().clone(), is_set("sizes"));
    aside(move || if sizes { encoded(&views) } else { names(&views) }).await
}

/// The types that resources are encoded as; those of others are parts of these.
const ENCODED: [ResourceType; 6] = [
    ResourceType::Address,
    ResourceType::Authorization,
    ResourceType::Cluster,
    ResourceType::Endpoints,
    ResourceType::Listener,
    ResourceType::Routes,
];

/// The layers of a type: one that all have in common, or one for each scope.
fn layers(views: &Views, ty: ResourceType) -> Vec<&Layer> {
    match ty {
        ResourceType::Address | ResourceType::Authorization => vec![views.layer(ty, None)],
        _ => views.scopes.keys().map(|scope| views.layer(ty, Some(scope))).collect(),
    }
}

fn names(views: &Views) -> Value {
    let of = |ty: ResourceType| -> BTreeSet<String> {
        layers(views, ty).into_iter().flat_map(|layer| layer.iter()).map(|one| one.name().to_owned()).collect()
    };
    let named = ENCODED.into_iter().map(|ty| (ty.type_url(), of(ty))).filter(|(_, names)| !names.is_empty());
    json!(named.collect::<BTreeMap<_, _>>())
}

fn encoded(views: &Views) -> Value {
    let of = |ty| layers(views, ty).into_iter().map(|layer| layer.encoded_len(ty, Framing::Delta)).sum::<usize>();
    let sizes: Vec<_> = ENCODED.into_iter().map(|ty| (ty.type_url(), of(ty))).filter(|(_, size)| *size > 0).collect();
    let total = ("total", sizes.iter().map(|(_, size)| size).sum());
    let shown = sizes.into_iter().chain([total]).map(|(name, size)| (name, in_units(size)));
    json!(shown.collect::<BTreeMap<_, _>>())
}

/// A number of bytes as istiod prints it.
fn in_units(bytes: usize) -> String {
    let (mut rest, mut unit) = (bytes as f64, None);
    for next in ["k", "M", "G", "T"] {
        if rest < 1000.0 {
            break;
        }
        (rest, unit) = (rest / 1000.0, Some(next));
    }
    unit.map_or_else(|| format!("{bytes}B"), |unit| format!("{rest:.1}{unit}B"))
}

#[cfg(test)]
mod tests {
    use super::in_units;

    #[test]
    fn bytes_have_units() {
        let cases = [(0, "0B"), (999, "999B"), (1000, "1.0kB"), (1_550_000, "1.6MB"), (2_000_000_000, "2.0GB")];
        for (bytes, text) in cases {
            assert_eq!(in_units(bytes), text);
        }
    }
}
