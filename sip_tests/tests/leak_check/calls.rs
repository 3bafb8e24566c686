//! The calls: each is marked wherever that kind of call can be.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::common::receiver::{Mood, Receiver};
use crate::common::{PATIENCE, Server, Setup};
use crate::dialog::{Dialog, outside};
use crate::party::{Party, Side};
use crate::plant::Ledger;
use crate::relay::Relay;
use serde_json::{Value, json};
use sip_tests::agent::{Reply, Transport};
use sip_tests::message::{self, Message};
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::rtp::{HeaderExtras, sdes_items};
use sip_tests::sdp::LocalMedia;
use sip_tests::transcript::{Direction, Transcript};
use std::net::SocketAddr;
use std::sync::Arc;

/// The server, the phones, and what was planted so far.
pub struct Scene {
    pub server: Server,
    pub transcript: Transcript,
    pub caller: Phone,
    pub callee: Phone,
    /// The caller, the callee.
    pub parties: [Arc<Party>; 2],
    pub number: String,
    pub session: Value,
    /// Of the session whose call the service places.
    pub placed_number: Option<String>,
    /// Of the session that a stranger opens by a PIN, and what nobody may learn of it.
    pub pin: Option<crate::further::PinSession>,
    /// Who is told of the owner's sessions, and so may know the numbers.
    pub told: Receiver,
    _relay: Option<Relay>,
    transport: Transport,
    pub ledger: Ledger,
    pub calls: u32,
}

/// The owner of the sessions, and another one who is curious.
pub const ACCOUNTS: [(&str, &str); 2] = [
    ("MATESTOWNEROWNER0001", "a-token-that-is-long-enough-for-a-test-01"),
    ("MATESTOTHEROTHER0002", "a-token-that-is-long-enough-for-a-test-02"),
];

impl Scene {
    /// Both sides as drawn from this seed, behind a carrier that reaches either.
    pub async fn new(seed: u64, is_mixed: bool) -> Self {
        Self::by(Transport::Udp, seed, is_mixed).await
    }

    /// Over TCP the callee alone is reached.
    pub async fn by(transport: Transport, seed: u64, is_mixed: bool) -> Self {
        let parties = Side::BOTH.map(|side| Arc::new(Party::drawn(side, seed, is_mixed)));
        let mut ledger = Ledger::default();
        if transport == Transport::Tcp {
            ledger.1 = ";transport=tcp";
        }
        let transcript = Transcript::new();
        let mut config = |party: &Party| {
            let address = format!("{}:0", party.address).parse().unwrap();
            let config = PhoneConfig::named(party.name()).recorded_in(&transcript).at(address);
            let (media, answers) = (ledger.media(party), ledger.answers(party, address));
            PhoneConfig { transport, media, answers, ..config }
        };
        let (caller, callee) = (config(&parties[0]), config(&parties[1]));
        let (caller, callee) = (Phone::bind(caller).await.unwrap(), Phone::bind(callee).await.unwrap());
        let http = "fetch_allow = [\"127.0.0.0/8\"]";
        let mut setup = Setup { accounts: &ACCOUNTS, numbers: 4, http, ..Setup::default() };
        let mut gateway = callee.address();
        let relay = if transport == Transport::Tcp {
            setup.gateways = vec![format!("sip:{gateway};transport=tcp")];
            None
        } else {
            let phones = [(0, caller.address()), (1, callee.address())];
            let phones = phones.map(|(side, phone)| (parties[side].number.clone(), phone));
            let relay = Relay::between(phones).await;
            gateway = relay.address;
            Some(relay)
        };
        let server = Server::with(gateway, setup).await;
        let told = Receiver::start(ACCOUNTS[0].1, |_| Mood::Take).await;
        let number = |side: usize| format!("+{}", parties[side].number);
        let body = json!({
            "first_party": number(0), "second_party": number(1), "geomatch": false,
            "callback_url": told.url, "recording_callback_url": told.url,
        });
        let session = server.session(body).await;
        let number = Server::number(&session);
        Self {
            server,
            transcript,
            caller,
            callee,
            parties,
            number,
            session,
            placed_number: None,
            pin: None,
            told,
            _relay: relay,
            transport,
            ledger,
            calls: 0,
        }
    }

    /// The service, for phones of this transport.
    pub fn sip(&self) -> SocketAddr {
        if self.transport == Transport::Tcp { self.server.sip_tcp } else { self.server.sip }
    }

    pub fn party(&self, side: Side) -> Arc<Party> {
        Arc::clone(&self.parties[side as usize])
    }

    /// An INVITE that is marked wherever an INVITE can be; what it is answered with is another question.
    pub fn invite(&mut self) -> CallOptions {
        self.calls += 1;
        let (calls, own, number, sip) = (self.calls, self.caller.address(), &self.number, self.sip());
        let party = &*self.parties[0];
        let ledger = &mut self.ledger;
        let transport = ledger.1;
        let mut text = |row, template: &str| ledger.text(row, party, template);
        let uri = format!(
            "sip:{number};rn=+{{f}};npdi;cic=+{{s}};phone-context={{h}}@{};user=phone;\
             tgrp={{s}};trunk-context={{h}};cause=302",
            sip
        );
        let options = CallOptions {
            from_user: text(2, "+{n}"),
            from_display: Some(text(2, "{s} Adler")),
            from_host: Some(text(2, "{h};isup-oli=62;verstat=TN-Validation-Passed;x={s}")),
            from_tag: Some(text(2, "{s}-tag")),
            to: Some(text(3, &format!("\"{{s}}\" <sip:{number}@{{h}};tgrp={{s}}>"))),
            contact: Some(text(
                4,
                &format!(
                    "\"{{s}}\" <sip:{{n}}@{own}{transport};ob;gr={{u}};x={{s}}>;\
                     +sip.instance=\"<urn:uuid:{{u}}>\";q=0.7;isfocus"
                ),
            )),
            branch_mark: Some(text(6, "{s}")),
            call_id: Some(text(8, &format!("{calls}-{{s}}-{{u}}@{{h}}"))),
            request_uri: Some(text(1, &uri)),
            cseq: Some(party.cseq),
            max_forwards: 37,
            ..CallOptions::from("")
        };
        ledger.bytes(9, party, format!("CSeq: {}", party.cseq).as_bytes());
        ledger.bytes(10, party, b"Max-Forwards: 37");
        CallOptions {
            extra_headers: ledger.headers(party, own, true),
            sdp: Some(ledger.sdp(party)),
            media: Some(ledger.media(party)),
            ..options
        }
    }

    pub async fn dial(&mut self, options: CallOptions) -> (OutgoingCall, IncomingCall) {
        let call = self.caller.call(self.sip(), &self.number, options).await.unwrap();
        match self.callee.next_call(PATIENCE).await {
            Ok(incoming) => (call, incoming),
            Err(error) => panic!("{error}; the caller got {:?}", call.received()),
        }
    }

    pub fn reply(&mut self, status: u16, tag: &str) -> Reply {
        let own = self.callee.address();
        self.ledger.reply(&self.parties[1], own, status, tag)
    }

    /// The INVITE that `call` sent, and what its phone knows of the dialog.
    pub fn sent(&self, phone: &str, is: impl Fn(&Message) -> bool) -> Message {
        let entries = self.transcript.entries().into_iter().rev();
        let sent = entries.filter(|e| &*e.phone == phone && e.direction == Direction::Sent);
        sent.filter_map(|e| Message::read(&e.bytes)).find(|m| is(m)).unwrap()
    }

    /// Provisional responses of several forks, and the answer of one of them.
    pub async fn answer(
        &mut self,
        call: &OutgoingCall,
        incoming: &IncomingCall,
        body: Option<(String, Vec<u8>)>,
    ) {
        for (status, tag) in [(100, "{s}-none"), (180, "{s}-one"), (181, "{s}-two"), (183, "{s}-three")] {
            let reply = self.reply(status, tag);
            incoming.respond(reply).await.unwrap();
        }
        let sdp = self.ledger.sdp(&self.parties[1]);
        let early = self.reply(183, "{s}-one");
        incoming.respond_with_sdp(sdp.clone(), early).await.unwrap();
        call.wait_for(|status| status == 183, PATIENCE).await.unwrap();
        // The phone itself would send it where its own Record-Route leads.
        self.caller.lose_acks(u32::MAX).await.unwrap();
        let mut ok = self.reply(200, "{s}-one");
        ok.body = body;
        incoming.respond_with_sdp(sdp, ok).await.unwrap();
        call.answered(PATIENCE).await.unwrap();
    }
}

/// INVITE, forks, answer, media, everything inside the dialog from both sides, the caller's BYE; recorded.
pub async fn answered_call(scene: &mut Scene) {
    let options = scene.invite();
    let (call, incoming) = scene.dial(options).await;
    scene.answer(&call, &incoming, None).await;
    let (server, caller, callee) = (scene.sip(), scene.caller.clone(), scene.callee.clone());
    let (calling, called) = (scene.party(Side::Caller), scene.party(Side::Callee));
    let invite = scene.sent("caller", |m| m.is("INVITE"));
    let ok = call.answered(PATIENCE).await.unwrap();
    let mut of_caller = Dialog::of_caller(&mut scene.ledger, (&calling, &caller), server, &invite, &ok);
    let body = Some(scene.ledger.body(&calling, 8));
    of_caller.send(&mut scene.ledger, "ACK", invite.cseq().0, body);
    incoming.wait_ack(PATIENCE).await.unwrap();
    let ok = scene.sent("callee", |m| m.status() == Some(200) && m.cseq().1 == "INVITE");
    let mut of_callee =
        Dialog::of_callee(&mut scene.ledger, (&called, &callee), server, incoming.request(), &ok);

    for media in [call.media(), incoming.media()] {
        media.wait_packets(20, PATIENCE).await.unwrap();
    }
    of_caller.talk(&mut scene.ledger, call.media().address()).await;
    of_callee.talk(&mut scene.ledger, incoming.media().address()).await;
    let number = scene.number.clone();
    outside(&mut scene.ledger, &calling, &caller, server, &number).await;
    outside(&mut scene.ledger, &called, &callee, server, &number).await;
    scene.ledger.odd_packets(&calling, call.media());
    scene.ledger.odd_packets(&called, incoming.media());
    // A report of ours on each leg, after those of the phones.
    for media in [call.media(), incoming.media()] {
        let heard = media.received_count();
        media.wait(PATIENCE, |media| !media.received_rtcp().is_empty()).await.unwrap();
        media.wait_packets(heard + 20, PATIENCE).await.unwrap();
    }
    call.media().stop();
    of_caller.bye(&mut scene.ledger).await;
    incoming.wait_bye(PATIENCE).await.unwrap();
    incoming.media().stop();

    for (media, far) in [(call.media(), incoming.media()), (incoming.media(), call.media())] {
        let far_ssrc = far.ssrc();
        for received in media.received_packets() {
            let packet = received.packet;
            assert_eq!(packet.extras, HeaderExtras::default(), "row 43");
            assert_ne!(packet.ssrc, far_ssrc, "row 43");
            let theirs = packet.timestamp.wrapping_sub(0x6364_6566) / 160;
            let same = packet.sequence.wrapping_sub(0x6162) == theirs as u16;
            assert!(!(same && theirs < 3000), "row 43: the numbering is ours");
        }
        for (_, wire) in media.received_rtcp() {
            for (kind, text) in sdes_items(&wire) {
                assert_eq!(kind, 1, "row 44: an SDES item beside CNAME: {text}");
            }
        }
    }
    let recording = scene.server.recording(&[]).await;
    scene.server.delivered(&recording).await;
    let mut files = vec![];
    for file in std::fs::read_dir(&recording).unwrap() {
        files.push(file.unwrap().file_name().into_string().unwrap());
    }
    files.sort();
    assert_eq!(files, ["a-leg.wav", "b-leg.wav", "call.json", "call.mp3"]);
}

/// Three branches of a fork ring, and both sides talk before any of them has answered.
pub async fn early_dialogs(scene: &mut Scene) {
    let options = scene.invite();
    let (call, incoming) = scene.dial(options).await;
    for tag in ["{s}-one", "{s}-two", "{s}-three"] {
        let reply = scene.reply(180, tag);
        incoming.respond(reply).await.unwrap();
    }
    let ringing = call.ringing(PATIENCE).await.unwrap();
    let (server, caller, callee) = (scene.sip(), scene.caller.clone(), scene.callee.clone());
    let (calling, called) = (scene.party(Side::Caller), scene.party(Side::Callee));
    let invite = scene.sent("caller", |m| m.is("INVITE"));
    let mut of_caller = Dialog::of_caller(&mut scene.ledger, (&calling, &caller), server, &invite, &ringing);
    of_caller.talk_early(&mut scene.ledger).await;
    let sent = scene.sent("callee", |m| m.status() == Some(180));
    let mut of_callee =
        Dialog::of_callee(&mut scene.ledger, (&called, &callee), server, incoming.request(), &sent);
    of_callee.talk_early(&mut scene.ledger).await;
    let mut busy = scene.reply(486, "{s}-two");
    busy.body = Some(scene.ledger.body(&called, 1));
    incoming.respond(busy).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
}

/// The descriptions come among other bodies, and the callee hangs up.
pub async fn call_with_multipart_bodies(scene: &mut Scene) {
    let mut options = scene.invite();
    let (calling, called) = (scene.party(Side::Caller), scene.party(Side::Callee));
    // The phone's own description, as it would offer it, at an address where nobody listens.
    let local = |ledger: &mut Ledger, party: &Party| {
        let nowhere = SocketAddr::new(party.address.parse().unwrap(), 9);
        LocalMedia::new(nowhere, ledger.sdp(party), 5)
    };
    let offer = local(&mut scene.ledger, &calling).offer();
    options.body = Some(scene.ledger.multipart(&calling, &offer));
    let (call, incoming) = scene.dial(options).await;
    let answer = local(&mut scene.ledger, &called).answer(incoming.request().sdp().unwrap()).unwrap();
    let body = scene.ledger.multipart(&called, &answer);
    scene.answer(&call, &incoming, Some(body)).await;
    incoming.wait_ack(PATIENCE).await.unwrap();
    let (invite, caller) = (scene.sent("caller", |m| m.is("INVITE")), scene.caller.clone());
    let sip = scene.sip();
    let ok = call.answered(PATIENCE).await.unwrap();
    let mut of_caller = Dialog::of_caller(&mut scene.ledger, (&calling, &caller), sip, &invite, &ok);
    of_caller.send(&mut scene.ledger, "ACK", invite.cseq().0, None);
    let ok = scene.sent("callee", |m| m.status() == Some(200) && m.cseq().1 == "INVITE");
    let callee = scene.callee.clone();
    let mut of_callee =
        Dialog::of_callee(&mut scene.ledger, (&called, &callee), sip, incoming.request(), &ok);
    of_callee.bye(&mut scene.ledger).await;
    call.wait_bye(PATIENCE).await.unwrap();
}

/// A call that the API places: both sides are called, and neither has said anything before.
pub async fn placed_call(scene: &mut Scene) {
    let number = |side: usize| format!("+{}", scene.parties[side].number);
    let body = json!({
        "first_party": number(0), "second_party": number(1), "geomatch": false,
        "initiate_call_to_first_party": true,
    });
    let session = scene.server.session(body).await;
    scene.placed_number = Some(Server::number(&session));
    let mut calls = vec![];
    for side in Side::BOTH {
        let (party, phone) = (scene.party(side), [&scene.caller, &scene.callee][side as usize].clone());
        let incoming = phone.next_call(PATIENCE).await.unwrap();
        for (status, tag) in [(180, "{s}-four"), (183, "{s}-five")] {
            let reply = scene.ledger.reply(&party, phone.address(), status, tag);
            incoming.respond(reply).await.unwrap();
        }
        let ok = scene.ledger.reply(&party, phone.address(), 200, "{s}-four");
        let sdp = scene.ledger.sdp(&party);
        incoming.respond_with_sdp(sdp, ok).await.unwrap();
        incoming.wait_ack(PATIENCE).await.unwrap();
        calls.push(incoming);
    }
    for call in &calls {
        call.media().wait_packets(20, PATIENCE).await.unwrap();
    }
    let (called, own) = (scene.party(Side::Callee), scene.callee.address());
    let headers = scene.ledger.headers(&called, own, true);
    calls[1].bye_with(&headers).await.unwrap();
    calls[0].wait_bye(PATIENCE).await.unwrap();
}

/// Every final failure that is given, with everything that may go with it.
pub async fn refused_calls(scene: &mut Scene, statuses: &[u16]) {
    let party = scene.party(Side::Callee);
    for (index, status) in statuses.iter().copied().enumerate() {
        let options = scene.invite();
        let (call, incoming) = scene.dial(options).await;
        let mut reply = scene.reply(status, "{s}-refused");
        if status < 400 {
            let forward = "\"{s}\" <sip:+{f}@{h}>;q=1.0, <tel:+{f}>;q=0.5";
            reply.contact = Some(scene.ledger.text(5, &party, forward));
        }
        reply.body = Some(scene.ledger.body(&party, index));
        incoming.respond(reply).await.unwrap();
        assert!(call.final_status(PATIENCE).await.unwrap().status().is_some_and(|status| status >= 400));
    }
}

/// A CANCEL that says more than it may, and what the callee says to that.
pub async fn cancelled_call(scene: &mut Scene) {
    let (calling, called) = (scene.party(Side::Caller), scene.party(Side::Callee));
    let options = scene.invite();
    let (call, incoming) = scene.dial(options).await;
    let ringing = scene.reply(180, "{s}-ringing");
    incoming.respond(ringing).await.unwrap();
    call.ringing(PATIENCE).await.unwrap();
    incoming.keep_when_cancelled().await.unwrap();
    let invite = scene.sent("caller", |m| m.is("INVITE"));
    let header = |name: &str| (name.to_owned(), invite.header(name).unwrap().to_owned());
    let mut headers = vec![header("Via"), header("From"), header("To"), header("Call-ID")];
    headers.push(("CSeq".to_owned(), format!("{} CANCEL", invite.cseq().0)));
    headers.push(("Max-Forwards".to_owned(), "37".to_owned()));
    let own = scene.caller.address();
    headers.extend(scene.ledger.headers(&calling, own, true));
    let (kind, content) = scene.ledger.body(&calling, 3);
    headers.push(("Content-Type".to_owned(), kind));
    let start = format!("CANCEL {} SIP/2.0", invite.uri().unwrap());
    scene.caller.send_raw(scene.sip(), &message::write(&start, &headers, &content));
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
    incoming.wait_cancel(PATIENCE).await.unwrap();
    let mut reply = scene.reply(487, "{s}-ringing");
    reply.body = Some(scene.ledger.body(&called, 2));
    incoming.respond(reply).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
}

/// The caller's number stands where the trunk asserts it, and From tries to break out.
pub async fn escaped_caller(scene: &mut Scene) {
    let party = scene.party(Side::Caller);
    let mut options = scene.invite();
    let ledger = &mut scene.ledger;
    options.from_user = ledger.text(34, &party, "%0D%0AP-Asserted-Identity:%20%3Ctel:{escaped}%3E%00{s}");
    options.from_host = Some(ledger.text(34, &party, "{h}?P-Asserted-Identity=%3Ctel:{n}%3E&Subject={s}"));
    options.to = Some(ledger.text(34, &party, "<sip:%0d%0aX:{s}@{h}?From=%3Csip:{n}%40{h}%3E>"));
    let (call, incoming) = scene.dial(options).await;
    incoming.reject(486, None, &[], None).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
}
