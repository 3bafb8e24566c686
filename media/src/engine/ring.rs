//! io_uring: a batch of packets for one system call. The second way through the waist that `io` describes.
//!
//! The ring takes over the RTP sockets of calls whose media flows; everything else stays with epoll, so that a call
//! without media pays nothing for it. Receiving is one operation per socket that goes on until it is cancelled
//! (multishot) and takes a buffer out of a common ring for each datagram. Sending copies the packet to a place of
//! its own; all of them leave with the system call that then waits for the next batch.
//!
//! Who owns which memory when:
//!
//! * A receive buffer is the kernel's from [`Buffers::give`] until a completion names it, then ours until it is
//!   given back, which [`Ring::next`] does by itself.
//! * A place of an outgoing packet is the kernel's from [`Sender::send`] until the system call that takes the
//!   operation returns: with `MSG_DONTWAIT` a send is done, or has failed, by then. Until the kernel has taken all of
//!   them no place is used again.
//! * A socket stays open until its operations have ended: see [`Ring::release`]. Completions carry the token of their
//!   call, with its generation, so that what comes late finds nobody.

#![allow(unsafe_code, reason = "operations that the kernel carries out on our memory")]

use super::pages::Pages;
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode, squeue, types};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::time::Duration;

/// Operations that wait to be handed over. More than [`SENDS`], for receives and cancellations beside them.
const OPERATIONS: u32 = 512;
/// Completions that fit: every buffer's, and some for what ends.
const COMPLETIONS: u32 = 4096;
/// Packets that wait to be sent; with more of them some leave earlier.
const SENDS: usize = 256;
/// Room for an address and a packet that is sent.
const SEND_ROOM: usize = 1408;
/// An address as the kernel writes it: that of IPv6 is the longer one.
const NAME: usize = size_of::<libc::sockaddr_in6>();
/// `struct io_uring_recvmsg_out`: lengths of name, control data and payload, flags.
const HEAD: usize = 16;
/// One receive buffer: head, address, and as much as an Ethernet frame holds. No packet of use is longer.
const BUFFER: usize = 1536;
/// Receive buffers at most; a power of two.
const BUFFERS: u16 = 2048;
/// Receive buffers at first. Few, because those that have just been used are still in the cache.
const FIRST_BUFFERS: u16 = 128;
/// The buffers' group; there is one.
const GROUP: u16 = 0;
/// `struct io_uring_buf`: address, length, number; two bytes more, which in the first one are the ring's end.
const BUFFER_ENTRY: usize = 16;
const BUFFER_ENTRY_USED: usize = 14;
/// Sockets that can be registered, if the process may open so many.
const FILES: u32 = 8192;
const FEWEST_FILES: u32 = 64;
/// How long the end of the ring waits for operations that are under way.
const LAST_WAIT: Duration = Duration::from_secs(1);
/// How long, and how often, the trial waits for the end of what it cancelled.
const TRIAL_WAIT: Duration = Duration::from_millis(50);
const TRIAL_WAITS: usize = 20;
/// How long we stay away when the kernel is short of memory.
const SHORTAGE: Duration = Duration::from_millis(1);

/// Where the kind of an operation stands in its token; below are place and socket, above the generation.
const KIND: u32 = 28;
const KIND_MASK: u64 = 0xf << KIND;
const RECEIVE: u64 = 0;
const SENT: u64 = 1 << KIND;
const RELAYED: u64 = 2 << KIND;
const CANCEL: u64 = 3 << KIND;
const WATCH: u64 = 4 << KIND;

/// Why packets go through epoll.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the kernel has no io_uring")]
    Absent,
    #[error("io_uring is forbidden here (seccomp, or kernel.io_uring_disabled)")]
    Forbidden,
    #[error("the kernel's io_uring is too old: {0} is missing")]
    Old(&'static str),
    #[error("io_uring cannot be set up: {step}: {cause}")]
    Failed { step: &'static str, cause: String },
}

impl Refusal {
    fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| match error.raw_os_error() {
            Some(libc::ENOSYS) => Self::Absent,
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::EINVAL) => Self::Old(step),
            _ => Self::Failed { step, cause: error.to_string() },
        }
    }
}

/// How operations name sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sockets {
    /// By their places in a table of the ring, which saves looking them up for each packet.
    Registered,
    /// By their descriptors: up to Linux 6.12 a socket that leaves the table stays open, and its port taken, for as long
    /// as operations on others go on that had begun before.
    Plain,
}

/// Whether the kernel does here all that is needed, and how it is best done: asked once, with datagrams that go through
/// a ring and back.
pub(super) fn trial() -> Result<Sockets, Refusal> {
    static OUTCOME: OnceLock<Result<Sockets, Refusal>> = OnceLock::new();
    // On a thread of its own: the end of a ring interrupts the thread that made it.
    let ask = || std::thread::spawn(try_out).join();
    let failed = || Refusal::Failed { step: "trial", cause: "it panicked".to_owned() };
    OUTCOME.get_or_init(|| ask().unwrap_or_else(|_| Err(failed()))).clone()
}

fn try_out() -> Result<Sockets, Refusal> {
    match exercise(Sockets::Registered)? {
        true => Ok(Sockets::Registered),
        false => exercise(Sockets::Plain).map(|_| Sockets::Plain),
    }
}

/// Receives by two calls, sends a datagram from one to the other, ends the second one while the first goes on. True
/// when its port is free then.
fn exercise(kind: Sockets) -> Result<bool, Refusal> {
    let failed = |cause: &str| Refusal::Failed { step: "trial", cause: cause.to_owned() };
    let mut ring = Ring::new(kind)?;
    let bind =
        |port| super::io::bind(Ipv4Addr::LOCALHOST.into(), port).map_err(|error| failed(&error.to_string()));
    let (stays, leaves) = ([bind(0)?, bind(0)?], [bind(0)?, bind(0)?]);
    let ([from, quiet], [to, other]) = (&stays, &leaves);
    let address = |socket: &UdpSocket| socket.local_addr().map_err(|error| failed(&error.to_string()));
    let (sender, receiver) = (address(from)?, address(to)?);
    let (Ok(first), Ok(second)) = (
        ring.take_over(0, [from, quiet], [0, 1]).map(|taken| taken.seats),
        ring.take_over(2, [to, other], [2, 3]).map(|taken| taken.receiving),
    ) else {
        return Err(failed("the ring takes no socket"));
    };
    let [seat, _] = first;
    if second != [true; 2] || !ring.sender.send(seat, b"trial", receiver, false) {
        return Err(failed("the ring takes no operation"));
    }
    ring.tick(1, LAST_WAIT).map_err(Refusal::at("waiting with a limit"))?;
    let mut outcome = Err(failed("no datagram came back"));
    while let Some(completion) = ring.next() {
        match completion {
            Completion::Received { token: 2, datagram: Some(datagram), .. } => {
                let (bytes, from, _) = ring.open(datagram);
                if (&*bytes, from) == (b"trial", Some(sender)) {
                    outcome = Ok(());
                }
            }
            Completion::Received { error: Some(error), .. } | Completion::Unsent { error, .. } => {
                outcome = Err(Refusal::at("multishot receive")(io::Error::from_raw_os_error(error)));
            }
            Completion::Received { .. } => {}
        }
    }
    outcome?;
    ring.release(2, [2, 3].into_iter());
    let mut under_way = 2;
    for _ in 0..TRIAL_WAITS {
        ring.tick(1, TRIAL_WAIT).map_err(Refusal::at("waiting with a limit"))?;
        while let Some(completion) = ring.next() {
            under_way -=
                i32::from(matches!(completion, Completion::Received { token: 2 | 3, ended: true, .. }));
        }
        if under_way == 0 {
            break;
        }
    }
    if under_way > 0 {
        return Err(failed("a cancelled operation does not end"));
    }
    drop(leaves);
    Ok(bind(receiver.port()).is_ok())
}

/// What operations on a leg's RTP socket name, and what their completions are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    socket: Socket,
    pub(super) token: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Socket {
    Registered(u32),
    Plain(i32),
}

/// A call's seats, and for which of its legs the ring receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TakenOver {
    pub(super) seats: [Seat; 2],
    pub(super) receiving: [bool; 2],
}

/// A datagram in a receive buffer: valid until the next [`Ring::next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Datagram {
    buffer: u16,
    /// Bytes of the buffer that the kernel wrote.
    length: usize,
}

/// What the kernel has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completion {
    Received {
        token: u64,
        datagram: Option<Datagram>,
        /// Nothing more comes by this operation.
        ended: bool,
        error: Option<i32>,
    },
    /// A packet that [`Sender::send`] took was not sent after all.
    Unsent { token: u64, relayed: bool, error: i32 },
}

pub(super) struct Ring {
    /// Before the memory below, because it must end first.
    pub(super) sender: Sender,
    buffers: Buffers,
    /// The buffer of the last completion.
    lent: Option<u16>,
    /// Receive operations that have not ended.
    receiving: usize,
    /// An operation waits for epoll to have something.
    watching: bool,
    /// Sockets that can be registered; 0: they are not.
    files: u32,
    /// Something is queued that others wait for.
    hurry: bool,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("files", &self.files).field("receiving", &self.receiving).finish()
    }
}

/// The half that takes packets to be sent.
pub(super) struct Sender {
    uring: IoUring,
    outgoing: Pages,
    /// Operations that the kernel has not taken.
    queued: usize,
    /// Places of `outgoing` that have been filled since the kernel had taken everything.
    filled: usize,
    /// How often the kernel had taken everything.
    emptied: u64,
    /// What every receive operation asks for: an address.
    wanted: Box<Wanted>,
}

struct Wanted(libc::msghdr);

// SAFETY: its pointers are null, and stay so.
unsafe impl Send for Wanted {}

impl Ring {
    /// A ring of this thread's.
    pub(super) fn new(sockets: Sockets) -> Result<Self, Refusal> {
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            // Work that a packet's arrival causes waits until we come for it, and we come from one thread only.
            .setup_single_issuer()
            .setup_defer_taskrun()
            .dontfork();
        let uring = builder.build(OPERATIONS).map_err(Refusal::at("a ring for one thread (Linux 6.1)"))?;
        let features = uring.params();
        for (has, name) in [
            (features.is_feature_nodrop(), "keeping completions"),
            (features.is_feature_ext_arg(), "waiting with a limit"),
            (features.is_feature_skip_cqe_on_success(), "silent success"),
        ] {
            if !has {
                return Err(Refusal::Old(name));
            }
        }
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe).map_err(Refusal::at("probe"))?;
        for (code, name) in [
            (opcode::RecvMsgMulti::CODE, "recvmsg"),
            (opcode::Send::CODE, "send"),
            (opcode::AsyncCancel::CODE, "cancel"),
            (opcode::PollAdd::CODE, "poll"),
        ] {
            if !probe.is_supported(code) {
                return Err(Refusal::Old(name));
            }
        }
        let files = if sockets == Sockets::Registered { register_files(&uring)? } else { 0 };
        let memory = |error: io::Error| Refusal::Failed { step: "memory", cause: error.to_string() };
        let mut buffers = Buffers {
            entries: Pages::map(usize::from(BUFFERS) * BUFFER_ENTRY).map_err(memory)?,
            memory: Pages::map(usize::from(BUFFERS) * BUFFER).map_err(memory)?,
            tail: 0,
            posted: 0,
            used: 0,
        };
        // SAFETY: `entries` has BUFFERS entries and is unmapped after the ring has ended: see `Ring`'s order of fields
        // and its `drop`.
        unsafe {
            let start = buffers.entries.address(0) as u64;
            uring.submitter().register_buf_ring_with_flags(start, BUFFERS, GROUP, 0)
        }
        .map_err(Refusal::at("a ring of buffers"))?;
        buffers.post(FIRST_BUFFERS);
        // SAFETY: all of msghdr's fields may be zero.
        let mut wanted: libc::msghdr = unsafe { std::mem::zeroed() };
        wanted.msg_namelen = NAME as libc::socklen_t;
        let outgoing = Pages::map(SENDS * SEND_ROOM).map_err(memory)?;
        let sender =
            Sender { uring, outgoing, queued: 0, filled: 0, emptied: 0, wanted: Box::new(Wanted(wanted)) };
        Ok(Self { sender, buffers, lent: None, receiving: 0, watching: false, files, hurry: false })
    }

    /// True while the kernel has not taken all that was queued.
    fn has_queued(&self) -> bool {
        self.sender.queued > 0
    }

    /// A mark behind all that is queued now.
    pub(super) fn mark(&self) -> u64 {
        self.sender.emptied + u64::from(self.has_queued())
    }

    /// Whether the kernel has taken all before `mark`, whatever has been queued since.
    pub(super) fn is_past(&self, mark: u64) -> bool {
        self.sender.emptied >= mark
    }

    /// True while the ring must be asked what has come, or has something to hand over.
    pub(super) fn is_busy(&self) -> bool {
        self.receiving > 0 || self.has_queued()
    }

    /// Registers a call's RTP sockets in the places `place` and `place + 1`, where sockets are registered, and begins to
    /// receive from them.
    pub(super) fn take_over(
        &mut self,
        place: u32,
        sockets: [&UdpSocket; 2],
        tokens: [u64; 2],
    ) -> Result<TakenOver, Refusal> {
        let [first, second] = sockets.map(|socket| socket.as_raw_fd());
        let names = if self.files == 0 {
            [Socket::Plain(first), Socket::Plain(second)]
        } else if place.saturating_add(1) >= self.files {
            return Err(Refusal::Failed { step: "sockets", cause: format!("{} are all", self.files) });
        } else {
            let submitter = self.sender.uring.submitter();
            let count = submitter.register_files_update(place, &[first, second]);
            if count.map_err(Refusal::at("sockets"))? != 2 {
                return Err(Refusal::Failed { step: "sockets", cause: "not both were taken".to_owned() });
            }
            [Socket::Registered(place), Socket::Registered(place + 1)]
        };
        let [token_a, token_b] = tokens;
        let [socket_a, socket_b] = names;
        let seats = [Seat { socket: socket_a, token: token_a }, Seat { socket: socket_b, token: token_b }];
        Ok(TakenOver { seats, receiving: seats.map(|seat| self.receive(seat)) })
    }

    /// Begins, or begins again, to receive from a socket.
    pub(super) fn receive(&mut self, seat: Seat) -> bool {
        let wanted = &raw const self.sender.wanted.0;
        let entry = match seat.socket {
            Socket::Registered(place) => {
                opcode::RecvMsgMulti::new(types::Fixed(place), wanted, GROUP).build()
            }
            Socket::Plain(descriptor) => {
                opcode::RecvMsgMulti::new(types::Fd(descriptor), wanted, GROUP).build()
            }
        };
        let entry = entry.user_data(seat.token | RECEIVE);
        // SAFETY: `wanted` is boxed and lives as long as the ring; the buffers of the group are the kernel's until a
        // completion names them.
        let begun = unsafe { self.sender.push(&entry) };
        self.receiving += usize::from(begun);
        begun
    }

    /// A call ends: what is queued for its peers leaves, its receive operations are cancelled, its places are free.
    /// Its sockets must stay open until a completion of each token in `receiving` has told its end.
    pub(super) fn release(&mut self, place: u32, receiving: impl Iterator<Item = u64>) {
        for token in receiving {
            let entry = opcode::AsyncCancel::new(token | RECEIVE)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(CANCEL);
            // SAFETY: the operation names no memory.
            unsafe { self.sender.push(&entry) };
        }
        // Queued sends name a place or a descriptor: they must be on their way before it is another's.
        if let Err(error) = self.sender.hand_over() {
            tracing::debug!(%error, "operations wait");
        }
        if self.files == 0 {
            return;
        }
        let submitter = self.sender.uring.submitter();
        if let Err(error) = submitter.register_files_update(place, &[-1, -1]) {
            tracing::warn!(%error, "a call's sockets stay registered");
        }
    }

    /// Hands over what is queued and waits for `longest`, or until so much has come that waiting longer would bring
    /// buffers to an end.
    pub(super) fn tick(&mut self, most: usize, longest: Duration) -> io::Result<()> {
        let most = most.min(usize::from(self.buffers.posted / 2)).max(1);
        self.sender.wait(most, longest)
    }

    /// Waits for a packet here, or for epoll to have something, and at most for `longest`.
    pub(super) fn doze(&mut self, epoll: BorrowedFd<'_>, longest: Duration) -> io::Result<()> {
        if !self.watching {
            let entry = opcode::PollAdd::new(types::Fd(epoll.as_fd().as_raw_fd()), libc::POLLIN as u32)
                .build()
                .user_data(WATCH);
            // SAFETY: the operation names no memory, and the descriptor is open: it is handed over right now.
            self.watching = unsafe { self.sender.push(&entry) };
        }
        self.sender.wait(1, longest)
    }

    /// Hands over what others wait for, without waiting for anything new.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.hurry) { self.sender.hand_over() } else { Ok(()) }
    }

    /// What comes next from the kernel; gives back the buffer of the completion before.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Completion> {
        if let Some(buffer) = self.lent.take() {
            self.buffers.give(buffer);
        }
        loop {
            let Some(entry) = self.sender.uring.completion().next() else {
                self.buffers.publish();
                return None;
            };
            let (data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            let token = data & !KIND_MASK;
            match data & KIND_MASK {
                RECEIVE => {
                    let ended = !cqueue::more(flags);
                    self.receiving = self.receiving.saturating_sub(usize::from(ended));
                    self.lent = cqueue::buffer_select(flags);
                    let length = usize::try_from(result).unwrap_or(0);
                    let datagram = self.lent.map(|buffer| Datagram { buffer, length });
                    let error = (result < 0).then(|| result.saturating_neg());
                    if error == Some(libc::ENOBUFS) {
                        self.buffers.used = self.buffers.posted;
                    }
                    return Some(Completion::Received { token, datagram, ended, error });
                }
                kind @ (SENT | RELAYED) if result < 0 => {
                    let error = result.saturating_neg();
                    return Some(Completion::Unsent { token, relayed: kind == RELAYED, error });
                }
                WATCH => self.watching = false,
                // A cancellation fails when what it was for has ended by itself.
                _ => {}
            }
        }
    }

    /// A datagram's bytes and sender; no bytes when it was longer than a buffer, no sender when its address is not
    /// one. And whoever may have to send something for it.
    #[inline]
    pub(super) fn open(&mut self, datagram: Datagram) -> (&mut [u8], Option<SocketAddr>, &mut Sender) {
        let (bytes, from) = self.buffers.open(datagram);
        (bytes, from, &mut self.sender)
    }

    /// After this something waits that [`Self::settle`] hands over.
    pub(super) fn hurry(&mut self) {
        self.hurry = true;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.receiving == 0 && !self.watching {
            return;
        }
        // Nothing may be under way on our memory when it goes.
        let limit = types::Timespec::from(LAST_WAIT);
        let all = types::CancelBuilder::any();
        match self.sender.uring.submitter().register_sync_cancel(Some(limit), all) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "receive operations do not end; their memory is left to them");
                if let Ok(empty) = Pages::map(BUFFER) {
                    std::mem::forget(std::mem::replace(&mut self.buffers.memory, empty));
                }
                if let Ok(empty) = Pages::map(BUFFER) {
                    std::mem::forget(std::mem::replace(&mut self.buffers.entries, empty));
                }
            }
        }
    }
}

/// As many places as the process may have descriptors, up to [`FILES`].
fn register_files(uring: &IoUring) -> Result<u32, Refusal> {
    let mut files = FILES;
    loop {
        match uring.submitter().register_files_sparse(files) {
            Ok(()) => return Ok(files),
            Err(error) if error.raw_os_error() == Some(libc::EMFILE) && files > FEWEST_FILES => files /= 2,
            Err(error) => return Err(Refusal::at("registered sockets")(error)),
        }
    }
}

impl Sender {
    /// Queues a packet. False when it cannot be sent; true is not yet a promise: see [`Completion::Unsent`].
    #[inline]
    pub(super) fn send(&mut self, seat: Seat, packet: &[u8], to: SocketAddr, relayed: bool) -> bool {
        if packet.len() > SEND_ROOM - NAME || (self.filled >= SENDS && !self.make_room()) {
            return false;
        }
        let offset = self.filled * SEND_ROOM;
        let room = self.outgoing.bytes(offset, NAME + packet.len());
        let Some((name, body)) = room.split_first_chunk_mut::<NAME>() else { return false };
        let name_length = write_address(to, name);
        body.copy_from_slice(packet);
        let kind = if relayed { RELAYED } else { SENT };
        let body = self.outgoing.address(offset + NAME);
        // Without `MSG_DONTWAIT` a full socket buffer would keep the operation, and its memory, for later.
        let length = packet.len() as u32;
        let send = match seat.socket {
            Socket::Registered(place) => opcode::Send::new(types::Fixed(place), body, length),
            Socket::Plain(descriptor) => opcode::Send::new(types::Fd(descriptor), body, length),
        };
        let entry = send
            .dest_addr(self.outgoing.address(offset).cast_const().cast())
            .dest_addr_len(name_length)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(seat.token | kind);
        // SAFETY: address and packet stand in a place of their own, which is not written to again before the kernel has
        // taken this operation (`filled`), and by then it is done, because it may not wait.
        let queued = unsafe { self.push(&entry) };
        // A hand-over in between may have emptied the queue: this operation is in it all the same.
        self.filled = offset / SEND_ROOM + usize::from(queued);
        queued
    }

    #[cold]
    fn make_room(&mut self) -> bool {
        let outcome = self.hand_over();
        if let Err(error) = outcome {
            tracing::debug!(%error, "packets wait in the ring");
        }
        self.filled < SENDS
    }

    /// # Safety
    /// What the operation names must be the kernel's until it has ended.
    #[inline]
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        for _ in 0..2 {
            // SAFETY: the caller's promise.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                self.queued += 1;
                return true;
            }
            if self.hand_over().is_err() {
                break;
            }
        }
        false
    }

    /// Gives the kernel all that is queued, and takes what it has done.
    fn hand_over(&mut self) -> io::Result<()> {
        let count = self.uring.submission().len() as u32;
        // SAFETY: no argument is passed; the operations were pushed by `push`, whose callers keep its promise.
        let outcome = unsafe {
            self.uring.submitter().enter::<libc::sigset_t>(count, 0, EnterFlags::GETEVENTS.bits(), None)
        };
        self.after(outcome)
    }

    /// The same, and waits until there are `most` completions, or for `longest`.
    fn wait(&mut self, most: usize, longest: Duration) -> io::Result<()> {
        let limit = types::Timespec::from(longest);
        let arguments = types::SubmitArgs::new().timespec(&limit);
        let outcome = self.uring.submitter().submit_with_args(most, &arguments);
        self.after(outcome)
    }

    fn after(&mut self, outcome: io::Result<usize>) -> io::Result<()> {
        self.queued = self.uring.submission().len();
        if self.queued == 0 {
            // The kernel has taken every operation, and sends do not outlast that.
            self.filled = 0;
            self.emptied += 1;
        }
        let Err(error) = outcome else { return Ok(()) };
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR) => Ok(()),
            // Short of memory, or of room for completions, which are taken next. What is queued stays queued.
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {
                std::thread::sleep(SHORTAGE);
                Ok(())
            }
            _ => Err(error),
        }
    }
}

/// Receive buffers and the ring in which the kernel finds those that it may use.
#[derive(Debug)]
struct Buffers {
    entries: Pages,
    memory: Pages,
    tail: u16,
    /// Buffers that are in use at all: the first ones.
    posted: u16,
    /// Buffers that came back since the last [`Self::publish`].
    used: u16,
}

impl Buffers {
    /// The kernel may use this buffer, as soon as it is told so by [`Self::publish`].
    #[inline]
    fn give(&mut self, buffer: u16) {
        let address = self.memory.address(usize::from(buffer) * BUFFER) as u64;
        let place = usize::from(self.tail % BUFFERS) * BUFFER_ENTRY;
        // Not the last two bytes: those of the first entry are the kernel's to read at any time.
        let entry = self.entries.bytes(place, BUFFER_ENTRY_USED);
        if let Some((start, rest)) = entry.split_first_chunk_mut::<8>()
            && let Some((length, number)) = rest.split_first_chunk_mut::<4>()
        {
            *start = address.to_ne_bytes();
            *length = (BUFFER as u32).to_ne_bytes();
            number.copy_from_slice(&buffer.to_ne_bytes());
        }
        self.tail = self.tail.wrapping_add(1);
        self.used = self.used.saturating_add(1);
    }

    /// More buffers, so that there are `wanted`.
    fn post(&mut self, wanted: u16) {
        for buffer in self.posted..wanted.min(BUFFERS) {
            self.give(buffer);
        }
        self.posted = self.posted.max(wanted.min(BUFFERS));
        self.used = 0;
        self.entries.publish(BUFFER_ENTRY_USED, self.tail);
    }

    /// Tells the kernel of what was given back, and of more when half of them were used at once.
    fn publish(&mut self) {
        if self.used > self.posted / 2 && self.posted < BUFFERS {
            self.post(self.posted.saturating_mul(2));
        } else if self.used > 0 {
            self.used = 0;
            self.entries.publish(BUFFER_ENTRY_USED, self.tail);
        }
    }

    #[inline]
    fn open(&mut self, datagram: Datagram) -> (&mut [u8], Option<SocketAddr>) {
        let length = datagram.length.min(BUFFER);
        let bytes = self.memory.bytes(usize::from(datagram.buffer) * BUFFER, length);
        let Some((head, rest)) = bytes.split_first_chunk_mut::<HEAD>() else { return (&mut [], None) };
        let Some((name, payload)) = rest.split_first_chunk_mut::<NAME>() else { return (&mut [], None) };
        let [.., f0, f1, f2, f3] = *head;
        // What was cut is not what the peer said.
        let cut = u32::from_ne_bytes([f0, f1, f2, f3]) & libc::MSG_TRUNC as u32 != 0;
        (if cut { &mut [] } else { payload }, read_address(name))
    }
}

/// `sockaddr_in` or `sockaddr_in6`: family, port, then what the family has.
#[inline]
fn read_address(name: &[u8; NAME]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, rest @ ..] = *name;
    let port = u16::from_be_bytes([p0, p1]);
    match i32::from(u16::from_ne_bytes([f0, f1])) {
        libc::AF_INET => {
            let address: [u8; 4] = *rest.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(address), port).into())
        }
        libc::AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk::<4>()?;
            let (address, rest) = rest.split_first_chunk::<16>()?;
            let (flow, scope) = (u32::from_ne_bytes(*flow), u32::from_ne_bytes(*rest.first_chunk()?));
            Some(SocketAddrV6::new(Ipv6Addr::from(*address), port, flow, scope).into())
        }
        _ => None,
    }
}

/// Writes an address for the kernel and says how long it is.
#[inline]
fn write_address(address: SocketAddr, name: &mut [u8; NAME]) -> libc::socklen_t {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u16;
    let (head, rest) = name.split_at_mut(4);
    if let Some((to, port)) = head.split_first_chunk_mut::<2>() {
        *to = family.to_ne_bytes();
        port.copy_from_slice(&address.port().to_be_bytes());
    }
    match address {
        SocketAddr::V4(address) => {
            if let Some((to, padding)) = rest.split_first_chunk_mut::<4>() {
                *to = address.ip().octets();
                padding.fill(0);
            }
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            if let Some((flow, rest)) = rest.split_first_chunk_mut::<4>()
                && let Some((to, rest)) = rest.split_first_chunk_mut::<16>()
                && let Some(scope) = rest.first_chunk_mut::<4>()
            {
                *flow = address.flowinfo().to_ne_bytes();
                *to = address.ip().octets();
                *scope = address.scope_id().to_ne_bytes();
            }
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
