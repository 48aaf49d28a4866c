//! Looking into a collection, for people who want to know what the graph holds.

use std::any::Any;
use std::fmt::{self, Debug, Write as _};
use std::ops::ControlFlow;

use super::{Graph, Provenance};

/// A row that is looked at.
pub(super) struct Shown<'a> {
    pub(super) key: &'a dyn Debug,
    /// The same, with its type.
    pub(super) typed: &'a dyn Any,
    /// None where the graph keeps no more than a fingerprint.
    pub(super) row: Option<&'a dyn Debug>,
}

/// Some rows of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dump {
    /// How many rows the collection has.
    pub rows: usize,
    /// Those that were asked for, in the order of their printed keys.
    pub shown: Vec<DumpedRow>,
}

/// A row as it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedRow {
    /// The key.
    pub key: String,
    /// The row, up to a length; none if it has left the graph.
    pub row: Option<String>,
    /// Where it comes from, if it was asked for by its key.
    pub provenance: Option<Provenance>,
}

/// Compares what is printed with a text, and prints nothing.
struct Same<'a>(&'a str);

impl fmt::Write for Same<'_> {
    fn write_str(&mut self, printed: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(printed).ok_or(fmt::Error)?;
        Ok(())
    }
}

/// Prints no more than so many bytes: a row may be megabytes that are encoded.
struct Printed {
    text: String,
    most: usize,
}

impl fmt::Write for Printed {
    fn write_str(&mut self, printed: &str) -> fmt::Result {
        let fits = printed.floor_char_boundary(self.most - self.text.len());
        self.text.push_str(&printed[..fits]);
        if fits < printed.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

fn printed(row: &dyn Debug, most: usize) -> String {
    let mut printed = Printed { text: String::new(), most };
    match write!(printed, "{row:?}") {
        Ok(()) => printed.text,
        Err(_) => printed.text + "…",
    }
}

fn prints_as(key: &dyn Debug, text: &str) -> bool {
    let mut rest = Same(text);
    write!(rest, "{key:?}").is_ok() && rest.0.is_empty()
}

/// How much is printed of a row, and of one that is asked for by its key.
const LINE: usize = 4 << 10;
const PAGE: usize = 1 << 20;

impl Graph {
    /// Rows of the collection of a name: the one whose key is printed like
    /// `key`, with where it comes from, or as many as `most`, whichever they
    /// are. None if there is no such collection.
    pub fn dump(&self, name: &str, key: Option<&str>, most: usize) -> Option<Dump> {
        let node = self.nodes.iter().find(|node| node.stats().name == name)?;
        let mut shown = Vec::new();
        node.show(&mut |one| {
            if key.is_some_and(|key| !prints_as(one.key, key)) {
                return ControlFlow::Continue(());
            }
            if shown.len() == most {
                return ControlFlow::Break(());
            }
            let provenance = key.map(|_| self.provenance_in(node.as_ref(), one.typed));
            let row = one.row.map(|row| printed(row, if key.is_some() { PAGE } else { LINE }));
            shown.push(DumpedRow { key: format!("{:?}", one.key), row, provenance });
            if key.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        shown.sort_by(|a, b| a.key.cmp(&b.key));
        Some(Dump { rows: node.stats().rows, shown })
    }
}
