//! Which prompt is fetched next. Pure: no I/O, no time.
//!
//! Accounts take turns, and so do the hosts of one account. Neither an account nor a host has more than its share of
//! the places, so those that are slow wait for themselves only; and when too many wait, it is the one with the most
//! waiting that loses its last.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

/// Fetches at one time. Each may hold 10 MB.
pub(super) const MAX_FETCHING: usize = 16;
/// Those of one account.
pub(super) const PER_ACCOUNT: usize = 4;
/// Those from one host, whoever asks.
pub(super) const PER_HOST: usize = 2;
/// Fetches that wait, of all accounts.
pub(super) const MAX_WAITING: usize = 256;

/// One prompt to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) account: String,
    /// As the URL names it; empty when it names none.
    pub(super) host: String,
    pub(super) url: String,
}

#[derive(Debug, Default)]
struct Account {
    /// URLs by host; no list is empty.
    waiting: BTreeMap<String, VecDeque<String>>,
    fetching: usize,
    /// The host that had its turn last.
    last: String,
}

impl Account {
    fn count(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }
}

/// What waits and what is being fetched.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those that wait or fetch.
    accounts: BTreeMap<String, Account>,
    /// How many are being fetched from each host.
    hosts: BTreeMap<String, usize>,
    fetching: usize,
    waiting: usize,
    /// The account that had its turn last.
    last: String,
}

impl Queue {
    /// Takes one more. Returns the URL of the one that finds no room, this one or another.
    pub(super) fn push(&mut self, job: Job) -> Option<String> {
        let Job { account, host, url } = job;
        let lane = self.accounts.entry(account).or_default().waiting.entry(host).or_default();
        lane.push_back(url);
        self.waiting += 1;
        if self.waiting > MAX_WAITING { self.drop_one() } else { None }
    }

    /// The newest of the fullest host of the account that has most waiting.
    fn drop_one(&mut self) -> Option<String> {
        let name = self.accounts.iter().max_by_key(|(_, account)| account.count())?.0.clone();
        let account = self.accounts.get_mut(&name)?;
        let host = account.waiting.iter().max_by_key(|(_, lane)| lane.len())?.0.clone();
        let dropped = pop(&mut account.waiting, &host, VecDeque::pop_back)?;
        self.waiting -= 1;
        self.forget(&name);
        Some(dropped)
    }

    /// The next one, if there is a place for any; [`Self::done`] frees it.
    pub(super) fn take(&mut self) -> Option<Job> {
        if self.fetching >= MAX_FETCHING {
            return None;
        }
        let mut found = None;
        for (name, account) in from_after(&self.accounts, &self.last) {
            if account.fetching >= PER_ACCOUNT {
                continue;
            }
            let mut hosts = from_after(&account.waiting, &account.last);
            let free = |host: &str| self.hosts.get(host).is_none_or(|count| *count < PER_HOST);
            if let Some((host, _)) = hosts.find(|(host, _)| free(host)) {
                found = Some((name.clone(), host.clone()));
                break;
            }
        }
        let (name, host) = found?;
        let account = self.accounts.get_mut(&name)?;
        let url = pop(&mut account.waiting, &host, VecDeque::pop_front)?;
        account.fetching += 1;
        account.last.clone_from(&host);
        self.last.clone_from(&name);
        *self.hosts.entry(host.clone()).or_default() += 1;
        self.fetching += 1;
        self.waiting -= 1;
        Some(Job { account: name, host, url })
    }

    /// What [`Self::take`] gave is fetched, or never will be.
    pub(super) fn done(&mut self, job: &Job) {
        self.fetching = self.fetching.saturating_sub(1);
        if let Some(count) = self.hosts.get_mut(&job.host) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.hosts.remove(&job.host);
            }
        }
        if let Some(account) = self.accounts.get_mut(&job.account) {
            account.fetching = account.fetching.saturating_sub(1);
        }
        self.forget(&job.account);
    }

    fn forget(&mut self, name: &str) {
        if self.accounts.get(name).is_some_and(|account| account.fetching == 0 && account.waiting.is_empty())
        {
            self.accounts.remove(name);
        }
    }
}

fn pop(
    lanes: &mut BTreeMap<String, VecDeque<String>>,
    host: &str,
    end: impl FnOnce(&mut VecDeque<String>) -> Option<String>,
) -> Option<String> {
    let lane = lanes.get_mut(host)?;
    let url = end(lane);
    if lane.is_empty() {
        lanes.remove(host);
    }
    url
}

/// All entries, beginning behind `last`: whoever had his turn comes last.
fn from_after<'a, V>(map: &'a BTreeMap<String, V>, last: &str) -> impl Iterator<Item = (&'a String, &'a V)> {
    let after = map.range::<str, _>((Bound::Excluded(last), Bound::Unbounded));
    after.chain(map.range::<str, _>((Bound::Unbounded, Bound::Included(last))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn job(account: &str, host: &str, url: usize) -> Job {
        Job { account: account.into(), host: host.into(), url: format!("http://{host}/{url}") }
    }

    fn drain(queue: &mut Queue) -> Vec<Job> {
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn a_host_has_two_places_and_an_account_four() {
        let mut queue = Queue::default();
        for url in 0..10 {
            assert_eq!(queue.push(job("slow", "slow.test", url)), None);
            assert_eq!(queue.push(job("other", "slow.test", url)), None);
            assert_eq!(queue.push(job("many", &format!("h{url}.test"), url)), None);
        }
        let taken = drain(&mut queue);
        let of = |account: &str| taken.iter().filter(|job| job.account == account).count();
        assert_eq!((of("slow") + of("other"), of("many")), (PER_HOST, PER_ACCOUNT));
        queue.push(job("late", "fast.test", 0));
        assert_eq!(drain(&mut queue), [job("late", "fast.test", 0)], "nobody waits for the slow ones");
        taken.iter().for_each(|job| queue.done(job));
        assert_eq!(drain(&mut queue).len(), PER_HOST + PER_ACCOUNT);
    }

    #[test]
    fn accounts_take_turns_and_so_do_the_hosts_of_each() {
        let mut queue = Queue::default();
        for url in 0..3 {
            for (account, host) in [("a", "one.test"), ("a", "two.test"), ("b", "three.test")] {
                queue.push(job(account, host, url));
            }
        }
        let mut order = vec![];
        while let Some(job) = queue.take() {
            queue.done(&job);
            order.push(job.url);
        }
        let wanted =
            ["one.test/0", "three.test/0", "two.test/0", "three.test/1", "one.test/1", "three.test/2"];
        let wanted: Vec<_> = wanted.iter().map(|rest| format!("http://{rest}")).collect();
        assert_eq!(order[..6], wanted);
        assert_eq!(order.len(), 9);
    }

    #[test]
    fn whoever_has_most_waiting_loses_its_last_when_there_is_no_room() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(job("quiet", "fast.test", 0)), None);
        for url in 1..MAX_WAITING {
            assert_eq!(queue.push(job("loud", "slow.test", url)), None);
        }
        let last = MAX_WAITING;
        let dropped = queue.push(job("loud", "slow.test", last));
        assert_eq!(dropped, Some(format!("http://slow.test/{last}")), "its own");
        let dropped = queue.push(job("quiet", "fast.test", 1));
        assert_eq!(dropped, Some(format!("http://slow.test/{}", last - 1)), "not the quiet one's");
        // With many hosts of one account it is the same.
        let mut queue = Queue::default();
        for url in 0..MAX_WAITING {
            assert_eq!(queue.push(job("loud", &format!("h{url:03}.test"), url)), None);
        }
        let dropped = queue.push(job("quiet", "fast.test", 1)).unwrap();
        assert!(dropped.starts_with("http://h"), "{dropped}");
    }

    proptest! {
        /// Whatever is asked for: the limits hold, nothing is lost, and nothing is kept of what is over.
        #[test]
        fn the_limits_hold_and_nothing_is_lost(
            steps in prop::collection::vec((0..4usize, 0..6usize, any::<bool>()), 0..600),
        ) {
            let (mut queue, mut running, mut pushed, mut ended) = (Queue::default(), vec![], 0, 0);
            for (account, host, finish) in steps {
                pushed += 1;
                let account = format!("a{account}");
                ended += usize::from(queue.push(job(&account, &format!("h{host}"), pushed)).is_some());
                running.extend(drain(&mut queue));
                prop_assert!(running.len() <= MAX_FETCHING && queue.waiting <= MAX_WAITING);
                for job in &running {
                    let count = |same: &dyn Fn(&Job) -> bool| running.iter().filter(|job| same(job)).count();
                    prop_assert!(count(&|other| other.host == job.host) <= PER_HOST);
                    prop_assert!(count(&|other| other.account == job.account) <= PER_ACCOUNT);
                }
                if finish && !running.is_empty() {
                    queue.done(&running.remove(0));
                    ended += 1;
                }
            }
            while !running.is_empty() {
                ended += running.len();
                running.drain(..).for_each(|job| queue.done(&job));
                running.extend(drain(&mut queue));
            }
            prop_assert_eq!(pushed, ended);
            prop_assert!(queue.accounts.is_empty() && queue.hosts.is_empty());
            prop_assert_eq!((queue.fetching, queue.waiting), (0, 0));
        }
    }
}
