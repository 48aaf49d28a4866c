//! Overlays: what a user adds to the objects of a Gateway, in a ConfigMap that
//! `spec.infrastructure.parametersRef` names, or in one with defaults for all
//! Gateways of a class. Each key is a kind, its value a strategic merge patch.
//! <https://istio.io/latest/docs/tasks/traffic-management/ingress/gateway-api/#automated-deployment>,
//! <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md>

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::controller::resource::{Reference, Resource};

use super::World;

/// The label of a ConfigMap with defaults for a class.
pub const DEFAULTS: &str = "gateway.istio.io/defaults-for-class";

/// The keys of an overlay, and the kinds that they are for.
const KINDS: [(&str, Resource); 5] = [
    ("deployment", Resource::Deployment),
    ("service", Resource::Service),
    ("serviceAccount", Resource::ServiceAccount),
    ("horizontalPodAutoscaler", Resource::HorizontalPodAutoscaler),
    ("podDisruptionBudget", Resource::PodDisruptionBudget),
];

/// Lists that are merged element by element, and the fields that tell their
/// elements apart, of which an element has one. All other lists are replaced.
const MERGED: [(&str, &[&str]); 14] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("volumes", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("secrets", &["name"]),
    ("env", &["name"]),
    ("resourceClaims", &["name"]),
    ("schedulingGates", &["name"]),
    ("ports", &["containerPort", "port"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey"]),
];

/// Metadata that is not for a user to change.
const OURS: [&str; 10] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// What is added to the objects of one Gateway, the class's defaults first.
#[derive(Debug, Default, PartialEq)]
pub struct Overlays {
    patches: Vec<(Resource, Value)>,
}

/// Why there is nothing to add yet.
#[derive(Debug, PartialEq)]
pub enum Missing {
    /// The ConfigMap has to be looked up first.
    Unknown(Reference),
    /// It cannot be done as asked for, and this is why.
    Invalid(String),
}

/// The ConfigMap that a Gateway names, if it names one.
pub fn parameters(gateway: &Value) -> Option<Reference> {
    let parameters = &gateway["spec"]["infrastructure"]["parametersRef"];
    let text = |field: &str| parameters[field].as_str().unwrap_or_default();
    let namespace = gateway["metadata"]["namespace"].as_str().unwrap_or_default();
    let named = (text("group"), text("kind")) == ("", "ConfigMap") && !text("name").is_empty();
    named.then(|| Reference::new(Resource::ConfigMap, namespace, text("name")))
}

impl Overlays {
    /// The overlays of a Gateway.
    pub fn of(world: &World, gateway: &Value) -> Result<Self, Missing> {
        let mut overlays = Self::default();
        let class = gateway["spec"]["gatewayClassName"].as_str().unwrap_or_default();
        let of_class = world.class_defaults.values().filter(|map| map["metadata"]["labels"][DEFAULTS] == class);
        let oldest = of_class.min_by_key(|map| {
            let text = |field: &str| map["metadata"][field].as_str().unwrap_or_default();
            // Times of one form are in the order of their texts.
            (text("creationTimestamp"), text("name"))
        });
        if let Some(map) = oldest {
            overlays.read(map)?;
        }
        let parameters = &gateway["spec"]["infrastructure"]["parametersRef"];
        if parameters.is_null() {
            return Ok(overlays);
        }
        let Some(reference) = self::parameters(gateway) else {
            let text = |field: &str| parameters[field].as_str().unwrap_or_default();
            let (kind, group, name) = (text("kind"), text("group"), text("name"));
            let message = format!("parametersRef is to {name:?}, a {kind:?} of group {group:?}, not to a ConfigMap");
            return Err(Missing::Invalid(message));
        };
        match world.objects.get(&reference) {
            None => return Err(Missing::Unknown(reference)),
            Some(None) => return Err(Missing::Invalid(format!("there is no {reference}, to which parametersRef is"))),
            Some(Some(map)) => overlays.read(map)?,
        }
        Ok(overlays)
    }

    fn read(&mut self, map: &Value) -> Result<(), Missing> {
        let reference = Reference::of(Resource::ConfigMap, map);
        let invalid = |key: &str, message: &str| Err(Missing::Invalid(format!("{key:?} of {reference}: {message}")));
        for (key, text) in map["data"].as_object().into_iter().flatten() {
            let Some((_, resource)) = KINDS.iter().find(|(name, _)| name == key) else {
                return invalid(key, &format!("is none of {}", KINDS.map(|(name, _)| name).join(", ")));
            };
            match crate::api::yaml_of_users::<Value>(text.as_str().unwrap_or_default()) {
                Ok(patch @ Value::Object(_)) => self.patches.push((*resource, patch)),
                Ok(Value::Null) => self.patches.push((*resource, Value::Object(Map::new()))),
                Ok(_) => return invalid(key, "is not a mapping"),
                Err(error) => return invalid(key, &error.to_string()),
            }
        }
        Ok(())
    }

    /// Whether anything is said about a kind.
    pub fn has(&self, resource: Resource) -> bool {
        self.patches.iter().any(|(of, _)| *of == resource)
    }

    /// Adds what is said about an object's kind to it.
    pub fn apply(&self, resource: Resource, object: &mut Value) -> Result<(), String> {
        let before = object["metadata"].clone();
        let identity = |object: &Value| (object["apiVersion"].clone(), object["kind"].clone());
        let kind = identity(object);
        let name = KINDS.iter().find(|(_, of)| *of == resource).map_or("", |(name, _)| name);
        for (_, patch) in self.patches.iter().filter(|(of, _)| *of == resource) {
            merge(object, patch).map_err(|message| format!("overlay {name:?}: {message}"))?;
        }
        if identity(object) != kind {
            return Err(format!("overlay {name:?}: apiVersion and kind cannot be changed"));
        }
        match OURS.iter().find(|field| before[**field] != object["metadata"][**field]) {
            Some(field) => Err(format!("overlay {name:?}: metadata.{field} cannot be changed")),
            None => Ok(()),
        }
    }
}

/// Applies a strategic merge patch.
fn merge(object: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(fields) = patch else {
        object.clone_from(patch);
        return Ok(());
    };
    match directive(patch)? {
        Some("replace") => {
            *object = without_directive(patch);
            return Ok(());
        }
        Some("delete") => {
            *object = Value::Null;
            return Ok(());
        }
        _ => {}
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(target) = object.as_object_mut() else { return Ok(()) };
    if let Some(retained) = fields.get("$retainKeys") {
        let retained = retained.as_array().ok_or("$retainKeys is not a list")?;
        target.retain(|key, _| retained.iter().any(|one| one == key.as_str()));
    }
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("$patch" | "$retainKeys", _) => {}
            // A hint for what the order of a list shall be; ours is as good.
            (key, _) if key.starts_with("$setElementOrder/") => {}
            (key, _) if key.starts_with('$') => return Err(format!("{key} is not supported")),
            (key, Value::Null) => _ = target.remove(key),
            (key, Value::Array(elements)) => {
                let below = target.entry(key).or_insert(Value::Null);
                merge_list(key, below, elements)?;
            }
            (key, value) => {
                let below = target.entry(key).or_insert(Value::Null);
                merge(below, value)?;
                if below.is_null() {
                    target.remove(key);
                }
            }
        }
    }
    Ok(())
}

fn merge_list(field: &str, list: &mut Value, elements: &[Value]) -> Result<(), String> {
    let keys = MERGED.iter().find(|(name, _)| *name == field).map(|(_, keys)| *keys);
    let replaced = elements.iter().any(|one| {
        one.as_object()
            .is_some_and(|fields| fields.len() == 1 && fields.get("$patch").is_some_and(|patch| patch == "replace"))
    });
    let (Some(keys), false) = (keys, replaced) else {
        *list = elements.iter().filter(|one| one["$patch"].is_null()).cloned().collect();
        return Ok(());
    };
    let mut merged = list.as_array().cloned().unwrap_or_default();
    for element in elements {
        let Some(key) = keys.iter().find(|key| !element[**key].is_null()) else {
            return Err(format!("an element of {field} needs {}", keys.join(" or ")));
        };
        let place = merged.iter().position(|one| one[*key] == element[*key]);
        match (place, directive(element)?) {
            (Some(place), Some("delete")) => _ = merged.remove(place),
            (None, Some("delete")) => {}
            (Some(place), _) => merge(&mut merged[place], element)?,
            (None, _) => {
                let mut added = Value::Null;
                merge(&mut added, element)?;
                merged.push(added);
            }
        }
    }
    *list = Value::Array(merged);
    Ok(())
}

/// What is to be done with an object or an element.
fn directive(patch: &Value) -> Result<Option<&str>, String> {
    match &patch["$patch"] {
        Value::Null => Ok(None),
        Value::String(text) if ["replace", "delete", "merge"].contains(&text.as_str()) => Ok(Some(text)),
        other => Err(format!("{other} is none of the values of $patch")),
    }
}

fn without_directive(patch: &Value) -> Value {
    let mut patch = patch.clone();
    if let Some(fields) = patch.as_object_mut() {
        fields.remove("$patch");
    }
    patch
}
