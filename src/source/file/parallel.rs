//! Reading files on all cores, a piece at a time. What is found leaves here
//! file by file, and no more than a few pieces are on their way.

use std::collections::{BTreeMap, HashMap};
use std::io::Result;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};

use super::pieces::{Piece, Pieces};
use crate::source::documents::{Document, read_behind};

/// The pieces of files, in order.
struct Queue<'a> {
    files: std::iter::Enumerate<std::slice::Iter<'a, PathBuf>>,
    open: Option<(usize, usize, Pieces)>,
}

/// A piece, as the `number`th of a file. An error is the last of its file.
struct Task {
    file: usize,
    number: usize,
    piece: Result<Piece>,
}

/// What was found in a piece.
struct Part {
    file: usize,
    number: usize,
    last: bool,
    found: Result<Vec<Document>>,
}

/// The parts of a file that are there.
#[derive(Default)]
struct Parts {
    found: BTreeMap<usize, Result<Vec<Document>>>,
    /// How many there are, once the last one is there.
    count: Option<usize>,
}

impl Iterator for Queue<'_> {
    type Item = Task;

    fn next(&mut self) -> Option<Task> {
        loop {
            if let Some((file, number, pieces)) = &mut self.open {
                let (file, at) = (*file, *number);
                *number += 1;
                let piece = pieces.next();
                if !matches!(&piece, Ok(Some(piece)) if !piece.last) {
                    self.open = None;
                }
                match piece.transpose() {
                    Some(piece) => return Some(Task { file, number: at, piece }),
                    None => continue,
                }
            }
            let (file, path) = self.files.next()?;
            match Pieces::open(path) {
                Ok(pieces) => self.open = Some((file, 0, pieces)),
                Err(error) => return Some(Task { file, number: 0, piece: Err(error) }),
            }
        }
    }
}

impl Task {
    fn read(self) -> Part {
        let last = self.piece.as_ref().map_or(true, |piece| piece.last);
        let found = self.piece.map(|piece| read_behind(piece.lines_before, &piece.text));
        Part { file: self.file, number: self.number, last, found }
    }
}

/// Reads and decodes files on as many threads as there are cores. `take` gets
/// what was found in each, by the number of the file, in the order in which
/// they are done; it tells whether to go on.
pub fn read_files(files: &[PathBuf], mut take: impl FnMut(usize, Result<Vec<Document>>) -> bool) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(Queue { files: files.iter().enumerate(), open: None });
    let (parts, done) = mpsc::sync_channel::<Part>(2 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (queue, parts) = (&queue, parts.clone());
            scope.spawn(move || {
                // Held while a piece is read from the disk, which costs little
                // beside decoding it.
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                while let Some(task) = next() {
                    if parts.send(task.read()).is_err() {
                        return;
                    }
                }
            });
        }
        drop(parts);
        let mut open: HashMap<usize, Parts> = HashMap::new();
        // Moved in, so that the threads end when this returns early.
        for part in done {
            let file = open.entry(part.file).or_default();
            file.found.insert(part.number, part.found);
            file.count = file.count.or(part.last.then_some(part.number + 1));
            if file.count != Some(file.found.len()) {
                continue;
            }
            let found = open.remove(&part.file).unwrap_or_default().found;
            let documents =
                found.into_values().collect::<Result<Vec<_>>>().map(|parts| parts.into_iter().flatten().collect());
            if !take(part.file, documents) {
                return;
            }
        }
    });
}
