//! Digest authentication in both roles: RFC 7616 and RFC 8760, as RFC 3261 §22 uses them.
//!
//! [`Client`] answers the challenges of one peer, whose address its owner has checked; [`Guard`] challenges those
//! who call us. Both are pure: time, random values and passwords are arguments. Neither sends anything, and neither
//! answers for more than one realm. What is repeated to a peer is what that peer sent, byte for byte between the
//! quotes, and goes back to no other.

use super::encode::{HeaderOut, RequestOut};
use super::grammar::{is_blank, is_token, split_list, split_quoted, split_while, trim, trim_start};
use super::message::{Head, Method, Request, Response};
use super::uri::Uri;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use md5::Md5;
use ring::hmac;
use sha2::{Digest, Sha256, Sha512_256};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

/// What we call ourselves when we challenge; the same for all trunks, so that it names none of them.
pub const REALM: &str = "maskline";

/// Challenges, or credentials, of one message that are looked at.
const MAX_VALUES: usize = 8;
/// Parameters of one of them.
const MAX_PARAMS: usize = 24;
/// The longest realm, nonce or opaque that is repeated to the peer, in bytes.
const MAX_LENGTH: usize = 512;
/// Answers to challenges of one request: one each to a proxy and to a server, and one more for a nonce that has
/// gone stale in between.
const MAX_ANSWERS: u8 = 3;
/// How long a nonce of ours may be used.
const NONCE_LIFETIME: Duration = Duration::from_secs(60);
/// Nonces of ours that are in use; beyond it the oldest count as stale.
const MAX_NONCES: usize = 65_536;
/// How far behind the highest count of a nonce another count may come: requests overtake each other.
const COUNT_WINDOW: u32 = 64;

/// A password. It never prints itself, and its memory is wiped.
#[derive(Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(from = "String")]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The password itself: for hashing and for checks of its form only.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(·)")
    }
}

/// What a trunk and we know each other by. `Debug` shows nothing: a user name may be a telephone number.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Without `"`, `\` and control characters.
    pub username: String,
    /// What is hashed with it.
    pub password: Secret,
    /// The only realm that is answered; `None`: the first one that the gateway names.
    pub realm: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(·)")
    }
}

/// In the order of preference, the best one last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Hash {
    Md5,
    Sha512Of256,
    Sha256,
}

/// The `algorithm` parameter (RFC 7616 §3.3, RFC 8760 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Algorithm {
    hash: Hash,
    /// `-sess`: nonce and cnonce go into the first hash.
    session: bool,
}

impl Algorithm {
    const MD5: Self = Self { hash: Hash::Md5, session: false };
    const SHA256: Self = Self { hash: Hash::Sha256, session: false };

    fn parse(name: &str) -> Option<Self> {
        [Hash::Md5, Hash::Sha512Of256, Hash::Sha256]
            .into_iter()
            .flat_map(|hash| [false, true].map(|session| Self { hash, session }))
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
    }

    fn as_str(self) -> &'static str {
        match (self.hash, self.session) {
            (Hash::Md5, false) => "MD5",
            (Hash::Md5, true) => "MD5-sess",
            (Hash::Sha256, false) => "SHA-256",
            (Hash::Sha256, true) => "SHA-256-sess",
            (Hash::Sha512Of256, false) => "SHA-512-256",
            (Hash::Sha512Of256, true) => "SHA-512-256-sess",
        }
    }

    /// The hash of the parts with colons between them, in hexadecimal digits (RFC 7616 §3.4.1: `H`, `KD`).
    fn hash(self, parts: &[&str]) -> String {
        match self.hash {
            Hash::Md5 => joined::<Md5>(parts),
            Hash::Sha256 => joined::<Sha256>(parts),
            Hash::Sha512Of256 => joined::<Sha512_256>(parts),
        }
    }
}

fn joined<D: Digest>(parts: &[&str]) -> String {
    let mut hash = D::new();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hash.update(b":");
        }
        hash.update(part.as_bytes());
    }
    HEXLOWER.encode(&hash.finalize())
}

/// What a response is computed from, beside user and password.
#[derive(Debug, Clone, Copy)]
struct Calculation<'a> {
    algorithm: Algorithm,
    realm: &'a str,
    nonce: &'a str,
    method: &'a str,
    uri: &'a str,
    /// cnonce and nonce count; `None`: without `qop`, as RFC 2069 had it.
    qop: Option<(&'a str, u32)>,
}

impl Calculation<'_> {
    /// The `response` parameter (RFC 7616 §3.4.1–§3.4.3).
    fn response(&self, username: &str, password: &Secret) -> String {
        let h = |parts: &[&str]| self.algorithm.hash(parts);
        let cnonce = self.qop.map_or("", |(cnonce, _)| cnonce);
        let mut a1 = h(&[username, self.realm, password.reveal()]);
        if self.algorithm.session {
            a1 = h(&[&a1, self.nonce, cnonce]);
        }
        let a2 = h(&[self.method, self.uri]);
        match self.qop {
            Some((cnonce, count)) => h(&[&a1, self.nonce, &count_text(count), cnonce, "auth", &a2]),
            None => h(&[&a1, self.nonce, &a2]),
        }
    }
}

/// RFC 7616 §3.4: eight hexadecimal digits.
fn count_text(count: u32) -> String {
    format!("{count:08x}")
}

/// One challenge or one set of credentials, by its parameters; values without their quotes, escapes as they came.
struct Values<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Values<'a> {
    /// Those of scheme Digest in one header line, which may hold several (RFC 9110 §11.6.1). A parameter that breaks
    /// the grammar takes its challenge with it.
    fn read(line: &'a str) -> Vec<Self> {
        let (mut all, mut current): (Vec<Self>, Option<Self>) = (Vec::new(), None);
        for part in split_list(line) {
            let (word, rest) = split_while(part, is_token);
            let blank = rest.bytes().next().is_none_or(is_blank);
            let first = trim_start(rest);
            let mut param = part;
            if blank && !word.is_empty() && !first.starts_with('=') {
                // `Digest realm="…"`: another challenge begins.
                all.extend(current.take());
                current = word.eq_ignore_ascii_case("Digest").then(|| Self(Vec::new()));
                param = first;
            }
            if all.len() >= MAX_VALUES {
                return all;
            }
            if param.is_empty() {
                continue;
            }
            let Some(values) = &mut current else { continue };
            match read_param(param).filter(|_| values.0.len() < MAX_PARAMS) {
                Some(pair) => values.0.push(pair),
                None => current = None,
            }
        }
        all.extend(current);
        all
    }

    fn find(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The algorithm; MD5 when none is named (RFC 7616 §3.3). `None`: one that we do not know.
    fn algorithm(&self) -> Option<Algorithm> {
        self.find("algorithm").map_or(Some(Algorithm::MD5), Algorithm::parse)
    }
}

/// `name=token` or `name="quoted"`, with blanks around the equals sign.
fn read_param(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = split_while(text, is_token);
    let value = trim(trim_start(rest).strip_prefix('=')?);
    if name.is_empty() || value.len() > MAX_LENGTH {
        return None;
    }
    if value.starts_with('"') {
        let (quoted, after) = split_quoted(value)?;
        let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
        return after.is_empty().then_some((name, inner));
    }
    // Peers leave the quotes out where the grammar has them; what separates nothing is taken.
    let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
    plain.then_some((name, value))
}

/// Who asks for credentials, which decides the headers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// 401.
    Server,
    /// 407.
    Proxy,
}

impl Asker {
    fn of_status(status: u16) -> Option<Self> {
        match status {
            401 => Some(Self::Server),
            407 => Some(Self::Proxy),
            _ => None,
        }
    }

    fn challenge_header(self) -> &'static str {
        match self {
            Self::Server => "WWW-Authenticate",
            Self::Proxy => "Proxy-Authenticate",
        }
    }
}

/// One challenge that can be answered (RFC 7616 §3.3).
#[derive(Clone, PartialEq, Eq)]
struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    /// The algorithm was named, so the answer names it too.
    named: bool,
    /// `qop=auth` is offered.
    qop: bool,
    stale: bool,
}

impl Challenge {
    /// `None` for a challenge that lacks realm or nonce, or wants an algorithm or protection that we do not have.
    fn of(values: &Values<'_>) -> Option<Self> {
        let algorithm = values.algorithm()?;
        let qop = match values.find("qop") {
            // RFC 7616 §3.3: a list; `auth-int` alone would protect bodies, which no carrier asks for.
            Some(offered) => {
                let auth = offered.split(',').any(|one| trim(one).eq_ignore_ascii_case("auth"));
                auth.then_some(true)?
            }
            None => false,
        };
        // RFC 7616 §3.4.2: the session variants need a cnonce, which there is with qop only.
        if algorithm.session && !qop {
            return None;
        }
        Some(Self {
            realm: values.find("realm")?.to_owned(),
            nonce: values.find("nonce")?.to_owned(),
            opaque: values.find("opaque").map(ToOwned::to_owned),
            algorithm,
            named: values.find("algorithm").is_some(),
            qop,
            stale: values.find("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }

    /// All that a message holds.
    fn read(head: &Head, name: &str) -> Vec<Self> {
        let mut all = Vec::new();
        for line in head.headers(name).take(MAX_VALUES) {
            all.extend(Values::read(&line).iter().filter_map(Self::of));
        }
        all.truncate(MAX_VALUES);
        all
    }
}

/// Why a challenge is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The trunk has no user name and password.
    #[error("the trunk has no username and password")]
    NoCredentials,
    /// It did not come from where the request went, or the request goes elsewhere than to the gateway.
    #[error("it was not the gateway who asked")]
    NotTheGateway,
    /// Somebody rings already, so it is not the gateway's own challenge.
    #[error("it was asked after the call was ringing")]
    TooLate,
    /// None of the challenges has a form that we know.
    #[error("it asks in a way that is not known here")]
    NoKnownChallenge,
    /// Another realm than the one that is ours.
    #[error("it asks for another realm")]
    OtherRealm,
    /// What we answered was not accepted.
    #[error("user name or password are refused")]
    Refused,
}

/// Our credentials in a request (RFC 7616 §3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Authorization {
    asker: Asker,
    username: String,
    realm: String,
    nonce: String,
    uri: String,
    response: String,
    algorithm: Option<Algorithm>,
    opaque: Option<String>,
    qop: Option<(String, u32)>,
}

impl Authorization {
    /// The header's name with its colon, and its value on one line.
    pub(crate) fn header(&self) -> (&'static str, String) {
        let name = match self.asker {
            Asker::Server => "Authorization: ",
            Asker::Proxy => "Proxy-Authorization: ",
        };
        let Self { username, realm, nonce, uri, response, .. } = self;
        let mut text = format!(
            "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\""
        );
        if let Some(algorithm) = self.algorithm {
            text = text + ", algorithm=" + algorithm.as_str();
        }
        if let Some((cnonce, count)) = &self.qop {
            // RFC 7616 §3.4: neither qop nor nc is quoted.
            text = text + ", cnonce=\"" + cnonce + "\", qop=auth, nc=" + &count_text(*count);
        }
        if let Some(opaque) = &self.opaque {
            text = text + ", opaque=\"" + opaque + "\"";
        }
        (name, text)
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("asker", &self.asker).finish_non_exhaustive()
    }
}

/// Answers the challenges of one gateway: within one dialog, or of the requests of one registration.
pub struct Client {
    credentials: Arc<Credentials>,
    /// Fixed by the configuration or by the first challenge that was answered.
    realm: Option<String>,
    /// At most one for each asker.
    current: Vec<Current>,
}

struct Current {
    asker: Asker,
    challenge: Challenge,
    /// Requests that have used the nonce.
    count: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("challenges", &self.current.len()).finish_non_exhaustive()
    }
}

impl Client {
    /// For requests that go to one gateway.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>) -> Self {
        let realm = credentials.realm.clone();
        Self { credentials, realm, current: Vec::new() }
    }

    /// Puts what `response` asks for into `request`, which it answers; the caller gives it a new CSeq and a new
    /// branch, and sends it to where it went before (RFC 3261 §22.2). `answered`: how often that was done for this
    /// request already. `cnonce` is random.
    ///
    /// # Errors
    /// Why nothing is answered; the response is then final.
    pub fn answer(
        &mut self,
        request: &mut RequestOut,
        response: &Response,
        answered: u8,
        cnonce: &str,
    ) -> Result<(), Unanswered> {
        let asker = Asker::of_status(response.status).ok_or(Unanswered::NoKnownChallenge)?;
        let mut challenges = Challenge::read(&response.head, asker.challenge_header());
        let realm = match &self.realm {
            Some(realm) => realm.clone(),
            None => challenges.first().ok_or(Unanswered::NoKnownChallenge)?.realm.clone(),
        };
        let any = !challenges.is_empty();
        challenges.retain(|challenge| challenge.realm == realm);
        // RFC 8760 §2.4: the topmost one "unless a local policy dictates otherwise"; ours is the strongest, so that
        // nobody on the way gets MD5 by putting it first.
        let best = challenges.into_iter().rev().max_by_key(|challenge| challenge.algorithm.hash);
        let challenge =
            best.ok_or(if any { Unanswered::OtherRealm } else { Unanswered::NoKnownChallenge })?;

        let used = request.headers.iter().find_map(|header| match header {
            HeaderOut::Authorization(used) if used.asker == asker => Some(used.nonce.as_str()),
            _ => None,
        });
        // RFC 3261 §22.1, RFC 7616 §3.3: once for each nonce; a second time in a row only if the server says that
        // nothing but the nonce's age was wrong.
        let fresh = used != Some(challenge.nonce.as_str());
        let first = used.is_none() || answered == 0;
        if !fresh || !(first || challenge.stale) || answered >= MAX_ANSWERS {
            return Err(Unanswered::Refused);
        }
        self.realm = Some(realm);
        self.current.retain(|current| current.asker != asker);
        self.current.push(Current { asker, challenge, count: 0 });
        self.authorize(request, cnonce);
        Ok(())
    }

    /// Puts in what was asked for before, with the next nonce count (RFC 3261 §22.2: a client may do so without
    /// being asked). Nothing happens before the first challenge.
    pub fn authorize(&mut self, request: &mut RequestOut, cnonce: &str) {
        request.headers.retain(|header| !matches!(header, HeaderOut::Authorization(_)));
        let (credentials, uri) = (&self.credentials, &request.uri);
        for Current { asker, challenge, count } in &mut self.current {
            *count = count.saturating_add(1);
            let qop = challenge.qop.then_some((cnonce, *count));
            let calculation = Calculation {
                algorithm: challenge.algorithm,
                realm: &challenge.realm,
                nonce: &challenge.nonce,
                method: request.method.as_str(),
                uri,
                qop,
            };
            request.headers.push(HeaderOut::Authorization(Box::new(Authorization {
                asker: *asker,
                username: credentials.username.clone(),
                realm: challenge.realm.clone(),
                nonce: challenge.nonce.clone(),
                uri: uri.clone(),
                response: calculation.response(&credentials.username, &credentials.password),
                algorithm: challenge.named.then_some(challenge.algorithm),
                opaque: challenge.opaque.clone(),
                qop: qop.map(|(cnonce, count)| (cnonce.to_owned(), count)),
            })));
        }
    }
}

/// A challenge of ours, for a 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeOut {
    nonce: String,
    algorithm: Algorithm,
    stale: bool,
}

impl ChallengeOut {
    pub(crate) fn text(&self) -> String {
        let Self { nonce, algorithm, stale } = self;
        // RFC 7616 §3.3: neither algorithm nor stale is quoted.
        let stale = if *stale { ", stale=true" } else { "" };
        format!(
            "Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm={}, qop=\"auth\"{stale}",
            algorithm.as_str()
        )
    }
}

/// What became of a request's credentials.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// They are right, and these were not used before.
    Accepted(T),
    /// A challenge is due.
    Challenge {
        /// User name and password are right; the nonce is too old or was used.
        stale: bool,
        /// There were credentials for our realm at all.
        given: bool,
    },
}

/// Challenges those who call in (RFC 3261 §22.4). The nonces are not kept: each proves by itself that it is ours,
/// when it was made and for whom. Only those that were used with the right password leave a trace, until they are
/// too old, so that strangers cannot fill anything.
#[derive(Debug)]
pub struct Guard {
    key: hmac::Key,
    started: Instant,
    used: BTreeMap<u64, Counts>,
    /// Nonces up to this one count as stale: there was no room to remember their use.
    floor: u64,
    /// Who stands for everybody we do not know.
    nobody: Secret,
}

/// The counts of a nonce that were seen: the highest, and a bit for each of those below it.
#[derive(Debug, Clone, Copy)]
struct Counts {
    highest: u32,
    seen: u64,
}

impl Counts {
    /// Takes a count that was not seen before.
    fn take(&mut self, count: u32) -> bool {
        if count > self.highest {
            let ahead = count - self.highest;
            self.seen = if ahead < COUNT_WINDOW { (self.seen << ahead) | 1 } else { 1 };
            self.highest = count;
            return true;
        }
        let behind = self.highest - count;
        let bit = 1_u64.checked_shl(behind).unwrap_or(0);
        let fresh = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

/// Bytes of a nonce: seconds since the start, salt, and the proof.
const NONCE: usize = 4 + 4 + 12;

impl Guard {
    /// `secret` is random and the process's own; `started` is when nonces begin.
    #[must_use]
    pub fn new(secret: &[u8; 32], started: Instant) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let nobody = HEXLOWER.encode(hmac::sign(&key, b"nobody").as_ref());
        Self { key, started, used: BTreeMap::new(), floor: 0, nobody: Secret::from(nobody) }
    }

    /// The challenges of a 401 to `request`, the better one first (RFC 8760 §2.3).
    #[must_use]
    pub fn challenges(
        &self,
        request: &Request,
        source: IpAddr,
        stale: bool,
        now: Instant,
    ) -> [ChallengeOut; 2] {
        // The same request gets the same salt: a repeated one is answered alike (RFC 3261 §8.2.7).
        let mut salt = hmac::Context::with_key(&self.key);
        salt.update(b"salt");
        salt.update(request.head.call_id.as_bytes());
        salt.update(&request.head.cseq.number.to_be_bytes());
        salt.update(request.head.via.branch.as_deref().unwrap_or_default().as_bytes());
        let salt: [u8; 4] = salt.sign().as_ref().first_chunk().copied().unwrap_or_default();
        let mut nonce = Vec::with_capacity(NONCE);
        nonce.extend_from_slice(&self.seconds(now).to_be_bytes());
        nonce.extend_from_slice(&salt);
        let proof = self.proof(&nonce, source);
        nonce.extend_from_slice(&proof);
        let nonce = BASE64URL_NOPAD.encode(&nonce);
        [Algorithm::SHA256, Algorithm::MD5].map(|algorithm| ChallengeOut {
            nonce: nonce.clone(),
            algorithm,
            stale,
        })
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.started).as_secs()).unwrap_or(u32::MAX)
    }

    fn proof(&self, front: &[u8], source: IpAddr) -> [u8; 12] {
        let mut proof = hmac::Context::with_key(&self.key);
        proof.update(b"nonce");
        proof.update(front);
        match source.to_canonical() {
            IpAddr::V4(ip) => proof.update(&ip.octets()),
            IpAddr::V6(ip) => proof.update(&ip.octets()),
        }
        proof.sign().as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// Looks at the credentials of a request from `source`. `find` knows the users; what it gives for one is
    /// returned when the password is right.
    pub fn judge<'a, T>(
        &mut self,
        request: &Request,
        source: IpAddr,
        find: impl FnOnce(&str) -> Option<(T, &'a Credentials)>,
        now: Instant,
    ) -> Verdict<T> {
        let lines: Vec<_> = request.head.headers("Authorization").take(MAX_VALUES).collect();
        let given = lines
            .iter()
            .flat_map(|line| Values::read(line))
            .find(|values| values.find("realm") == Some(REALM));
        let Some(given) = given else { return Verdict::Challenge { stale: false, given: false } };
        let wrong = Verdict::Challenge { stale: false, given: true };
        let value = |name| given.find(name).unwrap_or_default();
        let algorithm = given.algorithm().filter(|a| [Algorithm::SHA256, Algorithm::MD5].contains(a));
        let count = u32::from_str_radix(value("nc"), 16).ok().filter(|count| *count > 0);
        let qop = match given.find("qop") {
            None => None,
            Some(qop) if qop.eq_ignore_ascii_case("auth") => match count {
                Some(count) => Some((value("cnonce"), count)),
                None => return wrong,
            },
            Some(_) => return wrong,
        };
        let Some(algorithm) = algorithm else { return wrong };
        let known = find(value("username"));
        let calculation = Calculation {
            algorithm,
            realm: REALM,
            nonce: value("nonce"),
            method: request.method.as_str(),
            uri: value("uri"),
            qop,
        };
        // Who is not known costs as much as who is.
        let password = known.as_ref().map_or(&self.nobody, |(_, credentials)| &credentials.password);
        let expected = calculation.response(value("username"), password);
        let response = value("response").to_ascii_lowercase();
        let right = expected.as_bytes().ct_eq(response.as_bytes())
            & Choice::from(u8::from(known.is_some()))
            & Choice::from(u8::from(is_about(value("uri"), &request.uri)));
        let Some((user, _)) = known.filter(|_| bool::from(right)) else { return wrong };
        if !self.take_nonce(value("nonce"), qop.map(|(_, count)| count), source, now) {
            return Verdict::Challenge { stale: true, given: true };
        }
        Verdict::Accepted(user)
    }

    /// Whether the nonce is ours, for this source, young enough, and not used with this count.
    fn take_nonce(&mut self, nonce: &str, count: Option<u32>, source: IpAddr, now: Instant) -> bool {
        let Ok(nonce) = BASE64URL_NOPAD.decode(nonce.as_bytes()) else { return false };
        let Some((front, proof)) = nonce.split_at_checked(8) else { return false };
        if !bool::from(self.proof(front, source).as_slice().ct_eq(proof)) {
            return false;
        }
        let Some(id) = front.first_chunk().copied().map(u64::from_be_bytes) else { return false };
        let oldest = u64::from(self.seconds(now)).saturating_sub(NONCE_LIFETIME.as_secs()) << 32;
        if id < oldest || id <= self.floor {
            return false;
        }
        self.used = self.used.split_off(&oldest);
        // Without qop nothing counts the requests, so that such a nonce is good for one (RFC 7616 §5.12).
        let taken = match (self.used.get_mut(&id), count) {
            (None, count) => {
                let mut counts = Counts { highest: 0, seen: 1 };
                let taken = counts.take(count.unwrap_or(u32::MAX));
                if count.is_none() {
                    counts.seen = u64::MAX;
                }
                self.used.insert(id, counts);
                taken
            }
            (Some(counts), Some(count)) => counts.take(count),
            (Some(_), None) => false,
        };
        while self.used.len() > MAX_NONCES {
            let Some((oldest, _)) = self.used.pop_first() else { break };
            self.floor = oldest;
        }
        taken
    }
}

/// RFC 7616 §3.4.6: the credentials must be for what is asked. Proxies on the way write host and parameters anew, so
/// that whom the request is for decides.
fn is_about(digest_uri: &str, request_uri: &Uri) -> bool {
    digest_uri == request_uri.as_str()
        || Uri::parse(digest_uri).is_some_and(|uri| uri.user().is_some() && uri.user() == request_uri.user())
}

/// Whether a request may be challenged, and sent again with credentials: ACK and CANCEL may not, because nobody
/// could send them twice (RFC 3261 §22.1).
#[must_use]
pub fn may_be_challenged(method: &Method) -> bool {
    *method != Method::ACK && *method != Method::CANCEL
}

#[cfg(test)]
mod tests;
