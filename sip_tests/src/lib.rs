//! Phones, a simulated network and the tests that drive Maskline from outside.
//!
//! The kit is an independent judge: it shares no parser, no SDP, RTP or G.711 code with the service, so a
//! mistake there cannot hide behind the same mistake here.
//!
//! ```text
//! message  text of a SIP message → start line, headers, body        sdp   offers and answers as text
//! agent    pure: one phone's SIP side; bytes and time in, bytes out   g711 rtp  the media formats
//! phone    async: an agent on real sockets, with media               stream      one call's RTP and RTCP
//! sim      pure: a virtual network with a clock, and SimPhone         patterns   the ways in which digits arrive
//! srtp     encrypted RTP, with keys from both descriptions    coding  samples and payloads
//! audio    speech-like sound, correlation, tones                     wav        files
//! transcript  every byte that came and went, and the ladder          leak       planted marks, found in any disguise
//! middlebox   what the wire to a phone adds
//! ```

#![forbid(unsafe_code)]

pub mod agent;
pub mod audio;
pub mod clock;
pub mod coding;
pub mod g711;
pub mod leak;
pub mod message;
pub mod middlebox;
pub mod patterns;
pub mod phone;
pub mod rtp;
pub mod sdp;
pub mod sim;
pub mod srtp;
pub mod stream;
pub mod transcript;
pub mod wav;
