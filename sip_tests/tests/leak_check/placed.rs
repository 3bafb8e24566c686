//! The same for a call that the service places itself: both parties answer it, each marked wherever an answer and
//! later requests can be. One phone stands for the carrier, so what each leg received is told apart afterwards.

use crate::calls::Dialog;
use crate::common::{PATIENCE, Server, Setup};
use crate::places::{CALLEE, CALLER, Party};
use crate::plant::Ledger;
use crate::{assert_ours, shown, would_be_found};
use serde_json::json;
use sip_tests::message::{self, Message};
use sip_tests::phone::{IncomingCall, Phone, PhoneConfig};
use sip_tests::transcript::{Direction, Entry, Kind, Transcript};
use std::sync::Arc;

/// Rings in several places, has early media, and is answered.
async fn answer(ledger: &mut Ledger, party: &Party, phone: &Phone, incoming: &IncomingCall) {
    let own = phone.address();
    for (status, tag) in [(180, "{s}-one"), (181, "{s}-two")] {
        let reply = ledger.reply(party, own, status, tag);
        incoming.respond(reply).await.unwrap();
    }
    let sdp = ledger.sdp(party);
    for status in [183, 200] {
        let reply = ledger.reply(party, own, status, "{s}-one");
        incoming.respond_with_sdp(sdp.clone(), reply).await.unwrap();
    }
    incoming.wait_ack(PATIENCE).await.unwrap();
}

/// What the phone says later in that leg's dialog.
fn dialog<'a>(
    ledger: &mut Ledger,
    party: &'static Party,
    phone: &'a Phone,
    server: &Server,
    incoming: &IncomingCall,
) -> Dialog<'a> {
    let invite = incoming.request();
    let sent = phone.transcript().entries();
    let ok = sent.iter().filter(|entry| entry.direction == Direction::Sent).find_map(|entry| {
        let message = Message::read(&entry.bytes)?;
        (message.status() == Some(200) && message.call_id() == invite.call_id()).then_some(message)
    });
    Dialog {
        party,
        phone,
        server: server.sip,
        from: Dialog::connected(ledger, party, ok.unwrap().to_tag()),
        to: invite.header("From").unwrap().to_owned(),
        call_id: invite.call_id().to_owned(),
        target: message::uri_of(invite.header("Contact").unwrap()).to_owned(),
        cseq: party.cseq,
    }
}

/// What one leg received: its messages by Call-ID, its packets by the port that its INVITE names.
fn received(transcript: &Transcript, invite: &Message) -> Transcript {
    let sdp = String::from_utf8_lossy(invite.body()).into_owned();
    let audio = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")).unwrap();
    let port: u16 = audio.split(' ').next().unwrap().parse().unwrap();
    let is_of_leg = |entry: &Entry| match entry.kind {
        Kind::Sip => Message::read(&entry.bytes).is_some_and(|m| m.call_id() == invite.call_id()),
        Kind::Rtp | Kind::Rtcp => [port, port + 1].contains(&entry.peer.port()),
    };
    let leg = Transcript::new();
    for entry in transcript.received_by("carrier").into_iter().filter(is_of_leg) {
        leg.add(&Arc::from("leg"), Direction::Received, entry.kind, entry.peer, &entry.bytes);
    }
    leg
}

/// What names a leg to its phone: chance alone decides it, on each leg anew.
fn names(invite: &Message) -> Vec<String> {
    let contact = message::user_of(message::uri_of(invite.header("Contact").unwrap())).unwrap();
    [Some(invite.call_id()), invite.from_tag(), invite.branch(), Some(contact)]
        .map(|name| name.unwrap().to_owned())
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_party_reaches_the_other_in_a_call_that_the_service_places() {
    let mut ledger = Ledger::default();
    let transcript = Transcript::new();
    let config = PhoneConfig::named("carrier").recorded_in(&transcript);
    // Both legs send what is of the second party alone: neither may receive any of it.
    let carrier = Phone::bind(PhoneConfig { media: ledger.media(&CALLEE), ..config }).await.unwrap();
    let server = Server::with(carrier.address(), Setup::default()).await;
    let parties = json!({
        "first_party": format!("+{}", CALLER.number), "second_party": format!("+{}", CALLEE.number),
        "geomatch": false, "initiate_call_to_first_party": true,
    });
    let number = Server::number(&server.session(parties).await);

    let first = carrier.next_call(PATIENCE).await.unwrap();
    answer(&mut ledger, &CALLER, &carrier, &first).await;
    let second = carrier.next_call(PATIENCE).await.unwrap();
    answer(&mut ledger, &CALLEE, &carrier, &second).await;
    for media in [first.media(), second.media()] {
        media.wait_packets(20, PATIENCE).await.unwrap();
    }
    let mut of_first = dialog(&mut ledger, &CALLER, &carrier, &server, &first);
    let mut of_second = dialog(&mut ledger, &CALLEE, &carrier, &server, &second);
    of_first.talk(&mut ledger, first.media().address()).await;
    of_second.talk(&mut ledger, second.media().address()).await;
    ledger.odd_packets(&CALLEE, second.media());
    for media in [first.media(), second.media()] {
        let heard = media.received_count();
        media.wait(PATIENCE, |media| !media.received_rtcp().is_empty()).await.unwrap();
        media.wait_packets(heard + 20, PATIENCE).await.unwrap();
    }
    of_first.bye(&mut ledger).await;
    second.wait_bye(PATIENCE).await.unwrap();
    server.settled().await;

    let sent: Vec<_> =
        transcript.entries().into_iter().filter(|entry| entry.direction == Direction::Sent).collect();
    // Both parties speak from the one phone's address, which is neither's.
    for planting in ledger.0.iter().filter(|planting| !planting.needle.starts_with(b"c=IN IP4 127.")) {
        let found = sent.iter().any(|entry| message::find(&entry.bytes, &planting.needle).is_some());
        let text = String::from_utf8_lossy(&planting.needle);
        assert!(found, "row {} was never sent: {text}", planting.row);
        assert!(planting.row == 10 || would_be_found(planting), "row {} has no mark: {text}", planting.row);
    }
    let rows = |party: &Party| {
        let of_party = ledger.0.iter().filter(|planting| planting.side == party.side);
        of_party.map(|planting| planting.row).collect::<std::collections::BTreeSet<u8>>().len()
    };
    assert!(rows(&CALLER) >= 35 && rows(&CALLEE) >= 35, "{} and {} rows", rows(&CALLER), rows(&CALLEE));

    let legs = [(&first, &second, &CALLEE), (&second, &first, &CALLER)];
    for (own, other, party) in legs {
        let leg = received(&transcript, own.request());
        let found = leg.leaks_to("leg", &party.marks());
        assert!(found.is_empty(), "of the {}:\n{}", party.name(), shown(&found));
        assert_ours(&leg, "leg");
        let entries = leg.received_by("leg");
        for kind in [Kind::Sip, Kind::Rtp, Kind::Rtcp] {
            let of_kind: Vec<_> = entries.iter().filter(|entry| entry.kind == kind).collect();
            assert!(!of_kind.is_empty(), "{kind:?}");
            let foreign = of_kind.iter().any(|entry| {
                kind != Kind::Sip && !sip_tests::leak::find(&entry.bytes, &CALLEE.marks()).is_empty()
            });
            assert!(!foreign, "{kind:?}");
        }
        for name in names(other.request()) {
            let found = entries.iter().any(|entry| message::find(&entry.bytes, name.as_bytes()).is_some());
            assert!(!found, "{name} names the other leg");
        }
        let from = own.request().header("From").unwrap();
        assert!(from.starts_with(&format!("<sip:{number}@127.0.0.1;user=phone>;tag=")), "{from}");
        assert_eq!(own.request().header("Max-Forwards"), Some("70"), "row 10");
    }
}
