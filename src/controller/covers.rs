//! Whether an object is already what applying fields would make of it. The API
//! server would find the same out, at the price of a request, and of an entry
//! in everybody's audit log for each look.

use serde_json::{Map, Value};

/// The fields that tell the elements of Kubernetes' lists apart. The first one
/// that an element has is its key.
const KEYS: &[&str] = &["uid", "type", "name", "mountPath", "containerPort", "port", "path", "key"];

/// Whether every field of `wanted` is in `live`. Fields and elements beside
/// them are defaults, or somebody else's.
pub fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| match live.get(key) {
                Some(live) if ["requests", "limits"].contains(&key.as_str()) => covers_quantities(live, value),
                Some(live) => covers(live, value),
                // The API server does not keep what is empty.
                None => is_empty(value),
            })
        }
        (Value::Array(live), Value::Array(wanted)) => {
            let keyed = wanted.iter().all(|element| key(element).is_some());
            if keyed && !wanted.is_empty() {
                return wanted
                    .iter()
                    .all(|element| live.iter().any(|other| same(other, element) && covers(other, element)));
            }
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// The same for amounts of resources, which the API server stores in a form of
/// its own.
fn covers_quantities(live: &Value, wanted: &Value) -> bool {
    let (Value::Object(live), Value::Object(wanted)) = (live, wanted) else { return covers(live, wanted) };
    wanted.iter().all(|(key, value)| match live.get(key) {
        Some(live) => live == value || quantity(live).is_some_and(|amount| Some(amount) == quantity(value)),
        None => is_empty(value),
    })
}

/// An amount in thousandths, such as that of `100m`, `1.5` or `2Gi`.
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>
fn quantity(value: &Value) -> Option<i128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let unit: i128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    // More digits than any amount has would not fit.
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| *digits < 10 && whole.len() < 16)?;
    let scaled: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some(scaled * unit / 10_i128.pow(digits))
}

/// Whether `manager` has applied a field that is no longer in `wanted`, hence
/// has to be taken back. `subresource` is empty or `status`.
/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>
pub fn applied_more(live: &Value, wanted: &Value, manager: &str, subresource: &str) -> bool {
    let entries = live["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ours = entries.iter().filter(|entry| {
        entry["manager"] == manager
            && entry["operation"] == "Apply"
            && entry["subresource"].as_str().unwrap_or_default() == subresource
    });
    ours.filter_map(|entry| entry["fieldsV1"].as_object()).any(|fields| more(fields, wanted))
}

fn more(fields: &Map<String, Value>, wanted: &Value) -> bool {
    fields.iter().any(|(path, below)| {
        let part = match path.split_once(':') {
            Some(("f", name)) => wanted.get(name),
            Some(("k", key)) => serde_json::from_str(key).ok().and_then(|key| element(wanted, &key)),
            Some(("v", value)) => serde_json::from_str(value)
                .ok()
                .and_then(|value: Value| wanted.as_array()?.iter().find(|element| **element == value)),
            // The object itself, and what is newer than we are.
            _ => return false,
        };
        match (part, below.as_object()) {
            (None, _) => true,
            (Some(part), Some(below)) => more(below, part),
            (Some(_), None) => false,
        }
    })
}

fn element<'a>(list: &'a Value, key: &Value) -> Option<&'a Value> {
    let key = key.as_object()?;
    // A part of the key that is not said is a default.
    let is = |element: &Value| key.iter().all(|(name, value)| element.get(name).is_none_or(|other| other == value));
    list.as_array()?.iter().find(|element| is(element))
}

fn key(element: &Value) -> Option<(&'static str, &Value)> {
    KEYS.iter().find_map(|key| Some((*key, element.get(*key)?)))
}

fn same(live: &Value, wanted: &Value) -> bool {
    key(wanted).is_some_and(|(key, value)| live.get(key) == Some(value))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
