//! Maskline: number masking on a company's own SIP trunks.

pub mod api;
pub mod clock;
pub mod ids;
pub mod masking;
pub mod number;
pub mod store;
