//! Faults on purpose: what does a bug that one call meets do to that call, and to the others?
//!
//! Only builds with debug assertions have this, so no release does. There, too, nothing but code of the same process
//! can order a fault: no message, request, file or variable leads here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use uuid::Uuid;

/// Calls that are to meet a bug.
#[derive(Debug, Default)]
pub struct Faults(Mutex<HashMap<Uuid, u32>>);

impl Faults {
    /// Each of the next `events` events of the call makes its machine panic. The orderly end that follows a panic is
    /// an event too.
    pub fn order(&self, interaction: Uuid, events: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(interaction, events);
    }

    /// Panics if that was ordered.
    pub(super) fn strike(&self, interaction: Uuid) {
        let mut ordered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = ordered.get_mut(&interaction) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            ordered.remove(&interaction);
        }
        drop(ordered);
        panic!("a fault that a test has ordered");
    }
}
