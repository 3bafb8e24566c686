//! How often who may ask: requests per account, and wrong credentials per source address.
//!
//! Pure but for its locks: time is an argument. Its memory is bounded: accounts are known ones, and sources share
//! a fixed number of buckets, which a secret of this process deals out.
//!
//! A source that has given too many wrong credentials is not listened to for a while, right ones included: whether
//! they are right must not be told then. Credentials that were right from this very source a short while ago pass all
//! the same, so that one client with an old token does not shut out the others behind the same address.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::trunk::RateLimit;

/// Plivo's figure.
const DEFAULT_REQUESTS: u32 = 300;
const PERIOD: Duration = Duration::from_secs(5);
/// Wrong credentials from one source: so many at once, and as many again each minute.
const WRONG: u32 = 60;
const WRONG_PERIOD: Duration = Duration::from_secs(60);
/// Buckets for sources, and places for credentials that were right.
const SLOTS: usize = 4096;

/// Who asks, as far as an address tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

/// Counts requests and wrong credentials.
#[derive(Debug)]
pub struct Limiter {
    requests: u32,
    proxies: Vec<IpNet>,
    accounts: Mutex<HashMap<String, RateLimit>>,
    wrong: Mutex<Vec<RateLimit>>,
    /// Hashes of credentials that were right, with their sources; 0 is none.
    right: Vec<AtomicU64>,
    secret: RandomState,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new(DEFAULT_REQUESTS, Vec::new())
    }
}

impl Limiter {
    /// With so many requests per account in five seconds. Who comes through one of `proxies` is known by
    /// `X-Forwarded-For`.
    #[must_use]
    pub fn new(requests_per_5_seconds: u32, proxies: Vec<IpNet>) -> Self {
        Self {
            requests: requests_per_5_seconds,
            proxies,
            accounts: Mutex::default(),
            wrong: Mutex::new(vec![RateLimit::per(WRONG, WRONG_PERIOD); SLOTS]),
            right: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            secret: RandomState::new(),
        }
    }

    /// Counts a request of an account that has shown its credentials. `Err`: it is one too many; how long to
    /// wait.
    pub(super) fn request(&self, account: &str, now: Instant) -> Result<(), Duration> {
        let mut accounts = lock(&self.accounts);
        if !accounts.contains_key(account) {
            accounts.insert(account.to_owned(), RateLimit::per(self.requests, PERIOD));
        }
        let Some(limit) = accounts.get_mut(account) else { return Ok(()) };
        if limit.take(now) { Ok(()) } else { Err(limit.wait(now)) }
    }

    /// Who asks. `peer` is the other end of the connection, if it is known.
    pub(super) fn source(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Source {
        let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical();
        let mut source = peer;
        if self.is_proxy(peer) {
            // Each proxy appends where it got the request from; what stands before the last word of a proxy of
            // ours is what a client may have made up.
            let values = headers.get_all("x-forwarded-for").iter().rev();
            let hops = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.rsplit(','));
            for hop in hops {
                let Ok(address) = hop.trim().parse::<IpAddr>() else { break };
                source = address.to_canonical();
                if !self.is_proxy(source) {
                    break;
                }
            }
        }
        Source(network_of(source))
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|network| network.contains(&address))
    }

    /// Whether credentials from this source are looked at at all. `Err`: how long not.
    pub(super) fn may_try(&self, source: Source, credentials: &str, now: Instant) -> Result<(), Duration> {
        let wait = match lock(&self.wrong).get(self.slot(&source)) {
            Some(bucket) => bucket.wait(now),
            None => Duration::ZERO,
        };
        let mark = self.mark(source, credentials);
        let was_right = || self.place(mark).is_some_and(|place| place.load(Ordering::Relaxed) == mark);
        if wait.is_zero() || was_right() { Ok(()) } else { Err(wait) }
    }

    /// They were wrong.
    pub(super) fn wrong(&self, source: Source, credentials: &str, now: Instant) {
        // They may have been right once, before the token was changed.
        let mark = self.mark(source, credentials);
        if let Some(place) = self.place(mark) {
            let _ = place.compare_exchange(mark, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        if let Some(bucket) = lock(&self.wrong).get_mut(self.slot(&source)) {
            // An empty bucket stays empty.
            let _ = bucket.take(now);
        }
    }

    /// They were right.
    pub(super) fn right(&self, source: Source, credentials: &str) {
        let mark = self.mark(source, credentials);
        if let Some(place) = self.place(mark) {
            place.store(mark, Ordering::Relaxed);
        }
    }

    fn slot(&self, source: &Source) -> usize {
        usize::try_from(self.secret.hash_one(source) % SLOTS as u64).unwrap_or_default()
    }

    fn mark(&self, source: Source, credentials: &str) -> u64 {
        self.secret.hash_one((source, credentials)).max(1)
    }

    fn place(&self, mark: u64) -> Option<&AtomicU64> {
        self.right.get(usize::try_from(mark % SLOTS as u64).unwrap_or_default())
    }
}

/// What counts as one source: of IPv6 a customer's network, not one of its 2^64 addresses.
pub(super) fn network_of(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

/// Nothing panics while it is held, and a count is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn forwarded(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn accounts_have_limits_of_their_own_that_come_back() {
        let (limiter, start) = (Limiter::new(3, vec![]), Instant::now());
        for _ in 0..3 {
            assert_eq!(limiter.request("MA1", start), Ok(()));
        }
        let wait = limiter.request("MA1", start).unwrap_err();
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
        assert_eq!(limiter.request("MA2", start), Ok(()));
        assert_eq!(limiter.request("MA1", start + wait), Ok(()));
        assert!(limiter.request("MA1", start + wait).is_err());
    }

    #[test]
    fn a_source_that_guesses_is_not_listened_to_for_a_while() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let guesser = limiter.source(Some(ip("192.0.2.1")), &HeaderMap::new());
        let other = limiter.source(Some(ip("192.0.2.2")), &HeaderMap::new());
        for _ in 0..WRONG {
            assert_eq!(limiter.may_try(guesser, "guess", start), Ok(()));
            limiter.wrong(guesser, "guess", start);
        }
        let wait = limiter.may_try(guesser, "the right one", start).unwrap_err();
        assert!(wait <= Duration::from_secs(1), "one comes back each second");
        assert_eq!(limiter.may_try(other, "guess", start), Ok(()));
        assert_eq!(limiter.may_try(guesser, "guess", start + wait), Ok(()));
    }

    #[test]
    fn credentials_that_were_right_from_there_still_pass_and_changed_ones_do_not() {
        let (limiter, start) = (Limiter::default(), Instant::now());
        let source = |last| limiter.source(Some(ip(&format!("192.0.2.{last}"))), &HeaderMap::new());
        limiter.right(source(1), "good");
        for last in [1, 2] {
            (0..WRONG).for_each(|_| limiter.wrong(source(last), "bad", start));
        }
        assert_eq!(limiter.may_try(source(1), "good", start), Ok(()));
        assert!(limiter.may_try(source(1), "bad", start).is_err());
        assert!(limiter.may_try(source(2), "good", start).is_err(), "they were right elsewhere");
        limiter.wrong(source(1), "good", start);
        assert!(limiter.may_try(source(1), "good", start).is_err(), "they are wrong now");
    }

    #[test]
    fn behind_a_proxy_the_last_foreign_address_is_the_source() {
        let proxies = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let limiter = Limiter::new(1, proxies);
        for (peer, values, source) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", &["203.0.113.9", "198.51.100.1, 10.1.1.1"], "198.51.100.1"),
            ("127.0.0.1", &["10.1.1.1"], "10.1.1.1"),
            ("127.0.0.1", &["198.51.100.1, nonsense"], "127.0.0.1"),
            ("::ffff:127.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("2001:db8:1:2:3:4:5:6", &[], "2001:db8:1:2::"),
        ] {
            assert_eq!(limiter.source(Some(ip(peer)), &forwarded(values)), Source(ip(source)), "{values:?}");
        }
    }
}
