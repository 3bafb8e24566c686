//! What belongs to a recording beside its sound: the manifest, and the repair after a crash.

pub mod manifest;
pub mod repair;
