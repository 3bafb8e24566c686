//! Maskline: number masking on a company's own SIP trunks. This page is the architecture.
//!
//! A call is one value that nobody shares. What happens to it is an *event*; what it wants done is an *action*;
//! time is an argument. A thin async shell moves bytes and does what the actions say, so that the whole service
//! can be replayed in a test without a socket, a sleep or a database.
//!
//! # The tree
//!
//! ```text
//! src/
//!   main.rs       the command line                    service.rs  start order, greeting, drain
//!   config/       TOML as written → checked limits    command.rs  check, drain      demo/  `maskline demo`
//!   trunk_check/  `maskline trunk-check`: looks at a trunk as a carrier's support would
//!   clock.rs      the only now()                      ids.rs      tags, branches, uuids
//!   descriptors   open files, and for how many calls they suffice
//!   number.rs     E164 (a party's, never printed) and Did (a virtual number)
//!   names         addresses of the host names that URLs and peers name: /etc/hosts and DNS, bounded, without a thread
//!   masking/      pure: session, route (decide), allocate, guessing (limits of wrong PINs)
//!   sip/          wire → message → key; encode; dialog; body (which part is SDP); digest, both roles; transaction/ pure
//!                 session_timer (RFC 4028)            reason  a Q.850 cause, the number only
//!                 transport/  UDP, TCP and TLS sockets, framing, the access check
//!   call/         machine/ pure: Call and all policy    leg/ pure: one dialog and its transactions,
//!                                                     refreshes of its session, reliable 18x and PRACK
//!                 identity  every outgoing message      pin  the PIN stage      cdr  what a call leaves
//!                 task  the only async code of a call   dispatch, registry/  find and make calls; how a leg is
//!                                                     reached; figures and complaints
//!                 shares  what one source may take      fault  bugs on purpose, in debug builds only
//!                 registrar  what keeps trunks registered         sound  how calls sounded, in metrics and log
//!   trunk/        carriers: profile, access list; pure: rate, registration, resolve (RFC 3263), health of gateways,
//!                 forward (where calls without a session may go on to); dns and gateways are their shell
//!   prompts/      what ships inside the binary; fetch, cache, queue: what sessions name by URL
//!   store/        accounts, sealed tokens, numbers, sessions, calls, nodes (no SQL elsewhere); SQLite or PostgreSQL
//!   recording/    manifest, mix, retention, repair      api/  REST and its description, health, metrics
//!   callbacks/    event: what is told    signature    the courier that empties the outbox (store/outbox)
//!   media_metrics the media engine's sums at /metrics
//! media/          RTP, RTCP, SRTP, SDP, G.711, G.722, telephone-event, keys as tones, prompts, quality, recorder; the engine that owns the sockets
//!                 and moves their packets by io_uring or epoll
//! sip_tests/      phones, a simulated network, SIPp scenarios, real peers, benchmarks, and the tests that use them
//! ```
//!
//! # One call, in the order a reader meets it
//!
//! | | name | does |
//! |---|---|---|
//! | 0 | [`sip::transport`] → [`call::dispatch::Dispatcher`] `admit` | the access list, by source address, before any parsing |
//! | 1 | [`sip::message::Message::parse`] | bytes → typed message; what cannot be parsed is counted, dropped or answered 400 |
//! | 2 | `Dispatcher::route` | key known → that call's inbox; INVITE without To tag → 3; else 481, or 200 to OPTIONS |
//! | | `Dispatcher::authenticate` → [`sip::digest::Guard`] | on a trunk that challenges: 401 until the password is proved |
//! | | `CallTask` in [`call::task`] | a request that comes from none of its leg's trunk's addresses: 481 |
//! | 3 | `Shell::admit` in [`call::registry`] → `CallTask::run` | limits (503 with Retry-After), one task per call, its keys |
//! | 4 | [`call::Call::offered`] → `Leg::offered` | 100; who calls what ([`call::caller_id`]) |
//! | 5 | `Call::on_offered` | state `Routing`: [`call::Action::FindSession`] |
//! | 6 | [`store::Store::find_route`] ⇒ `Call::on_session` → [`masking::route::decide`] | refuse, dial, ask for a PIN, play |
//! | 7 | `Call::on_media_opened`, `Call::ask_pin` → [`call::pin::PinCollector`] | ports; the caller's offer; digits |
//! | 8 | `Call::dial` → `Leg::dial` → [`call::identity::invite`] | the B-leg: From and Contact are the virtual number's |
//! | 9 | `Call::on_progress`, `Call::on_answered` | 18x, early media and 200 of B become A's own |
//! | 10 | `Call::bridge` | [`media::MediaCommand`] `Bridge` and `Record`; then packets, in [`media::engine`] |
//! | 11 | `Call::end` | BYE, CANCEL, timer, silence or API: both legs, the media; `Draining` till transactions end |
//! | 12 | `Call::send_cdr` ⇒ [`store::Store::close_call`] | the CDR and all that is told of the call, in one transaction |
//! | 13 | [`callbacks::Courier`] | what the outbox holds goes to its receivers, at its own pace |
//!
//! `→` is a plain call, `⇒` crosses a task. The states are drawn in [`call`]. A call that the API places
//! (`Shell::initiate` → [`call::Call::initiated`] → `Call::call_first`) joins this at 7, when the first party answers.
//!
//! # Invariants
//!
//! * No number crosses: an outgoing message is built in [`call::identity`] and `Leg`, from typed values of its own
//!   leg; there is no function that takes a header, body or SDP line of the other leg.
//! * A [`number::E164`] does not print itself, nor does a [`masking::session::Pin`] or a [`media::Digit`].
//! * Pure code takes `now` and never asks a clock, a random source of its own, a lock or a socket.
//! * Every wait ends: each state of a call, each transaction, each look-up has a deadline.
//! * Everything is bounded: calls, calls per second, inboxes, message sizes, forks, tries, recordings' queues.
//! * Dependencies point one way: `api → call → sip, masking, media`; `sip` and `media` never name a call.

pub mod api;
pub mod call;
pub mod callbacks;
pub mod clock;
mod command;
pub mod config;
pub mod demo;
mod descriptors;
pub mod ids;
pub mod masking;
mod media_metrics;
mod names;
pub mod number;
pub mod prompts;
pub mod recording;
pub mod service;
pub mod sip;
pub mod store;
pub mod trunk;
pub mod trunk_check;

pub use command::{FAULTY_CONFIGURATION, PidFile, PidFileError, check, drain};
pub use demo::demo;
pub use service::serve;
pub use trunk_check::trunk_check;
