//! Who a caller is, and the certificates that prove who a workload is.

pub mod identity;
pub mod authenticate;
