//! Tables, colours and progress, for people; JSON and YAML for programs.

use std::io::{IsTerminal, Write as _};

use fairway_proto::describe;
use serde::Serialize;

use crate::config::terminal::{Colour, Form, Output};

/// What something looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Good,
    Bad,
    Doubtful,
    Faint,
    Heading,
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
}

impl Style {
    /// No colours.
    #[cfg(test)]
    pub(super) const PLAIN: Self = Self { colours: false };

    /// Colours if they are asked for, or if a person is looking who did not say
    /// that there should be none (<https://no-color.org>).
    pub(super) fn of(output: Output) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colours = match output.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => std::io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
        };
        Self { colours }
    }

    /// A text that looks so.
    pub(super) fn paint(self, look: Look, text: &str) -> String {
        let code = match look {
            Look::Plain => return text.to_owned(),
            Look::Good => "32",
            Look::Bad => "31",
            Look::Doubtful => "33",
            Look::Faint => "2",
            Look::Heading => "1",
        };
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A table with columns as wide as they need to be.
pub(super) fn table(style: Style, headings: &[&str], rows: &[Vec<(Look, String)>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|(_, text)| text.chars().count());
        cells.chain(headings.get(column).map(|heading| heading.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = (Look, &str)>| {
        let mut line = String::new();
        for ((look, text), width) in cells.zip(&widths) {
            line += &style.paint(look, text);
            line.extend(std::iter::repeat_n(' ', width - text.chars().count() + 3));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut text = line(&mut headings.iter().map(|heading| (Look::Heading, *heading)));
    for row in rows {
        text += &line(&mut row.iter().map(|(look, text)| (*look, text.as_str())));
    }
    text
}

/// Prints a value for programs, or what `table` makes of it for people.
pub(super) fn print<T: Serialize>(
    output: Output,
    value: &T,
    table: impl FnOnce(Style) -> String,
) -> anyhow::Result<()> {
    let text = match output.output {
        Form::Table => table(Style::of(output)),
        Form::Json => serde_json::to_string_pretty(value)? + "\n",
        Form::Yaml => describe::yaml(&serde_json::to_value(value)?),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Says what is being waited for, on a terminal and there alone. What was said
/// last vanishes in the end.
pub(super) struct Progress {
    shown: bool,
    terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { shown: false, terminal: std::io::stderr().is_terminal() }
    }

    pub(super) fn say(&mut self, text: &str) {
        if self.terminal {
            self.shown = true;
            eprint!("\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
