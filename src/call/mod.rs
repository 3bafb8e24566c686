//! A call: two legs and all policy between them, as one value that nobody shares.
//!
//! ```text
//!            ┌─────────┐ session found ┌─────────┐ ports bound, offer read
//!  INVITE ──►│ Routing ├──────────────►│ Opening ├──┬────────────────────────────┐
//!            └────┬────┘               └────┬────┘  │ stranger with PIN sessions │ message first
//!         refused │                 refused │   ┌───▼───────────┐          ┌─────▼──────┐
//!                 │                         │   │ CollectingPin │          │ Announcing │
//!                 │                         │   └───┬───────┬───┘          └──┬──────┬──┘
//!                 │                         │  right│  wrong│                 │      │
//!                 │                         │   ┌───▼───────┼─────────────────▼─┐    │
//!                 │                         └──►│ Dialing   │                   │    │
//!                 │                             └───┬───────┼───────┬───────────┘    │
//!                 │                          answer │       │       │ failure        │
//!                 │          ┌──────────┐ message ┌─▼───────┼──┐    │                │
//!                 │          │ Greeting │◄────────┤ Bridged │  │    │                │
//!                 │          └────┬─────┘────────►└─┬───────┘  │    │                │
//!                 ▼               ▼                 ▼          ▼    ▼                ▼
//!              Draining: both legs end, media closes, the CDR is written ──► Done
//! ```
//!
//! A call that we place ourselves (`initiate_call_to_first_party`) begins in another way and goes on like one that
//! the first party has made:
//!
//! ```text
//!             ┌─────────┐ ports bound ┌──────────────┐ answered
//!  the API ──►│ Opening ├────────────►│ CallingFirst ├─────────► CollectingPin, Announcing or Dialing
//!             └────┬────┘             └──────┬───────┘
//!          no port │      refused, hung up,  │
//!                  ▼      ring_timeout       ▼
//!              Draining                  Draining
//! ```
//!
//! What may be trusted where: in `Routing` nothing but the INVITE; from `Opening` on the session is known, after it
//! the media has ports and the caller's offer was read; in `CallingFirst` the A-leg is one of our own making, with
//! our offer; from `CollectingPin` and `Announcing` on the A-leg is answered; in `Dialing` a B-leg exists; in
//! `Bridged` both legs are answered; from `Draining` on neither leg gets an order any more.
//!
//! [`machine`] and everything below it is pure. [`task`] is the only async code of a call; [`dispatch`] and
//! [`registry`] find and make calls; [`registrar`] tells carriers where they find us.

pub mod caller_id;
pub mod cdr;
pub mod dispatch;
#[cfg(debug_assertions)]
pub mod fault;
pub mod identity;
pub mod leg;
pub mod machine;
pub mod pin;
pub mod prober;
pub mod registrar;
pub mod registry;
mod shares;
pub mod signal;
pub mod sound;
pub mod task;
pub mod tones;

use crate::call::cdr::HangupCause;
use crate::call::identity::LegAddress;
use crate::callbacks::event::CallEvent;
use crate::masking::guessing::Bucket;
use crate::masking::route::Query;
use crate::number::E164;
use crate::recording::manifest::Names;
use crate::sip::digest::Unanswered;
use crate::sip::key::DialogKey;
use crate::sip::message::Message;
use crate::sip::transport::{ConnectionId, Flow, Protocol, SendFault, SendToken};
use crate::sip::wire::ByteStr;
use crate::store::{Cdr, LegOpened, Route};
use crate::trunk::Trunk;
use crate::trunk::health::Outcome;
use crate::trunk::resolve::Target;
use bytes::Bytes;
use media::{MediaCommand, MediaEvent, RecordingReport, Side};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use machine::Call;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The transport.
    pub protocol: Protocol,
    /// The peer.
    pub place: Place,
    /// A connection that should be used if it still lives.
    pub connection: Option<ConnectionId>,
    /// The socket of ours to send from, when it matters.
    pub local: Option<SocketAddr>,
    /// The transport was named, by a gateway or a URI: size does not change it.
    pub pinned: bool,
    /// On TLS: the name that the peer must prove (RFC 5922 §4); `None`: its address.
    pub name: Option<Arc<str>>,
    /// Whose request it is; responses have none.
    pub token: Option<SendToken>,
}

/// A peer, by address or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// No look-up is needed.
    Address(SocketAddr),
    /// A DNS name and a port.
    Name(String, u16),
}

impl Hop {
    /// The address, when it is known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Address(address) => Some(address),
            Place::Name(..) => None,
        }
    }

    /// The same place by UDP, for a request that only was too large for it; `None` when it was not on TCP by
    /// our own choice.
    fn by_udp(&self) -> Option<Self> {
        let by_size = self.protocol == Protocol::Tcp && !self.pinned;
        by_size.then(|| Self { protocol: Protocol::Udp, connection: None, ..self.clone() })
    }
}

/// A gateway of the trunk that a B-leg leaves by, with what the leg shows of us there.
#[derive(Debug, Clone)]
pub struct Outlet {
    /// The trunk.
    pub trunk: Arc<Trunk>,
    /// Where the INVITE goes.
    pub hop: Hop,
    /// `host[:port]` for the Request-URI.
    pub host: String,
    /// Our side.
    pub address: LegAddress,
    /// Where that is, for [`Action::Learned`].
    pub target: Target,
    /// Whether it is news that it is heard.
    pub is_news: bool,
}

/// What the store and the configuration say about a dialled number.
#[derive(Debug, Clone)]
pub struct Found {
    /// `None`: not one of our numbers.
    pub route: Option<Route>,
    /// Whoever talked last with the caller through his single-party session.
    pub partner: Option<E164>,
    /// Where the B-leg can go, in order of failover.
    pub outlets: Vec<Outlet>,
    /// Wall time of the look-up: sessions are active or not at this moment.
    pub at: jiff::Timestamp,
    /// Whether the PIN that was typed may be judged ([`crate::masking::guessing`]).
    pub may_judge: bool,
}

/// Tells the look-ups of one call apart: a late answer to one must not pass for the answer to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookUp(u32);

/// What happens to a call.
#[derive(Debug)]
pub enum Event {
    /// A message of one of its legs, and how it came. Boxed, like whatever else is large here: a call's inbox is
    /// as big as its largest event, and lives on while the call's transactions do.
    Message(Box<(Message, Flow)>),
    /// A request of ours, known by its branch, could not be sent.
    SendFailed(ByteStr, SendFault),
    /// That look-up's result; `Err`: the store failed.
    Found(LookUp, Result<Box<Found>, StoreFailed>),
    /// The media's local RTP ports, A's and B's; `Err`: none is free.
    MediaOpened(Result<(u16, u16), NoPort>),
    /// The INVITE may go now, as far as its trunk's limits are concerned; `false`: the trunk is full.
    Paced(bool),
    /// The media has something to say.
    Media(Box<MediaEvent>),
    /// Somebody wants the call to end.
    HangUp(HangupCause),
    /// The manifest of the recording is written, or could not be.
    RecordingFiled,
    /// The CDR is stored, or could not be (which was logged).
    CdrStored,
    /// [`Call::deadline`] has been reached.
    Timeout,
}

/// The store could not be asked; logged where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFailed;

/// No media could be had; logged where it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPort;

/// What a call wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send a message.
    Send {
        /// Encoded.
        wire: Bytes,
        /// Where to.
        to: Hop,
    },
    /// Look the dialled number up, and count a PIN that was typed in these buckets; the answer is
    /// [`Event::Found`].
    FindSession(LookUp, Query, Vec<Bucket>),
    /// The PIN that was counted last was right.
    ForgiveGuess(Vec<Bucket>),
    /// From now on messages of this dialog are the call's.
    Index(DialogKey),
    /// Bind media sockets on these local addresses; the answer is [`Event::MediaOpened`].
    OpenMedia {
        /// The A-leg's.
        a: IpAddr,
        /// The B-leg's.
        b: IpAddr,
    },
    /// Tell the media.
    Media(MediaCommand),
    /// A leg began: a row that survives a crash.
    LegOpened(Box<LegOpened>),
    /// A leg was answered.
    LegAnswered(uuid::Uuid, jiff::Timestamp),
    /// Something that the session's application is told; stored together with what the same event brought about.
    Happened(Box<CallEvent>),
    /// Write `call.json`; the answer is [`Event::RecordingFiled`].
    FileRecording(Names, Box<RecordingReport>),
    /// The call is over: its CDR, in one transaction; the answer is [`Event::CdrStored`].
    CloseCall(Box<Cdr>),
    /// The call is answered on both legs; for counters.
    Bridged,
    /// An INVITE of ours wants to leave by this trunk, which takes only so many, at one time or per second; the answer is
    /// [`Event::Paced`]. That of the first party in a call of ours has its place already, and waits for its turn only.
    Pace(Side, String),
    /// What became of an INVITE, as far as it is news about the gateway that it went to.
    Learned(Box<Learned>),
    /// A carrier asked for credentials and did not get them, or did not take them; for counters and log.
    Unauthorized {
        /// The trunk's name.
        trunk: String,
        /// What was the matter.
        why: Unanswered,
    },
}

/// What a call has learned of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// The trunk's name.
    pub trunk: String,
    /// Where the INVITE went.
    pub target: Target,
    /// What became of it.
    pub outcome: Outcome,
}
