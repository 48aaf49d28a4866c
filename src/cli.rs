//! What a person asks of a mesh on the command line, without a cluster.

pub mod translate;
