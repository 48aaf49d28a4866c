//! The `fairway` binary: parses the command line and runs it.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use fairway::cli::{check, completion, crds, proxies, request, translate, wait};
use fairway::config::{self, Command};
use fairway::{agent, app, token};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The allocator's setting for how long it keeps memory that nobody uses, in
/// milliseconds, which it only reads from the environment of a new process.
const PURGE_DELAY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "10");

/// Begins again with the allocator's setting, unless there is one. Its own is a
/// second, and whatever is unused when a process goes idle stays with it: after
/// reading a large mesh a third of all memory.
fn give_memory_back() {
    if std::env::var_os(PURGE_DELAY.0).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let mut again = std::process::Command::new(program);
        again.args(std::env::args_os().skip(1)).env(PURGE_DELAY.0, PURGE_DELAY.1);
        // Only returns if it failed; then things go on as they are.
        let error = again.exec();
        eprintln!("fairway: cannot set {}: {error}", PURGE_DELAY.0);
    }
}

fn main() -> ExitCode {
    let (cli, unknown) = match config::parse(std::env::args()) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Discovery(flags) => {
            give_memory_back();
            app::run(*flags, unknown)
        }
        Command::Token(flags) => token::print(&flags),
        Command::Translate(flags) => translate::print(&flags),
        Command::Proxies(flags) => proxies::print(&flags),
        Command::Wait(flags) => wait::wait(&flags),
        Command::Check(flags) => check::print(&flags),
        Command::Crds => crds::print(),
        Command::Request(flags) => request::print(&flags),
        Command::Completion(flags) => completion::print(&flags),
        Command::Agent(flags) => match agent::run(*flags, unknown) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        // Only returns if it failed.
        Command::ExecProxy(flags) => Err(agent::process::become_proxy(&flags)),
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
