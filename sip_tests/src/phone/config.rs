//! What can be told to a phone and to a call.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::secure::Secure;
use crate::agent::{Invite, Reply, Transport};
use crate::middlebox::Middlebox;
use crate::sdp::SdpOptions;
use crate::stream::MediaOptions;
use crate::transcript::{Direction, Transcript};

/// Messages that the network swallows.
#[derive(Debug, Clone, Default)]
pub struct Impairment {
    /// Share of received messages that get lost, 0–1.
    pub loss_received: f64,
    /// Share of sent messages that get lost, 0–1.
    pub loss_sent: f64,
    /// The first so many messages of a kind are lost.
    pub lose: Vec<Lose>,
    /// Every message is delivered twice.
    pub duplicate: bool,
}

/// A kind of message that gets lost.
#[derive(Debug, Clone)]
pub struct Lose {
    /// Which way, seen from the phone.
    pub direction: Direction,
    /// A method, `ACK`, or a status with the method that it answers, `200 INVITE`.
    pub what: String,
    /// How many.
    pub count: u32,
}

/// A phone's settings.
#[derive(Debug, Clone)]
pub struct PhoneConfig {
    /// What ladder and transcript call it.
    pub name: String,
    /// Where it listens; port 0: any.
    pub address: SocketAddr,
    /// What it sends requests over. It listens on that only, unless `also_tcp`.
    pub transport: Transport,
    /// A UDP phone that can be reached over TCP at the same port as well.
    pub also_tcp: bool,
    /// What makes its connections secret; only used, and needed, with [`Transport::Tls`].
    pub secure: Option<Arc<dyn Secure>>,
    /// Where its messages are recorded.
    pub transcript: Transcript,
    /// Decides tags, branches, Call-IDs and losses.
    pub seed: u64,
    /// Losses.
    pub impairment: Impairment,
    /// How its RTP and RTCP look.
    pub media: MediaOptions,
    /// User-Agent and Server; none when `None`.
    pub user_agent: Option<String>,
    /// Phrase, headers and body of what the phone answers by itself to requests other than INVITE; the status
    /// is the phone's.
    pub answers: Reply,
    /// Between the server and this phone, over UDP.
    pub middlebox: Option<Middlebox>,
}

impl PhoneConfig {
    /// On any port of 127.0.0.1, UDP, with a transcript of its own.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            transport: Transport::Udp,
            also_tcp: false,
            secure: None,
            transcript: Transcript::new(),
            seed: name
                .bytes()
                .fold(u64::from(std::process::id()), |seed, byte| seed.wrapping_mul(31) + u64::from(byte)),
            impairment: Impairment::default(),
            media: MediaOptions::default(),
            user_agent: None,
            answers: Reply::default(),
            middlebox: None,
        }
    }

    /// At this address.
    #[must_use]
    pub fn at(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// Sharing this transcript.
    #[must_use]
    pub fn recorded_in(mut self, transcript: &Transcript) -> Self {
        self.transcript = transcript.clone();
        self
    }
}

/// What a caller says.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// User part of From: the caller's number as its carrier writes it.
    pub from_user: String,
    /// Display name of From.
    pub from_display: Option<String>,
    /// Host of From; the phone's own when `None`.
    pub from_host: Option<String>,
    /// The whole value of P-Asserted-Identity.
    pub asserted_identity: Option<String>,
    /// Further headers in order.
    pub extra_headers: Vec<(String, String)>,
    /// The offer; `None`: a late offer, answered in the ACK with [`SdpOptions::default`].
    pub sdp: Option<SdpOptions>,
    /// A body instead of the offer: content type and content.
    pub body: Option<(String, Vec<u8>)>,
    /// Random when `None`.
    pub call_id: Option<String>,
    /// Random when `None`.
    pub from_tag: Option<String>,
    /// Put into the branch, after the magic cookie.
    pub branch_mark: Option<String>,
    /// Whole Contact value.
    pub contact: Option<String>,
    /// Whole To value without tag.
    pub to: Option<String>,
    /// Whole Request-URI.
    pub request_uri: Option<String>,
    /// Max-Forwards.
    pub max_forwards: u8,
    /// First CSeq; random when `None`.
    pub cseq: Option<u32>,
    /// How this call's RTP and RTCP look; as the phone's when `None`.
    pub media: Option<MediaOptions>,
}

impl CallOptions {
    /// A call from `number` with an ordinary offer.
    #[must_use]
    pub fn from(number: &str) -> Self {
        Self {
            from_user: number.to_owned(),
            from_display: None,
            from_host: None,
            asserted_identity: None,
            extra_headers: vec![],
            sdp: Some(SdpOptions::default()),
            body: None,
            call_id: None,
            from_tag: None,
            branch_mark: None,
            contact: None,
            to: None,
            request_uri: None,
            max_forwards: 70,
            cseq: None,
            media: None,
        }
    }

    /// A caller that hides its number in From.
    #[must_use]
    pub fn anonymous() -> Self {
        let hidden = Self { from_host: Some("anonymous.invalid".into()), ..Self::from("anonymous") };
        Self { from_display: Some("Anonymous".into()), ..hidden }
    }

    /// With this offer.
    #[must_use]
    pub fn offering(mut self, sdp: SdpOptions) -> Self {
        self.sdp = Some(sdp);
        self
    }

    /// With a further header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.extra_headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn invite(
        &self,
        own: SocketAddr,
        server: SocketAddr,
        dial: &str,
        transport: Transport,
    ) -> Invite {
        let host = self.from_host.clone().unwrap_or_else(|| own.ip().to_string());
        let address = format!("<sip:{}@{host}>", self.from_user);
        let from = self
            .from_display
            .as_ref()
            .map_or_else(|| address.clone(), |name| format!("\"{name}\" {address}"));
        let parameter = match transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        };
        let mut headers = vec![];
        headers.extend(
            self.asserted_identity.iter().map(|value| ("P-Asserted-Identity".to_owned(), value.clone())),
        );
        headers.extend(self.extra_headers.iter().cloned());
        Invite {
            uri: self.request_uri.clone().unwrap_or_else(|| format!("sip:{dial}@{server}{parameter}")),
            from,
            to: self.to.clone().unwrap_or_else(|| format!("<sip:{dial}@{}>", server.ip())),
            call_id: self.call_id.clone(),
            from_tag: self.from_tag.clone(),
            branch_mark: self.branch_mark.clone(),
            contact: self.contact.clone(),
            cseq: self.cseq,
            max_forwards: self.max_forwards,
            headers,
            body: self.body.clone(),
            offer: self.sdp.is_some(),
        }
    }
}
