//! AES in counter mode, and the session keys that are derived with it (RFC 3711 §4.1.1, §4.3; RFC 6188 §2, §3).

use super::{MasterKey, SALT_LENGTH, Suite};
use aes::{Aes128, Aes256};
use ctr::CtrCore;
use ctr::cipher::consts::U16;
use ctr::cipher::{
    BlockCipherEncrypt, BlockSizeUser, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper,
};
use ctr::flavors::Ctr128BE;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use zeroize::Zeroizing;

/// Length of an HMAC-SHA1 session key (RFC 3711 §8.2).
const AUTH_KEY_LENGTH: usize = 20;

/// What a session key is for (RFC 3711 §4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Rtp,
    Rtcp,
}

/// An expanded key.
pub(super) enum Cipher {
    Aes128(Box<Aes128>),
    Aes256(Box<Aes256>),
}

impl Cipher {
    /// `None` when the key is neither 16 nor 32 bytes long.
    fn new(key: &[u8]) -> Option<Self> {
        match key.len() {
            16 => Some(Self::Aes128(Box::new(Aes128::new_from_slice(key).ok()?))),
            32 => Some(Self::Aes256(Box::new(Aes256::new_from_slice(key).ok()?))),
            _ => None,
        }
    }

    /// XORs `data` with the keystream from `iv` on.
    fn apply(&self, iv: u128, data: &mut [u8]) {
        match self {
            Self::Aes128(aes) => keystream(aes.as_ref(), iv, data),
            Self::Aes256(aes) => keystream(aes.as_ref(), iv, data),
        }
    }
}

fn keystream<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>>(aes: &C, iv: u128, data: &mut [u8]) {
    let core = CtrCore::<&C, Ctr128BE>::inner_iv_init(aes, &iv.to_be_bytes().into());
    StreamCipherCoreWrapper::from_core(core).apply_keystream(data);
}

/// Session keys of one direction and one protocol.
pub(super) struct Session {
    cipher: Cipher,
    /// The session salt, where the counter's IV has it: 16 bits above the lowest.
    salt: u128,
    mac: Hmac<Sha1>,
    /// Bytes of the tag that are sent.
    pub(super) tag: usize,
}

impl Session {
    pub(super) fn derive(master: &MasterKey, of: Use) -> Self {
        let (cipher_label, auth_label, salt_label, tag) = match of {
            Use::Rtp => (0, 1, 2, master.suite.rtp_tag()),
            // RFC 4568 §6.2.2: the short tag is for RTP alone.
            Use::Rtcp => (3, 4, 5, Suite::Aes128Sha80.rtp_tag()),
        };
        let (key, salt) = master.keying().split_at_checked(master.suite.key_length()).unwrap_or_default();
        // Invariant: `MasterKey` has a key of 16 or 32 bytes.
        let prf = Cipher::new(key).expect("a master key has its suite's length");
        let salt = wide(salt);
        let derive = |label: u8, out: &mut [u8]| {
            // RFC 3711 §4.3.3: the label stands above the 48 bits of the index, which are zero because there is
            // no derivation rate; the counter begins 16 bits below.
            prf.apply((salt ^ (u128::from(label) << 48)) << 16, out);
        };
        let mut key = Zeroizing::new([0; 32]);
        let key = key.get_mut(..master.suite.key_length()).unwrap_or_default();
        derive(cipher_label, key);
        let mut auth = Zeroizing::new([0; AUTH_KEY_LENGTH]);
        derive(auth_label, auth.as_mut_slice());
        let mut salt = Zeroizing::new([0; SALT_LENGTH]);
        derive(salt_label, salt.as_mut_slice());
        Self {
            // Invariant: as above.
            cipher: Cipher::new(key).expect("a session key has its suite's length"),
            salt: wide(salt.as_slice()) << 16,
            // Invariant: HMAC takes a key of any length.
            mac: Hmac::new_from_slice(auth.as_slice()).expect("HMAC takes any key"),
            tag,
        }
    }

    /// Encrypts or decrypts (RFC 3711 §4.1.1).
    #[inline]
    pub(super) fn apply(&self, ssrc: u32, index: u64, data: &mut [u8]) {
        let iv = self.salt ^ (u128::from(ssrc) << 64) ^ (u128::from(index) << 16);
        self.cipher.apply(iv, data);
    }

    /// The whole tag over `packet` and what follows it in the computation (RFC 3711 §4.2).
    #[inline]
    pub(super) fn authenticate(&self, packet: &[u8], after: &[u8]) -> [u8; 20] {
        self.mac.clone().chain_update(packet).chain_update(after).finalize().into_bytes().into()
    }
}

/// Bytes as the number that they write, highest first.
fn wide(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER_PERMISSIVE as HEX;

    fn hex(text: &str) -> Vec<u8> {
        HEX.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn rfc3711_b_2_and_rfc6188_7_the_keystream_of_counter_mode() {
        let table = [
            (
                "RFC 3711 B.2",
                "2b7e151628aed2a6abf7158809cf4f3c",
                "e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0",
            ),
            (
                "RFC 6188 §7.1",
                "57f82fe3613fd170a85ec93c40b1f0922ec4cb0dc025b58272147cc438944a98",
                "92bdd28a93c3f52511c677d08b5515a49da71b2378a854f67050756ded165bac63c4868b7096d88421b563b8c94c9a31",
            ),
        ];
        for (fact, key, stream) in table {
            let mut out = vec![0; 48];
            Cipher::new(&hex(key)).unwrap().apply(wide(&hex("f0f1f2f3f4f5f6f7f8f9fafbfcfd")) << 16, &mut out);
            assert_eq!(HEX.encode(&out), stream, "{fact}");
        }
    }

    #[test]
    fn rfc3711_b_3_and_rfc6188_7_session_keys_are_derived() {
        let table = [
            (
                "RFC 3711 B.3",
                Suite::Aes128Sha80,
                "e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6",
                "c61e7a93744f39ee10734afe3ff7a087",
                "30cbbc08863d8c85d49db34a9ae1",
                "cebe321f6ff7716b6fd4ab49af256a156d38baa4",
            ),
            (
                "RFC 6188 §7.3",
                Suite::Aes256Sha80,
                "f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b63b04803de51ee7c96423ab5b78d2",
                "5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4",
                "fa31791685ca444a9e07c6c64e93",
                "fd9c32d39ed5fbb5a9dc96b30818454d1313dc05",
            ),
        ];
        for (fact, suite, master, key, salt, auth) in table {
            let master = MasterKey::new(suite, &hex(master)).unwrap();
            let session = Session::derive(&master, Use::Rtp);
            assert_eq!(session.salt, wide(&hex(salt)) << 16, "{fact}");
            let (mut ours, mut expected) = (vec![0; 64], vec![0; 64]);
            session.apply(7, 9, &mut ours);
            let iv = (wide(&hex(salt)) << 16) ^ (7 << 64) ^ (9 << 16);
            Cipher::new(&hex(key)).unwrap().apply(iv, &mut expected);
            assert_eq!(ours, expected, "{fact}: the cipher's key");
            let mac = Hmac::<Sha1>::new_from_slice(&hex(auth)).unwrap();
            let expected = mac.chain_update(b"packet").chain_update([0; 4]).finalize().into_bytes();
            assert_eq!(session.authenticate(b"packet", &[0; 4]), <[u8; 20]>::from(expected), "{fact}: tag");
        }
    }
}
