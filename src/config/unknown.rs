//! Flags of istiod that Fairway does not have. They are taken out of the
//! command line and named, so that a script written for istiod still starts.

use clap::Command;

/// The arguments that are known, and the flags that are not. A value that
/// follows an unknown flag goes with it.
pub(super) fn divide(command: &Command, arguments: Vec<String>) -> (Vec<String>, Vec<String>) {
    // Only the long-running commands tolerate what they do not know.
    let name = arguments.iter().skip(1).find(|argument| !argument.starts_with('-'));
    let tolerant = name
        .and_then(|name| command.find_subcommand(name))
        .filter(|found| ["discovery", "agent"].contains(&found.get_name()));
    let Some(tolerant) = tolerant else { return (arguments, Vec::new()) };
    let is_known = |flag: &str| {
        let long = flag.trim_start_matches('-');
        ["help", "version", "h", "V"].contains(&long)
            || tolerant.get_arguments().any(|one| {
                one.get_long() == Some(long) || one.get_short().is_some_and(|short| long == short.to_string())
            })
    };
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        let flag = argument.split('=').next().unwrap_or_default();
        if !argument.starts_with('-') || is_known(flag) {
            known.push(argument);
            continue;
        }
        unknown.push(flag.to_string());
        if !argument.contains('=') && rest.peek().is_some_and(|next| !next.starts_with('-')) {
            rest.next();
        }
    }
    (known, unknown)
}
