//! What the engine has done so far, for `/metrics`.

/// Figures of the whole engine since its start; those of packets are some tenths of a second old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStatistics {
    /// Calls whose media is open now.
    pub calls: u64,
    /// RTP ports in use now.
    pub ports_in_use: u64,
    /// RTP ports that could be taken now.
    pub ports_available: u64,
    /// How often a port had to be taken before its rest was over.
    pub ports_taken_early: u64,
    /// RTP packets of peers.
    pub received: u64,
    /// Of these, sent on to the other leg.
    pub relayed: u64,
    /// All RTP packets sent: relayed ones, prompts and tones.
    pub sent: u64,
    /// Packets from elsewhere or of no use: dropped.
    pub foreign: u64,
    /// Of these, SRTP packets from the right place with a wrong tag or a number that had been used.
    pub unauthentic: u64,
    /// Packets that the system would not send.
    pub unsent: u64,
    /// Packets that the kernel dropped before we could read them.
    pub overrun: u64,
    /// Recordings under way.
    pub recordings: u64,
    /// Packets that are missing in recordings because the writer could not keep up.
    pub unrecorded: u64,
    /// Samples that are missing in recordings because the disk refused them.
    pub unwritten: u64,
    /// Media threads that move packets by io_uring; the others by epoll.
    pub on_io_uring: u64,
}

impl std::ops::AddAssign for EngineStatistics {
    fn add_assign(&mut self, other: Self) {
        let pairs = [
            (&mut self.calls, other.calls),
            (&mut self.ports_in_use, other.ports_in_use),
            (&mut self.ports_available, other.ports_available),
            (&mut self.ports_taken_early, other.ports_taken_early),
            (&mut self.received, other.received),
            (&mut self.relayed, other.relayed),
            (&mut self.sent, other.sent),
            (&mut self.foreign, other.foreign),
            (&mut self.unauthentic, other.unauthentic),
            (&mut self.unsent, other.unsent),
            (&mut self.overrun, other.overrun),
            (&mut self.recordings, other.recordings),
            (&mut self.unrecorded, other.unrecorded),
            (&mut self.unwritten, other.unwritten),
            (&mut self.on_io_uring, other.on_io_uring),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
    }
}
