//! The search for the parts of a listener that a proxy does not take, where
//! nothing is known to have been accepted of it before: after a restart, the
//! proxy goes on with a configuration that only it knows. So nothing is taken
//! away from it to find out. Groups of parts go into a listener of their own, to
//! which nothing leads, and the proxy says whether it takes that.
//!
//! If nearly all are at fault, it is something that they have in common, such as
//! a setting of the mesh. Then the proxy rather stays as it is.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

/// How many are found one after the other, and nobody innocent, before one from
/// the other end is asked about.
const MANY: usize = 3;

/// The name of a part.
type Name = Arc<str>;

/// A search.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// What the proxy is asked about.
    asked: Vec<Name>,
    /// The other half of a group of which some part is at fault.
    other: Vec<Name>,
    /// Parts of which nothing is known.
    open: Vec<Name>,
    /// What it does not take, and why.
    found: BTreeMap<Name, String>,
    /// How many it takes.
    innocent: usize,
}

impl Search {
    /// A search among parts of which some are at fault, unless it is what all of
    /// them are in.
    pub(super) fn new(suspects: Vec<Name>) -> Self {
        let mut search = Self::default();
        search.halve(suspects);
        search
    }

    /// What the proxy is to be asked about; nothing when the search is over.
    pub(super) fn asked(&self) -> &[Name] {
        &self.asked
    }

    /// What was found, and why it is not taken.
    pub(super) fn found(&self) -> impl Iterator<Item = (&Name, &String)> {
        let few = self.found.len() <= self.innocent.max(1);
        self.found.iter().filter(move |_| few)
    }

    /// Takes the answer: why what was asked about is not taken, or that it is.
    pub(super) fn answered(&mut self, rejection: Option<&str>) {
        let (names, other) = (std::mem::take(&mut self.asked), std::mem::take(&mut self.other));
        match rejection {
            Some(why) => {
                self.open.extend(other);
                match &*names {
                    [one] => {
                        self.found.insert(one.clone(), why.to_owned());
                        self.begin_anew();
                    }
                    _ => self.halve(names),
                }
            }
            None => {
                self.innocent += names.len();
                match other.is_empty() {
                    true => self.begin_anew(),
                    false => self.halve(other),
                }
            }
        }
    }

    /// Asks about one half of a group of which some part is at fault; or about
    /// the only one, as it may as well be none of them.
    fn halve(&mut self, mut names: Vec<Name>) {
        self.other = match names.len() {
            0 | 1 => Vec::new(),
            count => names.split_off(count / 2),
        };
        self.asked = names;
    }

    /// Asks about all that is left at once: mostly one part is to blame.
    fn begin_anew(&mut self) {
        self.asked = match self.found.len() {
            MANY if self.innocent == 0 => self.open.pop().into_iter().collect(),
            count if count > MANY && self.innocent == 0 => Vec::new(),
            _ => std::mem::take(&mut self.open),
        };
    }
}
