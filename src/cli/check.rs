//! `fairway check`: what is wrong with an installation, or in the way of one, and
//! what to do about it.
//!
//! What is there is read first (`facts`); what it means is said by functions of
//! that alone (`rules`). Nothing is written, except that the API server is asked
//! for a token, to see whether it gives one.

mod facts;
mod rules;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use anyhow::bail;
use serde::Serialize;

use super::connect::runtime;
use super::output::{self, Look, Style};
use crate::config::terminal::Check;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// What it is about.
    group: &'static str,
    level: Level,
    /// What is so.
    what: String,
    /// What to do about it; empty if nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Good,
    /// It could not be found out.
    Unknown,
    /// Something is worse than it could be.
    Doubtful,
    /// Something does not work.
    Bad,
}

impl Finding {
    fn good(group: &'static str, what: impl Into<String>) -> Self {
        Self { group, level: Level::Good, what: what.into(), fix: String::new() }
    }

    fn of(group: &'static str, level: Level, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { group, level, what: what.into(), fix: fix.into() }
    }
}

/// Prints what was found. Fails if anything does not work.
pub fn print(flags: &Check) -> anyhow::Result<()> {
    let facts = runtime()?.block_on(facts::read(&flags.connection, flags.pre))?;
    let findings = rules::findings(&facts, flags.pre);
    output::print(flags.output, &findings, |style| shown(style, &findings))?;
    match findings.iter().filter(|one| one.level == Level::Bad).count() {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        many => bail!("{many} checks failed"),
    }
}

fn shown(style: Style, findings: &[Finding]) -> String {
    let (mut text, mut group) = (String::new(), "");
    for one in findings {
        if one.group != group {
            group = one.group;
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{}", style.paint(Look::Heading, group));
        }
        let (look, mark) = match one.level {
            Level::Good => (Look::Good, "ok"),
            Level::Unknown => (Look::Faint, "??"),
            Level::Doubtful => (Look::Doubtful, "!!"),
            Level::Bad => (Look::Bad, "XX"),
        };
        let _ = writeln!(text, "  {}  {}", style.paint(look, mark), one.what);
        if !one.fix.is_empty() {
            let _ = writeln!(text, "      fix: {}", one.fix);
        }
    }
    text
}
