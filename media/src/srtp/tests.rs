//! Both directions of a leg against each other, and against a packet that another implementation made.

use super::*;
use crate::rtcp::{self, Cname};
use crate::rtp::{HEADER_LENGTH, Header, Packet};
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use proptest::prelude::*;

fn keys(suite: Suite) -> (SrtpKeys, SrtpKeys) {
    let (one, other) = (Secret::new([1; 32]).key(suite, 0), Secret::new([2; 32]).key(suite, 0));
    let far = SrtpKeys { send: other.clone(), receive: one.clone() };
    (SrtpKeys { send: one, receive: other }, far)
}

fn ends(suite: Suite) -> (Srtp, Srtp) {
    let (near, far) = keys(suite);
    (Srtp::new(&near), Srtp::new(&far))
}

fn header(sequence: u16) -> Header {
    Header { marker: false, payload_type: 0, sequence, timestamp: u32::from(sequence) * 160, ssrc: 77 }
}

/// A protected packet of 160 bytes.
fn sealed(srtp: &mut Srtp, sequence: u16) -> Option<Vec<u8>> {
    let mut buffer = [0; HEADER_LENGTH + 160 + RTP_TRAILER];
    let length = crate::rtp::encode(&header(sequence), &[sequence as u8; 160], &mut buffer).unwrap();
    let length = srtp.protect_rtp(&mut buffer, length)?;
    Some(buffer[..length].to_vec())
}

/// The payload, when the packet is taken.
fn opened(srtp: &mut Srtp, packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    let length = srtp.unprotect_rtp(&mut packet)?;
    Some(Packet::parse(&packet[..length]).unwrap().payload.to_vec())
}

/// The well-known packet of libsrtp's test driver (16 bytes of 0xab, sequence 0x1234, SSRC 0xcafebabe) under the
/// keys of RFC 3711 B.3.
#[test]
fn a_packet_is_the_one_that_others_make() {
    let master = HEX.decode(b"e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6").unwrap();
    let key = MasterKey::new(Suite::Aes128Sha80, &master).unwrap();
    let mut srtp = Srtp::new(&SrtpKeys { send: key.clone(), receive: key });
    let plain = HEX.decode(b"800f1234decafbadcafebabeabababababababababababababababab").unwrap();
    let mut packet = [plain.as_slice(), &[0; RTP_TRAILER]].concat();
    assert_eq!(srtp.protect_rtp(&mut packet, plain.len()), Some(38));
    let wire = "800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb";
    assert_eq!(HEX.encode(&packet), wire);
    assert_eq!(srtp.unprotect_rtp(&mut packet), Some(28));
    assert_eq!(packet[..28], plain);
}

#[test]
fn each_suite_carries_packets_both_ways_and_leaves_no_plain_text() {
    for suite in Suite::ALL {
        let (mut near, mut far) = ends(suite);
        for sequence in [65_530u16, 65_534, 65_535, 0, 1, 3, 2] {
            let packet = sealed(&mut near, sequence).unwrap();
            assert_eq!(packet.len(), HEADER_LENGTH + 160 + suite.rtp_tag());
            assert_ne!(packet[HEADER_LENGTH..HEADER_LENGTH + 160], [sequence as u8; 160]);
            assert_eq!(opened(&mut far, &packet), Some(vec![sequence as u8; 160]), "{suite:?} {sequence}");
            assert_eq!(opened(&mut far, &packet), None, "a repeated packet");
            assert_eq!(opened(&mut near, &packet), None, "a packet of our own that comes back");
            let back = sealed(&mut far, sequence).unwrap();
            assert_eq!(opened(&mut near, &back), Some(vec![sequence as u8; 160]));
        }
    }
}

#[test]
fn a_number_is_never_used_twice_under_one_key() {
    let (mut near, _) = ends(Suite::Aes128Sha80);
    assert!(sealed(&mut near, 500).is_some());
    assert!(sealed(&mut near, 500).is_none(), "with other content it would give away both");
    assert!(sealed(&mut near, 499).is_some(), "a late one has a number of its own");
    assert!(sealed(&mut near, 499).is_none());
    assert!(sealed(&mut near, 300).is_none(), "too old to be known");
    near.agree(&keys(Suite::Aes128Sha80).0);
    assert!(sealed(&mut near, 500).is_none(), "the same keys agreed on again are the same keys");
}

#[test]
fn hours_of_packets_pass_the_wrap_again_and_again() {
    let (mut near, mut far) = ends(Suite::Aes128Sha32);
    for number in (0..400_000u32).step_by(97) {
        let packet = sealed(&mut near, number as u16).unwrap();
        assert!(opened(&mut far, &packet).is_some(), "{number}");
    }
}

#[test]
fn a_stream_may_be_heard_from_the_middle_of_its_first_wrap_on() {
    let (mut near, mut far) = ends(Suite::Aes128Sha80);
    sealed(&mut near, 65_535).unwrap();
    let after = sealed(&mut near, 2).unwrap();
    assert!(opened(&mut far, &after).is_some(), "all before the wrap was lost");
}

#[test]
fn another_key_takes_over_without_losing_what_is_on_its_way() {
    let (mut near, mut far) = ends(Suite::Aes128Sha80);
    let first = sealed(&mut near, 100).unwrap();
    assert!(opened(&mut far, &first).is_some());
    let late = sealed(&mut near, 101).unwrap();
    let fresh = Secret::new([9; 32]).key(Suite::Aes256Sha80, 1);
    let (near_keys, far_keys) = keys(Suite::Aes128Sha80);
    near.agree(&SrtpKeys { send: fresh.clone(), ..near_keys });
    far.agree(&SrtpKeys { receive: fresh, ..far_keys });
    assert!(opened(&mut far, &late).is_some(), "under the key before");
    assert!(opened(&mut far, &first).is_none(), "whose window still counts");
    let other = sealed(&mut near, 102).unwrap();
    assert!(opened(&mut far, &other).is_some());
    let (mut old, _) = ends(Suite::Aes128Sha80);
    let stale = sealed(&mut old, 103).unwrap();
    assert!(opened(&mut far, &stale).is_none(), "the key before is over");
}

#[test]
fn a_new_key_finds_a_rollover_counter_that_goes_on_and_one_that_begins_anew() {
    for starts_anew in [true, false] {
        let (near_keys, far_keys) = keys(Suite::Aes128Sha80);
        let (mut near, mut far) = (Srtp::new(&near_keys), Srtp::new(&far_keys));
        for sequence in [65_000u16, 100, 30_000] {
            let packet = sealed(&mut near, sequence).unwrap();
            assert!(opened(&mut far, &packet).is_some());
        }
        let fresh = Secret::new([9; 32]).key(Suite::Aes128Sha80, 1);
        let mut next = Srtp::new(&SrtpKeys { send: fresh.clone(), ..near_keys });
        if !starts_anew {
            sealed(&mut next, 65_000).unwrap();
            sealed(&mut next, 100).unwrap();
        }
        far.agree(&SrtpKeys { receive: fresh, ..far_keys });
        for sequence in [30_001u16, 30_002] {
            let packet = sealed(&mut next, sequence).unwrap();
            assert!(opened(&mut far, &packet).is_some(), "starts anew: {starts_anew}");
        }
    }
}

/// RFC 3711 §3.3.1.
#[test]
fn our_rollover_counter_goes_on_under_a_new_key() {
    let (near_keys, far_keys) = keys(Suite::Aes128Sha80);
    let (mut near, mut far) = (Srtp::new(&near_keys), Srtp::new(&far_keys));
    for sequence in [65_000u16, 100, 30_000, 60_000, 100] {
        let packet = sealed(&mut near, sequence).unwrap();
        assert!(opened(&mut far, &packet).is_some());
    }
    let fresh = Secret::new([9; 32]).key(Suite::Aes128Sha80, 1);
    near.agree(&SrtpKeys { send: fresh.clone(), ..near_keys });
    let far_keys = SrtpKeys { receive: fresh, ..far_keys };
    far.agree(&far_keys);
    let packet = sealed(&mut near, 101).unwrap();
    assert!(opened(&mut Srtp::new(&far_keys), &packet).is_none(), "as if nothing had wrapped");
    assert!(opened(&mut far, &packet).is_some());
}

fn report(bye: bool) -> Vec<u8> {
    let mut packet = vec![];
    rtcp::encode_report(77, None, None, &Cname::from_random([5; 12]), &mut packet);
    if bye {
        rtcp::encode_bye(77, &mut packet);
    }
    packet
}

#[test]
fn rfc3711_3_4_reports_are_encrypted_with_the_long_tag() {
    for suite in Suite::ALL {
        let (mut near, mut far) = ends(suite);
        for bye in [false, true] {
            let plain = report(bye);
            let mut packet = plain.clone();
            assert!(near.protect_rtcp(&mut packet));
            assert_eq!(packet.len(), plain.len() + 14);
            assert_eq!((packet[..8] == plain[..8], packet[8..24] == plain[8..24]), (true, false));
            let sent = packet.clone();
            let length = far.unprotect_rtcp(&mut packet).unwrap();
            assert_eq!(packet[..length], plain);
            assert!(far.unprotect_rtcp(&mut sent.clone()).is_none(), "a repeated report");
        }
        let mut plain = report(false);
        assert!(far.unprotect_rtcp(&mut plain).is_none(), "a report without protection");
    }
}

#[test]
fn secrets_and_keys_never_print_and_no_two_keys_are_alike() {
    let secret = Secret::new([0x5a; 32]);
    let key = secret.key(Suite::Aes128Sha80, 1);
    let shown = format!("{secret:?} {key:?} {:?}", Srtp::new(&keys(Suite::Aes128Sha80).0));
    assert!(!shown.contains("5a") && !shown.contains("90"), "{shown}");
    assert_ne!(key, secret.key(Suite::Aes128Sha80, 2));
    assert_ne!(key.keying(), secret.key(Suite::Aes128Sha32, 1).keying());
    assert_ne!(key, Secret::new([0x5b; 32]).key(Suite::Aes128Sha80, 1));
    assert_eq!(key, secret.key(Suite::Aes128Sha80, 1));
}

proptest! {
    /// A packet with any one bit changed, cut anywhere, or under another key goes nowhere, and what comes after it
    /// is taken as if it had not been.
    #[test]
    fn a_wrong_tag_changes_nothing(bit in 0usize..(182 * 8), cut in 0usize..182, sequence: u16) {
        let (mut near, mut far) = ends(Suite::Aes128Sha80);
        let good = sealed(&mut near, sequence).unwrap();
        prop_assert_eq!(good.len(), 182);
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(opened(&mut far, &bad), None);
        prop_assert_eq!(opened(&mut far, &good[..cut]), None);
        let mut other = Srtp::new(&keys(Suite::Aes256Sha80).0);
        let foreign = sealed(&mut other, sequence).unwrap();
        prop_assert_eq!(opened(&mut far, &foreign), None);
        prop_assert!(opened(&mut far, &good).is_some());
    }

    /// Any bytes get an answer; so does any packet with CSRC list and extension.
    #[test]
    fn junk_is_borne(
        junk in prop::collection::vec(any::<u8>(), 0..120),
        flags: u8,
        payload in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let (mut near, mut far) = ends(Suite::Aes128Sha80);
        let _ = far.unprotect_rtp(&mut junk.clone());
        let _ = far.unprotect_rtcp(&mut junk.clone());
        let mut packet = [&[0x80 | flags & 0x3f][..], &junk, &payload].concat();
        let plain = packet.clone();
        packet.extend([0; RTP_TRAILER]);
        if let Some(length) = near.protect_rtp(&mut packet, plain.len()) {
            let mut wire = packet[..length].to_vec();
            prop_assert_eq!(far.unprotect_rtp(&mut wire), Some(plain.len()));
            prop_assert_eq!(&wire[..plain.len()], &plain[..]);
        }
    }
}
