//! A virtual network: its clock jumps from event to event, its losses and delays come from a seed, so a run of
//! hours takes milliseconds and the same seed gives the same run.
//!
//! [`Network`] carries messages of any type between numbered nodes and keeps one deadline for each node.
//! [`SimPhone`] is a phone with a script. Nothing here reads a clock, sleeps, or opens a socket.

mod phone;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use phone::{CalleeScript, CallerScript, SimPhone, Step};

/// A node of the network.
pub type NodeId = usize;

/// What happens to messages in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Share that is lost, 0–1.
    pub loss: f64,
    /// Share that arrives twice, 0–1.
    pub duplicate: f64,
    /// Share that takes `detour` longer and so is overtaken, 0–1.
    pub reorder: f64,
    /// Shortest time under way.
    pub delay: Duration,
    /// Up to so much more, at random.
    pub jitter: Duration,
    /// Added to what is reordered.
    pub detour: Duration,
}

impl Link {
    /// Everything arrives, in order, after 1 ms.
    #[must_use]
    pub fn perfect() -> Self {
        let none = Duration::ZERO;
        Self {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            delay: Duration::from_millis(1),
            jitter: none,
            detour: none,
        }
    }

    /// Loses `loss` of all messages, doubles and reorders a few, takes 5–45 ms.
    #[must_use]
    pub fn lossy(loss: f64) -> Self {
        Self {
            loss,
            duplicate: 0.03,
            reorder: 0.03,
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(40),
            detour: Duration::from_millis(600),
        }
    }
}

/// What a node is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What<M> {
    /// A message arrived.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: M,
    },
    /// Its deadline has come; it is gone until set again.
    Deadline,
}

/// The next thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening<M> {
    /// When; the network's clock stands here now.
    pub at: Instant,
    /// To whom.
    pub node: NodeId,
    /// What.
    pub what: What<M>,
}

/// What became of the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Given to the network.
    pub sent: u64,
    /// Swallowed by it.
    pub lost: u64,
    /// Delivered a second time.
    pub duplicated: u64,
    /// Delivered, repeats included.
    pub delivered: u64,
}

/// The network.
#[derive(Debug)]
pub struct Network<M> {
    now: Instant,
    random: StdRng,
    number: u64,
    queue: BTreeMap<(Instant, u64), (NodeId, NodeId, M)>,
    deadlines: BTreeMap<NodeId, Instant>,
    usual: Link,
    links: BTreeMap<(NodeId, NodeId), Link>,
    counters: Counters,
    standing_still: u32,
}

impl<M: Clone> Network<M> {
    /// The clock begins at `base`; every link is [`Link::perfect`] until set otherwise.
    #[must_use]
    pub fn new(base: Instant, seed: u64) -> Self {
        Self {
            now: base,
            random: StdRng::seed_from_u64(seed),
            number: 0,
            queue: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            usual: Link::perfect(),
            links: BTreeMap::new(),
            counters: Counters::default(),
            standing_still: 0,
        }
    }

    /// The network's time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// All links that are not set one by one.
    pub fn set_links(&mut self, link: Link) {
        self.usual = link;
    }

    /// One direction between two nodes.
    pub fn set_link(&mut self, from: NodeId, to: NodeId, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Hands over a message; the link decides what becomes of it.
    pub fn send(&mut self, from: NodeId, to: NodeId, message: M) {
        self.counters.sent += 1;
        let link = self.links.get(&(from, to)).copied().unwrap_or(self.usual);
        if self.chance(link.loss) {
            self.counters.lost += 1;
            return;
        }
        let copies = if self.chance(link.duplicate) { 2 } else { 1 };
        self.counters.duplicated += copies - 1;
        for _ in 0..copies {
            let jitter = link.jitter.mul_f64(self.random.random_range(0.0..=1.0));
            let detour = if self.chance(link.reorder) { link.detour } else { Duration::ZERO };
            let at = self.now + link.delay + jitter + detour;
            self.deliver_at(at, from, to, message.clone());
        }
    }

    /// Delivers a message at a time of one's own choosing, whatever the link is.
    pub fn deliver_at(&mut self, at: Instant, from: NodeId, to: NodeId, message: M) {
        self.number += 1;
        self.queue.insert((at.max(self.now), self.number), (from, to, message));
    }

    /// When `node` wants to be told that time has come; replaces what it said before.
    pub fn set_deadline(&mut self, node: NodeId, deadline: Option<Instant>) {
        match deadline {
            Some(at) => drop(self.deadlines.insert(node, at.max(self.now))),
            None => drop(self.deadlines.remove(&node)),
        }
    }

    /// Moves the clock to the next event; `None` when nothing can happen any more. Messages go before deadlines of
    /// the same instant.
    ///
    /// # Panics
    /// When a hundred thousand deadlines in a row do not move the clock: a node spins.
    pub fn pop(&mut self) -> Option<Happening<M>> {
        let message = self.queue.keys().next().copied();
        let deadline = self.deadlines.iter().map(|(node, at)| (*at, *node)).min();
        let before = self.now;
        match (message, deadline) {
            (Some(key), other) if other.is_none_or(|(at, _)| key.0 <= at) => {
                let (from, node, message) = self.queue.remove(&key)?;
                self.now = key.0;
                self.standing_still = 0;
                self.counters.delivered += 1;
                Some(Happening { at: self.now, node, what: What::Message { from, message } })
            }
            (_, Some((at, node))) => {
                self.deadlines.remove(&node);
                self.now = at;
                self.standing_still = if at > before { 0 } else { self.standing_still + 1 };
                assert!(
                    self.standing_still < 100_000,
                    "node {node} sets a deadline that has passed, again and again"
                );
                Some(Happening { at, node, what: What::Deadline })
            }
            _ => None,
        }
    }

    /// What became of the messages so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// A random number below `limit`, from the network's own seed.
    pub fn random_below(&mut self, limit: u64) -> u64 {
        self.random.random_range(0..limit.max(1))
    }

    fn chance(&mut self, share: f64) -> bool {
        // A number is drawn in any case, so that a changed share does not shift all that follows.
        self.random.random_range(0.0..1.0) < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)]
    pub(super) fn base() -> Instant {
        Instant::now()
    }

    fn run(seed: u64, link: Link) -> (Vec<(Duration, u32)>, Counters) {
        let start = base();
        let mut network = Network::new(start, seed);
        network.set_link(0, 1, link);
        for number in 0..1000 {
            network.send(0, 1, number);
        }
        let mut seen = vec![];
        while let Some(happening) = network.pop() {
            if let What::Message { from: 0, message } = happening.what {
                seen.push((happening.at - start, message));
            }
        }
        (seen, network.counters())
    }

    #[test]
    fn the_same_seed_gives_the_same_run_and_another_one_does_not() {
        let link = Link::lossy(0.2);
        assert_eq!(run(7, link), run(7, link));
        assert_ne!(run(7, link).0, run(8, link).0);
    }

    #[test]
    fn links_lose_double_and_reorder_as_told() {
        let (seen, counters) = run(1, Link::lossy(0.2));
        assert!(
            (150..250).contains(&counters.lost) && (10..60).contains(&counters.duplicated),
            "{counters:?}"
        );
        assert_eq!(counters.delivered, 1000 - counters.lost + counters.duplicated);
        assert!(seen.windows(2).any(|w| w[0].1 > w[1].1), "reordered");
        assert!(seen.windows(2).all(|w| w[0].0 <= w[1].0), "time never runs backwards");
        let (seen, counters) = run(1, Link::perfect());
        assert_eq!((seen.len(), counters.lost), (1000, 0));
        assert!(seen.windows(2).all(|w| w[0].1 < w[1].1), "in order");
    }

    #[test]
    fn deadlines_are_replaced_cleared_and_fire_once() {
        let start = base();
        let after = |ms| Some(start + Duration::from_millis(ms));
        let mut network: Network<()> = Network::new(start, 1);
        network.set_deadline(3, after(50));
        network.set_deadline(3, after(20));
        network.set_deadline(4, after(10));
        network.set_deadline(4, None);
        let fired = network.pop().unwrap();
        assert_eq!(
            (fired.at - start, fired.node, fired.what),
            (Duration::from_millis(20), 3, What::Deadline)
        );
        assert_eq!(network.pop(), None);
    }
}
