//! SRTP: encrypted and authenticated RTP and RTCP of one leg, with keys from its own SDP.
//!
//! RFC 3711 (packets, key derivation, index, replay), RFC 4568 (keys in SDP), RFC 6188 (AES-256). A leg has an
//! [`Srtp`] of its own and shares nothing with the other one: what comes in is decrypted before anything looks at
//! it, what goes out is encrypted after everything is decided.
//!
//! ```text
//! datagram ── index, replay window, tag ──▶ decrypt in place ──▶ the leg, as if it were plain
//!               any of them wrong: dropped, and no state has changed
//! ```
//!
//! Nothing is allocated per packet, and tags are compared in constant time. No key prints itself; the master keys
//! and the secret that they are made of are overwritten when they are dropped (the ciphers' own schedules are not,
//! nor is the text of the SDP). Never here: DTLS, MKI, key derivation rates, unencrypted or unauthenticated streams.

mod cipher;
mod context;
pub(crate) mod sdes;

use context::{Receiver, Sender};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes that a protected RTP packet may be longer than the plain one.
pub const RTP_TRAILER: usize = 10;
/// Length of the master salt.
const SALT_LENGTH: usize = 14;
/// The longest master key and its salt.
const MAX_KEYING: usize = 32 + SALT_LENGTH;

/// A cipher and a tag length (RFC 4568 §6.2, RFC 6188 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `AES_CM_128_HMAC_SHA1_80`, which every implementation has.
    Aes128Sha80,
    /// `AES_CM_128_HMAC_SHA1_32`: a short tag for RTP, the long one for RTCP.
    Aes128Sha32,
    /// `AES_256_CM_HMAC_SHA1_80`.
    Aes256Sha80,
    /// `AES_256_CM_HMAC_SHA1_32`.
    Aes256Sha32,
}

impl Suite {
    /// Those that are taken.
    pub const ALL: [Self; 4] = [Self::Aes128Sha80, Self::Aes128Sha32, Self::Aes256Sha80, Self::Aes256Sha32];

    /// The name in `a=crypto`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Sha80 => "AES_CM_128_HMAC_SHA1_80",
            Self::Aes128Sha32 => "AES_CM_128_HMAC_SHA1_32",
            Self::Aes256Sha80 => "AES_256_CM_HMAC_SHA1_80",
            Self::Aes256Sha32 => "AES_256_CM_HMAC_SHA1_32",
        }
    }

    /// Bytes of the master key; the salt is not counted.
    fn key_length(self) -> usize {
        match self {
            Self::Aes128Sha80 | Self::Aes128Sha32 => 16,
            Self::Aes256Sha80 | Self::Aes256Sha32 => 32,
        }
    }

    /// Bytes of the tag of an RTP packet.
    fn rtp_tag(self) -> usize {
        match self {
            Self::Aes128Sha80 | Self::Aes256Sha80 => 10,
            Self::Aes128Sha32 | Self::Aes256Sha32 => 4,
        }
    }
}

/// A master key with its salt: what one side encrypts with.
#[derive(Clone)]
pub struct MasterKey {
    suite: Suite,
    /// Key and salt; what lies beyond them is zero.
    bytes: Zeroizing<[u8; MAX_KEYING]>,
}

impl MasterKey {
    /// Key and salt one after the other; `None` when their length is not the suite's.
    #[must_use]
    pub fn new(suite: Suite, keying: &[u8]) -> Option<Self> {
        if keying.len() != suite.key_length() + SALT_LENGTH {
            return None;
        }
        let mut bytes = Zeroizing::new([0; MAX_KEYING]);
        bytes.get_mut(..keying.len())?.copy_from_slice(keying);
        Some(Self { suite, bytes })
    }

    /// What it is for.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Key and salt, as `a=crypto` has them.
    fn keying(&self) -> &[u8] {
        self.bytes.get(..self.suite.key_length() + SALT_LENGTH).unwrap_or_default()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({}, ·)", self.suite.name())
    }
}

impl PartialEq for MasterKey {
    fn eq(&self, other: &Self) -> bool {
        self.suite == other.suite && bool::from(self.bytes.as_slice().ct_eq(other.bytes.as_slice()))
    }
}
impl Eq for MasterKey {}

/// What a leg's keys are made of: 256 bits of the system's generator, for one leg alone.
///
/// An offer/answer exchange is pure and draws nothing itself, so it is given this and numbers its keys.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// `bytes` must come from a generator that nobody can foresee.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The leg's key of that number: HMAC-SHA-256 in counter mode (NIST SP 800-108), so that no key tells of
    /// another.
    #[must_use]
    pub(crate) fn key(&self, suite: Suite, number: u32) -> MasterKey {
        let mut bytes = Zeroizing::new([0; MAX_KEYING]);
        for (block, out) in (1u8..).zip(bytes.chunks_mut(32)) {
            // Invariant: HMAC takes a key of any length.
            let mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).expect("HMAC takes any key");
            let digest = mac
                .chain_update([block])
                .chain_update(b"SRTP master key")
                .chain_update(suite.name())
                .chain_update(number.to_be_bytes())
                .finalize()
                .into_bytes();
            let digest = Zeroizing::new(<[u8; 32]>::from(digest));
            out.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
        }
        let used = suite.key_length() + SALT_LENGTH;
        bytes.iter_mut().skip(used).for_each(|byte| *byte = 0);
        MasterKey { suite, bytes }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(·)")
    }
}

/// What an offer/answer exchange came to: each side's key. Both are of one suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrtpKeys {
    /// Ours: what we send is encrypted with it.
    pub send: MasterKey,
    /// The peer's.
    pub receive: MasterKey,
}

/// One leg's contexts, both ways.
pub struct Srtp {
    keys: SrtpKeys,
    sender: Sender,
    receiver: Receiver,
    /// With the peer's key of before, until a packet has come under the present one.
    former: Option<Box<Receiver>>,
}

impl fmt::Debug for Srtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Srtp(·)")
    }
}

impl Srtp {
    /// Nothing has been sent or received yet.
    #[must_use]
    pub fn new(keys: &SrtpKeys) -> Self {
        Self {
            sender: Sender::new(&keys.send),
            receiver: Receiver::new(&keys.receive),
            keys: keys.clone(),
            former: None,
        }
    }

    /// Another exchange: a direction whose key is the same goes on as if nothing had been, for an index must never
    /// be used twice under one key (RFC 3711 §9.1); another key begins a new context, whose packets are counted on.
    pub fn agree(&mut self, keys: &SrtpKeys) {
        if keys.send != self.keys.send {
            self.sender = self.sender.succeed(&keys.send);
        }
        if keys.receive != self.keys.receive {
            let next = self.receiver.succeed(&keys.receive);
            self.former = Some(Box::new(std::mem::replace(&mut self.receiver, next)));
        }
        self.keys = keys.clone();
    }

    /// Encrypts the packet of `length` bytes at the front of `buffer`, which must have room for
    /// [`RTP_TRAILER`] more. Returns the new length; `None` when its number has been used and it must not leave.
    #[must_use]
    pub fn protect_rtp(&mut self, buffer: &mut [u8], length: usize) -> Option<usize> {
        self.sender.protect_rtp(buffer, length)
    }

    /// Encrypts a compound packet. False when it must not leave.
    #[must_use]
    pub fn protect_rtcp(&mut self, packet: &mut Vec<u8>) -> bool {
        self.sender.protect_rtcp(packet).is_some()
    }

    /// Decrypts a packet in place and returns its length without the tag. `None`: it is not the peer's, or has
    /// come before; then nothing but `datagram` itself may have changed.
    #[must_use]
    pub fn unprotect_rtp(&mut self, datagram: &mut [u8]) -> Option<usize> {
        if let Some(length) = self.receiver.unprotect_rtp(datagram) {
            self.former = None;
            return Some(length);
        }
        // What was on its way while the keys changed.
        self.former.as_mut()?.unprotect_rtp(datagram)
    }

    /// The same for a compound packet.
    #[must_use]
    pub fn unprotect_rtcp(&mut self, datagram: &mut [u8]) -> Option<usize> {
        let length = self.receiver.unprotect_rtcp(datagram);
        length.or_else(|| self.former.as_mut()?.unprotect_rtcp(datagram))
    }
}

#[cfg(test)]
mod tests;
