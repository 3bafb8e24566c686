use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::f64::consts::TAU;

/// Repetitions with other noise; 12 take a minute without optimisation.
const SEEDS: u64 = 1;

const ALL: &str = "0123456789*#ABCD";

/// Peak of a sine at so many dBm0. At 0 dBm0 it is 3.14 dB below full scale (G.711 §4).
fn peak(dbm0: f64) -> f64 {
    22_826.0 * 10f64.powf(dbm0 / 20.0)
}

/// How a telephone makes its tones.
#[derive(Debug, Clone, Copy)]
struct Tones {
    on_ms: f64,
    off_ms: f64,
    /// Of the row and of the column, in dBm0.
    levels: [f64; 2],
    /// Of each frequency, as a share of it.
    off_by: [f64; 2],
    /// Signal to noise in dB.
    snr: Option<f64>,
    /// Where the first tone begins, in samples.
    begin: usize,
    seed: u64,
}

const PLAIN: Tones = Tones {
    on_ms: 40.0,
    off_ms: 40.0,
    levels: [-10.0, -10.0],
    off_by: [0.0, 0.0],
    snr: None,
    begin: 400,
    seed: 1,
};

fn place(key: char) -> (usize, usize) {
    let find = |row: usize| KEYS[row].iter().position(|other| *other == key).map(|column| (row, column));
    (0..4).find_map(find).unwrap()
}

/// Noise of one standard deviation, white.
fn gaussian(random: &mut StdRng) -> f64 {
    (0..6).map(|_| random.random_range(-0.707..0.707)).sum()
}

fn typed(keys: &str, tones: &Tones) -> Vec<f64> {
    let mut random = StdRng::seed_from_u64(tones.seed);
    let mut samples = vec![0.0; tones.begin];
    for key in keys.chars() {
        let (row, column) = place(key);
        let hz = [
            f64::from(FREQUENCIES[row]) * (1.0 + tones.off_by[0]),
            f64::from(FREQUENCIES[4 + column]) * (1.0 + tones.off_by[1]),
        ];
        let phase = [random.random_range(0.0..TAU), random.random_range(0.0..TAU)];
        for n in 0..(tones.on_ms * 8.0) as usize {
            let part = |i: usize| peak(tones.levels[i]) * (TAU * hz[i] * n as f64 / 8000.0 + phase[i]).sin();
            samples.push(part(0) + part(1));
        }
        samples.extend(std::iter::repeat_n(0.0, (tones.off_ms * 8.0) as usize));
    }
    samples.extend([0.0; 400]);
    if let Some(snr) = tones.snr {
        let power = tones.levels.iter().map(|level| peak(*level).powi(2) / 2.0).sum::<f64>();
        let deviation = (power / 10f64.powf(snr / 10.0)).sqrt();
        samples.iter_mut().for_each(|sample| *sample += deviation * gaussian(&mut random));
    }
    samples
}

fn linear(samples: &[f64]) -> Vec<i16> {
    samples.iter().map(|sample| sample.round().clamp(-32_768.0, 32_767.0) as i16).collect()
}

/// Through a codec, in packets of `packet` samples, as a leg hears it.
fn heard(codec: Codec, packet: usize, samples: &[f64]) -> String {
    let mut coder = crate::codec::Coder::default();
    let mut ear = ToneEar::new();
    let mut keys = String::new();
    let (mut sequence, mut timestamp) = (65_530u16, 4_294_967_000u32);
    for piece in linear(samples).chunks(packet) {
        let mut payload = vec![0; piece.len()];
        coder.encode(codec, piece, &mut payload);
        let header = Header { marker: false, payload_type: 0, sequence, timestamp, ssrc: 7 };
        ear.on_packet(&header, codec, &payload, |digit| keys.push(digit.key()));
        sequence = sequence.wrapping_add(1);
        timestamp = timestamp.wrapping_add(piece.len() as u32);
    }
    keys
}

fn detected(samples: &[i16]) -> String {
    let mut keys = String::new();
    ToneDetector::default().hear(samples, |digit| keys.push(digit.key()));
    keys
}

#[test]
fn q24_keys_of_40_ms_with_40_ms_between_them_are_heard_at_every_place_of_a_block() {
    for begin in 400..400 + HALF {
        let samples = linear(&typed(ALL, &Tones { begin, ..PLAIN }));
        assert_eq!(detected(&samples), ALL, "from sample {begin}");
    }
    // The same key again and again.
    assert_eq!(detected(&linear(&typed("5555500000", &PLAIN))), "5555500000");
}

#[test]
fn q24_levels_twist_and_frequencies_at_the_edge_of_what_must_be_taken() {
    let levels = [
        ("0 dBm0 each, which clips", [0.0, 0.0]),
        ("0 dBm0 together", [-3.0, -3.0]),
        ("−36 dBm0 each", [-36.0, -36.0]),
        ("column 4 dB above", [-14.0, -10.0]),
        ("column 8 dB below", [-10.0, -18.0]),
        ("soft, column 4 dB above", [-36.0, -32.0]),
        ("soft, column 8 dB below", [-36.0, -44.0]),
        ("loud, column 8 dB below", [-1.0, -9.0]),
    ];
    let mut round = 0;
    for (fact, levels) in levels {
        for (low, high) in [(0.0, 0.0), (0.015, 0.015), (-0.015, -0.015), (0.015, -0.015), (-0.015, 0.015)] {
            // Each combination meets one codec, and each codec every place in a block.
            let codec = [Codec::Pcmu, Codec::Pcma, Codec::G722][round % 3];
            let tones = Tones { levels, off_by: [low, high], begin: 400 + round * 7 % HALF, ..PLAIN };
            assert_eq!(heard(codec, 160, &typed(ALL, &tones)), ALL, "{fact}, {low} {high}, {codec:?}");
            round += 1;
        }
    }
}

#[test]
fn q24_keys_are_heard_through_noise() {
    let (mut typed_keys, mut missed) = (0, 0);
    for snr in [20.0, 15.0] {
        for seed in 0..SEEDS {
            for levels in [[-10.0, -10.0], [-14.0, -10.0], [-10.0, -18.0], [-30.0, -30.0]] {
                for off_by in [[0.0, 0.0], [0.015, -0.015], [-0.015, 0.015]] {
                    let tones = Tones {
                        snr: Some(snr),
                        seed,
                        levels,
                        off_by,
                        begin: 400 + seed as usize * 5,
                        ..PLAIN
                    };
                    let keys = heard(Codec::Pcmu, 160, &typed(ALL, &tones));
                    typed_keys += 16;
                    if keys != ALL {
                        assert!(keys.chars().all(|key| ALL.contains(key)) && keys.len() <= 16, "{keys}");
                        missed += 16 - keys.len();
                    }
                }
            }
        }
    }
    println!("through noise: {missed} of {typed_keys} missed");
    assert!(missed * 500 <= typed_keys, "{missed} of {typed_keys} missed");
}

#[test]
fn q24_what_is_no_key_is_not_taken() {
    let none = |fact: &str, samples: &[f64]| assert_eq!(detected(&linear(samples)), "", "{fact}");
    for begin in [400, 413, 426, 439] {
        let tones = Tones { begin, ..PLAIN };
        none("20 ms of tone", &typed(ALL, &Tones { on_ms: 20.0, ..tones }));
        none("frequencies 3.5 % off", &typed(ALL, &Tones { off_by: [0.035, 0.035], ..tones }));
        none("frequencies 3.5 % below", &typed(ALL, &Tones { off_by: [-0.035, -0.035], ..tones }));
        none("one is 3.5 % off", &typed(ALL, &Tones { off_by: [0.0, 0.035], ..tones }));
        none("row alone", &typed(ALL, &Tones { levels: [-10.0, -60.0], ..tones }));
        none("column alone", &typed(ALL, &Tones { levels: [-60.0, -10.0], ..tones }));
        none("column 10 dB above", &typed(ALL, &Tones { levels: [-20.0, -10.0], ..tones }));
        none("row 14 dB above", &typed(ALL, &Tones { levels: [-6.0, -20.0], ..tones }));
        none("−50 dBm0", &typed(ALL, &Tones { levels: [-50.0, -50.0], ..tones }));
        none("noise louder than the tone", &typed(ALL, &Tones { snr: Some(-3.0), ..tones }));
    }
    // Tones of a network: dial, ringback, busy, and a fax's call.
    for (low, high) in [(350.0, 440.0), (440.0, 480.0), (480.0, 620.0), (1100.0, 1100.0), (425.0, 425.0)] {
        let sine = |hz: f64, n: usize| peak(-13.0) * (TAU * hz * n as f64 / 8000.0).sin();
        let samples: Vec<f64> = (0..16_000).map(|n| sine(low, n) + sine(high, n)).collect();
        none("a network's tone", &samples);
    }
    let mut random = StdRng::seed_from_u64(3);
    let noise: Vec<f64> = (0..160_000).map(|_| peak(-10.0) * gaussian(&mut random)).collect();
    none("noise", &noise);
}

#[test]
fn a_long_key_is_one_key_whatever_happens_to_it() {
    let held = Tones { on_ms: 2000.0, off_ms: 60.0, ..PLAIN };
    assert_eq!(detected(&linear(&typed("4", &held))), "4");
    // Q.24: an interruption of 10 ms does not end it; one of 40 ms does.
    for (pause, expected) in [(10usize, "4"), (40, "44")] {
        for at in 0..40 {
            let mut samples = typed("4", &Tones { on_ms: 300.0, ..held });
            let from = 1200 + at * 7;
            samples[from..from + pause * 8].fill(0.0);
            assert_eq!(detected(&linear(&samples)), expected, "{pause} ms at {from}");
        }
    }
}

#[test]
fn every_packet_length_will_do() {
    for packet in [80, 160, 240, 320, 480, 1280] {
        for codec in [Codec::Pcmu, Codec::Pcma, Codec::G722] {
            assert_eq!(heard(codec, packet, &typed(ALL, &PLAIN)), ALL, "{packet} {codec:?}");
        }
    }
}

/// Packets of 20 ms of a tone of `on_ms`, and a pause, twice: with the order changed by `change`.
fn through_network(keys: &str, on_ms: f64, change: impl Fn(&mut Vec<(Header, Vec<u8>)>)) -> String {
    let samples = linear(&typed(keys, &Tones { on_ms, off_ms: 100.0, begin: 320, ..PLAIN }));
    let mut packets: Vec<(Header, Vec<u8>)> = samples
        .chunks(160)
        .zip(0u16..)
        .map(|(piece, n)| {
            let mut payload = vec![0; piece.len()];
            g711::encode(g711::Law::Mu, piece, &mut payload);
            let timestamp = u32::from(n) * 160;
            (Header { marker: false, payload_type: 0, sequence: n, timestamp, ssrc: 1 }, payload)
        })
        .collect();
    change(&mut packets);
    let (mut ear, mut heard) = (ToneEar::new(), String::new());
    for (header, payload) in &packets {
        ear.on_packet(header, Codec::Pcmu, payload, |digit| heard.push(digit.key()));
    }
    heard
}

#[test]
fn losses_repeats_and_late_packets_make_no_key_of_their_own() {
    // 100 ms of tone are packets 2 to 6, its pause 7 to 11, the next tone 12 to 16.
    type Change = fn(&mut Vec<(Header, Vec<u8>)>);
    let table: [(&str, Change); 6] = [
        ("in order", |_| {}),
        ("each packet twice", |packets| {
            *packets = packets.iter().cloned().flat_map(|p| [p.clone(), p]).collect()
        }),
        ("one lost in the tone", |packets| drop(packets.remove(4))),
        ("one lost in each", |packets| drop((packets.remove(13), packets.remove(6)))),
        ("two turned round", |packets| packets.swap(9, 10)),
        // RFC 3551 §4.1: a sender with silence suppression.
        ("the pause is not sent", |packets| drop(packets.drain(8..12))),
    ];
    for (fact, change) in table {
        // The pause that is not sent is no loss: its numbers follow each other.
        let renumber = |packets: &mut Vec<(Header, Vec<u8>)>| {
            change(packets);
            if fact.starts_with("the pause") {
                packets.iter_mut().zip(0u16..).for_each(|(packet, n)| packet.0.sequence = n);
            }
        };
        assert_eq!(through_network("77", 100.0, renumber), "77", "{fact}");
    }
}

#[test]
fn the_ear_knows_how_long_the_last_key_sounds() {
    let samples = linear(&typed("1", &Tones { on_ms: 200.0, begin: 160, ..PLAIN }));
    let mut detector = ToneDetector::default();
    let sounding: Vec<bool> = samples
        .chunks(80)
        .map(|piece| {
            detector.hear(piece, |_| {});
            detector.is_sounding()
        })
        .collect();
    // The tone lies in the pieces 2 to 21; it is known after 45 ms and gone within 30.
    assert!(sounding[7..22].iter().all(|sounds| *sounds), "{sounding:?}");
    assert!(sounding[26..].iter().all(|sounds| !*sounds), "{sounding:?}");
    assert_eq!(format!("{detector:?}"), "ToneDetector");
}

#[test]
fn garbage_is_borne() {
    let mut random = StdRng::seed_from_u64(9);
    let mut ear = ToneEar::new();
    for _ in 0..2000 {
        let length = random.random_range(0..1400usize);
        let payload: Vec<u8> = (0..length).map(|_| random.random()).collect();
        let header = Header {
            marker: false,
            payload_type: 0,
            sequence: random.random(),
            timestamp: random.random(),
            ssrc: random.random_range(0..2),
        };
        let codec = [Codec::Pcmu, Codec::Pcma, Codec::G722][random.random_range(0..3usize)];
        ear.on_packet(&header, codec, &payload, |_| {});
    }
}
