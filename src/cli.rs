//! What a person asks on the command line: of a folder of YAML, or of a control
//! plane that is running.

pub mod check;
pub mod completion;
mod connect;
pub mod crds;
mod kinds;
mod output;
pub mod proxies;
pub mod request;
pub mod translate;
pub mod wait;
