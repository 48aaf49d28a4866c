//! Logs, on standard error.

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use crate::admin::scopes::{Apply, Levels};
use crate::config::{self, Discovery};

/// Starts them, and says how they are changed.
pub(super) fn start(flags: &Discovery) -> anyhow::Result<Levels> {
    let filter = flags.log_filter();
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("--log_output_level: {filter}"))?;
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    let filter = |levels: &str| EnvFilter::try_new(config::log_filter(levels)).map_err(|error| error.to_string());
    let (started, apply): (_, Apply) = match flags.log_as_json {
        true => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            let apply = move |levels: &str| handle.reload(filter(levels)?).map_err(|error| error.to_string());
            (builder.try_init(), Box::new(apply))
        }
        false => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let apply = move |levels: &str| handle.reload(filter(levels)?).map_err(|error| error.to_string());
            (builder.try_init(), Box::new(apply))
        }
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    Ok(Levels::new(&flags.log_output_level, apply))
}
