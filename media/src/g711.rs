//! G.711 µ-law (PCMU) and A-law (PCMA), 8000 samples of 8 bits per second (ITU-T G.711, RFC 3551 §4.5.14).
//!
//! Decoding and conversion between the laws are tables made at compile time; encoding is a few shifts. Linear
//! samples are 16 bits, full scale. A conversion between the laws goes by way of the linear value.

/// Which of the two curves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// PCMU.
    Mu,
    /// PCMA.
    A,
}

/// Builds a table of 256 entries from a `const fn` of the code.
macro_rules! table {
    ($of:path) => {{
        let mut table = [0; 256];
        let mut rest: &mut [_] = &mut table;
        let mut code: u8 = 0;
        while let [entry, tail @ ..] = rest {
            *entry = $of(code);
            code = code.wrapping_add(1);
            rest = tail;
        }
        table
    }};
}

static MU_TO_LINEAR: [i16; 256] = table!(decode_mu);
static A_TO_LINEAR: [i16; 256] = table!(decode_a);
static MU_TO_A: [u8; 256] = table!(mu_to_a);
static A_TO_MU: [u8; 256] = table!(a_to_mu);

/// Added to a magnitude of 14 bits, so that each µ-law segment begins at a power of two.
const MU_BIAS: i16 = 33;

/// G.711 table 2: eight segments of sixteen steps, each segment twice as coarse as the one below. All bits
/// are inverted on the line.
const fn decode_mu(code: u8) -> i16 {
    let code = !code;
    let segment = (code >> 4) & 7;
    let step = (code & 0x0f) as i16;
    let magnitude = (((2 * step + MU_BIAS) << segment) - MU_BIAS) * 4;
    if code & 0x80 != 0 { -magnitude } else { magnitude }
}

const fn encode_mu(sample: i16) -> u8 {
    // The complement makes the two signs mirror images and spares i16::MIN.
    let magnitude = if sample < 0 { !sample } else { sample } >> 2;
    let biased = if magnitude > 0x1fff - MU_BIAS { 0x1fff } else { magnitude + MU_BIAS };
    let segment = 10 - biased.leading_zeros() as u8; // 33 ≤ biased < 8192: 10 down to 3 zeros.
    let step = ((biased >> (segment + 1)) & 0x0f) as u8;
    let sign = if sample < 0 { 0x80 } else { 0 };
    !(sign | (segment << 4) | step)
}

/// G.711 table 1: like µ-law, but the two lowest segments are equally fine. Even bits are inverted on the
/// line.
const fn decode_a(code: u8) -> i16 {
    let code = code ^ 0x55;
    let segment = (code >> 4) & 7;
    let step = (code & 0x0f) as i16;
    let magnitude = if segment == 0 { (step << 4) + 8 } else { ((step << 4) + 0x108) << (segment - 1) };
    if code & 0x80 != 0 { magnitude } else { -magnitude }
}

const fn encode_a(sample: i16) -> u8 {
    let magnitude = if sample < 0 { !sample } else { sample } >> 4;
    let code = if magnitude < 32 {
        magnitude as u8
    } else {
        let segment = 12 - magnitude.leading_zeros() as u8; // 32 ≤ magnitude < 2048: 10 down to 5 zeros.
        (segment << 4) | ((magnitude >> (segment - 1)) & 0x0f) as u8
    };
    let sign = if sample < 0 { 0 } else { 0x80 };
    (sign | code) ^ 0x55
}

const fn mu_to_a(code: u8) -> u8 {
    encode_a(decode_mu(code))
}

const fn a_to_mu(code: u8) -> u8 {
    encode_mu(decode_a(code))
}

/// The code that stands for silence.
#[must_use]
pub const fn silence(law: Law) -> u8 {
    match law {
        Law::Mu => 0xff,
        Law::A => 0xd5,
    }
}

/// One code as a linear sample.
#[inline]
#[must_use]
pub fn decode_sample(law: Law, code: u8) -> i16 {
    let table = match law {
        Law::Mu => &MU_TO_LINEAR,
        Law::A => &A_TO_LINEAR,
    };
    table.get(usize::from(code)).copied().unwrap_or(0)
}

/// One linear sample as a code.
#[inline]
#[must_use]
pub fn encode_sample(law: Law, sample: i16) -> u8 {
    match law {
        Law::Mu => encode_mu(sample),
        Law::A => encode_a(sample),
    }
}

/// Decodes a payload into `samples` and returns how many there are: the shorter of both lengths.
#[inline]
pub fn decode(law: Law, payload: &[u8], samples: &mut [i16]) -> usize {
    for (sample, code) in samples.iter_mut().zip(payload) {
        *sample = decode_sample(law, *code);
    }
    samples.len().min(payload.len())
}

/// Encodes samples into `payload` and returns how many there are: the shorter of both lengths.
#[inline]
pub fn encode(law: Law, samples: &[i16], payload: &mut [u8]) -> usize {
    for (code, sample) in payload.iter_mut().zip(samples) {
        *code = encode_sample(law, *sample);
    }
    payload.len().min(samples.len())
}

/// Converts a payload in place from one law to the other; the same law is left alone.
#[inline]
pub fn transcode(from: Law, to: Law, payload: &mut [u8]) {
    let table = match (from, to) {
        (Law::Mu, Law::A) => &MU_TO_A,
        (Law::A, Law::Mu) => &A_TO_MU,
        (Law::Mu, Law::Mu) | (Law::A, Law::A) => return,
    };
    for code in payload {
        *code = table.get(usize::from(*code)).copied().unwrap_or(silence(to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Law::{A as Pcma, Mu as Pcmu};

    #[test]
    fn g711_tables_1_and_2_have_their_marks() {
        let table = [
            ("µ: largest", Pcmu, 0x80, 32_124),
            ("µ: largest negative", Pcmu, 0x00, -32_124),
            ("µ: zero", Pcmu, 0xff, 0),
            ("µ: smallest step", Pcmu, 0xfe, 8),
            ("µ: smallest negative step", Pcmu, 0x7e, -8),
            ("µ: second segment begins", Pcmu, 0xef, 132),
            ("A: largest", Pcma, 0xaa, 32_256),
            ("A: largest negative", Pcma, 0x2a, -32_256),
            ("A: smallest", Pcma, 0xd5, 8),
            ("A: smallest negative", Pcma, 0x55, -8),
            ("A: second segment begins", Pcma, 0xc5, 264),
            ("A: third segment begins", Pcma, 0xf5, 528),
        ];
        for (fact, codec, code, sample) in table {
            assert_eq!(decode_sample(codec, code), sample, "{fact}");
            assert_eq!(encode_sample(codec, sample), code, "{fact}");
        }
        assert_eq!(decode_sample(Pcmu, 0x7f), 0, "µ-law has a negative zero");
        assert_eq!((encode_sample(Pcmu, i16::MAX), encode_sample(Pcmu, i16::MIN)), (0x80, 0x00));
        assert_eq!((encode_sample(Pcma, i16::MAX), encode_sample(Pcma, i16::MIN)), (0xaa, 0x2a));
        for codec in [Pcmu, Pcma] {
            assert_eq!(encode_sample(codec, 0), silence(codec));
        }
    }

    #[test]
    fn every_code_survives_decoding_and_encoding() {
        for codec in [Pcmu, Pcma] {
            for code in (0..=255).filter(|code| (codec, *code) != (Pcmu, 0x7f)) {
                assert_eq!(encode_sample(codec, decode_sample(codec, code)), code, "{codec:?} {code:#x}");
            }
        }
    }

    #[test]
    fn coding_keeps_order_and_errs_by_half_a_step_at_most() {
        for codec in [Pcmu, Pcma] {
            let mut before = i16::MIN;
            for sample in i16::MIN..=i16::MAX {
                let coded = decode_sample(codec, encode_sample(codec, sample));
                assert!(coded >= before, "{codec:?} {sample}");
                before = coded;
                // Sixteen steps per octave: half of one is at most 1/32 of the value.
                let error = (i32::from(coded) - i32::from(sample)).unsigned_abs();
                assert!(error <= 8 + u32::from(sample.unsigned_abs()) / 32, "{codec:?} {sample}: {error}");
            }
        }
    }

    #[test]
    fn conversion_between_the_laws_is_that_of_the_linear_values() {
        for (from, to) in [(Pcmu, Pcma), (Pcma, Pcmu)] {
            let codes: Vec<u8> = (0..=255).collect();
            let (mut samples, mut expected, mut converted) = ([0; 256], [0; 256], codes.clone());
            assert_eq!(decode(from, &codes, &mut samples), 256);
            assert_eq!(encode(to, &samples, &mut expected), 256);
            transcode(from, to, &mut converted);
            assert_eq!(converted, expected);
            transcode(to, to, &mut converted);
            assert_eq!(converted, expected, "the same law is left alone");
        }
    }

    #[test]
    fn the_shorter_slice_rules() {
        let (mut samples, mut codes) = ([1; 3], [1; 3]);
        assert_eq!(decode(Pcmu, &[0xff; 2], &mut samples), 2);
        assert_eq!(samples, [0, 0, 1]);
        assert_eq!(encode(Pcma, &[0; 9], &mut codes), 3);
        assert_eq!(codes, [0xd5; 3]);
    }
}
