//! The meshes that things are measured on. The scenarios are a program beside
//! this; the benches of single parts are in `benches/micro`.

pub mod certificate;
pub mod gateway;
pub mod mesh;
pub mod waypoint;
