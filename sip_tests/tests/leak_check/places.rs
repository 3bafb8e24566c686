//! Where something of a party can stand: the rows of the leak catalogue, and the templates of what is put
//! there.

// Parts of one test.
#![allow(unreachable_pub)]

use crate::common::base64;
use sip_tests::leak::Marks;

/// The rows of the catalogue.
#[rustfmt::skip]
pub const ROWS: [&str; 44] = [
    "Request-URI",
    "From",
    "To",
    "Contact",
    "Contact in 3xx",
    "Via",
    "Route, Record-Route, Path, Service-Route",
    "Call-ID",
    "CSeq, RSeq, RAck",
    "Max-Forwards",
    "Date, Timestamp",
    "P-Asserted-Identity",
    "P-Preferred-Identity",
    "Remote-Party-ID",
    "Privacy",
    "Diversion",
    "History-Info",
    "P-Called-Party-ID and its kin",
    "charging headers",
    "access network headers",
    "Identity",
    "connected identity",
    "Reply-To, Call-Info, Alert-Info, Error-Info",
    "free text and products",
    "Refer and Replaces headers",
    "User-to-User and its kin",
    "Session-ID",
    "capabilities",
    "Warning, Reason, Retry-After",
    "reason phrase",
    "authentication",
    "private headers",
    "compact, folded, spaced and repeated headers",
    "embedded headers and escapes",
    "SDP o= s= i= u= e= p= z= k=",
    "SDP addresses, ICE, keys",
    "SDP attributes",
    "SDP payload types and further media",
    "MIME bodies",
    "bodies where none is expected",
    "Content-ID, Content-Location, boundary",
    "RTP addresses",
    "RTP header",
    "RTCP",
];

/// Rows that one side cannot plant.
pub const ONE_WAY: &[(u8, Side, &str)] = &[
    (5, Side::Caller, "a caller sends no 3xx"),
    (8, Side::Callee, "the Call-ID of that leg is ours"),
    (30, Side::Caller, "a caller answers nothing but our BYE"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Caller,
    Callee,
}

/// What is true of one side and must not reach the other.
pub struct Party {
    pub side: Side,
    /// Without `+`.
    pub number: &'static str,
    /// Another number of the same party, to which it forwards.
    pub forward: &'static str,
    /// In every name, host, tag and id of this side, with the row behind it.
    pub stem: &'static str,
    pub uuid: &'static str,
    /// Inside its network.
    pub lan: &'static str,
    /// What it really speaks from.
    pub address: &'static str,
    /// First CSeq, RSeq.
    pub cseq: u32,
    pub rseq: u32,
    pub date: &'static str,
    pub timestamp: &'static str,
}

pub const CALLER: Party = Party {
    side: Side::Caller,
    number: "4915123456789",
    forward: "493098765432",
    stem: "qzawanda",
    uuid: "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
    lan: "10.11.12.13",
    address: "127.0.0.111",
    cseq: 1_934_567_801,
    rseq: 1_834_567_892,
    date: "Sat, 13 Nov 2010 23:29:00 GMT",
    timestamp: "54321.98765",
};

pub const CALLEE: Party = Party {
    side: Side::Callee,
    number: "33612345678",
    forward: "33198765432",
    stem: "zqoskarx",
    uuid: "0e7b5a9c-1d3f-4b68-8a2c-9f0d6e4c3b21",
    lan: "10.21.22.23",
    address: "127.0.0.112",
    cseq: 1_734_567_801,
    rseq: 1_634_567_894,
    date: "Mon, 19 Dec 2011 22:18:00 GMT",
    timestamp: "65432.87659",
};

impl Party {
    pub fn name(&self) -> &'static str {
        match self.side {
            Side::Caller => "caller",
            Side::Callee => "callee",
        }
    }

    pub fn marks(&self) -> Marks {
        Marks::default()
            .number(self.number)
            .number(self.forward)
            .name(self.stem)
            .name(&self.date[5..16])
            .name(self.timestamp)
            .host(self.lan)
            .host(self.address)
            .id(self.uuid)
            // Later requests differ in the last two digits.
            .id(&(self.cseq / 100).to_string())
            .id(&self.rseq.to_string())
    }

    /// Fills in a template of `row`: `{n}` and `{f}` the numbers, `{s}` a word that names the row, `{h}` a host that
    /// does, `{u}` the uuid, `{ip}` the address inside, `{passport}` a PASSporT, `{hex}` the number in hex.
    pub fn fill(&self, row: u8, template: &str) -> String {
        let word = format!("{}{row}", self.stem);
        let url64 = |text: &str| base64(text.as_bytes()).replace('+', "-").replace('/', "_").replace('=', "");
        let header =
            url64(r#"{"alg":"ES256","ppt":"shaken","typ":"passport","x5u":"https://cert.example/a.pem"}"#);
        let claims = url64(&format!(
            r#"{{"attest":"A","dest":{{"tn":["12025550100"]}},"iat":1443208345,"orig":{{"tn":"{}"}},"origid":"{}","nam":"{word}"}}"#,
            self.number, self.uuid
        ));
        let hex: String = self.number.bytes().map(|byte| format!("{byte:02x}")).collect();
        let escaped: String = self.number.bytes().map(|byte| format!("%{byte:02x}")).collect();
        template
            .replace("{n}", self.number)
            .replace("{f}", self.forward)
            .replace("{s}", &word)
            .replace("{h}", &format!("r{row}.{}.example", self.stem))
            .replace("{u}", self.uuid)
            .replace("{u32}", &self.uuid.replace('-', ""))
            .replace("{ip}", self.lan)
            .replace("{passport}", &format!("{header}.{claims}.c2lnbmF0dXJl"))
            .replace("{hex}", &hex)
            .replace("{escaped}", &escaped)
            .replace("{rseq}", &self.rseq.to_string())
            .replace("{cseq}", &self.cseq.to_string())
            .replace("{date}", self.date)
            .replace("{timestamp}", self.timestamp)
    }
}

/// Row, name and value of headers that every message of either side carries.
#[rustfmt::skip]
pub const HEADERS: &[(u8, &str, &str)] = &[
    (7, "Path", "<sip:{s}@{h};lr>"),
    (7, "Service-Route", "<sip:{n}@{h};lr>"),
    (9, "RSeq", "{rseq}"),
    (9, "RAck", "{rseq} {cseq} INVITE"),
    (11, "Date", "{date}"),
    (11, "Timestamp", "{timestamp}"),
    (12, "P-Asserted-Identity", "\"{s}\" <sip:+{n}@{h};user=phone>, <tel:+{n}>"),
    (13, "P-Preferred-Identity", "\"{s}\" <sip:+{n}@{h}>"),
    (14, "Remote-Party-ID", "\"{s}\" <sip:+{n}@{h}>;party=calling;screen=yes;privacy=off"),
    (15, "Privacy", "id;user;header;session;history;critical;{s}"),
    (16, "Diversion", "\"{s}\" <sip:+{f}@{h}>;reason=unconditional;counter=1"),
    (16, "CC-Diversion", "\"{s}\" <sip:+{f}@{h}>;reason=user-busy"),
    (17, "History-Info", "<sip:+{f}@{h}?Reason=SIP%3Bcause%3D302&Privacy=history>;index=1, <sip:+{n}@{h}>;index=1.1;mp=1"),
    (18, "P-Called-Party-ID", "\"{s}\" <sip:+{n}@{h}>"),
    (18, "P-Associated-URI", "<sip:+{f}@{h}>, <tel:+{n}>"),
    (18, "P-Profile-Key", "<sip:{s}-!.*!@{h}>"),
    (18, "P-User-Database", "<aaa://{h};transport=tcp>"),
    (18, "P-Served-User", "\"{s}\" <sip:+{n}@{h}>;sescase=orig;regstate=reg"),
    (19, "P-Charging-Vector", "icid-value=\"{u}\";icid-generated-at={ip};orig-ioi={h}"),
    (19, "P-Charging-Function-Addresses", "ccf={h};ecf=\"{ip}\""),
    (19, "P-Charge-Info", "<sip:+{n}@{h};user=phone>;npi=ISDN;noa=4"),
    (19, "P-DCS-Billing-Info", "{s}/0@{h}"),
    (19, "P-DCS-Trace-Party-ID", "<sip:+{n}@{h}>"),
    (19, "P-DCS-LAES", "{ip}:5060;content={h}:6060;key=\"{s}\""),
    (19, "P-DCS-Redirect", "<sip:+{f}@{h}>;redirector-uri=<sip:{n}@{h}>;count=1"),
    (20, "P-Access-Network-Info", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=\"{s}\""),
    (20, "P-Visited-Network-ID", "\"{s} network\", {h}"),
    (20, "Cellular-Network-Info", "3GPP-UTRAN-TDD;utran-cell-id-3gpp=\"{s}\";cell-info-age=30"),
    (20, "P-Early-Media", "supported, {s}"),
    (21, "Identity", "{passport};info=<https://{h}/cert.pem>;alg=ES256;ppt=\"shaken\""),
    (21, "Identity-Info", "<https://{h}/cert.cer>;alg=rsa-sha1"),
    (21, "P-Stir-Verstat", "TN-Validation-Passed;{s}"),
    (21, "P-Attestation-Indicator", "A;id={s}"),
    (21, "P-Origination-ID", "{u}"),
    (22, "Supported", "from-change, {s}"),
    (23, "Reply-To", "\"{s}\" <sip:+{n}@{h}>"),
    (23, "Call-Info", "<https://{h}/{n}.png>;purpose=icon, <https://{h}/card.json>;purpose=jcard"),
    (23, "Alert-Info", "<http://{h}/ring.wav>;info={s}"),
    (23, "Error-Info", "<sip:{n}@{h}>"),
    (24, "Subject", "It is {s} from +{n}"),
    (24, "Organization", "{s} Ltd."),
    (24, "In-Reply-To", "{u}@{h}"),
    (24, "Priority", "{s}"),
    (24, "User-Agent", "{s}-PBX/1.2 ({h})"),
    (24, "Server", "{s}-SBC/3.4"),
    (24, "X-FS-Support", "update_display,{s}"),
    (25, "Referred-By", "<sip:+{n}@{h}>;cid=\"{s}@{h}\""),
    (25, "Refer-To", "<sip:+{f}@{h}?Replaces={u}%40{h}%3Bto-tag%3D{s}>"),
    (25, "Refer-Sub", "false;{s}"),
    (25, "Replaces", "{u}@{h};to-tag={s};from-tag=1"),
    (25, "Join", "{u}@{h};to-tag={s};from-tag=2"),
    (25, "Target-Dialog", "{u}@{h};local-tag={s};remote-tag=3"),
    (26, "User-to-User", "{hex};encoding=hex;purpose={s}"),
    (26, "Accept-Contact", "*;{s}"),
    (26, "Reject-Contact", "*;+sip.instance=\"<urn:uuid:{u}>\""),
    (26, "Request-Disposition", "proxy, {s}"),
    (26, "Geolocation", "<cid:{s}@{h}>, <https://{h}/here>"),
    (26, "Geolocation-Routing", "yes;{s}"),
    (26, "Geolocation-Error", "100;code=\"{s}\""),
    (26, "Accept-Language", "x-{s}"),
    (26, "Answer-Mode", "Manual;{s}"),
    (27, "Session-ID", "{u32};remote=00000000000000000000000000000000"),
    (28, "Session-Expires", "1799;refresher=uac;x={s}"),
    (28, "Min-SE", "93;x={s}"),
    (28, "Allow", "INVITE, ACK, BYE, CANCEL, {s}"),
    (28, "Accept", "application/sdp, application/{s}"),
    (28, "Allow-Events", "{s}"),
    (28, "Recv-Info", "{s}"),
    (29, "Warning", "399 {h} \"{s} +{n}\""),
    (29, "Reason", "SIP;cause=486;text=\"{s} +{n}\", X.int;cause=1;text=\"{h}\""),
    (29, "Retry-After", "120 ({s});duration=3600"),
    (29, "Unsupported", "{s}"),
    (31, "Authorization", "Digest username=\"{s}\", realm=\"{h}\", nonce=\"{u}\", uri=\"sip:+{n}@{h}\", response=\"0\""),
    (31, "Proxy-Authorization", "Digest username=\"+{n}\", realm=\"{h}\", nonce=\"x\", uri=\"sip:{h}\", response=\"1\""),
    (31, "WWW-Authenticate", "Digest realm=\"{h}\", nonce=\"{s}\", opaque=\"{u}\", qop=\"auth\""),
    (31, "Proxy-Authenticate", "Digest realm=\"{h}\", nonce=\"{s}\""),
    (31, "Authentication-Info", "nextnonce=\"{s}\", rspauth=\"{u32}\""),
    (32, "X-Telnyx-Session-ID", "{u}"),
    (32, "X-Twilio-CallSid", "CA{s}"),
    (32, "X-Asterisk-CallerID", "{n}"),
    (32, "X-CID", "{s}@{h}"),
    (32, "X-Original-To", "+{f}"),
    (32, "X-FS-Original-Number", "{n}"),
    (32, "P-Com.Example", "\"{s}\" <sip:{n}@{h}>"),
    (32, "Remote-Number", "{n}"),
    (32, "H-Real-Number", "{n}"),
    (33, "s", "compact {s} +{n}"),
    (33, "y", "{passport};info=<https://{h}/compact.pem>"),
    (33, "b", "<sip:+{n}@{h}>"),
    (33, "r", "<sip:+{f}@{h}>"),
    (33, "o", "{s}"),
    (33, "u", "{s}"),
    (33, "x", "1800;{s}"),
    (33, "k", "{s}"),
    (33, "d", "{s}"),
    (33, "a", "*;mobility=\"{s}\""),
    (33, "j", "*;mobility=\"{s}\""),
    (33, "Subject", "folded\r\n\t{s}\r\n  +{n}"),
    (33, "P-Asserted-Identity ", "\"spaced {s}\" <sip:+{n}@{h}>"),
    (33, "p-ASSERTED-identity\t", "\r\n <tel:+{n}>"),
    (33, "REMOTE-PARTY-ID", "\"shouting {s}\" <sip:+{n}@{h}>"),
    (33, "Diversion", "<sip:+{f}@{h}>;reason=repeated"),
    (33, "Diversion", "<sip:+{f}@{h}>;reason=again"),
    (34, "Reply-To", "<sip:{s}@{h}?From=%3Csip:{n}%40{h}%3E&P-Asserted-Identity=%3Ctel%3A%2B{n}%3E>"),
    (34, "X-Escaped", "<sip:%0D%0AP-Asserted-Identity:%20<tel:{escaped}>%00@{h}>"),
    (41, "Content-ID", "<{s}@{h}>"),
    (41, "Content-Location", "https://{h}/{s}"),
    (41, "Content-Language", "x-{s}"),
];

/// Of requests only.
#[rustfmt::skip]
pub const REQUEST_HEADERS: &[(u8, &str, &str)] = &[
    (6, "Via", "SIP/2.0/UDP {h}:5070;branch=z9hG4bK{s};received={ip};rport=5071;maddr={ip};i={u};keep"),
    (7, "Route", "<sip:{s}@{h};lr>"),
];

/// Session-level lines; `{h}` and the others as in [`Party::fill`].
#[rustfmt::skip]
pub const SESSION_LINES: &[(u8, &str)] = &[
    (35, "i={s} calls from +{n}"),
    (35, "u=https://{h}/{n}"),
    (35, "e={n}@{h} ({s})"),
    (35, "p=+{n}"),
    (35, "b=CT:64"),
    (37, "a=tool:{s} 1.0"),
    (37, "a=group:BUNDLE {s}"),
    (37, "a=identity:{passport}"),
    (37, "a=cname:{n}@{h}"),
    (37, "a=X-nat:0 {s}"),
    (37, "a=msid-semantic: WMS {s}"),
    (36, "a=ice-ufrag:{s}"),
    (36, "a=ice-pwd:{s}{s}{s}"),
    (36, "a=fingerprint:sha-256 {hex}"),
    (36, "a=tls-id:{s}"),
    (36, "a=setup:actpass"),
];

#[rustfmt::skip]
pub const MEDIA_LINES: &[(u8, &str)] = &[
    (36, "a=candidate:1 1 UDP 2130706431 {ip} 53000 typ host"),
    (36, "a=candidate:2 1 UDP 1694498815 {ip} 53001 typ srflx raddr {ip} rport 53002 {s}"),
    (36, "a=remote-candidates:1 {ip} 53003"),
    (36, "a=end-of-candidates"),
    (36, "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{passport}"),
    (37, "a=ssrc:2054907777 cname:{n}@{h}"),
    (37, "a=ssrc:2054907777 msid:{s} {s}"),
    (37, "a=ssrc:2054907777 label:{s}"),
    (37, "a=msid:{s} {u}"),
    (37, "a=mid:{s}"),
    (37, "a=label:{s}"),
    (37, "a=alt:1 4 : {s} {s} {ip} 53004"),
    (37, "a=direction:active;{s}"),
    (37, "a=sqn: 0"),
    (37, "a=cdsc: 1 image udptl {s}"),
    (37, "a=cpar: a={s}"),
    (37, "a=content:{s}"),
    (37, "a=lang:x-{s}"),
    (37, "a=unheard-of:{s} +{n}"),
    (38, "a=fmtp:113 0-16;x={s}"),
    (38, "a=rtpmap:119 {s}/8000"),
    (38, "a=maxptime:40"),
];

#[rustfmt::skip]
pub const FURTHER_MEDIA: &[(u8, &str)] = &[
    (38, "m=video 53010 RTP/AVP 96\r\nc=IN IP4 {ip}\r\na=rtpmap:96 {s}/90000\r\na=fmtp:96 profile={s}"),
    (38, "m=message 53012 TCP/MSRP *\r\nc=IN IP4 {ip}\r\na=path:msrp://{h}:53012/{s};tcp"),
    (38, "m=image 53014 udptl t38\r\nc=IN IP4 {ip}\r\na=T38FaxUdpEC:{s}"),
    (38, "m=application 53016 UDP/BFCP *\r\nc=IN IP4 {ip}\r\na=floorctrl:c-s {s}"),
];

/// Content type and content, of which each side makes its own.
#[rustfmt::skip]
pub const BODIES: &[(u8, &str, &str)] = &[
    (39, "application/pidf+xml", "<presence entity=\"pres:{n}@{h}\"><gp:civic>{s}</gp:civic></presence>"),
    (39, "application/qsig", "\u{1}{hex}\u{2}"),
    (39, "application/rs-metadata+xml", "<recording><participant><aor>sip:+{n}@{h}</aor><name>{s}</name></participant></recording>"),
    (39, "message/sip", "INVITE sip:+{f}@{h} SIP/2.0\r\nFrom: \"{s}\" <sip:+{n}@{h}>;tag=1\r\n\r\n"),
    (39, "message/sipfrag;version=2.0", "SIP/2.0 404 +{n} {s} not found"),
    (39, "text/vcard", "BEGIN:VCARD\r\nFN:{s}\r\nTEL:+{n}\r\nEND:VCARD\r\n"),
    (39, "application/jcard+json", "[\"vcard\",[[\"fn\",{},\"text\",\"{s}\"],[\"tel\",{},\"uri\",\"tel:+{n}\"]]]"),
    (39, "application/vnd.example.call", "{s};{n};{u}"),
    (39, "text/plain;charset=utf-8", "+{n} is {s}"),
];
