//! The tones that a caller hears whose leg was answered early, made once for all calls.

use media::{Prompt, tone};
use std::sync::LazyLock;

/// How often the busy tone sounds before BYE.
const BUSY_CYCLES: usize = 5;

static RINGBACK: LazyLock<Prompt> = LazyLock::new(tone::ringback);
static BUSY: LazyLock<Prompt> = LazyLock::new(|| {
    let cycle = tone::busy();
    Prompt::new("busy", &cycle.samples().repeat(BUSY_CYCLES))
});

/// One cycle of ringback, to be repeated.
#[must_use]
pub fn ringback() -> Prompt {
    RINGBACK.clone()
}

/// Busy tone of a few seconds.
#[must_use]
pub fn busy() -> Prompt {
    BUSY.clone()
}
