//! `fairway token`: a token of the development issuer, for trying the TLS port
//! of a control plane that runs without a cluster.

use anyhow::Context;
use jiff::Timestamp;

use crate::ca::authenticate::{DevIssuer, PodBinding};
use crate::config::Token;

/// Prints a token. Whoever can read the state directory may have one.
pub fn print(flags: &Token) -> anyhow::Result<()> {
    let issuer = DevIssuer::open(&flags.state_dir).context("cannot open the token issuer")?;
    let pod = flags.pod.as_ref().map(|name| PodBinding {
        name: name.as_str().into(),
        uid: flags.pod_uid.as_deref().unwrap_or_default().into(),
    });
    let now = Timestamp::now();
    let token = issuer.mint(&flags.namespace, &flags.service_account, pod.as_ref(), &flags.audience, flags.ttl, now)?;
    println!("{token}");
    Ok(())
}
