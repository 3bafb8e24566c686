//! G.711 by its formula (ITU-T G.711), independent of the service's tables; and the numbers and names of all codecs.

use media::Codec;

/// Payload type of the codec (RFC 3551 §6).
#[must_use]
pub fn payload_type(codec: Codec) -> u8 {
    match codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
        Codec::G722 => 9,
    }
}

/// The codec of a static payload type.
#[must_use]
pub fn codec(payload_type: u8) -> Option<Codec> {
    match payload_type {
        0 => Some(Codec::Pcmu),
        8 => Some(Codec::Pcma),
        9 => Some(Codec::G722),
        _ => None,
    }
}

/// The name in `a=rtpmap`.
#[must_use]
pub fn name(codec: Codec) -> &'static str {
    match codec {
        Codec::Pcmu => "PCMU",
        Codec::Pcma => "PCMA",
        Codec::G722 => "G722",
    }
}

/// One 16-bit sample to one byte; 0 for G.722, whose samples have no bytes of their own (see [`crate::coding`]).
#[must_use]
pub fn encode(codec: Codec, sample: i16) -> u8 {
    let value = i32::from(sample);
    match codec {
        Codec::Pcmu => {
            let sign = if value < 0 { 0x80 } else { 0 };
            let magnitude = (value.abs() + 132).min(32767);
            // `magnitude` lies in 132..32768, so its highest set bit is 7..=14.
            let exponent = 24 - magnitude.leading_zeros();
            let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
            !byte(sign | ((exponent.cast_signed()) << 4) | mantissa)
        }
        Codec::Pcma => {
            let (sign, magnitude) = if value < 0 { (0, -value - 1) } else { (0x80, value) };
            let code = if magnitude < 256 {
                magnitude >> 4
            } else {
                let exponent = 24 - magnitude.leading_zeros();
                ((exponent.cast_signed()) << 4) | ((magnitude >> (exponent + 3)) & 0x0f)
            };
            byte(sign | code) ^ 0x55
        }
        Codec::G722 => 0,
    }
}

fn byte(value: i32) -> u8 {
    u8::try_from(value & 0xff).unwrap_or_default()
}

/// One byte to one 16-bit sample; silence for G.722.
#[must_use]
pub fn decode(codec: Codec, code: u8) -> i16 {
    let sample = match codec {
        Codec::Pcmu => {
            let code = !code;
            let magnitude = (((i32::from(code & 0x0f) << 3) + 132) << ((code >> 4) & 7)) - 132;
            if code & 0x80 == 0 { magnitude } else { -magnitude }
        }
        Codec::Pcma => {
            let code = code ^ 0x55;
            let mantissa = i32::from(code & 0x0f) << 4;
            let magnitude = match (code >> 4) & 7 {
                0 => mantissa + 8,
                exponent => (mantissa + 0x108) << (exponent - 1),
            };
            if code & 0x80 != 0 { magnitude } else { -magnitude }
        }
        Codec::G722 => 0,
    };
    i16::try_from(sample).unwrap_or(if sample < 0 { i16::MIN } else { i16::MAX })
}

/// Samples to a payload.
#[must_use]
pub fn encode_all(codec: Codec, samples: &[i16]) -> Vec<u8> {
    samples.iter().map(|sample| encode(codec, *sample)).collect()
}

/// A payload to samples.
#[must_use]
pub fn decode_all(codec: Codec, payload: &[u8]) -> Vec<i16> {
    payload.iter().map(|code| decode(codec, *code)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the tables in ITU-T G.711: end points, smallest steps and silence.
    #[test]
    fn known_values_and_every_code_survives_a_round_trip() {
        assert_eq!((encode(Codec::Pcmu, 0), decode(Codec::Pcmu, 0xff)), (0xff, 0));
        assert_eq!((decode(Codec::Pcmu, 0x80), decode(Codec::Pcmu, 0x00)), (32124, -32124));
        assert_eq!((encode(Codec::Pcma, 0), decode(Codec::Pcma, 0xd5)), (0xd5, 8));
        assert_eq!((decode(Codec::Pcma, 0xaa), decode(Codec::Pcma, 0x2a)), (32256, -32256));
        for codec in [Codec::Pcmu, Codec::Pcma] {
            for code in 0..=255u8 {
                let sample = decode(codec, code);
                assert_eq!(decode(codec, encode(codec, sample)), sample, "{codec:?} {code:#x}");
            }
            for sample in i16::MIN..=i16::MAX {
                let error = (i32::from(decode(codec, encode(codec, sample))) - i32::from(sample)).abs();
                assert!(
                    error
                        <= (i32::from(sample).abs() / 16).max(16)
                            + 400 * i32::from(sample.unsigned_abs() > 32000),
                    "{codec:?} {sample} {error}"
                );
            }
        }
    }
}
