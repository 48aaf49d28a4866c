//! Which expressions of CEL Envoy takes.
//!
//! Envoy refuses the whole listener for one that it cannot parse, or that
//! calls what it does not have: comprehensions and conversions to text are
//! turned off there. Whether an expression makes sense for a request is only
//! found out with the request, and then nothing matches. This is a reader of
//! CEL's grammar that keeps nothing.
//! <https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax>

#[cfg(test)]
mod tests;

use crate::envoy::route::regex;

/// Our limit of an expression's length.
const LONGEST: usize = 4096;
/// Our limit of nesting, below Envoy's of 32. A chain of selections or of sums
/// is as deep as it is long.
const DEEPEST: u32 = 24;

/// Functions that are called by themselves, with the number of arguments.
const FUNCTIONS: &[(&str, usize)] = &[
    ("duration", 1),
    ("double", 1),
    ("int", 1),
    ("matches", 2),
    ("size", 1),
    ("timestamp", 1),
    ("type", 1),
    ("uint", 1),
];

/// Functions of a value, with the number of arguments.
const METHODS: &[(&str, usize)] = &[
    ("contains", 1),
    ("endsWith", 1),
    ("getDate", 0),
    ("getDayOfMonth", 0),
    ("getDayOfWeek", 0),
    ("getDayOfYear", 0),
    ("getFullYear", 0),
    ("getHours", 0),
    ("getMilliseconds", 0),
    ("getMinutes", 0),
    ("getMonth", 0),
    ("getSeconds", 0),
    ("matches", 1),
    ("size", 0),
    ("startsWith", 1),
];

/// Words that cannot be names.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "package",
    "return",
    "var",
    "void",
    "while",
];

/// Whether Envoy takes an expression, or why not.
pub fn check(text: &str) -> Result<(), String> {
    if text.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    let mut reader = Reader { text, rest: text, depth: 0 };
    reader.expression()?;
    reader.space();
    match reader.rest.is_empty() {
        true => Ok(()),
        false => Err(reader.unexpected()),
    }
}

/// A part of an expression.
struct Part {
    kind: Kind,
    /// How deep it is.
    depth: u32,
}

/// What a part was, as far as somebody asks.
#[derive(PartialEq, Eq)]
enum Kind {
    /// The selection of a field: `a.b`.
    Selection,
    /// A text.
    Text(String),
    Other,
}

impl Part {
    /// A name, a number or a text.
    fn leaf(kind: Kind) -> Self {
        Self { kind, depth: 1 }
    }

    /// What is made of others, the deepest of which is this deep.
    fn of(kind: Kind, depth: u32, steps: u32) -> Result<Self, String> {
        match depth.saturating_add(steps) {
            depth if depth > DEEPEST => Err("it is nested too deeply".into()),
            depth => Ok(Self { kind, depth }),
        }
    }
}

fn deepest(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.depth).max().unwrap_or(0)
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    depth: u32,
}

impl<'a> Reader<'a> {
    fn unexpected(&self) -> String {
        let at = self.text.len() - self.rest.len();
        match self.rest.chars().next() {
            Some(c) => format!("there is {c:?} at byte {at} where it cannot be"),
            None => "it ends too early".into(),
        }
    }

    fn space(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            if !self.rest.starts_with("//") {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn need(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// A word, if one is next. Reserved ones are words too.
    fn word(&mut self) -> Option<&'a str> {
        self.space();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let starts = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts {
            return None;
        }
        self.rest = rest;
        Some(word)
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let before = self.rest;
        match self.word() {
            Some(word) if !RESERVED.contains(&word) && !["true", "false", "null"].contains(&word) => Ok(word),
            _ => {
                self.rest = before;
                self.space();
                Err(self.unexpected())
            }
        }
    }

    fn expression(&mut self) -> Result<Part, String> {
        // What is read recursively ends before it has been read.
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("it is nested too deeply".into());
        }
        let mut part = self.binary()?;
        if self.take("?") {
            let yes = self.binary()?;
            self.need(":")?;
            let no = self.expression()?;
            part = Part::of(Kind::Other, part.depth.max(yes.depth).max(no.depth), 1)?;
        }
        self.depth -= 1;
        Ok(part)
    }

    /// Operands between operators. Which of them bind more closely changes
    /// nothing about whether they can be read. `&&` and `||` are balanced by
    /// whoever reads them; all others make it deeper one by one.
    fn binary(&mut self) -> Result<Part, String> {
        let first = self.unary()?;
        let (mut whole, mut depth, mut chain, mut operators) = (0, first.depth, 0, 0);
        loop {
            if self.take("&&") || self.take("||") {
                whole = whole.max(depth + chain);
                (depth, chain) = (0, 0);
            } else if self.operator() {
                chain += 1;
            } else if operators == 0 {
                return Ok(first);
            } else {
                return Part::of(Kind::Other, whole.max(depth + chain), 1);
            }
            operators += 1;
            depth = depth.max(self.unary()?.depth);
        }
    }

    fn operator(&mut self) -> bool {
        const OPERATORS: [&str; 11] = ["<=", ">=", "==", "!=", "<", ">", "+", "-", "*", "/", "%"];
        if OPERATORS.iter().any(|operator| self.take(operator)) {
            return true;
        }
        let before = self.rest;
        let found = self.word() == Some("in");
        if !found {
            self.rest = before;
        }
        found
    }

    fn unary(&mut self) -> Result<Part, String> {
        for sign in ["!", "-"] {
            let mut signs = 0;
            while self.take(sign) {
                signs += 1;
            }
            if signs > 0 {
                let part = self.member()?;
                return Part::of(Kind::Other, part.depth, signs);
            }
        }
        self.member()
    }

    fn member(&mut self) -> Result<Part, String> {
        let mut part = self.primary()?;
        loop {
            part = if self.take("[") {
                let index = self.expression()?;
                self.need("]")?;
                Part::of(Kind::Other, part.depth.max(index.depth), 1)?
            } else if self.take(".") {
                let name = self.name()?;
                if self.take("(") {
                    let arguments = self.list(")")?;
                    called(METHODS, name, &arguments)?;
                    Part::of(Kind::Other, part.depth.max(deepest(&arguments)), 1)?
                } else {
                    Part::of(Kind::Selection, part.depth, 1)?
                }
            } else {
                return Ok(part);
            };
        }
    }

    fn primary(&mut self) -> Result<Part, String> {
        if self.take("(") {
            let part = self.expression()?;
            self.need(")")?;
            return Part::of(part.kind, part.depth, 1);
        }
        if self.take("[") {
            let elements = self.list("]")?;
            return Part::of(Kind::Other, deepest(&elements), 1);
        }
        if self.take("{") {
            return self.map();
        }
        if let Some(kind) = self.literal()? {
            return Ok(Part::leaf(kind));
        }
        self.take(".");
        let name = self.name()?;
        if !self.take("(") {
            return Ok(Part::leaf(Kind::Other));
        }
        let arguments = self.list(")")?;
        match (name, &arguments[..]) {
            ("has", [Part { kind: Kind::Selection, .. }]) => {}
            ("has", _) => return Err("has() is for a field, as in has(request.headers)".into()),
            _ => called(FUNCTIONS, name, &arguments)?,
        }
        Part::of(Kind::Other, deepest(&arguments), 1)
    }

    /// Expressions with commas between them, up to `end`.
    fn list(&mut self, end: &str) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        loop {
            if self.take(end) {
                return Ok(parts);
            }
            if !parts.is_empty() {
                self.need(",")?;
                // Only a list may end with a comma.
                if end == "]" && self.take(end) {
                    return Ok(parts);
                }
            }
            parts.push(self.expression()?);
        }
    }

    fn map(&mut self) -> Result<Part, String> {
        let mut entries = Vec::new();
        loop {
            if self.take("}") {
                break;
            }
            if !entries.is_empty() {
                self.need(",")?;
                if self.take("}") {
                    break;
                }
            }
            entries.push(self.expression()?);
            self.need(":")?;
            entries.push(self.expression()?);
        }
        Part::of(Kind::Other, deepest(&entries), 2)
    }

    /// A number, a text or one of three words.
    fn literal(&mut self) -> Result<Option<Kind>, String> {
        self.space();
        let before = self.rest;
        match self.word() {
            Some("true" | "false" | "null") => return Ok(Some(Kind::Other)),
            Some(word) if ["r", "b", "rb", "br"].contains(&&*word.to_ascii_lowercase()) => {
                if self.rest.starts_with(['"', '\'']) {
                    return self.quoted(word.to_ascii_lowercase().contains('r')).map(Some);
                }
            }
            Some(_) | None => {}
        }
        self.rest = before;
        if self.rest.starts_with(['"', '\'']) {
            return self.quoted(false).map(Some);
        }
        let point = self.rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if !point && !self.rest.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        self.number()?;
        Ok(Some(Kind::Other))
    }

    fn number(&mut self) -> Result<(), String> {
        let digits = |reader: &mut Self| {
            let end = reader.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(reader.rest.len());
            let (digits, rest) = reader.rest.split_at(end);
            reader.rest = rest;
            digits
        };
        let hexadecimal = self.rest.strip_prefix("0x");
        let whole = match hexadecimal {
            Some(rest) => {
                let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
                self.rest = &rest[end..];
                i64::from_str_radix(&rest[..end], 16).is_ok()
            }
            None => {
                let whole = digits(self);
                let mut float = false;
                if self.rest.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
                    self.rest = &self.rest[1..];
                    digits(self);
                    float = true;
                }
                if let Some(rest) = self.rest.strip_prefix(['e', 'E']) {
                    self.rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
                    float = true;
                    if digits(self).is_empty() {
                        return Err(self.unexpected());
                    }
                }
                float || whole.parse::<i64>().is_ok()
            }
        };
        self.rest = self.rest.strip_prefix(['u', 'U']).unwrap_or(self.rest);
        match whole && !self.rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            true => Ok(()),
            false => Err(self.unexpected()),
        }
    }

    fn quoted(&mut self, raw: bool) -> Result<Kind, String> {
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| self.rest.starts_with(quote));
        let Some(quote) = quote else { return Err(self.unexpected()) };
        self.rest = &self.rest[quote.len()..];
        let mut text = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix(quote) {
                self.rest = rest;
                return Ok(Kind::Text(text));
            }
            let mut characters = self.rest.chars();
            match characters.next() {
                None => return Err("a text has no end".into()),
                Some('\n' | '\r') if quote.len() == 1 => return Err("a text has a line break".into()),
                Some('\\') if !raw => self.rest = escape(characters.as_str(), &mut text)?,
                Some('\\') => {
                    // In a raw text a quote that is escaped does not end it.
                    let next = characters.next().ok_or("a text has no end")?;
                    text.extend(['\\', next]);
                    self.rest = characters.as_str();
                }
                Some(c) => {
                    text.push(c);
                    self.rest = characters.as_str();
                }
            }
        }
    }
}

/// Reads what follows a backslash.
fn escape<'a>(rest: &'a str, text: &mut String) -> Result<&'a str, String> {
    let mut characters = rest.chars();
    let simple = match characters.next() {
        Some('a') => Some('\x07'),
        Some('b') => Some('\x08'),
        Some('f') => Some('\x0c'),
        Some('n') => Some('\n'),
        Some('r') => Some('\r'),
        Some('t') => Some('\t'),
        Some('v') => Some('\x0b'),
        Some(c @ ('\\' | '?' | '"' | '\'' | '`')) => Some(c),
        _ => None,
    };
    if let Some(c) = simple {
        text.push(c);
        return Ok(characters.as_str());
    }
    let wrong = || "a text has an escape that is not known".to_string();
    let (from, length, radix) = match rest.chars().next() {
        Some('x' | 'X') => (1, 2, 16),
        Some('u') => (1, 4, 16),
        Some('U') => (1, 8, 16),
        Some('0'..='3') => (0, 3, 8),
        _ => return Err(wrong()),
    };
    let digits = rest.get(from..from + length).filter(|digits| digits.bytes().all(|c| c.is_ascii_hexdigit()));
    let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
    text.push(code.and_then(char::from_u32).ok_or_else(wrong)?);
    Ok(&rest[from + length..])
}

fn called(known: &[(&str, usize)], name: &str, arguments: &[Part]) -> Result<(), String> {
    let Some((_, count)) = known.iter().find(|(known, _)| *known == name) else {
        return Err(format!("Envoy has no function {name}"));
    };
    if arguments.len() != *count {
        return Err(format!("{name}() takes another number of arguments"));
    }
    match (name, arguments.last().map(|part| &part.kind)) {
        ("matches", Some(Kind::Text(expression))) => {
            regex::check(expression).map_err(|why| format!("of the regular expression {expression:?}: {why}"))
        }
        _ => Ok(()),
    }
}
