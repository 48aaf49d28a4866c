//! Logs, on standard error.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::config::Discovery;

pub(super) fn start(flags: &Discovery) -> anyhow::Result<()> {
    let filter = flags.log_filter();
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("--log_output_level: {filter}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let started = match flags.log_as_json {
        true => builder.json().flatten_event(true).try_init(),
        false => builder.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
