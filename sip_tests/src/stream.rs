//! One call's media at a phone: an RTP and an RTCP socket, audio out on an absolute schedule, everything that
//! comes in recorded (RFC 3550, RFC 3551, RFC 4733).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use media::srtp::{MasterKey, RTP_TRAILER, Srtp};
use media::{Codec, Digit};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::middlebox::Middlebox;
use crate::patterns::{self, Content, Pattern};
use crate::rtp::{HeaderExtras, Packet, SdesItem, SenderFigures, TelephoneEvent, rtcp_compound};
use crate::sdp::RemoteMedia;
use crate::transcript::{Direction, Kind, Transcript};
use crate::{clock, coding, g711, srtp};

/// What is sent while nothing plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Idle {
    /// Packets of silence, as a phone without voice activity detection.
    #[default]
    Silence,
    /// No packets.
    Nothing,
}

/// How a phone's RTP and RTCP look.
#[derive(Debug, Clone)]
pub struct MediaOptions {
    /// While nothing plays.
    pub idle: Idle,
    /// Random when `None`.
    pub ssrc: Option<u32>,
    /// First sequence number; random when `None`.
    pub first_sequence: Option<u16>,
    /// First timestamp; random when `None`.
    pub first_timestamp: Option<u32>,
    /// CSRC list, extension and padding of every packet.
    pub extras: HeaderExtras,
    /// SDES items of each report; CNAME first.
    pub sdes: Vec<SdesItem>,
    /// Time between reports; `None`: no RTCP.
    pub rtcp_interval: Option<Duration>,
    /// Reason text of the RTCP BYE that [`MediaSession::stop`] sends; `None`: no RTCP BYE.
    pub goodbye: Option<String>,
    /// Between the far side and this phone.
    pub middlebox: Option<Middlebox>,
}

impl Default for MediaOptions {
    fn default() -> Self {
        Self {
            idle: Idle::default(),
            ssrc: None,
            first_sequence: None,
            first_timestamp: None,
            extras: HeaderExtras::default(),
            sdes: vec![(1, "phone@sip-tests.invalid".into())],
            rtcp_interval: Some(Duration::from_secs(2)),
            goodbye: None,
            middlebox: None,
        }
    }
}

/// A packet that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedPacket {
    /// Since the sockets were opened.
    pub at: Duration,
    /// Where it came from.
    pub from: SocketAddr,
    /// What it was.
    pub packet: Packet,
}

/// A key as it was received: all packets of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedDigit {
    /// The key.
    pub key: char,
    /// The longest duration that a packet told, in ms.
    pub duration_ms: u32,
    /// Payload type of its packets.
    pub payload_type: u8,
    /// How many there were.
    pub packets: usize,
    /// True when an end packet came.
    pub ended: bool,
    /// When the first one came.
    pub at: Duration,
}

/// One call's media. Cloning shares it; the sockets close when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct MediaSession {
    shared: Arc<Shared>,
    _tasks: Arc<Tasks>,
}

#[derive(Debug)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Shared {
    phone: Arc<str>,
    transcript: Transcript,
    rtp: UdpSocket,
    rtcp: UdpSocket,
    address: SocketAddr,
    opened: Instant,
    state: Mutex<State>,
    wake: Notify,
    progress: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    options: MediaOptions,
    remote: Option<RemoteMedia>,
    /// What this phone encrypts with, when the far side agrees.
    key: Option<MasterKey>,
    srtp: Option<Srtp>,
    encoder: coding::Encoder,
    /// Packets that came and were not what was agreed.
    rejected: usize,
    /// What this phone speaks; of these the far side's first one is sent.
    codecs: Vec<Codec>,
    telephone_event_pt: u8,
    ptime_ms: u8,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    /// `None` before [`MediaSession::start`] and after [`MediaSession::stop`].
    next_tick: Option<Instant>,
    queue: VecDeque<i16>,
    schedule: Vec<(Instant, Packet)>,
    sent: Vec<i16>,
    packets: u32,
    octets: u32,
    received: Vec<ReceivedPacket>,
    received_rtcp: Vec<(Duration, Vec<u8>)>,
}

impl MediaSession {
    /// Opens an even port for RTP and the odd one above for RTCP on `ip`.
    ///
    /// # Errors
    /// What the system says.
    pub async fn open(
        ip: IpAddr,
        phone: Arc<str>,
        transcript: Transcript,
        options: MediaOptions,
        seed: u64,
    ) -> std::io::Result<Self> {
        let (rtp, rtcp) = bind_pair(ip).await?;
        let address = rtp.local_addr()?;
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(address.port());
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(random >> 33).unwrap_or_default()
        };
        let state = State {
            ssrc: options.ssrc.unwrap_or_else(&mut next),
            sequence: options
                .first_sequence
                .unwrap_or_else(|| u16::try_from(next() & 0xffff).unwrap_or_default()),
            timestamp: options.first_timestamp.unwrap_or_else(&mut next),
            options,
            remote: None,
            key: None,
            srtp: None,
            encoder: coding::Encoder::default(),
            rejected: 0,
            codecs: vec![Codec::Pcmu, Codec::Pcma],
            telephone_event_pt: 101,
            ptime_ms: 20,
            marker: true,
            next_tick: None,
            queue: VecDeque::new(),
            schedule: vec![],
            sent: vec![],
            packets: 0,
            octets: 0,
            received: vec![],
            received_rtcp: vec![],
        };
        let (opened, wake, progress) = (clock::now(), Notify::new(), watch::channel(0).0);
        let state = Mutex::new(state);
        let shared =
            Arc::new(Shared { phone, transcript, rtp, rtcp, address, opened, state, wake, progress });
        let tasks = vec![
            tokio::spawn(receive_rtp(shared.clone())).abort_handle(),
            tokio::spawn(receive_rtcp(shared.clone())).abort_handle(),
            tokio::spawn(send(shared.clone())).abort_handle(),
            tokio::spawn(report(shared.clone())).abort_handle(),
        ];
        Ok(Self { shared, _tasks: Arc::new(Tasks(tasks)) })
    }

    /// Where this phone receives RTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// What the far side's last description said.
    #[must_use]
    pub fn remote(&self) -> Option<RemoteMedia> {
        self.shared.lock().remote.clone()
    }

    /// Sends to where `remote` says from now on, in the first of its codecs that this phone speaks.
    pub fn set_remote(&self, remote: RemoteMedia) {
        let mut state = self.shared.lock();
        let keys = |remote: &RemoteMedia| remote.crypto.clone();
        let changed = state.remote.as_ref().map(keys) != Some(keys(&remote));
        state.remote = Some(remote);
        if changed {
            state.srtp = srtp::agreed(state.key.as_ref(), state.remote.as_ref());
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// The telephone-event payload type that this phone announced, and its packet length.
    pub fn set_local(&self, telephone_event_pt: Option<u8>, ptime_ms: Option<u8>) {
        let mut state = self.shared.lock();
        state.telephone_event_pt = telephone_event_pt.unwrap_or(101);
        state.ptime_ms = ptime_ms.unwrap_or(20).clamp(10, 120);
    }

    /// The codecs that this phone announced.
    pub fn set_codecs(&self, codecs: &[Codec]) {
        codecs.clone_into(&mut self.shared.lock().codecs);
    }

    /// The key that this phone announced.
    pub fn set_key(&self, key: Option<&MasterKey>) {
        let mut state = self.shared.lock();
        if state.key.as_ref() != key {
            state.key = key.cloned();
            state.srtp = srtp::agreed(key, state.remote.as_ref());
        }
    }

    /// True when what is sent is encrypted, and what is not is rejected.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.shared.lock().srtp.is_some()
    }

    /// RTP and RTCP packets that came and had a wrong tag.
    #[must_use]
    pub fn rejected(&self) -> usize {
        self.shared.lock().rejected
    }

    /// What is sent while nothing plays.
    pub fn set_idle(&self, idle: Idle) {
        self.shared.lock().options.idle = idle;
    }

    /// Changes any other option; takes effect with the next packet.
    pub fn change_options(&self, change: impl FnOnce(&mut MediaOptions)) {
        change(&mut self.shared.lock().options);
    }

    /// Begins to send. Nothing happens when it has begun.
    pub fn start(&self) {
        let mut state = self.shared.lock();
        if state.next_tick.is_none() {
            state.next_tick = Some(clock::now());
            state.marker = true;
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Ends sending; what was queued is dropped.
    pub fn stop(&self) {
        let goodbye = {
            let mut state = self.shared.lock();
            state.next_tick = None;
            state.queue.clear();
            state.schedule.clear();
            state.options.goodbye.clone()
        };
        self.shared.wake.notify_one();
        if let Some(reason) = goodbye {
            self.shared.send_report(Some(&reason));
        }
    }

    /// Queues audio behind what is queued.
    pub fn send_audio(&self, samples: &[i16]) {
        self.shared.lock().queue.extend(samples);
        self.shared.wake.notify_one();
    }

    /// Waits until all that was queued has been sent. Returns at once when nothing is being sent.
    pub async fn finished(&self) {
        let mut progress = self.shared.progress.subscribe();
        loop {
            {
                let state = self.shared.lock();
                if state.next_tick.is_none() || (state.queue.is_empty() && state.schedule.is_empty()) {
                    return;
                }
            }
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    /// Queues audio and waits until it has been sent.
    pub async fn play(&self, samples: &[i16]) {
        self.send_audio(samples);
        self.finished().await;
    }

    /// Types `keys` in `pattern`, with the payload type that the far side wants for telephone-events, and waits
    /// until the last packet has been sent. Characters that are no keys are left out.
    pub async fn dtmf(&self, keys: &str, pattern: Pattern) {
        self.dtmf_as(keys, pattern, None).await;
    }

    /// The same with a payload type of one's own.
    pub async fn dtmf_as(&self, keys: &str, pattern: Pattern, payload_type: Option<u8>) {
        let digits: Vec<Digit> = keys.chars().filter_map(Digit::from_char).collect();
        self.shared.lock().type_digits(&digits, pattern, payload_type);
        self.shared.wake.notify_one();
        self.finished().await;
    }

    /// Sends one packet of one's own making to the far side's RTP address.
    pub fn send_raw(&self, bytes: &[u8]) {
        if let Some(remote) = self.remote() {
            self.shared.send_rtp(bytes, remote.rtp);
        }
    }

    /// Sends one packet of one's own making to the far side's RTCP address.
    pub fn send_raw_rtcp(&self, bytes: &[u8]) {
        let Some(remote) = self.remote() else { return };
        let shared = &self.shared;
        if shared.rtcp.try_send_to(bytes, remote.rtcp).is_ok() {
            shared.transcript.add(&shared.phone, Direction::Sent, Kind::Rtcp, remote.rtcp, bytes);
        }
    }

    /// Sends a report now, whatever the interval.
    pub fn send_report(&self) {
        self.shared.send_report(None);
    }

    /// All audio sent so far, as it was before coding, from the first packet on; keys are silence in it.
    #[must_use]
    pub fn sent_audio(&self) -> Vec<i16> {
        self.shared.lock().sent.clone()
    }

    /// RTP packets sent so far.
    #[must_use]
    pub fn sent_packets(&self) -> u32 {
        self.shared.lock().packets
    }

    /// This phone's own SSRC.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.shared.lock().ssrc
    }

    /// All RTP received so far.
    #[must_use]
    pub fn received_packets(&self) -> Vec<ReceivedPacket> {
        self.shared.lock().received.clone()
    }

    /// How many RTP packets were received so far.
    #[must_use]
    pub fn received_count(&self) -> usize {
        self.shared.lock().received.len()
    }

    /// All RTCP received so far.
    #[must_use]
    pub fn received_rtcp(&self) -> Vec<(Duration, Vec<u8>)> {
        self.shared.lock().received_rtcp.clone()
    }

    /// Received audio, placed by RTP timestamp; what never came is silence. Sample 0 is the first packet's.
    #[must_use]
    pub fn received_audio(&self) -> Vec<i16> {
        place(&self.received_packets())
    }

    /// The keys received so far, one for each event (told apart by SSRC, timestamp and event code).
    #[must_use]
    pub fn received_digits(&self) -> Vec<ReceivedDigit> {
        let state = self.shared.lock();
        let mut order: Vec<(u32, u32, u8)> = vec![];
        let mut digits: BTreeMap<(u32, u32, u8), ReceivedDigit> = BTreeMap::new();
        for ReceivedPacket { at, packet, .. } in &state.received {
            if packet.payload_type != state.telephone_event_pt {
                continue;
            }
            let Some(event) = TelephoneEvent::decode(&packet.payload) else { continue };
            let Some(digit) = Digit::from_event(event.event) else { continue };
            let key = (packet.ssrc, packet.timestamp, event.event);
            let entry = digits.entry(key).or_insert_with(|| {
                order.push(key);
                let payload_type = packet.payload_type;
                ReceivedDigit {
                    key: digit.key(),
                    duration_ms: 0,
                    payload_type,
                    packets: 0,
                    ended: false,
                    at: *at,
                }
            });
            entry.duration_ms = entry.duration_ms.max(u32::from(event.duration) / 8);
            entry.packets += 1;
            entry.ended |= event.end;
        }
        order.iter().filter_map(|key| digits.get(key).cloned()).collect()
    }

    /// The keys received so far as text.
    #[must_use]
    pub fn received_keys(&self) -> String {
        self.received_digits().iter().map(|digit| digit.key).collect()
    }

    /// Waits until `enough` is true; it is asked after every received packet.
    ///
    /// # Errors
    /// [`NotHeard`] when `timeout` passes before.
    pub async fn wait(&self, timeout: Duration, enough: impl Fn(&Self) -> bool) -> Result<(), NotHeard> {
        let mut progress = self.shared.progress.subscribe();
        let waiting = async {
            while !enough(self) {
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(timeout, waiting)
            .await
            .map_err(|_| NotHeard { packets: self.received_count(), keys: self.received_digits().len() })
    }

    /// Waits for so many received packets.
    ///
    /// # Errors
    /// [`NotHeard`] when `timeout` passes before.
    pub async fn wait_packets(&self, count: usize, timeout: Duration) -> Result<(), NotHeard> {
        self.wait(timeout, |media| media.received_count() >= count).await
    }
}

/// What was waited for on the media did not come.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not heard in time; so far {packets} packets and {keys} keys")]
pub struct NotHeard {
    /// RTP packets received so far.
    pub packets: usize,
    /// Keys received so far.
    pub keys: usize,
}

/// Audio of a packet list, placed by timestamp within each SSRC and by arrival between them.
#[must_use]
pub fn place(packets: &[ReceivedPacket]) -> Vec<i16> {
    const LONGEST: usize = 8000 * 3600;
    let Some(begin) = packets.first().map(|packet| packet.at) else { return vec![] };
    let mut anchors: BTreeMap<u32, (u32, i64)> = BTreeMap::new();
    let mut samples: Vec<i16> = vec![];
    let mut decoders = coding::Decoders::default();
    for ReceivedPacket { at, packet, .. } in packets {
        let Some(codec) = g711::codec(packet.payload_type) else {
            continue;
        };
        let arrival = i64::try_from((*at - begin).as_micros() / 125).unwrap_or(i64::MAX);
        let (first, origin) = *anchors.entry(packet.ssrc).or_insert((packet.timestamp, arrival));
        let offset = i64::from(packet.timestamp.wrapping_sub(first).cast_signed());
        let mut position = origin + offset;
        if (position - arrival).abs() > 8000 * 5 {
            // A jump of the stream's clock: it is heard when it arrives.
            anchors.insert(packet.ssrc, (packet.timestamp, arrival));
            position = arrival;
        }
        let Ok(position) = usize::try_from(position) else { continue };
        let end = position.saturating_add(packet.payload.len());
        if end > LONGEST {
            continue;
        }
        if samples.len() < end {
            samples.resize(end, 0);
        }
        let place = samples.get_mut(position..end).unwrap_or_default();
        let heard = decoders.decode(packet.ssrc, codec, &packet.payload);
        place.iter_mut().zip(heard).for_each(|(sample, heard)| *sample = heard);
    }
    samples
}

async fn bind_pair(ip: IpAddr) -> std::io::Result<(UdpSocket, UdpSocket)> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    // Sockets that were not wanted are kept until the end, so that the system offers others.
    let mut kept = vec![];
    for _ in 0..200 {
        let first = UdpSocket::bind((ip, 0)).await?;
        let port = first.local_addr()?.port();
        let other = if port % 2 == 0 { port.checked_add(1) } else { port.checked_sub(1) };
        match UdpSocket::bind((ip, other.unwrap_or(0))).await {
            Ok(second) if port % 2 == 0 => return Ok((first, second)),
            Ok(second) => return Ok((second, first)),
            Err(error) => last = error,
        }
        kept.push(first);
    }
    Err(last)
}

impl Shared {
    fn deliver(&self, kind: Kind, bytes: &[u8]) -> Vec<Vec<u8>> {
        let middlebox = self.lock().options.middlebox.clone();
        Middlebox::deliver(middlebox.as_ref(), kind, bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_rtp(&self, bytes: &[u8], to: SocketAddr) {
        if self.rtp.try_send_to(bytes, to).is_ok() {
            self.transcript.add(&self.phone, Direction::Sent, Kind::Rtp, to, bytes);
        }
    }

    fn send_report(&self, goodbye: Option<&str>) {
        let (wire, to) = {
            let mut state = self.lock();
            let state = &mut *state;
            let Some(remote) = &state.remote else { return };
            let wall = clock::since_epoch();
            // NTP counts from 1900 (RFC 5905 §6).
            let seconds = wall.as_secs() + 2_208_988_800;
            let fraction = (u64::from(wall.subsec_nanos()) << 32) / 1_000_000_000;
            let figures = SenderFigures {
                ssrc: state.ssrc,
                ntp: (seconds << 32) | fraction,
                timestamp: state.timestamp,
                packets: state.packets,
                octets: state.octets,
            };
            let to = remote.rtcp;
            let mut wire = rtcp_compound(figures, &state.options.sdes, goodbye);
            if state.srtp.as_mut().is_some_and(|srtp| !srtp.protect_rtcp(&mut wire)) {
                return;
            }
            (wire, to)
        };
        if self.rtcp.try_send_to(&wire, to).is_ok() {
            self.transcript.add(&self.phone, Direction::Sent, Kind::Rtcp, to, &wire);
        }
    }
}

impl State {
    fn codec(&self) -> Codec {
        let theirs = self.remote.iter().flat_map(|remote| &remote.payload_types);
        theirs
            .filter_map(|number| g711::codec(*number))
            .find(|codec| self.codecs.contains(codec))
            .unwrap_or(Codec::Pcmu)
    }

    /// What is due at `now`, and where to send it.
    fn due(&mut self, now: Instant) -> Vec<(Vec<u8>, SocketAddr)> {
        let mut packets = vec![];
        while let Some((at, _)) = self.schedule.first()
            && *at <= now
        {
            packets.push(self.schedule.remove(0).1);
        }
        while let Some(tick) = self.next_tick.filter(|tick| *tick <= now) {
            packets.extend(self.tick());
            self.next_tick = Some(tick + Duration::from_millis(u64::from(self.ptime_ms)));
        }
        // Who holds us does not want to hear us (RFC 3264 §8.4).
        let remote = self
            .remote
            .as_ref()
            .filter(|remote| !matches!(remote.direction.as_str(), "sendonly" | "inactive"));
        let Some(to) = remote.map(|remote| remote.rtp) else { return vec![] };
        for packet in &packets {
            self.packets = self.packets.wrapping_add(1);
            self.octets = self.octets.wrapping_add(u32::try_from(packet.payload.len()).unwrap_or_default());
        }
        packets.into_iter().filter_map(|packet| Some((self.protect(packet.encode())?, to))).collect()
    }

    /// As it lies on the wire. `None`: its number has been used with another content.
    fn protect(&mut self, mut wire: Vec<u8>) -> Option<Vec<u8>> {
        if let Some(srtp) = &mut self.srtp {
            let length = wire.len();
            wire.resize(length + RTP_TRAILER, 0);
            let length = srtp.protect_rtp(&mut wire, length)?;
            wire.truncate(length);
        }
        Some(wire)
    }

    /// What a datagram holds, when its tag is right or needs to be none.
    fn unprotect(
        &mut self,
        mut wire: Vec<u8>,
        by: fn(&mut Srtp, &mut [u8]) -> Option<usize>,
    ) -> Option<Vec<u8>> {
        if let Some(srtp) = &mut self.srtp {
            let length = by(srtp, &mut wire);
            self.rejected += usize::from(length.is_none());
            wire.truncate(length?);
        }
        Some(wire)
    }

    fn tick(&mut self) -> Option<Packet> {
        let count = usize::from(self.ptime_ms) * 8;
        let quiet = self.queue.is_empty() && self.options.idle == Idle::Nothing;
        let samples = self.next_samples(count);
        let timestamp = self.timestamp;
        self.timestamp = self.timestamp.wrapping_add(u32::from(self.ptime_ms) * 8);
        self.sent.extend(&samples);
        if quiet {
            // The next talkspurt begins with a marker (RFC 3551 §4.1).
            self.marker = true;
            return None;
        }
        let marker = std::mem::take(&mut self.marker);
        Some(self.audio_packet(&samples, timestamp, marker))
    }

    fn next_samples(&mut self, count: usize) -> Vec<i16> {
        let mut samples: Vec<i16> = self.queue.drain(..count.min(self.queue.len())).collect();
        samples.resize(count, 0);
        samples
    }

    fn audio_packet(&mut self, samples: &[i16], timestamp: u32, marker: bool) -> Packet {
        let codec = self.codec();
        let payload = self.encoder.encode(codec, samples);
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        Packet {
            marker,
            payload_type: g711::payload_type(codec),
            sequence,
            timestamp,
            ssrc: self.ssrc,
            payload,
            extras: self.options.extras.clone(),
        }
    }

    fn type_digits(&mut self, digits: &[Digit], pattern: Pattern, payload_type: Option<u8>) {
        let Some(begin) = self.next_tick else { return };
        let theirs = self.remote.as_ref().and_then(|remote| remote.telephone_event_pt);
        let payload_type = payload_type.or(theirs).unwrap_or(101);
        let made = patterns::schedule(digits, pattern, u64::from(self.ssrc));
        let (first_sequence, first_timestamp) = (self.sequence, self.timestamp);
        let mut heard = BTreeMap::new();
        for scheduled in &made.packets {
            let sequence = first_sequence.wrapping_add(scheduled.sequence);
            let timestamp = first_timestamp.wrapping_add(scheduled.timestamp);
            let packet = match scheduled.content {
                Content::Audio => {
                    let samples =
                        heard.entry(scheduled.sequence).or_insert_with(|| self.next_samples(160)).clone();
                    let mut packet = self.audio_packet(&samples, timestamp, scheduled.marker);
                    packet.sequence = sequence;
                    packet
                }
                Content::Event(event) => Packet {
                    marker: scheduled.marker,
                    payload_type,
                    sequence,
                    timestamp,
                    ssrc: self.ssrc,
                    payload: event.encode(),
                    extras: self.options.extras.clone(),
                },
            };
            self.schedule.push((begin + scheduled.at, packet));
        }
        self.schedule.sort_by_key(|(at, _)| *at);
        let samples = usize::try_from(made.length.as_millis() * 8).unwrap_or_default();
        self.sequence = first_sequence.wrapping_add(made.sequences);
        self.timestamp = first_timestamp.wrapping_add(u32::try_from(samples).unwrap_or_default());
        self.sent.resize(self.sent.len() + samples, 0);
        self.next_tick = Some(begin + made.length);
    }
}

async fn send(shared: Arc<Shared>) {
    loop {
        let due = {
            let state = shared.lock();
            let scheduled = state.schedule.first().map(|(at, _)| *at);
            state.next_tick.into_iter().chain(scheduled).min()
        };
        match due {
            None => shared.wake.notified().await,
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {}
                () = shared.wake.notified() => {}
            },
        }
        let packets = shared.lock().due(clock::now());
        for (bytes, to) in packets {
            shared.send_rtp(&bytes, to);
        }
        shared.progress.send_modify(|count| *count += 1);
    }
}

async fn report(shared: Arc<Shared>) {
    loop {
        let interval = shared.lock().options.rtcp_interval;
        tokio::time::sleep(interval.unwrap_or(Duration::from_secs(1))).await;
        let sending = shared.lock().next_tick.is_some();
        if sending && interval.is_some() {
            shared.send_report(None);
        }
    }
}

async fn receive_rtp(shared: Arc<Shared>) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((length, from)) = shared.rtp.recv_from(&mut buffer).await else { continue };
        for bytes in shared.deliver(Kind::Rtp, buffer.get(..length).unwrap_or_default()) {
            shared.transcript.add(&shared.phone, Direction::Received, Kind::Rtp, from, &bytes);
            let mut state = shared.lock();
            let Some(bytes) = state.unprotect(bytes, Srtp::unprotect_rtp) else { continue };
            if let Some(packet) = Packet::decode(&bytes) {
                let at = clock::now().saturating_duration_since(shared.opened);
                state.received.push(ReceivedPacket { at, from, packet });
            }
        }
        shared.progress.send_modify(|count| *count += 1);
    }
}

async fn receive_rtcp(shared: Arc<Shared>) {
    let mut buffer = vec![0; 65536];
    loop {
        let Ok((length, from)) = shared.rtcp.recv_from(&mut buffer).await else { continue };
        for bytes in shared.deliver(Kind::Rtcp, buffer.get(..length).unwrap_or_default()) {
            shared.transcript.add(&shared.phone, Direction::Received, Kind::Rtcp, from, &bytes);
            let at = clock::now().saturating_duration_since(shared.opened);
            let mut state = shared.lock();
            let Some(bytes) = state.unprotect(bytes, Srtp::unprotect_rtcp) else { continue };
            state.received_rtcp.push((at, bytes));
        }
        shared.progress.send_modify(|count| *count += 1);
    }
}
