//! Requests inside a dialog, in one that is not confirmed yet, and outside any: all marked, from either side.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::common::PATIENCE;
use crate::party::Party;
use crate::plant::Ledger;
use sip_tests::message::{self, Message};
use sip_tests::phone::Phone;
use sip_tests::sdp::LocalMedia;
use std::net::SocketAddr;

/// What a stranger to the dialog may send; ACK has no answer.
#[rustfmt::skip]
pub const OUTSIDE: [&str; 14] = [
    "OPTIONS", "MESSAGE", "SUBSCRIBE", "NOTIFY", "PUBLISH", "REGISTER", "INFO", "REFER", "UPDATE", "PRACK", "BYE",
    "CANCEL", "STRANGE", "ACK",
];

/// What either side sends before the answer.
pub const EARLY: [&str; 8] =
    ["UPDATE", "PRACK", "INFO", "MESSAGE", "REFER", "NOTIFY", "OPTIONS", "SUBSCRIBE"];

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
        (party, phone): (&'a Party, &'a Phone),
        server: SocketAddr,
        invite: &Message,
        ok: &Message,
    ) -> Self {
        let header = |message: &Message, name: &str| message.header(name).unwrap().to_owned();
        Self {
            party,
            phone,
            server,
            from: Self::connected(ledger, party, invite.from_tag()),
            to: header(ok, "To"),
            call_id: invite.call_id().to_owned(),
            target: message::uri_of(ok.header("Contact").unwrap()).to_owned(),
            cseq: invite.cseq().0,
        }
    }

    pub fn of_callee(
        ledger: &mut Ledger,
        (party, phone): (&'a Party, &'a Phone),
        server: SocketAddr,
        invite: &Message,
        ok: &Message,
    ) -> Self {
        Self {
            party,
            phone,
            server,
            from: Self::connected(ledger, party, ok.to_tag()),
            to: invite.header("From").unwrap().to_owned(),
            call_id: invite.call_id().to_owned(),
            target: message::uri_of(invite.header("Contact").unwrap()).to_owned(),
            cseq: party.cseq,
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
        let (transport, parameter) = (if ledger.1.is_empty() { "UDP" } else { "TCP" }, ledger.1);
        let mut headers = vec![
            ("Via".to_owned(), format!("SIP/2.0/{transport} {own};branch={branch};rport")),
            ("From".to_owned(), self.from.clone()),
            ("To".to_owned(), self.to.clone()),
            ("Call-ID".to_owned(), self.call_id.clone()),
            ("CSeq".to_owned(), format!("{cseq} {method}")),
            ("Max-Forwards".to_owned(), "37".to_owned()),
        ];
        ledger.bytes(9, party, format!("CSeq: {cseq}").as_bytes());
        ledger.bytes(10, party, b"Max-Forwards: 37");
        let contact = ledger.text(
            4,
            party,
            &format!("\"{{s}}\" <sip:{{n}}@{own}{parameter};ob;gr={{u}};x={{s}}>;q=0.5"),
        );
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
            ("PRACK", 481),
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

    /// Requests of a dialog that nobody has confirmed; whatever they are answered.
    pub async fn talk_early(&mut self, ledger: &mut Ledger) {
        for (index, method) in EARLY.into_iter().enumerate() {
            let body = Some(ledger.body(self.party, index));
            self.ask(ledger, method, body).await;
        }
    }

    pub async fn bye(&mut self, ledger: &mut Ledger) {
        let body = Some(ledger.body(self.party, 4));
        assert_eq!(self.ask(ledger, "BYE", body).await.status(), Some(200));
    }
}

/// Every method outside a dialog, without a To tag and with one that nobody gave out.
pub async fn outside(ledger: &mut Ledger, party: &Party, phone: &Phone, server: SocketAddr, number: &str) {
    for (index, method) in OUTSIDE.into_iter().enumerate() {
        for tag in ["", ";tag={s}-unknown"] {
            let address = ledger.text(2, party, "\"{s}\" <sip:+{n}@{h}>;x={s}");
            let to = ledger.text(3, party, &format!("\"{{s}}\" <sip:{number}@{{h}};x={{s}}>{tag}"));
            let call_id = ledger.text(8, party, &format!("{index}{}-{{s}}-{{u}}@{{h}}", tag.len()));
            let from = format!("{address};tag={}", ledger.text(2, party, "{s}-outside"));
            let cseq = party.cseq + u32::try_from(index).unwrap();
            let target = format!("sip:{number}@{server}");
            let mut dialog = Dialog { party, phone, server, from, to, call_id, target, cseq };
            let body = Some(ledger.body(party, index));
            if method == "ACK" {
                dialog.send(ledger, method, cseq, body);
            } else {
                dialog.ask(ledger, method, body).await;
            }
        }
    }
}
