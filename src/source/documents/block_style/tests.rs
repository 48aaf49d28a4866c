use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::*;
use crate::api::kinds::DecodeError;
use crate::api::{Kind, yaml};
use crate::source::documents::{decode_fully, sniff, split};

/// Fields of every type that the models have, under one letter each.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Everything {
    a: Option<String>,
    b: Option<u16>,
    c: Option<bool>,
    d: Option<Vec<String>>,
    e: Option<BTreeMap<String, Option<String>>>,
    f: Option<Box<Everything>>,
    g: Option<Vec<Everything>>,
    h: Option<Guess>,
    i: Option<i64>,
    j: String,
    k: Option<Ignored>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Guess {
    Number(u16),
    Text(String),
}

#[derive(Debug, Deserialize)]
struct Ignored(#[allow(dead_code)] IgnoredAny);

impl PartialEq for Ignored {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What is read here is what the full parser reads. Tells whether it was read.
#[track_caller]
fn agrees<T: DeserializeOwned + PartialEq + Debug>(text: &str) -> bool {
    let Ok(read) = decode(text, |node| T::deserialize(node)) else { return false };
    match yaml::<T>(text) {
        Ok(full) => assert_eq!(read, full, "{text:?}"),
        Err(error) => panic!("the full parser refuses {text:?}: {error}"),
    }
    true
}

#[track_caller]
fn accepted(text: &str) {
    assert!(agrees::<Everything>(text), "{text:?}");
}

#[track_caller]
fn left(text: &str) {
    assert!(!agrees::<Everything>(text), "{text:?}");
}

#[test]
fn what_tools_write_is_read() {
    accepted("a: plain\nb: 80\nc: true\nd:\n- x\n- y\ne:\n  l: w\n  m: \"true\"\n  o:\nj: 10.0.0.1\n");
    accepted("d:\n    - --flag=value\n    - http://host:80/path\n    - '# none'\ne: {}\ng: []\n");
    accepted("g:\n- a: one\n  d:\n  - x\n  b: 1\n- f:\n    a: two\n\n  # remark\n  c: false\n# end\n");
    accepted("k: |\n  {\"any\": 'thing'}\n\n   - deeper\n  # no remark\na: after\n");
    accepted("g:\n- k: >-\n    folded\n  a: x\n-   a: far\n    b: 7\n");
    accepted("a: null\nd: ~\ni: -5\nh: name\nj: '2026-01-01T00:00:00Z'\n");
    accepted("  a: indented\n  j: 007");
}

#[test]
fn what_is_not_obvious_is_left_to_the_full_parser() {
    for text in [
        "a: x # remark\n",
        "a: x\n  y\n",
        "a: \"x\\n\"\n",
        "a: \"x\n  y\"\n",
        "a: 'it''s'\n",
        "a:\tx\n",
        "a: x\r\n",
        "a: \u{e9}\n",
        "a: &x y\n",
        "a: *x\n",
        "a: !!str y\n",
        "e: {l: w}\n",
        "d: [x]\n",
        "a: |2\n    x\n",
        "a: |\n  x\n",
        "k: |\n   x\n  y\n",
        "k: |\n\n  x\n",
        "a: x\na: y\n",
        "k:\n  x: 1\n  x: 2\n",
        "? a\n: x\n",
        "<<: {a: x}\n",
        "e:\n  1: x\n  0x1: y\n",
        "e:\n  yes: x\n",
        "\"a\": x\n",
        "a: x: y\n",
        "a: x:\n",
        "c: yes\n",
        "b: 0x10\n",
        "b: 010\n",
        "b: 65536\n",
        "b: \"80\"\n",
        "h: yes\n",
        "h: 1.5\n",
        "k: .inf\n",
        "k: 1e999\n",
        "k: 1e5\n",
        "j:\n",
        "j: null\n",
        "d:\n- - x\n",
        "d:\n-\n  x\n",
        "d:\n  - x\n - y\n",
        "g:\n- a: x\n   b: 1\n",
        "g:\n- a: x\n b: 1\n",
        " a: x\nb: 1\n",
        "a: x\n...\n",
        "%YAML 1.2\n---\na: x\n",
        "- a: x\n",
        "just text\n",
        "a: @x\n",
        "a: `x\n",
        "a: ?x\n",
        "a: %x\n",
        "a: - x\n",
        "a: 'x' y\n",
        "",
    ] {
        left(text);
    }
    left(&format!("{}: x\n", "a".repeat(2000)));
    left(&(0..1000).map(|depth| " ".repeat(depth) + "f:\n").collect::<String>());
}

/// Writes documents as decided by numbers: mostly what tools write, with all
/// sorts of scalars.
struct Scribe<'a> {
    choices: std::iter::Copied<std::slice::Iter<'a, u16>>,
    out: String,
}

const SCALARS: &[&str] = &[
    "x",
    "plain text",
    "80",
    "65535",
    "-1",
    "0",
    "true",
    "false",
    "null",
    "~",
    "",
    "10.0.0.1",
    "{}",
    "[]",
    "\"\"",
    "''",
    "\"quoted: # text\"",
    "'single'",
    "\"80\"",
    "\"true\"",
    "'null'",
    "http://host:80/",
    "a#b",
    "--flag",
    "2026-01-01T00:00:00Z",
    "$(NAME)",
    "sha256:00ab",
    "1.5",
    "512Mi",
    "250m",
    "Null",
    "/path",
    "_x",
    ".x",
    "+1",
    "-x",
    "(x)",
    "x - y",
    "a,b]c}d",
    "1e3",
    "x \"y\" 'z'",
    "x|y",
    "x>y",
    "x&y",
    "x*y",
    "x!y",
    "x%y",
    "x@y",
    "a\\b",
    "--- x",
    "...",
    "=",
    "<",
    "-.5",
    "0b1",
    "1_000",
    "\"a'b\"",
    "'a\"b'",
    "x?",
    "a ?b",
    "a :b",
    "y",
    "No",
    "0o7",
];
const HOSTILE: &[&str] = &[
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r",
    "\r\n",
    "#",
    " # remark",
    "\n# remark\n",
    ": ",
    ":",
    "- ",
    "-",
    "\n- ",
    "---",
    "\n---\n",
    "\n...\n",
    "&a ",
    "*a",
    "!t ",
    "!!str ",
    "|",
    ">",
    "|2",
    "|+\n",
    ">-\n ",
    "{",
    "}",
    "[",
    "]",
    "{a: b}",
    "[a, b]",
    ",",
    "\"",
    "'",
    "\\",
    "\\n",
    "? ",
    "<<: ",
    "%",
    "@",
    "`",
    "\u{e9}",
    "\u{85}",
    "\u{2028}",
    "\u{feff}",
    "\u{0}",
    "a: ",
    "k:\n",
    "\n  more",
    "0x1",
    ".inf",
    ".nan",
    "1e999",
    "yes",
    "null",
    "~",
    "\n \n",
    "\n   # x\n",
    "'' ",
    "\"\" ",
    "=",
];

impl Scribe<'_> {
    fn choose(&mut self, from: usize) -> usize {
        usize::from(self.choices.next().unwrap_or(0)) % from
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(text);
        let end = ["\n", "\n", "\n", "\n", " \n", "\n\n", "\n# remark\n", "\n  # remark\n"][self.choose(8)];
        self.out.push_str(end);
    }

    /// The entries of a mapping; what is before the first key is there.
    fn mapping(&mut self, indent: usize, depth: usize) {
        let mut keys: Vec<_> = "abcdefghijk".chars().collect();
        for entry in 0..1 + self.choose(5) {
            if entry > 0 {
                self.out.push_str(&" ".repeat(indent));
            }
            // Rarely the same one twice.
            let at = self.choose(keys.len());
            let key = if self.choose(40) == 0 { keys[at] } else { keys.remove(at) };
            self.out.push(key);
            self.out.push(':');
            match (key, self.choose(8)) {
                ('d', 0..6) if depth < 3 => self.sequence(indent, depth, false),
                ('g', 0..6) if depth < 3 => self.sequence(indent, depth, true),
                ('e' | 'f', 0..6) if depth < 3 => self.nested(indent, depth),
                ('k', 0..4) => self.text(indent),
                ('k', 4) if depth < 3 => self.nested(indent, depth),
                ('k', 5) if depth < 3 => self.sequence(indent, depth, true),
                _ => self.scalar(),
            }
        }
    }

    fn scalar(&mut self) {
        let space = [" ", " ", " ", "  "][self.choose(4)];
        let scalar = SCALARS[self.choose(SCALARS.len())];
        self.line(&format!("{space}{scalar}"));
    }

    fn nested(&mut self, indent: usize, depth: usize) {
        let inner = indent + 1 + self.choose(4);
        self.line("");
        self.out.push_str(&" ".repeat(inner));
        self.mapping(inner, depth + 1);
    }

    fn sequence(&mut self, indent: usize, depth: usize, mappings: bool) {
        let column = indent + [0, 0, 2, 1][self.choose(4)];
        self.line("");
        for _ in 0..1 + self.choose(3) {
            self.out.push_str(&" ".repeat(column));
            let dash = ["- ", "- ", "-   "][self.choose(3)];
            self.out.push_str(dash);
            if mappings {
                self.mapping(column + dash.len(), depth + 1);
            } else {
                let scalar = SCALARS[self.choose(SCALARS.len())];
                self.line(scalar);
            }
        }
    }

    fn text(&mut self, indent: usize) {
        let head = [" |\n", " >\n", " |-\n", " >+\n"][self.choose(4)];
        self.out.push_str(head);
        let inner = " ".repeat(indent + 1 + self.choose(3));
        for _ in 0..1 + self.choose(4) {
            let line = ["text", "a: b", "- x", "# none", "  deeper", "", "\"quoted", "{\"j\": []}"][self.choose(8)];
            self.out.push_str(&format!("{inner}{line}\n"));
        }
    }
}

fn written(choices: &[u16]) -> String {
    let mut scribe = Scribe { choices: choices.iter().copied(), out: String::new() };
    scribe.mapping(0, 0);
    scribe.out
}

/// A document with changes at some places that no tool would make.
fn spoilt(choices: &[u16], changes: &[(u16, u16)]) -> String {
    let mut text = written(choices);
    for (place, what) in changes {
        let places: Vec<_> = text.char_indices().map(|(at, _)| at).collect();
        let Some(&at) = places.get(usize::from(*place) % places.len().max(1)) else { continue };
        let what = usize::from(*what);
        match what % 4 {
            0 => drop(text.remove(at)),
            _ => text.insert_str(at, HOSTILE[what / 4 % HOSTILE.len()]),
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_is_read_is_read_as_the_full_parser_reads_it(
        choices in proptest::collection::vec(any::<u16>(), 0..120),
        changes in proptest::collection::vec(any::<(u16, u16)>(), 0..4),
    ) {
        let text = spoilt(&choices, &changes);
        agrees::<Everything>(&text);
        // Where nobody reads anything, too.
        agrees::<Ignored>(&text);
    }
}

#[test]
fn much_of_what_the_tests_write_is_read() {
    let mut numbers = (0..u16::MAX).map(|at| at.wrapping_mul(40_503).rotate_left(7));
    let documents = (0..500).map(|_| written(&numbers.by_ref().take(60).collect::<Vec<_>>()));
    let read = documents.filter(|text| agrees::<Ignored>(text)).count();
    assert!(read > 100, "{read} of 500");
}

/// Every document of ours that is in the repository.
#[test]
fn real_objects_are_read_alike() {
    let (mut read, mut folders) = (0, vec!["examples".into(), "src/workload/golden".into(), "charts".into()]);
    while let Some(folder) = folders.pop() {
        let folder: std::path::PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for (line, document) in split(&text) {
                let Some(kind) = sniff(document).and_then(|header| Kind::of(&header.api_version?, &header.kind?))
                else {
                    continue;
                };
                let Ok(object) = decode(document, |node| kind.decode(node)) else { continue };
                let full = decode_fully(kind, line, document).map_err(|DecodeError { field, reason }| (field, reason));
                assert_eq!(Ok(object), full, "{}: {document}", path.display());
                read += 1;
            }
        }
    }
    assert!(read > 10, "{read}");
}
