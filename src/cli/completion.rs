//! `fairway completion`: what completes commands and flags in a shell.

use std::io::Write as _;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::config::Cli;
use crate::config::terminal::{self, Completion};

/// Prints it.
pub fn print(flags: &Completion) -> anyhow::Result<()> {
    let shell = match flags.shell {
        terminal::Shell::Bash => Shell::Bash,
        terminal::Shell::Zsh => Shell::Zsh,
        terminal::Shell::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    generate(shell, &mut Cli::command(), "fairway", &mut text);
    Ok(std::io::stdout().write_all(&text)?)
}
