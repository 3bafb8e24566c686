//! A phone's coding: G.711 by the kit's own formula; G.722 by the library that the service uses, which ffmpeg judges
//! elsewhere. Audio has 8000 samples per second here.

use std::collections::BTreeMap;

use media::{Codec, g722};

use crate::g711;

/// What a phone says, for the length of a call.
#[derive(Debug, Default)]
pub struct Encoder(Option<g722::Encoder>);

impl Encoder {
    /// The payload of `samples`: one byte for each.
    pub fn encode(&mut self, codec: Codec, samples: &[i16]) -> Vec<u8> {
        if codec != Codec::G722 {
            return g711::encode_all(codec, samples);
        }
        let mut payload = vec![0; samples.len()];
        self.0.get_or_insert_with(g722::Encoder::narrow).encode(samples, &mut payload);
        payload
    }
}

/// What a phone hears, from each source in the order of its arrival.
#[derive(Debug, Default)]
pub struct Decoders(BTreeMap<u32, g722::Decoder>);

impl Decoders {
    /// The samples of a payload: one for each byte.
    pub fn decode(&mut self, ssrc: u32, codec: Codec, payload: &[u8]) -> Vec<i16> {
        if codec != Codec::G722 {
            return g711::decode_all(codec, payload);
        }
        let mut samples = vec![0; payload.len()];
        self.0.entry(ssrc).or_insert_with(g722::Decoder::narrow).decode(payload, &mut samples);
        samples
    }
}
