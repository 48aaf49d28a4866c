//! The wire: gRPC frames in, requests read without trusting them, responses
//! spliced from resources that are encoded already.
//!
//! Generated message types are not used for the large messages: a reconnecting
//! ztunnel sends one map entry per resource it knows, and a response is mostly
//! bytes that every other stream sends as well.

pub mod reader;
pub mod request;
pub mod response;

#[cfg(test)]
mod tests;
