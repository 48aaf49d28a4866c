//! The `fairway` binary: parses the command line and runs it.

use std::process::ExitCode;

use fairway::config::{self, Command};
use fairway::{app, token};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (cli, unknown) = match config::parse(std::env::args()) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Discovery(flags) => app::run(*flags, unknown),
        Command::Token(flags) => token::print(&flags),
        Command::Version => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairway: {error:#}");
            ExitCode::FAILURE
        }
    }
}
