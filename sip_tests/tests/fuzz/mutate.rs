//! Turns good input into bad input, the same way for the same seed.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// What parsers stumble over.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b"\r\n ",
    b":",
    b";",
    b",",
    b"<",
    b">",
    b"\"",
    b"\\",
    b"%",
    b"%0",
    b"%00",
    b"@",
    b"=",
    b"/",
    b"[",
    b"]",
    b"[::1",
    b"?",
    b"&",
    b"*",
    b"#",
    b"\xff",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"0",
    b"-1",
    b"65535",
    b"65536",
    b"2147483648",
    b"4294967295",
    b"4294967296",
    b"18446744073709551616",
    b"99999999999999999999999999999999",
    b"1e9",
    b"Content-Length: 4294967295\r\n",
    b"Content-Length: -1\r\n",
    b"CSeq: 2147483648 INVITE\r\n",
    b"Via: ",
    b"To: ;tag=",
    b"sip:",
    b"sips:",
    b"tel:+",
    b"urn:",
    b";tag=",
    b";lr",
    b";branch=z9hG4bK",
    b";maddr=",
    b";rport=",
    b";transport=",
    b"m=audio 0 RTP/AVP 0\r\n",
    b"m=audio 65536 RTP/AVP 4294967296\r\n",
    b"c=IN IP4 0.0.0.0\r\n",
    b"a=ptime:0\r\n",
    b"a=rtpmap:101 telephone-event/0\r\n",
    b"a=rtpmap:0 PCMU/8000/0\r\n",
    b"a=fmtp:101 0-99999999999\r\n",
    b"{",
    b"}",
    b"null",
    b"true",
    b"\xf0\x9f\x93\x9e",
];

/// One run of bad inputs.
pub(crate) struct Mutator {
    rng: StdRng,
}

impl Mutator {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    /// A changed copy of one of `seeds`; sometimes a mix of two, sometimes mere noise.
    pub(crate) fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = match self.rng.random_range(0..20) {
            0 => self.noise(),
            1 | 2 => {
                let (one, other) = (self.pick(seeds).clone(), self.pick(seeds).clone());
                let (at, from) = (self.place(&one), self.place(&other));
                [&one[..at], &other[from..]].concat()
            }
            _ => self.pick(seeds).clone(),
        };
        for _ in 0..1 << self.rng.random_range(0..5) {
            self.change(&mut bytes);
        }
        bytes.truncate(70_000);
        bytes
    }

    fn pick<'a>(&mut self, seeds: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &seeds[self.rng.random_range(0..seeds.len())]
    }

    fn place(&mut self, bytes: &[u8]) -> usize {
        self.rng.random_range(0..=bytes.len())
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.rng.random_range(0..200)];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.place(bytes);
        let end = (at + self.rng.random_range(0..40)).min(bytes.len());
        match self.rng.random_range(0..9) {
            0 | 1 => {
                let word = WORDS[self.rng.random_range(0..WORDS.len())];
                bytes.splice(at..at, word.iter().copied());
            }
            2 => {
                let word = WORDS[self.rng.random_range(0..WORDS.len())];
                bytes.splice(at..end, word.iter().copied());
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                let times = 1 << self.rng.random_range(0..10);
                bytes.splice(at..at, copy.repeat(times));
            }
            5 => bytes.truncate(at),
            6 => {
                let noise = self.noise();
                bytes.splice(at..at, noise);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.rng.random_range(0..8);
                }
            }
        }
    }
}
