//! JSON as YAML, in the style of Envoy's documentation. There is one way to
//! write each value, so that files with it can be compared.

use std::fmt::Write;

use serde_json::Value as Json;

/// A value as YAML.
pub fn yaml(value: &Json) -> String {
    let mut text = String::new();
    match value {
        Json::Object(fields) if !fields.is_empty() => object(&mut text, 0, fields, false),
        Json::Array(list) if !list.is_empty() => array(&mut text, 0, list),
        other => {
            text = scalar(other);
            text.push('\n');
        }
    }
    text
}

/// `continued` is whether the first line has begun, with the dash of a list.
fn object(text: &mut String, indent: usize, fields: &serde_json::Map<String, Json>, continued: bool) {
    for (at, (key, value)) in fields.iter().enumerate() {
        if at > 0 || !continued {
            text.extend(std::iter::repeat_n(' ', indent));
        }
        *text += &string(key);
        match value {
            Json::Object(inner) if !inner.is_empty() => {
                *text += ":\n";
                object(text, indent + 2, inner, false);
            }
            Json::Array(list) if !list.is_empty() => {
                *text += ":\n";
                array(text, indent, list);
            }
            other => {
                let _ = writeln!(text, ": {}", scalar(other));
            }
        }
    }
}

fn array(text: &mut String, indent: usize, list: &[Json]) {
    for one in list {
        text.extend(std::iter::repeat_n(' ', indent));
        match one {
            Json::Object(inner) if !inner.is_empty() => {
                *text += "- ";
                object(text, indent + 2, inner, true);
            }
            Json::Array(inner) if !inner.is_empty() => {
                *text += "-\n";
                array(text, indent + 2, inner);
            }
            other => {
                let _ = writeln!(text, "- {}", scalar(other));
            }
        }
    }
}

/// What takes no further lines.
fn scalar(value: &Json) -> String {
    match value {
        Json::String(text) => string(text),
        // Empty lists and objects are written alike in both.
        other => other.to_string(),
    }
}

/// Without quotes where nobody can take it for anything but a string.
fn string(text: &str) -> String {
    if is_plain(text) {
        return text.to_string();
    }
    // JSON's strings are YAML's, but for characters that YAML wants escaped.
    let quoted = Json::from(text).to_string();
    let mut escaped = String::new();
    for c in quoted.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

fn is_plain(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_-./ |%()[]{},=:@*~+<>;^$".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || "/_".contains(c));
    let duration = text.strip_suffix('s').is_some_and(is_digits);
    let address = text.split('.').count() == 4 && text.split('.').all(is_digits);
    let means_more = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    duration
        || address
        || begins
            && text.chars().all(inside)
            && !text.contains(": ")
            && !text.ends_with([':', ' '])
            && !means_more.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}
