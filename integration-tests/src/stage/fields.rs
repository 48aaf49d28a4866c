//! What a container is told of its pod: the downward API, and the values that
//! its environment is made of.
//! <https://kubernetes.io/docs/concepts/workloads/pods/downward-api/>

use std::collections::BTreeMap;

use serde_json::Value;

/// A field of a pod by its path, as text.
pub(super) fn field(pod: &Value, path: &str) -> Option<String> {
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return Some(pod.pointer(&pointer(map))?[key].as_str().unwrap_or_default().to_owned());
    }
    match path {
        "metadata.labels" | "metadata.annotations" => Some(pairs(&pod["metadata"][&path["metadata.".len()..]])),
        "status.podIPs" => pod["status"]["podIP"].as_str().map(String::from),
        "status.hostIPs" => pod["status"]["hostIP"].as_str().map(String::from),
        _ => pod.pointer(&pointer(path))?.as_str().map(String::from),
    }
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

/// Lines of `key="value"`.
fn pairs(map: &Value) -> String {
    let map: BTreeMap<_, _> = map.as_object().into_iter().flatten().collect();
    let quote = |value: &str| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        value.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t")
    };
    let line = |(key, value): (&String, &Value)| format!("{key}=\"{}\"\n", quote(value.as_str().unwrap_or_default()));
    map.into_iter().map(line).collect()
}

/// A resource of a container, such as `limits.cpu`, in units of the divisor.
/// What is not limited is limited by the machine.
pub(super) fn resource(container: &Value, path: &str, divisor: &str) -> Option<String> {
    let (list, name) = path.split_once('.')?;
    let said = container["resources"][list][name].as_str().and_then(quantity);
    let machine = || match name {
        "cpu" => std::thread::available_parallelism().ok().map(|count| count.get() as f64),
        _ => Some(f64::from(4_u32) * 1024.0 * 1024.0 * 1024.0),
    };
    let divisor = quantity(if divisor.is_empty() || divisor == "0" { "1" } else { divisor })?;
    Some(format!("{}", (said.or_else(machine)? / divisor).ceil() as u64))
}

/// A quantity such as `100m` or `128Mi`.
fn quantity(text: &str) -> Option<f64> {
    let at = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(at);
    let factor = match suffix {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

/// A text with `$(NAME)` replaced by what the environment says; `$$` is a
/// dollar, and a name that is not there stays.
pub(super) fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        match reference.and_then(|(name, after)| Some((environment.get(name)?, after))) {
            Some((value, after)) => {
                expanded.push_str(value);
                rest = after;
            }
            None => {
                expanded.push('$');
                rest = &rest[1..];
            }
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests;
