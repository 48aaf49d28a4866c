//! `fairway crds`: the definitions of the kinds that are Istio's, to be applied
//! where nobody has defined them.

#[cfg(test)]
mod tests;

use std::io::Write as _;

use fairway_proto::describe;

use crate::api::definition;

/// Prints the definitions.
pub fn print() -> anyhow::Result<()> {
    match std::io::stdout().write_all(text()?.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// The definitions as YAML, in the form of the chart's file.
fn text() -> anyhow::Result<String> {
    let mut text = format!(
        "# The kinds of Istio that Fairway reads, as `fairway crds` prints them. Istio defines\n\
         # these besides, which Fairway does not read: {}.\n",
        definition::NOT_READ.join(", ")
    );
    for one in definition::all()? {
        text += "---\n";
        text += &describe::yaml(&one);
    }
    Ok(text)
}
