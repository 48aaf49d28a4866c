//! Who a caller is, and the certificates that prove who a workload is.
//!
//! Reading order: an `identity` is a name; `authenticate` finds which one a
//! caller has; a `bundle` is the key that vouches for names, made by
//! `self_signed` or read from `files`, kept by a `root_store`, held by an
//! `authority`, which changes to another by a `handover`, remembers the `previous`
//! one and knows the `holders` of certificates; `csr` and `issue` (with `der` and `p256`) turn a request into a certificate
//! on the threads of `signing`, `node`
//! says when one may ask for another's, `service` puts it on the wire, `denials`
//! remembers why it did not, and `serving` and `listener` are the control plane's own end of TLS.
//!
//! All cryptography is OpenSSL's. Time is an argument everywhere below the
//! service, so that tests can set the clock.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod access;
pub mod authenticate;
pub mod authority;
pub mod bundle;
pub mod csr;
pub mod denials;
mod der;
pub mod files;
pub mod handover;
pub mod holders;
pub mod identity;
pub mod issue;
pub mod listener;
pub mod metrics;
pub mod node;
mod p256;
pub mod previous;
pub mod root_store;
pub mod self_signed;
pub mod service;
pub mod serving;
pub mod signing;

#[cfg(test)]
mod testing;

use jiff::Timestamp;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;

/// An ASN.1 time as a timestamp. Both kinds of ASN.1 time have whole seconds.
fn timestamp(time: &Asn1TimeRef) -> Result<Timestamp, ErrorStack> {
    let since_epoch = Asn1Time::from_unix(0)?.diff(time)?;
    let seconds = i64::from(since_epoch.days) * 86_400 + i64::from(since_epoch.secs);
    // Years 0 to 9999 are what both types can hold; the clamp only keeps the
    // last hours of year 9999, where the ranges differ, from being an error.
    Ok(Timestamp::from_second(seconds.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second()))
        .unwrap_or(Timestamp::MAX))
}

fn asn1_time(time: Timestamp) -> Result<Asn1Time, ErrorStack> {
    Asn1Time::from_unix(time.as_second())
}
