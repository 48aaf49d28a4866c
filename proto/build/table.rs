//! Where maps can be inside a message: the table that `canonical` walks by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};

const ANY: &str = "google.protobuf.Any";

/// A field through which a map can be reached.
struct Field {
    number: i32,
    is_map: bool,
    /// The message in it, or in the map's values.
    inside: Option<String>,
}

/// The source of the table: messages by name, and for each its fields through
/// which a map or an `Any` can be reached. Messages without any are left out.
pub fn source(set: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut all = BTreeMap::new();
    for file in &set.file {
        let package = file.package();
        file.message_type.iter().for_each(|message| collect(package, message, &mut all));
    }
    let with_maps = closure(&all);
    let index: BTreeMap<&str, usize> = with_maps.iter().enumerate().map(|(at, name)| (*name, at)).collect();
    let inside = |field: &Field| match field.inside.as_deref() {
        Some(ANY) => Some("ANY".to_string()),
        Some(name) => index.get(name).map(ToString::to_string),
        None => None,
    };

    let (mut fields, mut messages, mut names, mut count) = (String::new(), String::new(), String::new(), 0);
    for name in &with_maps {
        for field in &all[name.to_owned()] {
            let (number, is_map) = (field.number, field.is_map);
            match inside(field) {
                None if !is_map => continue,
                inside => {
                    let inside = inside.as_deref().unwrap_or("NOTHING");
                    writeln!(fields, "Field {{ number: {number}, is_map: {is_map}, inside: {inside} }},")?;
                }
            }
            count += 1;
        }
        writeln!(messages, "{count},")?;
        writeln!(names, "{name:?},")?;
    }
    let (types, all) = (with_maps.len(), count);
    assert!(types < usize::from(u16::MAX) - 2 && all < usize::from(u16::MAX), "indices are of 16 bits");
    Ok(format!(
        "static NAMES: [&str; {types}] = [\n{names}];\n\
         static ENDS: [u16; {types}] = [\n{messages}];\n\
         static FIELDS: [Field; {all}] = [\n{fields}];\n"
    ))
}

/// Lists the fields of a message and of those declared in it, by number.
fn collect(parent: &str, message: &DescriptorProto, all: &mut BTreeMap<String, Vec<Field>>) {
    let name = format!("{parent}.{}", message.name()).trim_start_matches('.').to_string();
    let mut fields: Vec<Field> = message
        .field
        .iter()
        .map(|field| {
            let inside =
                (field.r#type() == Type::Message).then(|| field.type_name().trim_start_matches('.').to_string());
            let entry = message.nested_type.iter().find(|nested| {
                let is_entry = nested.options.as_ref().is_some_and(|options| options.map_entry());
                is_entry && inside.as_deref() == Some(&*format!("{name}.{}", nested.name()))
            });
            let value = entry.and_then(|entry| entry.field.iter().find(|field| field.number() == 2));
            let inside = match value {
                Some(value) if value.r#type() == Type::Message => {
                    Some(value.type_name().trim_start_matches('.').to_string())
                }
                Some(_) => None,
                None => inside,
            };
            Field { number: field.number(), is_map: entry.is_some(), inside }
        })
        .collect();
    fields.sort_by_key(|field| field.number);
    message.nested_type.iter().for_each(|nested| collect(&name, nested, all));
    all.insert(name, fields);
}

/// The messages through which a map or an `Any` can be reached.
fn closure(all: &BTreeMap<String, Vec<Field>>) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for (name, fields) in all {
            let reaches = |field: &Field| {
                let inside = field.inside.as_deref();
                field.is_map || inside.is_some_and(|inside| inside == ANY || found.contains(inside))
            };
            if name != ANY && fields.iter().any(reaches) {
                found.insert(name.as_str());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}
