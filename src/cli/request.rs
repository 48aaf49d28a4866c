//! `fairway request`: a page of the control plane in the same pod, in the words
//! of `pilot-discovery request`, as which `istioctl bug-report` calls it.

use std::io::Write as _;

use anyhow::{Context, bail};
use http::StatusCode;

use super::connect::{answer, runtime};
use crate::config::terminal::Request;

/// Prints it.
pub fn print(flags: &Request) -> anyhow::Result<()> {
    let url = format!("http://{}/{}", flags.address, flags.path.trim_start_matches('/'));
    let within = flags.request_timeout;
    let answered = runtime()?.block_on(async { tokio::time::timeout(within, answer(&url, None)).await });
    let (status, body) = answered.with_context(|| format!("{url}: no answer within {within:?}"))??;
    // A page that is not there is something to report, too: bug-report throws
    // everything away when one of its requests fails.
    if !status.is_success() && status != StatusCode::NOT_FOUND {
        bail!("{url}: {status}: {}", String::from_utf8_lossy(&body).trim());
    }
    let mut output = std::io::stdout();
    output.write_all(&body)?;
    Ok(output.write_all(b"\n")?)
}
