//! The calls: each is marked wherever that kind of call can be.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::common::{PATIENCE, Server, Setup};
use crate::places::{CALLEE, CALLER, Party};
use crate::plant::Ledger;
use crate::shown;
use serde_json::json;
use sip_tests::agent::Reply;
use sip_tests::leak;
use sip_tests::message::{self, Message};
use sip_tests::phone::{CallOptions, IncomingCall, OutgoingCall, Phone, PhoneConfig};
use sip_tests::rtp::{HeaderExtras, sdes_items};
use sip_tests::sdp::LocalMedia;
use sip_tests::transcript::{Direction, Transcript};
use std::net::SocketAddr;

/// What a side's later requests are made of.
pub struct Dialog<'a> {
    pub party: &'a Party,
    pub phone: &'a Phone,
    pub server: SocketAddr,
    pub from: String,
    pub to: String,
    pub call_id: String,
    pub target: String,
    pub cseq: u32,
}

impl<'a> Dialog<'a> {
    pub fn of_caller(
        ledger: &mut Ledger,
        phone: &'a Phone,
        server: SocketAddr,
        invite: &Message,
        ok: &Message,
    ) -> Self {
        let header = |message: &Message, name: &str| message.header(name).unwrap().to_owned();
        Self {
            party: &CALLER,
            phone,
            server,
            from: Self::connected(ledger, &CALLER, invite.from_tag()),
            to: header(ok, "To"),
            call_id: invite.call_id().to_owned(),
            target: message::uri_of(ok.header("Contact").unwrap()).to_owned(),
            cseq: invite.cseq().0,
        }
    }

    pub fn of_callee(
        ledger: &mut Ledger,
        phone: &'a Phone,
        server: SocketAddr,
        invite: &Message,
        ok: &Message,
    ) -> Self {
        Self {
            party: &CALLEE,
            phone,
            server,
            from: Self::connected(ledger, &CALLEE, ok.to_tag()),
            to: invite.header("From").unwrap().to_owned(),
            call_id: invite.call_id().to_owned(),
            target: message::uri_of(invite.header("Contact").unwrap()).to_owned(),
            cseq: CALLEE.cseq,
        }
    }

    /// RFC 4916: whoever this is now, it is not who it was in the INVITE.
    pub fn connected(ledger: &mut Ledger, party: &Party, tag: Option<&str>) -> String {
        let from = ledger.text(22, party, "\"{s}\" <sip:+{f}@{h};user=phone;x={s}>");
        ledger.bytes(2, party, from.as_bytes());
        format!("{from};tag={}", tag.unwrap())
    }

    pub fn send(&mut self, ledger: &mut Ledger, method: &str, cseq: u32, body: Option<(String, Vec<u8>)>) {
        let (party, own) = (self.party, self.phone.address());
        let parameters = ledger.text(1, party, ";x={s};rn=+{f};phone-context={h}");
        let branch = ledger.text(6, party, &format!("z9hG4bK{{s}}x{method}x{cseq}"));
        let mut headers = vec![
            ("Via".to_owned(), format!("SIP/2.0/UDP {own};branch={branch};rport")),
            ("From".to_owned(), self.from.clone()),
            ("To".to_owned(), self.to.clone()),
            ("Call-ID".to_owned(), self.call_id.clone()),
            ("CSeq".to_owned(), format!("{cseq} {method}")),
            ("Max-Forwards".to_owned(), "37".to_owned()),
        ];
        ledger.bytes(9, party, format!("CSeq: {cseq}").as_bytes());
        ledger.bytes(10, party, b"Max-Forwards: 37");
        let contact =
            ledger.text(4, party, &format!("\"{{s}}\" <sip:{{n}}@{own};ob;gr={{u}};x={{s}}>;q=0.5"));
        headers.push(("Contact".to_owned(), contact));
        headers.extend(ledger.headers(party, own, true));
        headers.extend(body.iter().map(|(kind, _)| ("Content-Type".to_owned(), kind.clone())));
        let content = body.map(|(_, content)| content).unwrap_or_default();
        let start = format!("{method} {}{parameters} SIP/2.0", self.target);
        self.phone.send_raw(self.server, &message::write(&start, &headers, &content));
    }

    /// Sends a request and waits for its final response.
    pub async fn ask(
        &mut self,
        ledger: &mut Ledger,
        method: &str,
        body: Option<(String, Vec<u8>)>,
    ) -> Message {
        self.cseq += 1;
        let (cseq, call_id) = (self.cseq, self.call_id.clone());
        self.send(ledger, method, cseq, body);
        let is = |m: &Message| {
            m.call_id() == call_id && m.cseq() == (cseq, method) && m.status().is_some_and(|s| s >= 200)
        };
        self.phone.wait_received(method, PATIENCE, is).await.unwrap()
    }

    /// Everything that may come inside a dialog, but its end.
    pub async fn talk(&mut self, ledger: &mut Ledger, media: SocketAddr) {
        let party = self.party;
        let mut local = LocalMedia::new(media, ledger.sdp(party), 77);
        let mut offer = || Some(("application/sdp".to_owned(), local.offer()));
        assert_eq!(self.ask(ledger, "UPDATE", None).await.status(), Some(200));
        assert_eq!(self.ask(ledger, "UPDATE", offer()).await.status(), Some(200));
        let key = ledger.text(40, party, "Signal=5\r\nDuration=160\r\nX={s} {n}\r\n").into_bytes();
        let dtmf = Some(("application/dtmf-relay".to_owned(), key));
        assert_eq!(self.ask(ledger, "INFO", dtmf).await.status(), Some(200));
        for (index, (method, status)) in [
            ("INFO", 469),
            ("MESSAGE", 405),
            ("REFER", 405),
            ("NOTIFY", 405),
            ("PUBLISH", 405),
            ("OPTIONS", 200),
            ("SUBSCRIBE", 405),
            ("PRACK", 405),
            ("STRANGE", 501),
        ]
        .into_iter()
        .enumerate()
        {
            let body = Some(ledger.body(party, index));
            assert_eq!(self.ask(ledger, method, body).await.status(), Some(status), "{method}");
        }
        assert_eq!(self.ask(ledger, "INVITE", offer()).await.status(), Some(200));
        self.send(ledger, "ACK", self.cseq, None);
    }

    pub async fn bye(&mut self, ledger: &mut Ledger) {
        let body = Some(ledger.body(self.party, 4));
        assert_eq!(self.ask(ledger, "BYE", body).await.status(), Some(200));
    }
}

/// The server, the phones, and what was planted so far.
pub struct Scene {
    pub server: Server,
    pub transcript: Transcript,
    pub caller: Phone,
    pub callee: Phone,
    pub number: String,
    pub ledger: Ledger,
    pub calls: u32,
}

impl Scene {
    pub async fn new() -> Self {
        let mut ledger = Ledger::default();
        let transcript = Transcript::new();
        let config = |party: &Party| {
            let address = format!("{}:0", party.address).parse().unwrap();
            PhoneConfig::named(party.name()).recorded_in(&transcript).at(address)
        };
        let callee = PhoneConfig { media: ledger.media(&CALLEE), ..config(&CALLEE) };
        let (caller, callee) =
            (Phone::bind(config(&CALLER)).await.unwrap(), Phone::bind(callee).await.unwrap());
        let server = Server::with(callee.address(), Setup::default()).await;
        let parties = json!({
            "first_party": format!("+{}", CALLER.number), "second_party": format!("+{}", CALLEE.number),
            "geomatch": false,
        });
        let session = server.session(parties).await;
        let number = Server::number(&session);
        Self { server, transcript, caller, callee, number, ledger, calls: 0 }
    }

    /// An INVITE that is marked wherever an INVITE can be; what it is answered with is another question.
    pub fn invite(&mut self) -> CallOptions {
        self.calls += 1;
        let (calls, own, number) = (self.calls, self.caller.address(), &self.number);
        let ledger = &mut self.ledger;
        let mut text = |row, template: &str| ledger.text(row, &CALLER, template);
        let uri = format!(
            "sip:{number};rn=+{{f}};npdi;cic=+{{s}};phone-context={{h}}@{};user=phone;\
             tgrp={{s}};trunk-context={{h}};cause=302",
            self.server.sip
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
                    "\"{{s}}\" <sip:{{n}}@{own};ob;gr={{u}};x={{s}}>;\
                     +sip.instance=\"<urn:uuid:{{u}}>\";q=0.7;isfocus"
                ),
            )),
            branch_mark: Some(text(6, "{s}")),
            call_id: Some(text(8, &format!("{calls}-{{s}}-{{u}}@{{h}}"))),
            request_uri: Some(text(1, &uri)),
            cseq: Some(CALLER.cseq),
            max_forwards: 37,
            ..CallOptions::from("")
        };
        ledger.bytes(9, &CALLER, format!("CSeq: {}", CALLER.cseq).as_bytes());
        ledger.bytes(10, &CALLER, b"Max-Forwards: 37");
        CallOptions {
            extra_headers: ledger.headers(&CALLER, own, true),
            sdp: Some(ledger.sdp(&CALLER)),
            media: Some(ledger.media(&CALLER)),
            ..options
        }
    }

    pub async fn dial(&mut self, options: CallOptions) -> (OutgoingCall, IncomingCall) {
        let call = self.caller.call(self.server.sip, &self.number, options).await.unwrap();
        match self.callee.next_call(PATIENCE).await {
            Ok(incoming) => (call, incoming),
            Err(error) => panic!("{error}; the caller got {:?}", call.received()),
        }
    }

    pub fn reply(&mut self, status: u16, tag: &str) -> Reply {
        let own = self.callee.address();
        self.ledger.reply(&CALLEE, own, status, tag)
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
        let sdp = self.ledger.sdp(&CALLEE);
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
    let (server, caller, callee) = (scene.server.sip, scene.caller.clone(), scene.callee.clone());
    let invite = scene.sent("caller", |m| m.is("INVITE"));
    let ok = call.answered(PATIENCE).await.unwrap();
    let mut of_caller = Dialog::of_caller(&mut scene.ledger, &caller, server, &invite, &ok);
    let body = Some(scene.ledger.body(&CALLER, 8));
    of_caller.send(&mut scene.ledger, "ACK", invite.cseq().0, body);
    incoming.wait_ack(PATIENCE).await.unwrap();
    let ok = scene.sent("callee", |m| m.status() == Some(200) && m.cseq().1 == "INVITE");
    let mut of_callee = Dialog::of_callee(&mut scene.ledger, &callee, server, incoming.request(), &ok);

    for media in [call.media(), incoming.media()] {
        media.wait_packets(20, PATIENCE).await.unwrap();
    }
    of_caller.talk(&mut scene.ledger, call.media().address()).await;
    of_callee.talk(&mut scene.ledger, incoming.media().address()).await;
    scene.ledger.odd_packets(&CALLER, call.media());
    scene.ledger.odd_packets(&CALLEE, incoming.media());
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
    let path = recording.to_string_lossy().into_owned();
    let check = |bytes: &[u8], what: &str| {
        for party in [&CALLER, &CALLEE] {
            let found = leak::find(bytes, &party.marks().number(&scene.number));
            assert!(found.is_empty(), "of the {} in {what}:\n{}", party.name(), shown(&found));
        }
    };
    let below = path.strip_prefix(scene.server.folder.to_str().unwrap()).unwrap();
    check(below.as_bytes(), "the recording's path");
    let mut files = vec![];
    for file in std::fs::read_dir(&recording).unwrap() {
        let file = file.unwrap();
        let name = file.file_name().into_string().unwrap();
        check(name.as_bytes(), "a file's name");
        let bytes = std::fs::read(file.path()).unwrap();
        if name.ends_with(".mp3") {
            // Compressed sound has any short bytes by chance; a number in it would be whole.
            for party in [&CALLER, &CALLEE] {
                assert!(leak::find_plain(&bytes, &party.marks()).is_empty());
            }
        } else if name.ends_with(".wav") {
            let data = message::find(&bytes, b"data").unwrap() + 8;
            check(&bytes[..data], "a WAV header");
            for party in [&CALLER, &CALLEE] {
                assert!(leak::find_plain(&bytes, &party.marks()).is_empty());
            }
        } else {
            check(&bytes, &name);
        }
        files.push(name);
    }
    files.sort();
    assert_eq!(files, ["a-leg.wav", "b-leg.wav", "call.json", "call.mp3"]);
}

/// The descriptions come among other bodies, and the callee hangs up.
pub async fn call_with_multipart_bodies(scene: &mut Scene) {
    let mut options = scene.invite();
    // The phone's own description, as it would offer it, at an address where nobody listens.
    let local = |ledger: &mut Ledger, party: &Party| {
        let nowhere = SocketAddr::new(party.address.parse().unwrap(), 9);
        LocalMedia::new(nowhere, ledger.sdp(party), 5)
    };
    let offer = local(&mut scene.ledger, &CALLER).offer();
    options.body = Some(scene.ledger.multipart(&CALLER, &offer));
    let (call, incoming) = scene.dial(options).await;
    let answer = local(&mut scene.ledger, &CALLEE).answer(incoming.request().sdp().unwrap()).unwrap();
    let body = scene.ledger.multipart(&CALLEE, &answer);
    scene.answer(&call, &incoming, Some(body)).await;
    incoming.wait_ack(PATIENCE).await.unwrap();
    let (invite, caller) = (scene.sent("caller", |m| m.is("INVITE")), scene.caller.clone());
    let ok = call.answered(PATIENCE).await.unwrap();
    let mut of_caller = Dialog::of_caller(&mut scene.ledger, &caller, scene.server.sip, &invite, &ok);
    of_caller.send(&mut scene.ledger, "ACK", invite.cseq().0, None);
    let ok = scene.sent("callee", |m| m.status() == Some(200) && m.cseq().1 == "INVITE");
    let callee = scene.callee.clone();
    let mut of_callee =
        Dialog::of_callee(&mut scene.ledger, &callee, scene.server.sip, incoming.request(), &ok);
    of_callee.bye(&mut scene.ledger).await;
    call.wait_bye(PATIENCE).await.unwrap();
}

/// Every kind of final failure, with everything that may go with it.
pub async fn refused_calls(scene: &mut Scene) {
    let statuses =
        [300, 302, 380, 401, 404, 407, 410, 415, 480, 484, 486, 488, 500, 503, 600, 603, 604, 606, 699];
    for (index, status) in statuses.into_iter().enumerate() {
        let options = scene.invite();
        let (call, incoming) = scene.dial(options).await;
        let mut reply = scene.reply(status, "{s}-refused");
        if status < 400 {
            let forward = "\"{s}\" <sip:+{f}@{h}>;q=1.0, <tel:+{f}>;q=0.5";
            reply.contact = Some(scene.ledger.text(5, &CALLEE, forward));
        }
        reply.body = Some(scene.ledger.body(&CALLEE, index));
        incoming.respond(reply).await.unwrap();
        assert!(call.final_status(PATIENCE).await.unwrap().status().is_some_and(|status| status >= 400));
    }
}

/// A CANCEL that says more than it may, and what the callee says to that.
pub async fn cancelled_call(scene: &mut Scene) {
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
    headers.extend(scene.ledger.headers(&CALLER, own, true));
    let (kind, content) = scene.ledger.body(&CALLER, 3);
    headers.push(("Content-Type".to_owned(), kind));
    let start = format!("CANCEL {} SIP/2.0", invite.uri().unwrap());
    scene.caller.send_raw(scene.server.sip, &message::write(&start, &headers, &content));
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(487));
    incoming.wait_cancel(PATIENCE).await.unwrap();
    let mut reply = scene.reply(487, "{s}-ringing");
    reply.body = Some(scene.ledger.body(&CALLEE, 2));
    incoming.respond(reply).await.unwrap();
    incoming.wait_ack(PATIENCE).await.unwrap();
}

/// The caller's number stands where the trunk asserts it, and From tries to break out.
pub async fn escaped_caller(scene: &mut Scene) {
    let mut options = scene.invite();
    let ledger = &mut scene.ledger;
    options.from_user = ledger.text(34, &CALLER, "%0D%0AP-Asserted-Identity:%20%3Ctel:{escaped}%3E%00{s}");
    options.from_host = Some(ledger.text(34, &CALLER, "{h}?P-Asserted-Identity=%3Ctel:{n}%3E&Subject={s}"));
    options.to = Some(ledger.text(34, &CALLER, "<sip:%0d%0aX:{s}@{h}?From=%3Csip:{n}%40{h}%3E>"));
    let (call, incoming) = scene.dial(options).await;
    incoming.reject(486, None, &[], None).await.unwrap();
    assert_eq!(call.final_status(PATIENCE).await.unwrap().status(), Some(486));
}
