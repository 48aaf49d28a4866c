//! A YAML text as Kubernetes objects: documents divided by `---`, each read on
//! its own so that a broken one leaves its neighbours alone.

mod block_style;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::api::kinds::DecodeError;
use crate::api::{Kind, Object, ObjectKey, yaml, yaml_options};

use super::originals::Original;

/// What was found in one place of a text.
#[derive(Debug)]
pub enum Document {
    /// An object of a kind that is read.
    Object(Object),
    /// An object of another kind.
    Other {
        /// That kind.
        kind: String,
    },
    /// Something that cannot be read.
    Broken {
        /// The line it begins at, counted from 1.
        line: usize,
        /// The object, if at least its name can be read.
        object: Option<(Kind, ObjectKey)>,
        /// What is wrong.
        error: DecodeError,
    },
}

/// Reads all documents of a text, and the items of any `List`.
pub fn read(text: &str) -> Vec<Document> {
    read_behind(0, text)
}

/// The same for a part of a text that has so many lines before it.
pub fn read_behind(lines: usize, text: &str) -> Vec<Document> {
    let mut found = Vec::new();
    for (line, document) in split(text) {
        read_document(lines + line, document, &mut found);
    }
    found
}

/// The objects of kinds that are wanted, as they were written. What is broken
/// before its kind is known is none.
pub fn originals(text: &str, wanted: impl Fn(Kind) -> bool) -> Vec<Original> {
    let (mut documents, mut found) = (Vec::new(), Vec::new());
    for (line, document) in split(text) {
        // Most documents of large folders are of other kinds.
        let kind = sniff(document).and_then(|header| Kind::of(&header.api_version?, &header.kind?));
        if kind.is_none_or(&wanted)
            && let Ok(written) = yaml::<Value>(document)
        {
            documents.push((line, document.to_owned(), written));
        }
    }
    while let Some((line, text, mut written)) = documents.pop() {
        let Ok(header) = Header::deserialize(&written) else { continue };
        let (Some(api_version), Some(name)) = (&header.api_version, &header.kind) else { continue };
        match (Kind::of(api_version, name), written.get_mut("items").and_then(Value::as_array_mut)) {
            (Some(kind), _) if wanted(kind) => {
                let read = decode(kind, line, &text);
                let key = header.object(kind).map_or_else(|| ObjectKey::new("", ""), |(_, key)| key);
                found.push(Original { kind, key, written, read });
            }
            (None, Some(items)) if name.ends_with("List") => {
                documents.extend(items.drain(..).map(|item| (line, item.to_string(), item)));
            }
            _ => {}
        }
    }
    // They were taken from behind.
    found.reverse();
    found
}

/// The documents of a text, with the line each begins at.
fn split(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let (mut rest, mut line) = (Some(text), 1);
    let documents = std::iter::from_fn(move || {
        let text = rest?;
        let (document, next) = match marker(text) {
            // What follows the marker on its line belongs to the next
            // document, unless it is a remark.
            Some(at) => {
                let behind = &text[at + MARKER.len()..];
                let remark = behind.trim_start_matches([' ', '\t']).starts_with('#');
                let skipped = if remark { behind.find('\n').map_or(behind.len(), |end| end + 1) } else { 0 };
                (&text[..at], Some((&behind[skipped..], at + MARKER.len() + skipped)))
            }
            None => (text, None),
        };
        let begins = line;
        if let Some((next, from)) = next {
            line += text.as_bytes()[..from].iter().filter(|byte| **byte == b'\n').count();
            rest = Some(next);
        } else {
            rest = None;
        }
        Some((begins, document))
    });
    documents.filter(|(_, document)| !document.lines().all(is_blank))
}

/// What divides documents, on a line of its own or before a space.
const MARKER: &str = "---";

/// Where the first marker in a text is.
fn marker(text: &str) -> Option<usize> {
    let is_marker = |at: usize| {
        let line = text[at..].split('\n').next().unwrap_or_default();
        let behind = line.strip_prefix(MARKER).map(|behind| behind.trim_end_matches('\r'));
        behind.is_some_and(|behind| behind.is_empty() || behind.starts_with([' ', '\t']))
    };
    if is_marker(0) {
        return Some(0);
    }
    text.match_indices("\n---").map(|(at, _)| at + 1).find(|at| is_marker(*at))
}

/// Whether a line says nothing.
fn is_blank(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#') || line.trim() == "..."
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<Name>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Name {
    name: Option<Arc<str>>,
    namespace: Option<Arc<str>>,
}

impl Header {
    fn object(&self, kind: Kind) -> Option<(Kind, ObjectKey)> {
        let metadata = self.metadata.as_ref()?;
        let namespace = metadata.namespace.as_deref().unwrap_or(default_namespace(kind));
        Some((kind, ObjectKey::new(namespace, metadata.name.as_deref()?)))
    }
}

fn read_document(line: usize, text: &str, found: &mut Vec<Document>) {
    if let Some(object) = read_block_style(text) {
        found.push(Document::Object(object));
        return;
    }
    let broken = |object, error| Document::Broken { line, object, error };
    let header = match sniff(text) {
        Some(header) => header,
        None => match yaml::<Header>(text) {
            Ok(header) => header,
            Err(error) => {
                let error = DecodeError { field: ".".into(), reason: reason(line, &error) };
                found.push(broken(None, error));
                return;
            }
        },
    };
    let (Some(api_version), Some(kind)) = (&header.api_version, &header.kind) else {
        let error =
            DecodeError { field: ".".into(), reason: "not a Kubernetes object: apiVersion or kind is missing".into() };
        found.push(broken(None, error));
        return;
    };
    if kind.ends_with("List") && Kind::of(api_version, kind).is_none() {
        read_list(line, text, found);
        return;
    }
    let Some(kind) = Kind::of(api_version, kind) else {
        found.push(Document::Other { kind: kind.clone() });
        return;
    };
    match decode(kind, line, text) {
        Ok(object) => found.push(Document::Object(object)),
        Err(error) => {
            // Only now the name matters by itself.
            let object = yaml::<Header>(text).ok().and_then(|header| header.object(kind));
            found.push(broken(object, error));
        }
    }
}

/// The object in a document that is nothing special: its kind comes first, and
/// all of it is in block style.
fn read_block_style(text: &str) -> Option<Object> {
    let mut lines = text.lines().filter(|line| !is_blank(line));
    // That there is no second of these, decoding will see.
    let api_version = lines.next()?.strip_prefix("apiVersion:").and_then(plain)?;
    let kind = Kind::of(api_version, lines.next()?.strip_prefix("kind:").and_then(plain)?)?;
    let object = block_style::decode(text, |node| kind.decode(node)).ok()?;
    Some(with_namespace(kind, object)).filter(|object| !object.meta().name.is_empty())
}

/// A value that needs no parser.
fn plain(value: &str) -> Option<&str> {
    let value = value.trim();
    let plain = value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'/' | b'-'));
    (plain && !value.is_empty()).then_some(value)
}

fn read_list(line: usize, text: &str, found: &mut Vec<Document>) {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        items: Vec<serde_json::Value>,
    }
    match yaml::<List>(text) {
        // JSON is YAML, so an item is read as a document of its own.
        Ok(list) => list.items.iter().for_each(|item| read_document(line, &item.to_string(), found)),
        Err(error) => {
            let error = DecodeError { field: "items".into(), reason: reason(line, &error) };
            found.push(Document::Broken { line, object: None, error });
        }
    }
}

/// The header of the usual document, whose top-level keys begin their lines.
/// It saves a pass through the parser; anything unusual takes that pass.
fn sniff(text: &str) -> Option<Header> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = plain(lines.next()?)?;
        lines.next().is_none().then(|| value.to_string())
    };
    Some(Header { api_version: Some(value("apiVersion")?), kind: Some(value("kind")?), metadata: None })
}

fn decode(kind: Kind, line: usize, text: &str) -> Result<Object, DecodeError> {
    let object = match text.trim_start().starts_with('{') {
        true => kind.decode_json(text).or_else(|_| decode_yaml(kind, line, text)),
        false => decode_yaml(kind, line, text),
    }?;
    let object = with_namespace(kind, object);
    if object.meta().name.is_empty() {
        return Err(DecodeError { field: "metadata.name".into(), reason: "is missing".into() });
    }
    Ok(object)
}

fn decode_yaml(kind: Kind, line: usize, text: &str) -> Result<Object, DecodeError> {
    // Also for a document that merely does not begin with its kind.
    block_style::decode(text, |node| kind.decode(node)).or_else(|_| decode_fully(kind, line, text))
}

/// Decodes what may be any YAML.
fn decode_fully(kind: Kind, line: usize, text: &str) -> Result<Object, DecodeError> {
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, yaml_options(), |yaml| kind.decode(yaml));
    result.map_err(|error| {
        let mut field = ".".to_string();
        let _ = serde_saphyr::with_deserializer_from_str_with_options(text, yaml_options(), |yaml| {
            if let Err(error) = kind.decode_tracked(yaml) {
                field = error.field;
            }
            Ok(())
        });
        DecodeError { field, reason: reason(line, &error) }
    })
}

/// The namespace of objects that name none.
fn default_namespace(kind: Kind) -> &'static str {
    if kind.info().namespaced { "default" } else { "" }
}

fn with_namespace(kind: Kind, mut object: Object) -> Object {
    if kind.info().namespaced && object.meta().namespace.is_empty() {
        object.meta_mut().namespace = crate::api::intern(default_namespace(kind));
    }
    object
}

/// The error in one line, with its line in the whole text.
fn reason(line: usize, error: &serde_saphyr::Error) -> String {
    let plain = error.without_snippet();
    let text = plain.to_string().lines().next().unwrap_or_default().to_string();
    match plain.location() {
        Some(location) => format!("line {}: {text}", line as u64 + location.line() - 1),
        None => text,
    }
}

#[cfg(test)]
mod tests;
