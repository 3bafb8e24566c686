use super::*;
use crate::sip::message::Message;
use crate::trunk::Country;
use bytes::Bytes;

fn trunk(caller_from: &[CallerFrom]) -> Trunk {
    Trunk {
        caller_from: caller_from.to_vec(),
        default_country: Country::parse("US"),
        ..Trunk::named("carrier")
    }
}

fn invite(uri: &str, from: &str, to: &str, headers: &str) -> Request {
    let text = format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: {from};tag=1\r\nTo: {to}\r\n\
         Call-ID: c\r\nCSeq: 7 INVITE\r\n{headers}Content-Length: 0\r\n\r\n"
    );
    let Ok(Message::Request(request)) = Message::parse(Bytes::from(text)) else { panic!("{from} {headers}") };
    request
}

const NOBODY: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";
const FROM: &str = "<sip:+12025550142@h>";

#[test]
fn rfc3325_9_1_the_asserted_identity_may_come_twice_and_in_either_form() {
    let table = [
        ("P-Asserted-Identity: <sip:+12025550143@h;user=phone>\r\n", Some("12025550143")),
        ("P-Asserted-Identity: \"A, B\" <sip:+1-202-555-0143@h>\r\n", Some("12025550143")),
        ("P-Asserted-Identity: tel:+12025550143\r\n", Some("12025550143")),
        ("P-Asserted-Identity: <tel:+1-202-555-0143;verstat=TN-Validation-Passed>\r\n", Some("12025550143")),
        ("P-Asserted-Identity: <tel:555-0143;phone-context=+1202>\r\n", Some("12025550143")),
        ("P-Asserted-Identity: <sip:2025550143;phone-context=+1@h;user=phone>\r\n", Some("12025550143")),
        ("P-Asserted-Identity: <sip:(202)555-0143@h>\r\n", Some("12025550143")),
        ("P-Asserted-Identity: <sip:desk@h>, <tel:+12025550143>\r\n", Some("12025550143")),
        (
            "P-Asserted-Identity: <sip:desk@h>\r\nP-Asserted-Identity: <tel:+12025550143>\r\n",
            Some("12025550143"),
        ),
        ("P-Asserted-Identity: <sip:a@h>, <sip:b@h>, <sip:c@h>, <sip:d@h>, <tel:+12025550143>\r\n", None),
        ("P-Asserted-Identity: <sip:+12025550143@anonymous.invalid>\r\n", None),
        ("P-Asserted-Identity: <sip:restricted@h>\r\n", None),
        ("P-Asserted-Identity: \r\n", None),
        ("", None),
    ];
    let trunk = trunk(&[CallerFrom::PAssertedIdentity, CallerFrom::From]);
    for (headers, expected) in table {
        let found = caller(&invite("sip:+12025550100@h", NOBODY, "<sip:b@h>", headers), &trunk);
        assert_eq!(found.as_ref().map(E164::digits), expected, "{headers}");
    }
}

#[test]
fn a_caller_who_is_not_named_is_a_stranger() {
    let table = [
        (FROM, "", Some("12025550142")),
        ("\"Anonymous\" <sip:+12025550142@h>", "", Some("12025550142")),
        (NOBODY, "", None),
        ("<sip:Anonymous@h>", "", None),
        ("<sip:Restricted@h>", "", None),
        ("<sip:unknown@h>", "", None),
        ("<sip:unavailable@unknown.invalid>", "", None),
        ("<sip:+12025550142@Anonymous.Invalid>", "", None),
        ("<sip:h>", "", None),
        (FROM, "Privacy: id\r\n", None),
        (FROM, "Privacy: user;critical\r\n", None),
        (FROM, "privacy: session; ID\r\n", None),
        (FROM, "Privacy: none\r\n", Some("12025550142")),
        (FROM, "Privacy: history\r\n", Some("12025550142")),
    ];
    let trunk = trunk(&[CallerFrom::PAssertedIdentity, CallerFrom::From]);
    for (from, headers, expected) in table {
        let found = caller(&invite("sip:+12025550100@h", from, "<sip:b@h>", headers), &trunk);
        assert_eq!(found.as_ref().map(E164::digits), expected, "{from} {headers}");
    }
    let withheld = "Privacy: id\r\nP-Asserted-Identity: <sip:+12025550143@h>\r\n";
    let found = caller(&invite("sip:+12025550100@h", NOBODY, "<sip:b@h>", withheld), &trunk);
    assert_eq!(
        found.as_ref().map(E164::digits),
        Some("12025550143"),
        "RFC 3325 §7: told to us, and to nobody else"
    );
}

#[test]
fn only_the_places_that_the_trunk_names_are_read_and_in_its_order() {
    use CallerFrom::{From, PAssertedIdentity, RemotePartyId};
    let all = "P-Asserted-Identity: <sip:+12025550143@h>\r\n\
               Remote-Party-ID: <sip:+12025550100@h>;party=called, \"N\" <sip:+12025550144@h>;party=calling;privacy=off\r\n";
    let table: [(&[CallerFrom], &str); 5] = [
        (&[From], "12025550142"),
        (&[PAssertedIdentity, From], "12025550143"),
        (&[RemotePartyId, PAssertedIdentity], "12025550144"),
        (&[From, PAssertedIdentity], "12025550142"),
        (&[PAssertedIdentity, RemotePartyId, From], "12025550143"),
    ];
    for (places, expected) in table {
        let found = caller(&invite("sip:+12025550100@h", FROM, "<sip:b@h>", all), &trunk(places));
        assert_eq!(found.as_ref().map(E164::digits), Some(expected), "{places:?}");
    }
}

#[test]
fn the_dialled_number_is_the_request_uris_or_what_it_was_before_our_contact() {
    let plain = trunk(&[CallerFrom::From]);
    let registered = Trunk { register: true, ..plain.clone() };
    let ours = format!("sip:{}@192.0.2.1:5060", registered.registered_user());
    let called = "P-Called-Party-ID: <sip:+12025550101@h>\r\n";
    let table = [
        (&plain, "sip:+12025550100@h", "<sip:+12025550109@h>", "", Some("+12025550100")),
        (&plain, "tel:+1-202-555-0100", "<sip:b@h>", "", Some("+12025550100")),
        (&plain, "sip:2025550100@h;user=phone", "<sip:b@h>", "", Some("+12025550100")),
        (&plain, &ours, "<sip:+12025550109@h>", called, None),
        (&registered, &ours, "<sip:+12025550109@h>", "", Some("+12025550109")),
        (&registered, &ours, "<sip:+12025550109@h>", called, Some("+12025550101")),
        (&registered, "sip:+12025550100@h", "<sip:+12025550109@h>", called, Some("+12025550100")),
        (&registered, "sip:other@h", "<sip:+12025550109@h>", "", None),
    ];
    for (trunk, uri, to, headers, expected) in table {
        let found = dialled(&invite(uri, FROM, to, headers), trunk).map(|did| did.to_string());
        assert_eq!(found.as_deref(), expected, "{uri} {to} {headers}");
    }
}
