//! Scenarios against a control plane, beside limit probes.

fn main() {}
