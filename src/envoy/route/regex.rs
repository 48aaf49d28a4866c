//! Which regular expressions Envoy takes: RE2's, up to a size.
//!
//! Envoy refuses a message with one that does not compile, or that compiles to
//! more than the runtime key `re2.max_program_size.error_level` says, which
//! Istio's bootstrap sets to 32768. No other engine's idea of syntax is RE2's,
//! so this is a reader of RE2's grammar, and refuses what it is not sure of.
//! Envoy reads expressions byte by byte, as Latin-1: a character beyond ASCII
//! is several, which neither a class nor a repetition can mean.
//! <https://github.com/google/re2/wiki/Syntax>

#[cfg(test)]
mod tests;

/// Istio's limit of an expression's length.
const LONGEST: usize = 1024;
/// What may be compiled, by our estimate.
const LARGEST: u64 = 32768;
/// RE2's limit of counted repetition, also nested.
const REPEATS: u64 = 1000;
/// Our limit of nested groups, well below RE2's.
const DEEPEST: u32 = 200;

/// Whether Envoy takes an expression, or why not.
pub fn check(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > LONGEST {
        return Err("it is longer than 1024 bytes");
    }
    let mut reader = Reader { rest: text, depth: 0, names: Vec::new() };
    let size = reader.alternatives()?;
    if !reader.rest.is_empty() {
        return Err("a ) has no (");
    }
    if size.instructions > LARGEST { Err("it is too large") } else { Ok(()) }
}

/// How many groups an expression captures, for the references to them.
pub fn groups(text: &str) -> usize {
    let mut count = 0;
    let mut escaped = false;
    let mut class = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class = true,
            ']' => class = false,
            '(' if !class && (!text[at..].starts_with("(?") || text[at..].starts_with("(?P<")) => count += 1,
            _ => {}
        }
    }
    count
}

/// What an expression costs.
#[derive(Clone, Copy, Default)]
struct Size {
    instructions: u64,
    /// The most counted repetitions inside each other.
    repeats: u64,
}

struct Reader<'a> {
    rest: &'a str,
    depth: u32,
    names: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// What is before `end`, which is taken too.
    fn until(&mut self, end: char) -> Option<&'a str> {
        let (text, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        Some(text)
    }

    fn alternatives(&mut self) -> Result<Size, &'static str> {
        let mut size = self.sequence()?;
        while self.take("|") {
            let other = self.sequence()?;
            size.instructions += other.instructions + 2;
            size.repeats = size.repeats.max(other.repeats);
        }
        Ok(size)
    }

    fn sequence(&mut self) -> Result<Size, &'static str> {
        let mut size = Size { instructions: 1, repeats: 1 };
        while !self.rest.is_empty() && !self.rest.starts_with(['|', ')']) {
            let before = self.rest;
            let mut one = self.atom()?;
            let repeated = self.rest;
            self.repetition(&mut one)?;
            if repeated.len() != self.rest.len()
                && !before.starts_with(['(', '['])
                && !before[..before.len() - repeated.len()].is_ascii()
            {
                return Err("it repeats a character beyond ASCII");
            }
            size.instructions = size.instructions.saturating_add(one.instructions);
            size.repeats = size.repeats.max(one.repeats);
        }
        Ok(size)
    }

    fn repetition(&mut self, size: &mut Size) -> Result<(), &'static str> {
        let counted = self.counts()?;
        if counted.is_none() && !["*", "+", "?"].into_iter().any(|operator| self.take(operator)) {
            return Ok(());
        }
        self.take("?");
        if self.rest.starts_with(['*', '+', '?']) || self.clone_counts()? {
            return Err("a repetition is repeated");
        }
        let times = counted.unwrap_or(1).max(1);
        size.repeats = size.repeats.saturating_mul(times);
        size.instructions = size.instructions.saturating_add(2).saturating_mul(times);
        if size.repeats > REPEATS { Err("it repeats more than 1000 times") } else { Ok(()) }
    }

    fn clone_counts(&self) -> Result<bool, &'static str> {
        let mut copy = Reader { rest: self.rest, depth: 0, names: Vec::new() };
        Ok(copy.counts()?.is_some())
    }

    /// `{n}`, `{n,}` or `{n,m}`; any other brace is itself.
    fn counts(&mut self) -> Result<Option<u64>, &'static str> {
        let Some((inside, rest)) = self.rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Ok(None);
        };
        let (least, most) = inside.split_once(',').unwrap_or((inside, inside));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        if !digits(least) || !(digits(most) || most.is_empty()) {
            return Ok(None);
        }
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number <= REPEATS);
        let least = number(least).ok_or("it repeats more than 1000 times")?;
        let most = if most.is_empty() { least } else { number(most).ok_or("it repeats more than 1000 times")? };
        if most < least {
            return Err("a repetition ends before it begins");
        }
        self.rest = rest;
        Ok(Some(most))
    }

    fn atom(&mut self) -> Result<Size, &'static str> {
        let one = |instructions| Ok(Size { instructions, repeats: 1 });
        match self.next() {
            Some('(') => self.group(),
            Some('[') => self.class().and_then(one),
            Some('.') => one(ANY),
            Some('\\') => self.escape(false).and_then(|escape| one(escape.cost())),
            Some('*' | '+' | '?') => Err("a repetition has nothing to repeat"),
            Some('{') => {
                self.rest_with_brace()?;
                one(2)
            }
            // Either case, in UTF-8.
            Some(c) => one(2 * u64::from(u8::try_from(c.len_utf8()).unwrap_or(4))),
            None => one(0),
        }
    }

    /// A brace at the start of an atom must not begin counts.
    fn rest_with_brace(&self) -> Result<(), &'static str> {
        let text = format!("{{{}", self.rest);
        let mut copy = Reader { rest: &text, depth: 0, names: Vec::new() };
        match copy.counts()? {
            Some(_) => Err("a repetition has nothing to repeat"),
            None => Ok(()),
        }
    }

    fn group(&mut self) -> Result<Size, &'static str> {
        if self.take("?P<") {
            let name = self.until('>').ok_or("the name of a group does not end")?;
            if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
                return Err("the name of a group is not made of letters, digits and _");
            }
            if self.names.contains(&name) {
                return Err("two groups have the same name");
            }
            self.names.push(name);
        } else if self.take("?") {
            let end = self.rest.find([':', ')']).ok_or("a group does not end")?;
            let flags = &self.rest[..end];
            let (on, off) = flags.split_once('-').unwrap_or((flags, ""));
            let known = |flags: &str| flags.bytes().all(|flag| b"imsU".contains(&flag));
            if !known(on) || !known(off) || (flags.contains('-') && off.is_empty()) {
                return Err("it uses a group that RE2 does not have, such as look-around");
            }
            let alone = self.rest[end..].starts_with(')');
            self.rest = &self.rest[end + 1..];
            if alone {
                // Flags for what follows; they cannot be repeated.
                return if flags.is_empty() { Err("a group has no flags") } else { self.unrepeated() };
            }
        }
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("its groups are nested too deeply");
        }
        let mut size = self.alternatives()?;
        self.depth -= 1;
        size.instructions += 2;
        if self.take(")") { Ok(size) } else { Err("a ( has no )") }
    }

    fn unrepeated(&self) -> Result<Size, &'static str> {
        match self.rest.starts_with(['*', '+', '?', '{']) {
            true => Err("a repetition has nothing to repeat"),
            false => Ok(Size { instructions: 0, repeats: 1 }),
        }
    }

    /// The cost of a class, after its bracket.
    fn class(&mut self) -> Result<u64, &'static str> {
        let mut cost = if self.take("^") { ANY } else { 1 };
        let mut first = true;
        loop {
            if !first && self.take("]") {
                return Ok(cost);
            }
            first = false;
            if self.take("[:") {
                let name = self.until(':').ok_or("a class does not end")?;
                if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) || !self.take("]") {
                    return Err("it names a class that RE2 does not have");
                }
                cost += if name.starts_with('^') { ANY } else { 4 };
                continue;
            }
            let from = self.member()?;
            cost += from.cost();
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
                self.next();
                let (Escape::Char(from), Escape::Char(to)) = (from, self.member()?) else {
                    return Err("a range of a class has an end that is not a character");
                };
                if from > to {
                    return Err("a range of a class ends before it begins");
                }
                cost += if to.is_ascii() { 1 } else { ANY };
            }
        }
    }

    fn member(&mut self) -> Result<Escape, &'static str> {
        match self.next() {
            Some('\\') => self.escape(true),
            Some(c) if c.is_ascii() => Ok(Escape::Char(c)),
            Some(_) => Err("a class has a character beyond ASCII"),
            None => Err("a [ has no ]"),
        }
    }

    /// What a backslash begins.
    fn escape(&mut self, class: bool) -> Result<Escape, &'static str> {
        let c = self.next().ok_or("it ends with a backslash")?;
        Ok(match c {
            'd' | 's' | 'w' => Escape::Set(4),
            'D' | 'S' | 'W' => Escape::Set(ANY),
            'b' | 'B' | 'A' | 'z' if !class => {
                return self.unrepeated().map(|_| Escape::Set(1));
            }
            'p' | 'P' => {
                let name = if self.take("{") {
                    self.until('}').ok_or("a class does not end")?
                } else {
                    let end = self.rest.chars().next().map_or(0, char::len_utf8);
                    let (name, rest) = self.rest.split_at(end);
                    self.rest = rest;
                    name
                };
                if !UNICODE.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return Err("it names a Unicode class that is not known");
                }
                Escape::Set(UNICODE_CLASS)
            }
            'x' => Escape::Char(self.hexadecimal().ok_or("a \\x has no character")?),
            'n' => Escape::Char('\n'),
            't' => Escape::Char('\t'),
            'r' => Escape::Char('\r'),
            'f' => Escape::Char('\u{c}'),
            'v' => Escape::Char('\u{b}'),
            'a' => Escape::Char('\u{7}'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Escape::Char(c),
            _ => return Err("it has an escape that RE2 does not have, such as a back-reference"),
        })
    }

    fn hexadecimal(&mut self) -> Option<char> {
        let digits = match self.take("{") {
            true => self.until('}')?,
            false => {
                let digits = self.rest.get(..2)?;
                self.rest = &self.rest[2..];
                digits
            }
        };
        let hexadecimal = digits.bytes().all(|c| c.is_ascii_hexdigit());
        let digits = Some(digits).filter(|_| hexadecimal)?;
        u8::from_str_radix(digits, 16).ok().map(char::from)
    }
}

/// A character, or a set of characters with what it costs.
#[derive(Clone, Copy)]
enum Escape {
    Char(char),
    Set(u64),
}

impl Escape {
    fn cost(self) -> u64 {
        match self {
            Self::Char(c) if c.is_ascii() => 2,
            Self::Char(_) => 8,
            Self::Set(cost) => cost,
        }
    }
}

/// What any character costs, in UTF-8.
const ANY: u64 = 24;
/// What a class of Unicode costs at most.
const UNICODE_CLASS: u64 = 2000;

const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];
const UNICODE: [&str; 43] = [
    "Any", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Pe",
    "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs", "C", "Cc", "Cf", "Latin", "Greek",
    "Cyrillic", "Han", "Arabic", "Hebrew", "Hiragana", "Katakana",
];
