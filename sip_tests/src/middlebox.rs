//! A box between the service and a phone that adds to what passes: the double by which a leak check proves itself.

use std::fmt;
use std::sync::Arc;

use crate::transcript::Kind;

type Deliver = dyn Fn(Kind, &[u8]) -> Vec<Vec<u8>> + Send + Sync;

/// Sees every datagram on its way to a phone and says what is delivered instead, in order. Cloning shares it.
#[derive(Clone)]
pub struct Middlebox(Arc<Deliver>);

impl Middlebox {
    /// A box that does this.
    #[must_use]
    pub fn new(deliver: impl Fn(Kind, &[u8]) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(deliver))
    }

    /// What comes out for one datagram; without a box the datagram itself.
    pub(crate) fn deliver(this: Option<&Self>, kind: Kind, bytes: &[u8]) -> Vec<Vec<u8>> {
        this.map_or_else(|| vec![bytes.to_vec()], |this| (this.0)(kind, bytes))
    }
}

impl fmt::Debug for Middlebox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Middlebox")
    }
}
