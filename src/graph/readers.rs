//! Who read what: from the hash of a read to the rows that made it.

use rapidhash::{RapidHashMap, RapidHashSet};

#[derive(Default)]
pub(super) struct Readers {
    rows: RapidHashMap<u64, Rows>,
}

/// A read is mostly made by one row, or shared by few rows, and sometimes (mesh
/// configuration) by all of them; the first must be small and the last quick to
/// leave.
enum Rows {
    One(u32),
    Few(Vec<u32>),
    Many(Box<RapidHashSet<u32>>),
}

const FEW: usize = 32;

impl Readers {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn of(&self, read: u64) -> impl Iterator<Item = u32> {
        let (few, many): (&[u32], _) = match self.rows.get(&read) {
            None => (&[], None),
            Some(Rows::One(row)) => (std::slice::from_ref(row), None),
            Some(Rows::Few(rows)) => (rows, None),
            Some(Rows::Many(rows)) => (&[], Some(rows)),
        };
        few.iter().chain(many.into_iter().flat_map(|rows| &**rows)).copied()
    }

    /// Replaces the reads of a row; both lists are sorted and without
    /// duplicates. Mostly nothing differs.
    pub(super) fn replace(&mut self, row: u32, old: &[u64], new: &[u64]) {
        if old == new {
            return;
        }
        for &read in old.iter().filter(|read| new.binary_search(read).is_err()) {
            self.remove(read, row);
        }
        for &read in new.iter().filter(|read| old.binary_search(read).is_err()) {
            self.insert(read, row);
        }
    }

    fn insert(&mut self, read: u64, row: u32) {
        let rows = self.rows.entry(read).or_insert(Rows::One(row));
        match rows {
            // It is new.
            Rows::One(one) if *one == row => {}
            Rows::One(one) => *rows = Rows::Few(vec![*one, row]),
            Rows::Few(few) if few.len() < FEW => few.push(row),
            Rows::Few(few) => *rows = Rows::Many(Box::new(few.drain(..).chain([row]).collect())),
            Rows::Many(many) => _ = many.insert(row),
        }
    }

    fn remove(&mut self, read: u64, row: u32) {
        let empty = match self.rows.get_mut(&read) {
            None => false,
            Some(Rows::One(one)) => *one == row,
            Some(Rows::Few(few)) => {
                few.retain(|&other| other != row);
                few.is_empty()
            }
            Some(Rows::Many(many)) => {
                many.remove(&row);
                many.is_empty()
            }
        };
        if empty {
            self.rows.remove(&read);
        }
    }
}
