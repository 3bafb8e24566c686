//! How good a leg sounds: the E-model's rating, and who hears nothing.
//!
//! ITU-T G.107 (the E-model), G.107.1 (its wideband form), G.113 (what codecs and losses do to speech). [`mos`]
//! rates one way of one leg from figures that were counted anyway; [`Watch`] notices legs that should send
//! audio and do not, and [`FarEar`] far ends that say they hear nothing of us. Pure: time is an argument. A
//! packet stores two values here; everything else is worked out when somebody asks, or once a second while
//! something is wrong.

use crate::rtp::Received;
use crate::time::{MediaTime, SAMPLE_RATE_HZ, milliseconds};
use crate::{Codec, Side};
use std::fmt;
use std::time::Duration;

/// A mean opinion score from 1.00 to 4.50, in hundredths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mos(u16);

impl Mos {
    /// Hundredths, 100 to 450.
    #[must_use]
    pub fn hundredths(self) -> u16 {
        self.0
    }

    /// From hundredths, as they were stored; what lies outside is moved to the nearer end.
    #[must_use]
    pub fn from_hundredths(hundredths: u16) -> Self {
        Self(hundredths.clamp(100, 450))
    }

    /// 1.0 to 4.5.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Mos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

impl fmt::Debug for Mos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mos({self})")
    }
}

/// What speech went through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Path {
    /// How it was coded.
    pub codec: Codec,
    /// From mouth to ear.
    pub delay: Duration,
    /// Share of packets that did not come, 0 to 1.
    pub loss: f64,
    /// Mean length of a run of losses, divided by what it would be if each packet were lost by itself (G.107 §7.5): 1
    /// for such losses, more for bursts.
    pub burst_ratio: f64,
}

/// What a codec does to speech (G.113 Appendix I and IV).
struct Impairment {
    /// Equipment impairment factor without loss.
    equipment: f64,
    /// Packet-loss robustness factor, with concealment.
    robustness: f64,
    /// The rating of a clear channel: wideband speech has a longer scale.
    best: f64,
}

/// R with all of G.107's values at their defaults and no delay.
const BEST_NARROWBAND: f64 = 93.2;
/// The same of G.107.1.
const BEST_WIDEBAND: f64 = 129.0;

fn impairment(codec: Codec) -> Impairment {
    match codec {
        // G.113 Table I.4: G.711 with the concealment of its Appendix I.
        Codec::Pcmu | Codec::Pcma => Impairment { equipment: 0.0, robustness: 25.1, best: BEST_NARROWBAND },
        // G.113 Appendix IV. Its robustness is not published; its Appendices III and IV conceal like that of
        // G.711, whose value is taken.
        Codec::G722 => Impairment { equipment: 13.0, robustness: 25.1, best: BEST_WIDEBAND },
    }
}

/// The transmission rating factor R of a path: 0 to 93.2, or to 129 for a wideband codec.
#[must_use]
pub fn rating(path: &Path) -> f64 {
    let Impairment { equipment, robustness, best } = impairment(path.codec);
    let loss = (path.loss * 100.0).clamp(0.0, 100.0);
    // G.107 §7.5: the model knows burst ratios up to 8.
    let burst_ratio = path.burst_ratio.clamp(1.0, 8.0);
    let equipment = equipment + (95.0 - equipment) * loss / (loss / burst_ratio + robustness);
    (best - delay_impairment(path.delay) - equipment).clamp(0.0, best)
}

/// What people would say of a path: G.107 Annex B. For G.722 it is a score on the wideband scale, on which G.711
/// would have less than on its own.
#[must_use]
pub fn mos(path: &Path) -> Mos {
    // G.107.1 Annex A: the wideband scale is the longer one by this factor.
    let scale = if path.codec.is_wideband() { BEST_WIDEBAND / 100.0 } else { 1.0 };
    let value = opinion(rating(path) / scale);
    Mos::from_hundredths((value * 100.0).round() as u16)
}

/// G.107 Annex B.
fn opinion(rating: f64) -> f64 {
    match rating {
        r if r <= 0.0 => 1.0,
        r if r >= 100.0 => 4.5,
        // Below 6.5 the polynomial is less than the worst opinion that there is.
        r => (1.0 + 0.035 * r + 7e-6 * r * (r - 60.0) * (100.0 - r)).max(1.0),
    }
}

/// G.107 §7.4 with its default values: talker echo that comes back 65 dB weaker, listener echo 110 dB, and what
/// the delay itself does. 0 without delay: what is left of it then is part of [`BEST_NARROWBAND`].
fn delay_impairment(delay: Duration) -> f64 {
    // Longer ones make no difference to anybody.
    let ms = delay.as_secs_f64().min(10.0) * 1000.0;
    let echo = |ms: f64| talker_echo(ms) + listener_echo(ms);
    (echo(ms) - echo(0.0) + absolute_delay(ms)).max(0.0)
}

/// Signal-to-noise ratio at the default values, as a rating: Ro, and Roe, which has the same value there.
const NOISE_RATING: f64 = 94.77;

/// G.107 (7-18) to (7-22).
fn talker_echo(ms: f64) -> f64 {
    let level = 65.0 - 40.0 * ((1.0 + ms / 10.0) / (1.0 + ms / 150.0)).log10() + 6.0 * (-0.3 * ms * ms).exp();
    let rating = 80.0 + 2.5 * (level - 14.0);
    let half = (NOISE_RATING - rating) / 2.0;
    (half + (half * half + 100.0).sqrt() - 1.0) * (1.0 - (-ms).exp())
}

/// G.107 (7-25) and (7-26); the round trip is twice the way.
fn listener_echo(ms: f64) -> f64 {
    let rating = 10.5 * (110.0 + 7.0) * (2.0 * ms + 1.0).powf(-0.25);
    let half = (NOISE_RATING - rating) / 2.0;
    half + (half * half + 169.0).sqrt()
}

/// G.107 (7-27) and (7-28) for people of ordinary patience.
fn absolute_delay(ms: f64) -> f64 {
    if ms <= 100.0 {
        return 0.0;
    }
    let x = (ms / 100.0).log2();
    let root = |x: f64| (1.0 + x.powi(6)).powf(1.0 / 6.0);
    25.0 * (root(x) - 3.0 * root(x / 3.0) + 2.0)
}

/// One way of a leg, as far as it was counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) codec: Codec,
    pub(crate) expected: u64,
    pub(crate) lost: u64,
    /// Runs of losses; `None`: nobody told.
    pub(crate) runs: Option<u64>,
    /// In units of 125 µs.
    pub(crate) jitter: u32,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) packet_ms: u8,
}

impl Way {
    pub(crate) fn new(
        codec: Codec,
        received: &Received,
        round_trip: Option<Duration>,
        packet_ms: u8,
    ) -> Self {
        let Received { expected, lost, loss_runs, mean_jitter: jitter, .. } = *received;
        Self { codec, expected, lost, runs: Some(loss_runs), jitter, round_trip, packet_ms }
    }

    /// How it sounds; `None` when nothing was to come this way.
    pub(crate) fn mos(&self) -> Option<Mos> {
        if self.expected == 0 {
            return None;
        }
        let (expected, lost) = (self.expected as f64, self.lost.min(self.expected) as f64);
        let loss = lost / expected;
        let runs = self.runs.filter(|runs| *runs > 0);
        // Losses that hit each packet alike come in runs of 1 / (1 - loss) packets.
        let burst_ratio = runs.map_or(1.0, |runs| lost / runs as f64 * (1.0 - loss));
        // A packet is filled before it leaves, and waits for those that come later than it; half of the round trip
        // lies between.
        let jitter = Duration::from_micros(u64::from(self.jitter) * 1_000_000 / u64::from(SAMPLE_RATE_HZ));
        let waits = Duration::from_millis(self.packet_ms.into()) + 2 * jitter.min(Duration::from_secs(1));
        let delay = self.round_trip.unwrap_or_default() / 2 + waits;
        Some(mos(&Path { codec: self.codec, delay, loss, burst_ratio }))
    }
}

/// A leg that owes audio is missed after so long.
pub const MISSED_AFTER: u64 = milliseconds(10_000);
/// How often a leg that is missed is looked for.
const LOOK_AGAIN: u64 = milliseconds(1000);

/// What is wrong with the audio of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// The leg has sent no audio for [`MISSED_AFTER`], and nobody talks to it either.
    Silent(Side),
    /// The party on this leg hears nothing of the other one, who hears it.
    Unheard(Side),
}

/// Watches for legs that should send audio and do not. An episode is told once.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    legs: [Watched; 2],
    bridged: bool,
    due: MediaTime,
}

#[derive(Debug, Clone, Copy, Default)]
struct Watched {
    /// Audio is owed, and since when.
    owes: Option<MediaTime>,
    /// When the last audio came.
    heard: MediaTime,
    /// The last packet was comfort noise: the sender says that it will not send for a while (RFC 3389 §4).
    pausing: bool,
    /// What was told of the silence that goes on.
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Silent,
    Unheard,
}

impl Default for Watch {
    fn default() -> Self {
        Self { legs: [Watched::default(); 2], bridged: false, due: MediaTime::NEVER }
    }
}

impl Watched {
    fn quiet(&self, now: MediaTime) -> Option<u64> {
        self.owes.map(|since| now.since(self.heard.max(since)))
    }

    /// Audio is owed, and has not come for long.
    fn is_missed(&self, now: MediaTime) -> bool {
        !self.pausing && self.quiet(now).is_some_and(|quiet| quiet >= MISSED_AFTER)
    }

    fn next_look(&self, now: MediaTime) -> MediaTime {
        match self.owes {
            None => MediaTime::NEVER,
            Some(_) if self.told.is_some() => now.plus(LOOK_AGAIN),
            Some(_) if self.pausing => now.plus(MISSED_AFTER),
            Some(since) => self.heard.max(since).plus(MISSED_AFTER),
        }
    }
}

impl Watch {
    fn of(&mut self, side: Side) -> &mut Watched {
        let [a, b] = &mut self.legs;
        match side {
            Side::A => a,
            Side::B => b,
        }
    }

    /// Audio of this leg came.
    #[inline]
    pub fn on_audio(&mut self, side: Side, now: MediaTime) {
        let leg = self.of(side);
        leg.heard = now;
        leg.pausing = false;
    }

    /// Comfort noise of this leg came: what it does not send now, it need not send.
    pub fn on_noise(&mut self, side: Side, now: MediaTime) {
        let leg = self.of(side);
        leg.heard = now;
        leg.pausing = true;
    }

    /// Which legs owe audio from now on, and whether each is played to the other. A leg that did not owe any is not
    /// missed before its time; one that owes none any more is no trouble.
    pub fn expect(&mut self, owing: [bool; 2], bridged: bool, now: MediaTime) {
        self.bridged = bridged;
        for (leg, owes) in self.legs.iter_mut().zip(owing) {
            leg.owes = match leg.owes {
                _ if !owes => None,
                None => Some(now),
                since => since,
            };
            if !owes {
                (leg.told, leg.pausing) = (None, false);
            }
        }
        self.set_due(now);
    }

    fn set_due(&mut self, now: MediaTime) {
        let [a, b] = &self.legs;
        self.due = a.next_look(now).min(b.next_look(now));
    }

    /// When [`Self::check`] has something to do; at most so often that it costs nothing.
    #[must_use]
    pub fn due(&self) -> MediaTime {
        self.due
    }

    /// Looks at both legs; what is new is told.
    pub fn check(&mut self, now: MediaTime) -> [Option<Trouble>; 2] {
        let [a, b] = self.legs;
        let found = [
            self.look_at(Side::A, b.owes.is_some() && !b.is_missed(now), now),
            self.look_at(Side::B, a.owes.is_some() && !a.is_missed(now), now),
        ];
        self.set_due(now);
        found
    }

    fn look_at(&mut self, side: Side, other_talks: bool, now: MediaTime) -> Option<Trouble> {
        let one_way = self.bridged && other_talks;
        let leg = self.of(side);
        if !leg.is_missed(now) {
            leg.told = None;
            return None;
        }
        match leg.told {
            Some(Told::Unheard) => None,
            Some(Told::Silent) if !one_way => None,
            _ if one_way => {
                leg.told = Some(Told::Unheard);
                Some(Trouble::Unheard(side.other()))
            }
            _ => {
                leg.told = Some(Told::Silent);
                Some(Trouble::Silent(side))
            }
        }
    }
}

/// What the far end says of our stream: does it still hear us?
#[derive(Debug, Clone, Copy, Default)]
pub struct FarEar {
    last: Option<LastWord>,
}

#[derive(Debug, Clone, Copy)]
struct LastWord {
    /// The highest number that came, as the far end said it first, and when it said so.
    extended_sequence: u32,
    at: MediaTime,
    /// What we had sent by then.
    sent: u64,
    told: bool,
}

/// Reports that say the same for so long are no accident of two that came together.
const SAME_FOR: u64 = milliseconds(3000);
/// We must have sent so many packets meanwhile: a second and more.
const SENT_MEANWHILE: u64 = 50;

impl FarEar {
    /// A report of the far end about our stream came, of which we have sent so many packets. True when it tells, for
    /// the first time in this episode, that nothing of them arrives.
    pub fn on_report(&mut self, extended_sequence: u32, sent: u64, now: MediaTime) -> bool {
        match &mut self.last {
            Some(last) if last.extended_sequence == extended_sequence => {
                let deaf = now.since(last.at) >= SAME_FOR && sent.saturating_sub(last.sent) >= SENT_MEANWHILE;
                let is_news = deaf && !last.told;
                last.told |= deaf;
                is_news
            }
            last => {
                *last = Some(LastWord { extended_sequence, at: now, sent, told: false });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(codec: Codec, delay_ms: u64, loss_percent: f64, burst_ratio: f64) -> Path {
        Path { codec, delay: Duration::from_millis(delay_ms), loss: loss_percent / 100.0, burst_ratio }
    }

    #[test]
    fn g107_annex_b_each_rating_has_its_opinion() {
        // G.109 Table 1 and G.107 Table B.1: the lower limits of the categories of quality.
        for (rating, expected) in [(90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            let value = opinion(rating);
            assert!((value - expected).abs() < 0.01, "{rating}: {value}");
        }
        assert_eq!((opinion(-5.0), opinion(0.0), opinion(3.0), opinion(100.0)), (1.0, 1.0, 1.0, 4.5));
    }

    #[test]
    fn g107_table_3_the_default_values_give_93_2_and_4_41() {
        let clear = path(Codec::Pcmu, 0, 0.0, 1.0);
        assert!((rating(&clear) - 93.2).abs() < 0.05);
        assert_eq!(mos(&clear).hundredths(), 441);
        assert_eq!(mos(&path(Codec::Pcma, 0, 0.0, 1.0)).hundredths(), 441);
    }

    #[test]
    fn g107_7_5_loss_impairs_as_its_formula_says() {
        // Ie-eff = (95 - 0) · Ppl / (Ppl / BurstR + 25.1), reckoned by hand from G.113's factors.
        for (loss, burst, impairment) in [
            (1.0, 1.0, 3.640),
            (2.0, 1.0, 7.011),
            (3.0, 1.0, 10.142),
            (5.0, 1.0, 15.781),
            (5.0, 2.0, 17.210),
            (10.0, 1.0, 27.066),
            (20.0, 1.0, 42.129),
        ] {
            let found = 93.2 - rating(&path(Codec::Pcmu, 0, loss, burst));
            assert!((found - impairment).abs() < 0.01, "{loss} % with {burst}: {found}");
        }
        // G.113 Appendix IV: G.722 at 64 kbit/s has an impairment of 13 on the scale that ends at 129.
        assert!((rating(&path(Codec::G722, 0, 0.0, 1.0)) - 116.0).abs() < 0.01);
        assert_eq!(mos(&path(Codec::G722, 0, 0.0, 1.0)).hundredths(), 434);
    }

    #[test]
    fn g107_7_4_delay_impairs_little_up_to_150_ms_and_much_beyond_400() {
        // G.107 (7-27): 25 · {(1 + X⁶)^(1/6) − 3 · (1 + (X/3)⁶)^(1/6) + 2}, X = log2(T / 100 ms).
        for (ms, expected) in [(100.0, 0.0), (150.0, 0.163), (200.0, 3.058), (400.0, 24.07)] {
            let found = absolute_delay(ms);
            assert!((found - expected).abs() < 0.02, "{ms}: {found}");
        }
        // With the default echo, the well-known straight lines through the model's curve: 0.024 per ms, and 0.11
        // more beyond 177.3 ms (Cole and Rosenbluth 2001).
        for ms in [0u64, 25, 50, 100, 150, 200, 250, 300] {
            let line = 0.024 * ms as f64 + 0.11 * (ms as f64 - 177.3).max(0.0);
            let found = delay_impairment(Duration::from_millis(ms));
            assert!((found - line).abs() < 2.5, "{ms}: {found} and {line}");
        }
        let score = |ms| mos(&path(Codec::Pcmu, ms, 0.0, 1.0)).hundredths();
        assert!(score(150) > 425 && score(400) < 350, "{} {}", score(150), score(400));
    }

    #[test]
    fn a_leg_is_rated_by_its_losses_jitter_and_round_trip() {
        let clear = Way {
            codec: Codec::Pcmu,
            expected: 1000,
            lost: 0,
            runs: Some(0),
            jitter: 0,
            round_trip: None,
            packet_ms: 20,
        };
        let score = |way: Way| way.mos().unwrap().hundredths();
        let best = score(clear);
        assert!((438..=441).contains(&best), "{best}");
        let single = score(Way { lost: 50, runs: Some(47), ..clear });
        let bursts = score(Way { lost: 50, runs: Some(10), ..clear });
        assert!(bursts < single && single < best - 30, "{bursts} {single} {best}");
        assert!(score(Way { jitter: 800, ..clear }) < best - 20, "100 ms of jitter");
        assert!(score(Way { round_trip: Some(Duration::from_millis(600)), ..clear }) < best - 50);
        assert!(score(Way { lost: 1000, runs: Some(1), ..clear }) < 120);
        assert_eq!(Way { expected: 0, ..clear }.mos(), None);
    }

    proptest! {
        /// Whatever was counted, there is a score between the worst and the best.
        #[test]
        fn every_way_has_a_score(
            (expected, lost, runs, jitter) in any::<(u64, u64, Option<u64>, u32)>(),
            (trip, packet_ms, codec) in (any::<u64>(), any::<u8>(), 0..3usize),
        ) {
            let codec = [Codec::Pcmu, Codec::Pcma, Codec::G722][codec];
            let round_trip = Some(Duration::from_micros(trip));
            let way = Way { codec, expected, lost, runs, jitter, round_trip, packet_ms };
            if let Some(mos) = way.mos() {
                prop_assert!((100..=450).contains(&mos.hundredths()));
            }
        }
    }

    fn at(ms: u64) -> MediaTime {
        MediaTime::from_samples(milliseconds(ms))
    }

    /// What a leg does from one moment to another, in ms: a packet every 20 ms.
    type Talk<'a> = (Side, std::ops::Range<u64>);

    /// Runs a bridged call of `length` ms by its deadlines and returns what was told when.
    fn run(watch: &mut Watch, talk: &[Talk<'_>], length: u64) -> Vec<(u64, Trouble)> {
        let mut told = vec![];
        for ms in (0..length).step_by(2) {
            for (side, range) in talk {
                if range.contains(&ms) && ms % 20 == 0 {
                    watch.on_audio(*side, at(ms));
                }
            }
            if watch.due() <= at(ms) {
                told.extend(watch.check(at(ms)).into_iter().flatten().map(|trouble| (ms, trouble)));
                assert!(watch.due() > at(ms), "it would spin");
            }
        }
        told
    }

    fn bridged() -> Watch {
        let mut watch = Watch::default();
        watch.expect([true; 2], true, at(0));
        watch
    }

    #[test]
    fn one_way_audio_and_silence_are_told_after_ten_seconds_once_per_episode() {
        use Side::{A, B};
        use Trouble::{Silent, Unheard};
        type Row<'a> = (&'a str, Vec<Talk<'a>>, Vec<(u64, Trouble)>);
        let table: Vec<Row<'_>> = vec![
            ("both talk", vec![(A, 0..60_000), (B, 0..60_000)], vec![]),
            ("B never says a word", vec![(A, 0..60_000)], vec![(10_000, Unheard(A))]),
            (
                "B goes quiet, comes back and goes again",
                vec![(A, 0..60_000), (B, 0..5001), (B, 20_000..25_001)],
                vec![(15_000, Unheard(A)), (35_000, Unheard(A))],
            ),
            ("nine seconds are no episode", vec![(A, 0..60_000), (B, 0..5000), (B, 14_000..60_000)], vec![]),
            ("neither", vec![], vec![(10_000, Silent(A)), (10_000, Silent(B))]),
            (
                "neither, then A alone",
                vec![(A, 20_000..60_000)],
                vec![(10_000, Silent(A)), (10_000, Silent(B)), (20_000, Unheard(A))],
            ),
            ("A gives up on it", vec![(A, 0..15_001)], vec![(10_000, Unheard(A)), (25_000, Silent(A))]),
        ];
        for (fact, talk, expected) in table {
            let told = run(&mut bridged(), &talk, 60_000);
            let near = |(got, want): (&(u64, Trouble), &(u64, Trouble))| {
                got.1 == want.1 && (want.0..=want.0 + 1000).contains(&got.0)
            };
            assert!(
                told.len() == expected.len() && told.iter().zip(&expected).all(near),
                "{fact}: {told:?} instead of {expected:?}"
            );
            // The first word of an episode is on time to the millisecond.
            assert!(told.first().is_none_or(|first| first.0 == expected[0].0), "{fact}: {told:?}");
        }
    }

    #[test]
    fn who_is_on_hold_pauses_or_owes_nothing_is_not_missed() {
        // Not answered yet.
        assert_eq!(run(&mut Watch::default(), &[(Side::A, 0..60_000)], 60_000), []);
        // RFC 3389: comfort noise announces a pause, however long it gets.
        let mut watch = bridged();
        watch.on_noise(Side::B, at(0));
        assert_eq!(run(&mut watch, &[(Side::A, 0..60_000)], 60_000), []);
        // After the next word it may be missed again.
        watch.on_audio(Side::B, at(60_000));
        watch.on_audio(Side::A, at(65_000));
        assert_eq!(watch.check(at(70_000)), [None, Some(Trouble::Unheard(Side::A))]);
        // Hold ends the episode; after it the ten seconds begin anew.
        watch.expect([false; 2], true, at(70_000));
        assert_eq!(watch.due(), MediaTime::NEVER);
        watch.expect([true; 2], true, at(200_000));
        assert_eq!(watch.due(), at(210_000));
        assert_eq!(watch.check(at(209_999)), [None, None]);
        watch.on_audio(Side::A, at(205_000));
        assert_eq!(watch.check(at(210_000)), [None, Some(Trouble::Unheard(Side::A))]);
        // The PIN stage: only the caller is there.
        let mut watch = Watch::default();
        watch.expect([true, false], false, at(0));
        assert_eq!(watch.check(at(10_000)), [Some(Trouble::Silent(Side::A)), None]);
    }

    #[test]
    fn a_far_end_that_reports_nothing_new_is_told_once() {
        let mut ear = FarEar::default();
        // 50 packets a second; a report every 5 s.
        let report =
            |ear: &mut FarEar, second: u64, heard: u32| ear.on_report(heard, second * 50, at(second * 1000));
        assert!(!report(&mut ear, 5, 240));
        assert!(!report(&mut ear, 10, 490));
        assert!(report(&mut ear, 15, 490), "five seconds of packets, and none came");
        assert!(!report(&mut ear, 20, 490), "it was told");
        assert!(!report(&mut ear, 25, 1200));
        assert!(report(&mut ear, 30, 1200), "another episode");
        // Two reports at nearly one time, and a while in which nothing was sent, tell nothing.
        let mut ear = FarEar::default();
        assert!(!ear.on_report(7, 1000, at(0)));
        assert!(!ear.on_report(7, 1100, at(2000)));
        assert!(!ear.on_report(7, 1040, at(9000)));
    }
}
