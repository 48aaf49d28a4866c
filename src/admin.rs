//! What people look at: readiness, metrics, versions and debug pages.

pub mod render;
