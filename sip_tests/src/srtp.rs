//! Encrypted RTP of a phone (RFC 3711, RFC 4568).
//!
//! The packets are made by the service's own code, which ffmpeg judges elsewhere; which keys are used for what is
//! decided here, from the text of both descriptions.

use media::srtp::{MasterKey, Srtp, SrtpKeys, Suite};

use crate::sdp::RemoteMedia;

/// A key of the kit's own; each number is another one.
#[must_use]
pub fn key(suite: Suite, number: u8) -> Option<MasterKey> {
    MasterKey::new(suite, &bytes(suite, number))
}

fn bytes(suite: Suite, number: u8) -> Vec<u8> {
    let length = if suite.name().contains("256") { 46 } else { 30 };
    (0..length).map(|place: u8| place.wrapping_mul(7).wrapping_add(number)).collect()
}

/// Master key and salt as they were made by [`key`].
#[must_use]
pub fn keying(key: &MasterKey) -> Vec<u8> {
    let numbers = (0..=u8::MAX).find(|number| self::key(key.suite(), *number).as_ref() == Some(key));
    numbers.map(|number| bytes(key.suite(), number)).unwrap_or_default()
}

/// What both descriptions come to: the far side's key of this phone's suite.
#[must_use]
pub fn agreed(own: Option<&MasterKey>, remote: Option<&RemoteMedia>) -> Option<Srtp> {
    let own = own?;
    let line = remote?.crypto.iter().find(|line| line.suite == own.suite().name())?;
    let receive = MasterKey::new(own.suite(), &line.keying)?;
    Some(Srtp::new(&SrtpKeys { send: own.clone(), receive }))
}
