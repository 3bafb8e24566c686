//! One leg's coding: linear audio to payloads, and payloads of one codec to those of another.
//!
//! All codecs here have a byte of payload per 125 µs, so a conversion keeps every length. Between the laws of G.711
//! it is a table; G.722 has a state, which is made when it is first needed, and its library allocates once per
//! packet: the only codec for which a packet costs an allocation. Nothing is converted that both legs speak.

use crate::{Codec, g711, g722};

/// The longest payload that is converted.
const MAX_PAYLOAD: usize = 1280;

/// What a leg codes with, for the length of its call.
#[derive(Debug, Default)]
pub struct Coder {
    /// Of what the other leg says.
    decoder: Option<Box<g722::Decoder>>,
    /// Of what this leg hears, whoever says it.
    encoder: Option<Box<g722::Encoder>>,
}

impl Coder {
    /// Encodes linear audio at 8000 Hz into `payload`; returns its length, one byte for each sample.
    pub fn encode(&mut self, codec: Codec, samples: &[i16], payload: &mut [u8]) -> usize {
        match codec.law() {
            Some(law) => g711::encode(law, samples, payload),
            None => {
                self.encoder.get_or_insert_with(|| Box::new(g722::Encoder::narrow())).encode(samples, payload)
            }
        }
    }

    /// Converts a payload in place. What is longer than 160 ms stays as it is beyond that.
    pub fn convert(&mut self, from: Codec, to: Codec, payload: &mut [u8]) {
        if from == to {
            return;
        }
        if let (Some(from), Some(to)) = (from.law(), to.law()) {
            return g711::transcode(from, to, payload);
        }
        let mut samples = [0; MAX_PAYLOAD];
        let count = match from.law() {
            Some(law) => g711::decode(law, payload, &mut samples),
            None => {
                let decoder = self.decoder.get_or_insert_with(|| Box::new(g722::Decoder::narrow()));
                decoder.decode(payload, &mut samples)
            }
        };
        self.encode(to, samples.get(..count).unwrap_or_default(), payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Codec::{G722, Pcma, Pcmu};
    use proptest::prelude::*;

    fn correlation(a: &[i16], b: &[i16]) -> f64 {
        let sum = |x: &[i16], y: &[i16]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        sum(a, b) / (sum(a, a) * sum(b, b)).sqrt()
    }

    /// A sweep through the telephone band.
    fn sweep() -> Vec<i16> {
        (0..8000).map(|n| (8000.0 * (f64::from(n) * (0.3 + f64::from(n) / 8000.0)).sin()) as i16).collect()
    }

    #[test]
    fn every_codec_becomes_every_other_frame_by_frame() {
        let said = sweep();
        for from in [Pcmu, Pcma, G722] {
            for to in [Pcmu, Pcma, G722] {
                let (mut source, mut converter, mut sink) =
                    (Coder::default(), Coder::default(), Coder::default());
                let mut heard = vec![];
                for frame in said.chunks(160) {
                    let mut payload = [0; 160];
                    assert_eq!(source.encode(from, frame, &mut payload), 160);
                    converter.convert(from, to, &mut payload);
                    sink.convert(to, Pcmu, &mut payload);
                    heard.extend(payload.map(|code| g711::decode_sample(g711::Law::Mu, code)));
                }
                // G.722 delays, and not by whole samples: by how much is not of interest here.
                let best = (0..60)
                    .map(|lag| correlation(&said[..7900], &heard[lag..lag + 7900]))
                    .fold(0.0, f64::max);
                assert!(best > 0.9, "{from:?} to {to:?}: {best}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_payload_is_borne(mut payload in prop::collection::vec(any::<u8>(), 0..1500)) {
            let mut coder = Coder::default();
            let length = payload.len();
            for (from, to) in [(G722, Pcmu), (Pcmu, G722), (Pcma, G722), (G722, Pcma), (G722, G722)] {
                coder.convert(from, to, &mut payload);
                prop_assert_eq!(payload.len(), length);
            }
        }
    }
}
