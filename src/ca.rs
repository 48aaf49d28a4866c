//! Who a caller is, and the certificates that prove who a workload is.

pub mod authenticate;
pub mod identity;
