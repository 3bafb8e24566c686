//! Tokens that must be readable again: AES-256-GCM with a key outside the database (NIST SP 800-38D).
//!
//! Callbacks are signed with an account's token, so a hash of it is not enough; who has the database alone
//! must still not have the tokens. The auth id is authenticated along with each token, so that nobody can give
//! one account the token of another by moving it. Neither the key nor a token prints itself.
//!
//! By the same key, what must be found again and need not be read is kept as a mark (HMAC-SHA256, RFC 2104) only.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use rand::RngExt;
use rand::rngs::StdRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use zeroize::{Zeroize, Zeroizing};

/// What stands before every sealed value: the way in which it was sealed.
const VERSION: &str = "1:";
const KEY_BYTES: usize = 32;

/// A token. It never prints itself, and leaves no copy of itself in memory when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Of the token itself.
    #[must_use]
    pub fn new(token: String) -> Self {
        Self(Zeroizing::new(token))
    }

    /// The token itself: for signing, and for the one answer that hands it out.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(·)")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SealKeyError {
    /// The system refuses.
    #[error("store.key_file: {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("store.key_file: {} may be read by others; allowed: mode 0600 (chmod 600)", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// It holds something else.
    #[error("store.key_file: {} holds no key; allowed: 64 hexadecimal digits", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// The key that seals tokens, and one made of it that marks.
pub struct SealKey {
    tokens: LessSafeKey,
    marks: MarkKey,
}

/// Makes the same mark of the same text, which tells nothing of the text to who has the mark alone.
pub(super) struct MarkKey(hmac::Key);

impl MarkKey {
    fn of(secret: &[u8]) -> Self {
        // One key, one use: what is signed here under the sealing key itself is this word alone.
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"maskline marks");
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Of a store without a key. Who has the database can find a number by trying all of them.
    pub(super) fn known_to_all() -> Self {
        Self::of(&[])
    }

    pub(super) fn mark(&self, text: &str) -> String {
        HEXLOWER.encode(hmac::sign(&self.0, text.as_bytes()).as_ref())
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(·)")
    }
}

impl SealKey {
    /// Reads the key file; the first start makes it, with mode 0600.
    ///
    /// # Errors
    /// [`SealKeyError`] when it cannot be made or read, when others may read it, and when it holds no key.
    pub fn load_or_create(path: &Path) -> Result<Self, SealKeyError> {
        let failed = |source| SealKeyError::File { path: path.to_owned(), source };
        let mut file = match OpenOptions::new().read(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path).map_err(failed)?;
                OpenOptions::new().read(true).open(path)
            }
            opened => opened,
        }
        .map_err(failed)?;
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(SealKeyError::Open { path: path.to_owned() });
        }
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 2));
        // More than a key is no key, however much more it is.
        let read = (&mut file).take(4096).read_to_string(&mut text);
        let key = read.ok().and_then(|_| Self::parse(text.trim()));
        key.ok_or_else(|| SealKeyError::Malformed { path: path.to_owned() })
    }

    /// A key that nobody keeps; for tests.
    #[cfg(test)]
    pub(crate) fn draw() -> Option<Self> {
        Self::parse(&draw_hex())
    }

    fn parse(hex: &str) -> Option<Self> {
        let bytes = Zeroizing::new(HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok()?);
        let bytes = (bytes.len() == KEY_BYTES).then_some(bytes)?;
        let tokens = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).ok()?);
        Some(Self { tokens, marks: MarkKey::of(&bytes) })
    }

    pub(super) fn marks(&self) -> &MarkKey {
        &self.marks
    }

    /// `token` as it may lie in the database, in the row of `auth_id`.
    pub(super) fn seal(&self, auth_id: &str, token: &Secret) -> Option<String> {
        // 96 random bits: fine for far more tokens than one key will ever see (NIST SP 800-38D §8.3).
        let nonce: [u8; NONCE_LEN] = rand::make_rng::<StdRng>().random();
        let mut sealed = token.reveal().as_bytes().to_vec();
        let aad = Aad::from(auth_id.as_bytes());
        let done = self
            .tokens
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .is_ok();
        if !done {
            sealed.zeroize();
            return None;
        }
        let mut whole = nonce.to_vec();
        whole.extend_from_slice(&sealed);
        Some(format!("{VERSION}{}", BASE64.encode(&whole)))
    }

    /// The token back. `None`: it was sealed with another key, for another row, or is damaged.
    pub(super) fn open(&self, auth_id: &str, sealed: &str) -> Option<Secret> {
        let mut whole = Zeroizing::new(BASE64.decode(sealed.strip_prefix(VERSION)?.as_bytes()).ok()?);
        let (nonce, rest) = whole.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let token = self.tokens.open_in_place(nonce, Aad::from(auth_id.as_bytes()), rest).ok()?;
        std::str::from_utf8(token).ok().map(|token| Secret::new(token.to_owned()))
    }
}

fn draw_hex() -> Zeroizing<String> {
    let key = Zeroizing::new(rand::make_rng::<StdRng>().random::<[u8; KEY_BYTES]>());
    Zeroizing::new(HEXLOWER.encode(key.as_slice()))
}

/// Makes the file whole or not at all. When another process was faster, its key stays.
fn create(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    // What a crash left behind.
    let _ = std::fs::remove_file(&draft);
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(draw_hex().as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()
        });
    let linked = written.and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let _ = std::fs::remove_file(&draft);
    linked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("maskline-key-{}", uuid::Uuid::new_v4())))
        }

        fn key(&self) -> PathBuf {
            self.0.join("deep/maskline.key")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn token() -> Secret {
        Secret::new("the-token-of-an-account".into())
    }

    #[test]
    fn what_is_sealed_opens_again_after_a_restart() {
        let scratch = Scratch::new();
        let sealed = SealKey::load_or_create(&scratch.key()).unwrap().seal("MA1", &token()).unwrap();
        assert!(!sealed.contains("token"));
        let key = SealKey::load_or_create(&scratch.key()).unwrap();
        assert_eq!(key.open("MA1", &sealed), Some(token()));
        let mode = std::fs::metadata(scratch.key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(scratch.0.join("deep")).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_sealed_token_opens_in_its_own_row_with_its_own_key_and_undamaged_only() {
        let (key, other) = (SealKey::draw().unwrap(), SealKey::draw().unwrap());
        let sealed = key.seal("MA1", &token()).unwrap();
        assert_eq!(key.open("MA2", &sealed), None);
        assert_eq!(other.open("MA1", &sealed), None);
        let mut damaged = sealed.clone().into_bytes();
        damaged[20] ^= 1;
        assert_eq!(key.open("MA1", &String::from_utf8(damaged).unwrap()), None);
        for nonsense in ["", "1:", "1:AAAA", "1:!", "token"] {
            assert_eq!(key.open("MA1", nonsense), None, "{nonsense}");
        }
        assert_ne!(key.seal("MA1", &token()), Some(sealed), "no nonce is used twice");
    }

    #[test]
    fn a_mark_is_the_same_with_the_same_key_and_tells_nothing() {
        let (key, other) = (SealKey::draw().unwrap(), SealKey::draw().unwrap());
        let mark = key.marks().mark("caller:12025550177");
        assert_eq!(mark, key.marks().mark("caller:12025550177"));
        assert_eq!(mark.len(), 64);
        for another in [
            key.marks().mark("caller:12025550178"),
            other.marks().mark("caller:12025550177"),
            MarkKey::known_to_all().mark("caller:12025550177"),
        ] {
            assert_ne!(mark, another);
        }
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let scratch = Scratch::new();
        SealKey::load_or_create(&scratch.key()).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(scratch.key(), std::fs::Permissions::from_mode(mode)).unwrap();
            let error = SealKey::load_or_create(&scratch.key()).unwrap_err();
            assert!(error.to_string().contains("store.key_file") && error.to_string().contains("0600"));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let scratch = Scratch::new();
        SealKey::load_or_create(&scratch.key()).unwrap();
        for text in ["", "abc", "zz", &"0".repeat(63), &"0".repeat(66), &"0".repeat(6400)] {
            std::fs::write(scratch.key(), text).unwrap();
            assert!(matches!(SealKey::load_or_create(&scratch.key()), Err(SealKeyError::Malformed { .. })));
        }
    }

    #[test]
    fn neither_key_nor_token_prints_itself() {
        assert_eq!(format!("{:?} {:?}", SealKey::draw().unwrap(), token()), "SealKey(·) Secret(·)");
    }
}
