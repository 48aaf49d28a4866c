//! Which references into another namespace are allowed there.
//! <https://gateway-api.sigs.k8s.io/api-types/referencegrant/>

use std::sync::Arc;

use crate::api::ObjectKey;
use crate::api::route::ReferenceGrant;
use crate::graph::{Ctx, Graph, Index};

use super::Scope;

/// The grants, by the namespace they are for.
#[derive(Clone, Copy)]
pub struct ReferenceGrants(Index<Arc<str>, ObjectKey, ReferenceGrant>);

/// Declares the index.
pub(super) fn reference_grants(graph: &mut Graph, scope: &Scope) -> ReferenceGrants {
    ReferenceGrants(graph.index(scope.inputs.reference_grants, |key: &ObjectKey, _, keys| {
        keys.push(key.namespace.clone());
    }))
}

impl ReferenceGrants {
    /// Whether objects of a group and kind in a namespace may refer to an
    /// object of another.
    pub fn allow(
        &self,
        cx: &Ctx<'_>,
        scope: &Scope,
        (from, from_namespace): ((&str, &str), &str),
        (to, target): ((&str, &str), &ObjectKey),
    ) -> bool {
        *target.namespace == *from_namespace
            || cx.fetch(self.0, &target.namespace).any(|(_, grant)| {
                scope.configures(cx, &grant.meta) && grant.allows(from, from_namespace, to, &target.name)
            })
    }
}
