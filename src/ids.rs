//! Where tags, branches, Call-IDs, uuids and other random values come from.

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

/// A source of identifiers: seeded by the system in service, by a fixed number in tests only.
///
/// The generator is ChaCha-based, so values that peers see do not tell what comes next.
#[derive(Debug)]
pub struct IdSource(StdRng);

impl IdSource {
    /// Seeded by the operating system.
    #[must_use]
    pub fn from_system() -> Self {
        Self(rand::make_rng())
    }

    /// The same values in every run; for tests and the simulation.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A From or To tag: 128 random bits (leaks.md row 2; RFC 3261 §19.3 asks for 32).
    pub fn tag(&mut self) -> String {
        self.hex()
    }

    /// A Via branch with the magic cookie of RFC 3261 §8.1.1.7.
    pub fn branch(&mut self) -> String {
        format!("z9hG4bK{}", self.hex())
    }

    /// A Call-ID without a host part.
    pub fn call_id(&mut self) -> String {
        self.hex()
    }

    /// A first CSeq: below 2^30, so that no dialog can run into the limit of 2^31 (RFC 3261 §8.1.1.5).
    pub fn cseq(&mut self) -> u32 {
        self.0.random_range(1..0x4000_0000)
    }

    /// A session id for `o=` lines (RFC 8866 §5.2), small enough for every parser.
    pub fn sdp_session_id(&mut self) -> u64 {
        self.0.random_range(1..i64::MAX.unsigned_abs() / 2)
    }

    /// What the keys of one leg's encrypted audio are made of.
    pub fn srtp_secret(&mut self) -> media::srtp::Secret {
        media::srtp::Secret::new(self.0.random())
    }

    /// An opaque user part for Contact.
    pub fn contact_user(&mut self) -> String {
        let mut user = self.hex();
        user.truncate(16);
        user
    }

    /// A version 7 uuid (RFC 9562 §5.7) made `at` that time: rows that are written together lie side by side in every
    /// index of their uuids, and a commit writes a few pages instead of one for each row and index.
    pub fn uuid(&mut self, at: Timestamp) -> Uuid {
        let millis = u64::try_from(at.as_millisecond()).unwrap_or_default();
        uuid::Builder::from_unix_timestamp_millis(millis, &self.0.random()).into_uuid()
    }

    fn hex(&mut self) -> String {
        data_encoding::HEXLOWER.encode(&self.0.random::<[u8; 16]>())
    }
}
