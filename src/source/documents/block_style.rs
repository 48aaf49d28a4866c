//! The YAML that tools write: block mappings and sequences of scalars on one
//! line, in ASCII, without anchors, tags or escapes. kubectl, helm and
//! kustomize write nothing else for most objects, and reading it takes a
//! fraction of what a parser for all of YAML costs, which is what a start from
//! files waits for.
//!
//! This is not a YAML parser. Whatever is not certain to be read here as the
//! full parser reads it is [`Unusual`] and left to that one: all that is rare,
//! and everything wrong, so that there is one voice for errors. The tests hold
//! both against each other.

mod decode;

pub use decode::decode;

/// The document, or what it says, is left to the full parser.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusual;

/// Deeper nesting than any object has.
const MAX_DEPTH: usize = 48;
/// More entries than are worth to be compared with each other for duplicates.
const MAX_ENTRIES: usize = 256;
/// Longer keys than this are rare; much longer ones are not YAML.
const MAX_KEY: usize = 256;

/// What stands behind a key or a dash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    /// Nothing.
    Empty,
    /// A scalar without quotes.
    Plain(&'a str),
    /// What was between quotes.
    Quoted(&'a str),
    /// `{}`.
    NoEntries,
    /// `[]`.
    NoItems,
    /// `|` or `>`, with the column it must be right of. Its lines follow.
    Text(usize),
    /// A mapping, whose first key is next and in this column.
    Mapping(usize),
    /// A sequence, whose first dash is next and in this column.
    Sequence(usize),
}

/// Reads a document from top to bottom. It stands at a key or at a dash, or
/// at the end.
struct Reader<'a> {
    /// What follows the line that is being read.
    rest: &'a str,
    /// What is left of that line, without the spaces around it.
    line: &'a str,
    /// The column in which `line` begins; none at the end.
    column: Option<usize>,
    /// The keys of all mappings that are open, the innermost last.
    keys: Vec<&'a str>,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Result<Self, Unusual> {
        // No tabs, no other line breaks, nothing that is not printable.
        if !text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')) {
            return Err(Unusual);
        }
        let mut reader = Self { rest: text, line: "", column: Some(0), keys: Vec::with_capacity(64), depth: 0 };
        reader.next_line();
        Ok(reader)
    }

    /// Goes to the next line that is neither blank nor a comment.
    fn next_line(&mut self) {
        while !self.rest.is_empty() {
            let line = self.take_line();
            let content = line.trim_start_matches(' ');
            if !content.is_empty() && !content.starts_with('#') {
                self.column = Some(line.len() - content.len());
                self.line = content.trim_end_matches(' ');
                return;
            }
        }
        (self.line, self.column) = ("", None);
    }

    fn take_line(&mut self) -> &'a str {
        let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
        self.rest = rest;
        line
    }

    fn at_dash(&self) -> bool {
        self.line == "-" || self.line.starts_with("- ")
    }

    /// The whole document, which must be a mapping.
    fn document(&self) -> Result<Value<'a>, Unusual> {
        match self.column {
            Some(column) if !self.at_dash() => Ok(Value::Mapping(column)),
            _ => Err(Unusual),
        }
    }

    /// The next entry of a mapping whose keys are in a column; none is its end.
    /// `first` is where its keys begin in `keys`.
    fn entry(&mut self, column: usize, first: usize) -> Result<Option<(&'a str, Value<'a>)>, Unusual> {
        match self.column {
            Some(at) if at == column => {}
            Some(at) if at > column => return Err(Unusual),
            _ => return Ok(None),
        }
        let (key, value) = key(self.line).ok_or(Unusual)?;
        let siblings = &self.keys[first..];
        if siblings.len() >= MAX_ENTRIES || siblings.contains(&key) {
            return Err(Unusual);
        }
        self.keys.push(key);
        if value.is_empty() {
            self.next_line();
            let value = match self.column {
                Some(at) if at > column && self.at_dash() => Value::Sequence(at),
                Some(at) if at > column => Value::Mapping(at),
                // The dashes may stand right below the key.
                Some(at) if at == column && self.at_dash() => Value::Sequence(at),
                _ => Value::Empty,
            };
            return Ok(Some((key, value)));
        }
        Ok(Some((key, self.scalar(value, column)?)))
    }

    /// The next item of a sequence whose dashes are in a column; none is its
    /// end.
    fn item(&mut self, column: usize) -> Result<Option<Value<'a>>, Unusual> {
        match self.column {
            Some(at) if at > column => return Err(Unusual),
            // A key in the column of the dashes goes on with the mapping they
            // belong to, if there is one; that is for the mapping to see.
            Some(at) if at == column && self.at_dash() => {}
            _ => return Ok(None),
        }
        let content = self.line[1..].trim_start_matches(' ');
        if content.is_empty() || content == "-" || content.starts_with("- ") {
            return Err(Unusual);
        }
        if key(content).is_some() {
            let inner = column + self.line.len() - content.len();
            (self.line, self.column) = (content, Some(inner));
            return Ok(Some(Value::Mapping(inner)));
        }
        self.scalar(content, column).map(Some)
    }

    /// A value on one line, and goes to the next. More of it on the next line
    /// would be right of `column`, where no entry and no item can be.
    fn scalar(&mut self, text: &'a str, column: usize) -> Result<Value<'a>, Unusual> {
        let value = match text.as_bytes() {
            b"{}" => Value::NoEntries,
            b"[]" => Value::NoItems,
            b"|" | b"|-" | b"|+" | b">" | b">-" | b">+" => return Ok(Value::Text(column)),
            [quote @ (b'"' | b'\''), inner @ .., last] if last == quote => {
                if inner.iter().any(|byte| byte == quote || *byte == b'\\') {
                    return Err(Unusual);
                }
                Value::Quoted(&text[1..text.len() - 1])
            }
            _ if is_plain(text) => Value::Plain(text),
            _ => return Err(Unusual),
        };
        self.next_line();
        Ok(value)
    }

    /// Goes past the lines of a `|` or `>` that are right of a column. The
    /// first of them says how far right.
    fn skip_text(&mut self, column: usize) -> Result<(), Unusual> {
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let first = self.take_line();
        let inner = indent(first);
        if inner <= column || inner == first.len() {
            return Err(Unusual);
        }
        while !self.rest.is_empty() {
            let before = self.rest;
            let line = self.take_line();
            let at = indent(line);
            if at < inner && at < line.len() {
                // A line between the two columns belongs to nothing.
                if at > column {
                    return Err(Unusual);
                }
                self.rest = before;
                break;
            }
        }
        self.next_line();
        Ok(())
    }

    /// Goes past a value that nobody reads. It is looked at as closely as one
    /// that is: a mistake in it costs the object as well.
    fn skip(&mut self, value: Value<'a>) -> Result<(), Unusual> {
        match value {
            Value::Empty | Value::Quoted(_) | Value::NoEntries | Value::NoItems => Ok(()),
            Value::Plain(text) if may_overflow(text) => Err(Unusual),
            Value::Plain(_) => Ok(()),
            Value::Text(column) => self.skip_text(column),
            Value::Mapping(column) => self.nested(|reader| {
                let first = reader.keys.len();
                while let Some((_, value)) = reader.entry(column, first)? {
                    reader.skip(value)?;
                }
                reader.keys.truncate(first);
                Ok(())
            }),
            Value::Sequence(column) => self.nested(|reader| {
                while let Some(value) = reader.item(column)? {
                    reader.skip(value)?;
                }
                Ok(())
            }),
        }
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Unusual>) -> Result<T, Unusual> {
        if self.depth == MAX_DEPTH {
            return Err(Unusual);
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }
}

/// The key that a line begins with, and what is behind its colon. Keys that
/// might be a number, a truth value or null elsewhere in YAML are left out:
/// equal ones may look different.
fn key(line: &str) -> Option<(&str, &str)> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/' | b'-' | b'_');
    let length = line.bytes().position(|byte| !safe(byte))?;
    let (key, rest) = line.split_at(length);
    let value = rest.strip_prefix(':').filter(|value| value.is_empty() || value.starts_with(' '))?;
    let named = key.starts_with(|first: char| first.is_ascii_alphabetic()) && key.len() <= MAX_KEY && !is_word(key);
    named.then(|| (key, value.trim_start_matches(' ')))
}

/// Whether a text is a plain scalar, complete on its line.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let begins = match bytes {
        [b'-', second, ..] => *second != b' ',
        [first, ..] => first.is_ascii_alphanumeric() || matches!(first, b'/' | b'_' | b'.' | b'$' | b'(' | b'+' | b'~'),
        [] => false,
    };
    // A colon would make it a key, a hash begins a comment.
    let ends = |pair: &[u8]| pair == b": " || pair == b" #";
    begins && bytes.last() != Some(&b':') && !bytes.windows(2).any(ends)
}

/// Whether a text has a meaning of its own somewhere in YAML.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text == "~" || (text.len() <= 5 && WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)))
}

/// Whether a plain scalar may be a number that is not finite, which the full
/// parser does not accept even where nobody reads it.
fn may_overflow(text: &str) -> bool {
    let number = text.trim_start_matches(['+', '-']);
    let special = number.starts_with('.') && number.len() == 4;
    let long = |c: u8| c.is_ascii_digit() || matches!(c, b'e' | b'E' | b'.' | b'_' | b'+' | b'-');
    special
        || (number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && number.bytes().all(long)
            && (number.len() > 300 || number.contains(['e', 'E'])))
}

#[cfg(test)]
mod tests;
