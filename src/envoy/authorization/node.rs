//! Permissions and principals, the two halves of a rule of Envoy's RBAC, and
//! how both are combined.

use envoy_types::pb::envoy::config::rbac::v3::permission::{Rule as Permits, Set as Permissions};
use envoy_types::pb::envoy::config::rbac::v3::principal::{Identifier, Set as Principals};
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal};

/// What permissions and principals have in common.
pub trait Node: Clone {
    /// Matches everything.
    fn any() -> Self;
    /// Matches what all of them match.
    fn and(nodes: Vec<Self>) -> Self;
    /// Matches what one of them matches.
    fn or(nodes: Vec<Self>) -> Self;
    /// Matches what it does not.
    fn not(node: Self) -> Self;
}

impl Node for Permission {
    fn any() -> Self {
        Permits::Any(true).into_node()
    }

    fn and(rules: Vec<Self>) -> Self {
        Permits::AndRules(Permissions { rules }).into_node()
    }

    fn or(rules: Vec<Self>) -> Self {
        Permits::OrRules(Permissions { rules }).into_node()
    }

    fn not(node: Self) -> Self {
        Permits::NotRule(Box::new(node)).into_node()
    }
}

impl Node for Principal {
    fn any() -> Self {
        Identifier::Any(true).into_node()
    }

    fn and(ids: Vec<Self>) -> Self {
        Identifier::AndIds(Principals { ids }).into_node()
    }

    fn or(ids: Vec<Self>) -> Self {
        Identifier::OrIds(Principals { ids }).into_node()
    }

    fn not(node: Self) -> Self {
        Identifier::NotId(Box::new(node)).into_node()
    }
}

/// A matcher that makes a permission or a principal.
pub trait IntoNode {
    /// Which of the two.
    type Node;
    /// Makes it.
    fn into_node(self) -> Self::Node;
}

impl IntoNode for Permits {
    type Node = Permission;

    fn into_node(self) -> Permission {
        Permission { rule: Some(self) }
    }
}

impl IntoNode for Identifier {
    type Node = Principal;

    fn into_node(self) -> Principal {
        Principal { identifier: Some(self) }
    }
}

/// A policy that matches everything.
pub fn always() -> Policy {
    Policy { permissions: vec![Permission::any()], principals: vec![Principal::any()], ..Default::default() }
}

/// A policy that matches nothing.
pub fn never() -> Policy {
    Policy {
        permissions: vec![Permission::not(Permission::any())],
        principals: vec![Principal::not(Principal::any())],
        ..Default::default()
    }
}
