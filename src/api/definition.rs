//! The definitions of the kinds that Istio has and Fairway reads, for clusters in
//! which nobody has defined them. Names, versions, columns and categories are those
//! of Istio's chart `base`, and nothing is refused that its definitions accept.

#[cfg(test)]
mod tests;

use serde_json::{Value as Json, json};

use super::{Kind, schema};

/// Kinds that Istio defines besides. Fairway does not read them, so it does not
/// define them either: an object without an effect should not seem to have one.
pub const NOT_READ: &[&str] =
    &["EnvoyFilter", "ProxyConfig", "Sidecar", "TrafficExtension", "WasmPlugin", "WorkloadGroup"];

/// A column of `kubectl get`: its heading, what is in it, and where that is.
type Column = (&'static str, &'static str, &'static str);

/// What a definition says that no model has.
struct About {
    /// What objects of the kind say.
    what: &'static str,
    /// Where Istio describes them.
    page: &'static str,
    columns: &'static [Column],
}

const AGE: Column = ("Age", "When the object was made.", ".metadata.creationTimestamp");

const fn about(what: &'static str, page: &'static str, columns: &'static [Column]) -> Option<About> {
    Some(About { what, page, columns })
}

impl About {
    /// What is said of a kind that is Istio's.
    fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::VirtualService => about(
                "How requests for some hosts are routed.",
                "networking/virtual-service",
                &[
                    ("Gateways", "The gateways that apply the routes.", ".spec.gateways"),
                    ("Hosts", "The hosts whose requests are routed.", ".spec.hosts"),
                    AGE,
                ],
            ),
            Kind::DestinationRule => about(
                "How connections to a host are made.",
                "networking/destination-rule",
                &[("Host", "The host.", ".spec.host"), AGE],
            ),
            Kind::IstioGateway => about("What proxies at the edge of the mesh listen for.", "networking/gateway", &[]),
            Kind::ServiceEntry => about(
                "A service outside Kubernetes' registry.",
                "networking/service-entry",
                &[
                    ("Hosts", "The names of the service.", ".spec.hosts"),
                    ("Location", "MESH_EXTERNAL or MESH_INTERNAL.", ".spec.location"),
                    ("Resolution", "How its endpoints are found.", ".spec.resolution"),
                    AGE,
                ],
            ),
            Kind::WorkloadEntry => about(
                "A workload outside Kubernetes.",
                "networking/workload-entry",
                &[AGE, ("Address", "Where the workload is.", ".spec.address")],
            ),
            Kind::AuthorizationPolicy => about(
                "Who may talk to what.",
                "security/authorization-policy",
                &[("Action", "What is done with what a rule matches.", ".spec.action"), AGE],
            ),
            Kind::PeerAuthentication => about(
                "Whether callers must prove who they are.",
                "security/peer_authentication",
                &[("Mode", "Whether mutual TLS is required.", ".spec.mtls.mode"), AGE],
            ),
            Kind::RequestAuthentication => {
                about("The tokens that requests may carry.", "security/request_authentication", &[])
            }
            Kind::Telemetry => about("What proxies log, count and trace.", "telemetry", &[AGE]),
            Kind::Namespace
            | Kind::Node
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::ConfigMap
            | Kind::Ingress
            | Kind::IngressClass
            | Kind::Secret
            | Kind::CustomResourceDefinition
            | Kind::Gateway
            | Kind::ListenerSet
            | Kind::GatewayClass
            | Kind::HTTPRoute
            | Kind::GRPCRoute
            | Kind::TCPRoute
            | Kind::TLSRoute
            | Kind::BackendTLSPolicy
            | Kind::ReferenceGrant => None,
        }
    }
}

/// The definitions of all kinds that are Istio's, in the order of their names.
/// Fails if a model does not take an object that has all its fields.
pub fn all() -> Result<Vec<Json>, serde::de::value::Error> {
    let mut ours: Vec<_> = Kind::ALL.iter().filter_map(|kind| About::of(*kind).map(|about| (*kind, about))).collect();
    ours.sort_by_key(|(kind, _)| (kind.info().group, kind.info().plural));
    ours.into_iter().map(|(kind, about)| definition(kind, &about)).collect()
}

fn definition(kind: Kind, about: &About) -> Result<Json, serde::de::value::Error> {
    let info = kind.info();
    let mut schema = schema::of(kind)?;
    let page = format!("https://istio.io/latest/docs/reference/config/{}/", about.page);
    schema["description"] = format!("{} {page}", about.what).into();
    let columns: Vec<_> = about.columns.iter().map(column).collect();
    let version = |name: &&str| {
        let mut version = json!({
            "name": name,
            "served": true,
            "storage": *name == storage(kind),
            "schema": { "openAPIV3Schema": schema },
            "subresources": { "status": {} },
        });
        if !columns.is_empty() {
            version["additionalPrinterColumns"] = columns.clone().into();
        }
        version
    };
    let mut names = json!({
        "kind": info.kind,
        "listKind": format!("{}List", info.kind),
        "plural": info.plural,
        "singular": info.kind.to_ascii_lowercase(),
        "categories": ["istio-io", info.group.replace('.', "-")],
    });
    if let Some(short) = kind.short_name() {
        names["shortNames"] = json!([short]);
    }
    Ok(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", info.plural, info.group),
            // With a definition all its objects go, so no release takes one along.
            "annotations": { "helm.sh/resource-policy": "keep" },
            "labels": { "app.kubernetes.io/part-of": "istio" },
        },
        "spec": {
            "group": info.group,
            "names": names,
            "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
            "versions": info.versions.iter().map(version).collect::<Vec<_>>(),
        },
    }))
}

/// The version in which objects are stored. It is Istio's, so that its definitions
/// can take the place of ours and the other way round.
fn storage(kind: Kind) -> &'static str {
    match kind {
        Kind::Telemetry => "v1alpha1",
        kind => kind.info().versions[0],
    }
}

fn column((name, description, path): &Column) -> Json {
    let of = if *path == AGE.2 { "date" } else { "string" };
    json!({ "name": name, "description": description, "jsonPath": path, "type": of })
}
