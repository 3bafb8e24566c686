//! What was said against what is in the files, sample by sample, whatever the network and the phones do.
//!
//! Each row sends datagrams of both legs on a simulated clock through the recorder, its writer and a sealer, and reads
//! the files. The expectation is made of what was said and when, never of what the recorder thinks.

use super::testing::{FaultyDisk, Noise, Sent, Session, Speaker};
use crate::time::milliseconds;
use crate::{Codec, Side, g722};

/// Hang-up.
const END_MS: u64 = 3000;

/// What a row may have besides gaps.
struct Row {
    fact: &'static str,
    /// As they are said.
    sent: Vec<Sent>,
    /// In milliseconds, per leg.
    gaps: [Vec<(u64, u64)>; 2],
}

fn row(fact: &'static str, a: Vec<Sent>, b: Vec<Sent>, gaps: [&[(u64, u64)]; 2]) -> Row {
    Row { fact, sent: a.into_iter().chain(b).collect(), gaps: gaps.map(<[_]>::to_vec) }
}

/// The row's legs said what they said, which is in the files and nothing else.
fn check(row: &Row) {
    let mut arrivals = row.sent.clone();
    arrivals.sort_by_key(|sent| sent.when);
    let mut session = Session::begin(&FaultyDisk::new(), 512, false);
    for sent in &arrivals {
        assert!(session.receive(sent.side, sent.codec, &sent.datagram, sent.when), "{}", row.fact);
    }
    let recorded = session.finish(milliseconds(END_MS));
    assert!(recorded.report.complete && recorded.failures == 0, "{}", row.fact);
    for (side, gaps) in [Side::A, Side::B].into_iter().zip(&row.gaps) {
        let mut expected = vec![0; milliseconds(END_MS) as usize];
        for sent in row.sent.iter().filter(|sent| sent.side == side) {
            let from = sent.said_at as usize;
            expected[from..from + sent.audio.len()].copy_from_slice(&sent.audio);
        }
        let (leg, file) = recorded.leg(side);
        let wrong = file.iter().zip(&expected).position(|(found, said)| found != said);
        assert_eq!(wrong, None, "{}: {side:?} differs from this sample on; gaps {:?}", row.fact, leg.gaps);
        assert_eq!(file.len(), expected.len(), "{}: {side:?}", row.fact);
        let found: Vec<_> = leg.gaps.iter().map(|(start, length)| (start / 8, length / 8)).collect();
        assert_eq!(&found, gaps, "{}: gaps of {side:?}", row.fact);
        assert_eq!((leg.lost.as_slice(), leg.slipped), ([].as_slice(), 0), "{}: {side:?}", row.fact);
    }
}

/// Both legs talk all the time in packets of 20 ms.
fn both() -> [Vec<Sent>; 2] {
    [Side::A, Side::B].map(|side| Speaker::new(side).talk(160, 0, END_MS))
}

/// Each twentieth packet is lost, in an irregular order; the first one is not.
fn lose(sent: Vec<Sent>, noise: &mut Noise) -> (Vec<Sent>, Vec<(u64, u64)>) {
    let mut gaps: Vec<(u64, u64)> = vec![];
    let mut kept = vec![];
    for packet in sent {
        if packet.said_at == 0 || noise.below(20) > 0 {
            kept.push(packet);
            continue;
        }
        merge(&mut gaps, (packet.said_at / 8, packet.audio.len() as u64 / 8));
    }
    (kept, gaps)
}

/// Each packet but the first one is late by up to `ms`, so that many overtake each other.
fn delay(sent: &mut [Sent], ms: u64, noise: &mut Noise) {
    for packet in sent.iter_mut().skip(1) {
        packet.when += noise.below(milliseconds(ms));
    }
}

#[test]
fn the_network_leaves_no_trace_but_the_gaps_of_what_never_came() {
    let mut noise = Noise(7);
    let [a, b] = both();
    check(&row("nothing happens", a, b, [&[], &[]]));

    let [a, b] = both();
    let ((a, gaps_a), (b, gaps_b)) = (lose(a, &mut noise), lose(b, &mut noise));
    assert!(gaps_a.len() > 3 && gaps_b.len() > 3, "{gaps_a:?} {gaps_b:?}");
    check(&row("5 % are lost", a, b, [&gaps_a, &gaps_b]));

    let [mut a, mut b] = both();
    delay(&mut a, 100, &mut noise);
    delay(&mut b, 500, &mut noise);
    check(&row("packets overtake each other", a, b, [&[], &[]]));

    let [mut a, b] = both();
    let again: Vec<_> = a.iter().step_by(3).cloned().collect();
    a.extend(again.into_iter().map(|packet| Sent { when: packet.when + milliseconds(130), ..packet }));
    check(&row("packets come twice", a, b, [&[], &[]]));

    let [mut a, mut b] = both();
    delay(&mut a, 90, &mut noise);
    delay(&mut b, 90, &mut noise);
    let ((a, gaps_a), (b, gaps_b)) = (lose(a, &mut noise), lose(b, &mut noise));
    check(&row("loss, jitter and disorder at once", a, b, [&gaps_a, &gaps_b]));

    let [mut a, b] = both();
    for packet in a.iter_mut().filter(|packet| (8000..12_000).contains(&packet.said_at)) {
        packet.when = 12_000;
    }
    check(&row("half a second comes at once", a, b, [&[], &[]]));
}

#[test]
fn packets_of_10_30_and_60_ms_and_of_changing_length_are_placed_alike() {
    let mut noise = Noise(8);
    for (fact, samples, other) in
        [("10 and 30 ms", 80, 240), ("60 and 10 ms", 480, 80), ("30 and 60 ms", 240, 480)]
    {
        let mut a = Speaker::new(Side::A).talk(samples, 0, END_MS);
        let mut b = Speaker::new(Side::B).talk(other, 0, END_MS);
        check(&row(fact, a.clone(), b.clone(), [&[], &[]]));
        delay(&mut a, 150, &mut noise);
        delay(&mut b, 150, &mut noise);
        let ((a, gaps_a), (b, gaps_b)) = (lose(a, &mut noise), lose(b, &mut noise));
        check(&row(fact, a, b, [&gaps_a, &gaps_b]));
    }
    let mut speaker = Speaker::new(Side::A);
    let mut a = speaker.talk(160, 0, 1200);
    a.extend(speaker.talk(480, 1200, 2400));
    a.extend(speaker.talk(80, 2400, END_MS));
    check(&row("20, then 60, then 10 ms", a, vec![], [&[], &[(0, END_MS)]]));
}

#[test]
fn another_stream_in_mid_call_follows_where_the_first_one_ended() {
    // Its numbers have nothing to do with those before.
    let change = |speaker: &mut Speaker| {
        (speaker.ssrc, speaker.sequence, speaker.timestamp) = (speaker.ssrc ^ 0xdead_beef, 17, 0x1234_5678);
    };
    let mut speaker = Speaker::new(Side::A);
    let mut a = speaker.talk(160, 0, 1000);
    change(&mut speaker);
    a.extend(speaker.talk(160, 1000, 2000));
    change(&mut speaker);
    a.extend(speaker.talk(160, 2000, END_MS));
    let b = Speaker::new(Side::B).talk(160, 0, END_MS);
    check(&row("another SSRC, twice", a.clone(), b.clone(), [&[], &[]]));

    // Its first packet late by 15 ms, and all the others by anything.
    let mut noise = Noise(9);
    let mut jittered = a.clone();
    delay(&mut jittered, 19, &mut noise);
    check(&row("another SSRC with jitter", jittered, b.clone(), [&[], &[]]));

    let mut speaker = Speaker::new(Side::A);
    let mut a = speaker.talk(160, 0, 1000);
    change(&mut speaker);
    a.extend(speaker.talk(160, 1500, END_MS));
    check(&row("another SSRC after a pause", a, b.clone(), [&[(1000, 500)], &[]]));

    for leap in [1_000_000u32, 0u32.wrapping_sub(70_000), 0x8000_0000] {
        let mut speaker = Speaker::new(Side::A);
        let mut a = speaker.talk(160, 0, 1500);
        speaker.timestamp = speaker.timestamp.wrapping_add(leap);
        a.extend(speaker.talk(160, 1500, END_MS));
        let mut noise = Noise(10);
        delay(&mut a, 15, &mut noise);
        check(&row("a jump of the timestamps", a, b.clone(), [&[], &[]]));
    }
}

#[test]
fn another_codec_in_mid_call_is_heard_from_its_first_sample_on() {
    let mut speaker = Speaker::new(Side::A);
    let mut a = speaker.talk(160, 0, 1000);
    speaker.codec = Codec::Pcma;
    a.extend(speaker.talk(160, 1000, 2000));
    speaker.codec = Codec::Pcmu;
    a.extend(speaker.talk(240, 2000, 2990));
    let mut b = Speaker { codec: Codec::Pcma, ..Speaker::new(Side::B) };
    let b = b.talk(160, 0, END_MS);
    check(&row("PCMU, PCMA, PCMU", a.clone(), b.clone(), [&[(2990, 10)], &[]]));
    let mut noise = Noise(12);
    delay(&mut a, 90, &mut noise);
    let (a, mut gaps) = lose(a, &mut noise);
    merge(&mut gaps, (2990, 10));
    check(&row("the same with jitter and loss", a, b, [&gaps, &[]]));
}

#[test]
fn silence_that_is_not_sent_is_silence_of_its_length() {
    // RFC 3551 §4.1: the timestamp goes on through silence, the sequence number does not; the marker tells the end.
    let mut speaker = Speaker::new(Side::A);
    let (mut a, mut gaps, mut from) = (vec![], vec![], 0);
    for (spurt, silence) in [(200, 140), (20, 700), (500, 33), (340, 500), (100, 200)] {
        let mut said = speaker.talk(160, from, from + spurt);
        said[0].datagram[1] |= 0x80;
        a.extend(said);
        gaps.push((from + spurt, silence));
        speaker.pause(silence);
        from += spurt + silence;
    }
    gaps.last_mut().unwrap().1 += END_MS - from;
    let mut noise = Noise(13);
    let b = Speaker::new(Side::B).talk(160, 0, END_MS);
    check(&row("talk-spurts", a.clone(), b.clone(), [&gaps, &[]]));
    delay(&mut a, 60, &mut noise);
    check(&row("talk-spurts with jitter", a, b, [&gaps, &[]]));
}

#[test]
fn a_leg_may_begin_late_and_end_early() {
    let a = Speaker::new(Side::A).talk(160, 0, 1700);
    let b = Speaker::new(Side::B).talk(160, 1300, END_MS);
    check(&row("late and early", a, b, [&[(1700, 1300)], &[(0, 1300)]]));
    check(&row("nobody says anything", vec![], vec![], [&[(0, END_MS)], &[(0, END_MS)]]));
    let a = Speaker::new(Side::A).talk(160, 2980, END_MS);
    check(&row("one packet", a, vec![], [&[(0, 2980)], &[(0, END_MS)]]));
}

#[test]
fn everything_at_once_is_still_sample_exact() {
    for seed in 0..8 {
        let mut noise = Noise(100 + seed);
        let mut legs = [Side::A, Side::B].map(|side| {
            let mut speaker = Speaker::new(side);
            speaker.noise = Noise(200 + seed);
            let lengths = [80, 160, 240, 480];
            let (mut sent, mut gaps, mut from) = (vec![], vec![], 0);
            let mut is_new = true;
            while from < END_MS {
                let samples = lengths[noise.below(4) as usize];
                let to = (from + 60 * (1 + noise.below(8))).min(END_MS);
                let said = speaker.talk(samples, from, to);
                let (mut said, lost) =
                    if noise.below(3) > 0 { lose(said, &mut noise) } else { (said, vec![]) };
                // A new stream's first packet is put where it arrives.
                for packet in said.iter_mut().skip(usize::from(is_new)) {
                    packet.when += noise.below(milliseconds(60));
                }
                is_new = false;
                lost.into_iter().for_each(|gap| merge(&mut gaps, gap));
                sent.extend(said);
                from = to;
                match noise.below(4) {
                    0 => speaker.codec = if speaker.codec == Codec::Pcmu { Codec::Pcma } else { Codec::Pcmu },
                    1 => {
                        let silence = (60 * noise.below(5)).min(END_MS - from);
                        speaker.pause(silence);
                        merge(&mut gaps, (from, silence));
                        from += silence;
                    }
                    2 => {
                        speaker.ssrc = speaker.ssrc.wrapping_mul(0x9e37_79b9);
                        speaker.sequence ^= 0x7777;
                        speaker.timestamp ^= 0x7777_7777;
                        is_new = true;
                    }
                    _ => {}
                }
            }
            (sent, gaps)
        });
        let [(a, gaps_a), (b, gaps_b)] = &mut legs;
        let sent = a.iter().chain(b.iter()).cloned().collect();
        check(&Row { fact: "a seed", sent, gaps: [gaps_a.clone(), gaps_b.clone()] });
    }
}

fn merge(gaps: &mut Vec<(u64, u64)>, (start, length): (u64, u64)) {
    match gaps.last_mut() {
        Some((before, so_far)) if *before + *so_far == start => *so_far += length,
        _ if length == 0 => {}
        _ => gaps.push((start, length)),
    }
}

#[test]
fn g722_is_what_its_decoder_makes_of_it_at_both_rates() {
    for wideband in [true, false] {
        let rate = if wideband { 2 } else { 1 };
        let mut noise = Noise(31);
        let mut speaker = Speaker { codec: Codec::G722, ..Speaker::new(Side::A) };
        let mut decoder = if wideband { g722::Decoder::wide() } else { g722::Decoder::narrow() };
        let (mut session, mut expected) = (Session::begin(&FaultyDisk::new(), 512, wideband), vec![]);
        for frame in 0..100 {
            let payload: Vec<u8> = (0..160).map(|_| noise.below(256) as u8).collect();
            let mut audio = vec![0; 320];
            let count = decoder.decode(&payload, &mut audio);
            // The recorder marks what is empty by the lowest values.
            expected.extend(audio[..count].iter().map(|sample| (*sample).max(i16::MIN + 2)));
            let sent = speaker.send(&payload, audio, frame * 160);
            assert!(session.receive(Side::A, Codec::G722, &sent.datagram, sent.when));
        }
        let recorded = session.finish(16_000);
        assert_eq!(recorded.report.sample_rate_hz, 8000 * rate);
        assert!(recorded.leg(Side::A).1 == expected, "wideband: {wideband}");
        assert_eq!(recorded.report.b.gaps, [(0, 16_000 * u64::from(rate))]);
    }
}

/// A minute of a clock that is wrong by 0.03 %, through the whole recorder: what was said lies within 10 ms of when
/// it was said, nothing is missing, and no sample is there that was not said.
#[test]
fn a_wrong_clock_leaves_neither_gaps_nor_foreign_samples() {
    for ppm in [300i64, -300] {
        let mut speaker = Speaker::new(Side::A);
        let mut session = Session::begin(&FaultyDisk::new(), 512, false);
        let mut said = vec![];
        for frame in 0..3000i64 {
            let when = (frame * 160 * 1_000_000 / (1_000_000 + ppm)) as u64;
            let sent = speaker.say(160, when);
            said.push((when as usize, sent.audio.clone()));
            // The clock is simulated, the writer is not: it may take its time.
            if frame % 500 == 0 {
                session.settle();
            }
            assert!(session.receive(Side::A, Codec::Pcmu, &sent.datagram, when));
        }
        let recorded = session.finish(milliseconds(59_900));
        let (leg, file) = recorded.leg(Side::A);
        assert!(leg.gaps.is_empty() && recorded.report.complete, "{ppm}: {:?}", leg.gaps);
        assert!(if ppm > 0 { leg.slipped < -60 } else { leg.slipped > 60 }, "{ppm}: {}", leg.slipped);
        for (when, audio) in said.iter().step_by(50).filter(|(when, _)| when + 400 < file.len()) {
            // All of a packet but its ends is found as it was said, near the time at which it was said.
            let inner = &audio[8..152];
            let near = when.saturating_sub(80)..when + 80;
            assert!(near.clone().any(|at| file[at + 8..].starts_with(inner)), "{ppm} ppm: {when}");
        }
    }
}
