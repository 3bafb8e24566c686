//! Who may reach whom through which virtual number: sessions and how a number is chosen for one.
//!
//! Everything here is pure: values in, values out. The store keeps the sessions, the call machine asks what
//! to do with a call. Nothing here prints a party's number or a PIN.

pub mod allocate;
pub mod guessing;
pub mod route;
pub mod session;
