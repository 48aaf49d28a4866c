//! Objects by the namespace they are in and the hosts they are for.

use std::sync::Arc;

use crate::api::ObjectKey;
use crate::graph::{Collection, Ctx, Graph, Index, Value};

use super::service::hostname;

/// Objects of one kind, by namespace and host; those for more than one host by
/// `*`.
pub struct ByHost<V>(Index<(Arc<str>, Arc<str>), ObjectKey, V>);

impl<V> Clone for ByHost<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for ByHost<V> {}

impl<V: Value> ByHost<V> {
    /// Declares the index. `hosts` are as the object writes them.
    pub fn new(
        graph: &mut Graph,
        objects: Collection<ObjectKey, V>,
        domain: &Arc<str>,
        hosts: impl Fn(&V) -> &[Arc<str>] + Send + 'static,
    ) -> Self {
        let domain = domain.clone();
        Self(graph.index(objects, move |key: &ObjectKey, object, keys| {
            for host in hosts(object) {
                let host = resolve(host, &key.namespace, &domain);
                let host = if host.starts_with('*') { "*".into() } else { host };
                if !keys.contains(&(key.namespace.clone(), host.clone())) {
                    keys.push((key.namespace.clone(), host));
                }
            }
        }))
    }

    /// Those in a namespace that name exactly this host.
    pub fn exact<'g>(&self, cx: &Ctx<'g>, namespace: &Arc<str>, host: &Arc<str>) -> Vec<&'g V> {
        self.fetch(cx, namespace, host)
    }

    /// Those in a namespace that are for more than one host.
    pub fn wide<'g>(&self, cx: &Ctx<'g>, namespace: &Arc<str>) -> Vec<&'g V> {
        self.fetch(cx, namespace, &"*".into())
    }

    fn fetch<'g>(&self, cx: &Ctx<'g>, namespace: &Arc<str>, host: &Arc<str>) -> Vec<&'g V> {
        let key = (namespace.clone(), host.clone());
        cx.fetch(self.0, &key).map(|(_, object)| object).collect()
    }
}

/// The full name of a host as an object in `namespace` writes it: a name
/// without a dot is that of a Service beside it.
pub fn resolve(host: &Arc<str>, namespace: &str, domain: &str) -> Arc<str> {
    match host.contains(['.', '*']) || host.is_empty() {
        true => host.clone(),
        false => hostname(host, namespace, domain),
    }
}

/// Whether a host with a leading `*` stands for another.
pub fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix) && host.len() > suffix.len(),
        None => pattern == host,
    }
}

/// Whether an object is to be seen from a namespace. `default` is for objects
/// that do not say.
pub fn exported(export_to: &[Arc<str>], default: &[Arc<str>], own: &str, to: &str) -> bool {
    let list = if export_to.is_empty() { default } else { export_to };
    list.is_empty()
        || list.iter().any(|entry| match &**entry {
            "*" => true,
            "." => own == to,
            "~" => false,
            namespace => namespace == to,
        })
}
