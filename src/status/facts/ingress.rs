//! What is known of Ingresses.

use crate::api::{Kind, ObjectKey};
use crate::graph::{Collection, Graph};
use crate::model::Model;
use crate::model::gateway::ingress::{addresses, is_ours};

use super::{About, Facts};

pub(super) fn add(graph: &mut Graph, model: &Model) -> (Kind, Collection<ObjectKey, Facts>) {
    super::add(
        (graph, model),
        "ingress_facts",
        Kind::Ingress,
        model.inputs.ingresses,
        |ingress| &ingress.meta,
        |cx, model, ingress| {
            let scope = model.scope();
            is_ours(cx, scope, ingress).then(|| About::Reached(addresses(cx, scope)))
        },
    )
}
