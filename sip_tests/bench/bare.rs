//! The bare limit: a relay that does nothing but receive, check the source, rewrite twelve bytes and send.
//!
//! It runs as a process of its own (`bench bare-loop`), so that its CPU time is measured like the service's: an
//! epoll loop that wakes up every 2 ms, as the media engine does, with one socket per leg. It makes no call, keeps
//! no statistics and records nothing; what the service needs beyond it is the price of being a service.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use socket2::SockRef;

use crate::epoll::Epoll;
use crate::process::Process;
use crate::{Cores, Failure, process};

/// How often the loop looks at its sockets.
const TICK: Duration = Duration::from_millis(2);
/// Beyond any RTP packet of the load.
const PACKET: usize = 1500;

/// One leg as the loop sees it.
struct Leg {
    socket: UdpSocket,
    /// Where its packets come from and where the other leg's go to.
    peer: SocketAddr,
    ssrc: u32,
}

/// The subcommand: binds two sockets per call, says their ports in one line, reads one line with the peers' ports,
/// and relays between the legs 2n and 2n + 1 until it is killed.
pub(crate) fn run_loop(calls: usize) -> Result<(), Failure> {
    let mut sockets = vec![];
    for _ in 0..calls * 2 {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_nonblocking(true)?;
        // The system may grant less; then the loop must simply keep up.
        let _ = SockRef::from(&socket).set_recv_buffer_size(1 << 20);
        sockets.push(socket);
    }
    let mut ports = vec![];
    for socket in &sockets {
        ports.push(socket.local_addr()?.port().to_string());
    }
    writeln!(std::io::stdout(), "{}", ports.join(" "))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let mut legs = vec![];
    for ((ssrc, socket), port) in (1..).zip(sockets).zip(line.split_whitespace()) {
        let peer = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
        legs.push(Leg { socket, peer, ssrc });
    }
    relay(&legs)
}

fn relay(legs: &[Leg]) -> Result<(), Failure> {
    let mut epoll = Epoll::new()?;
    for (token, leg) in (0..).zip(legs) {
        epoll.add(&leg.socket, token)?;
    }
    let mut packet = [0u8; PACKET];
    loop {
        std::thread::sleep(TICK);
        for token in epoll.wait(Duration::ZERO)? {
            let index = usize::try_from(token)?;
            let (Some(near), Some(far)) = (legs.get(index), legs.get(index ^ 1)) else { continue };
            let Ok((length, source)) = near.socket.recv_from(&mut packet) else { continue };
            let Some(wire) = packet.get_mut(..length) else { continue };
            if source == near.peer && rewrite(wire, far.ssrc).is_some() {
                let _ = far.socket.send_to(wire, far.peer);
            }
        }
    }
}

/// Version check, then other sequence number, timestamp and SSRC (RFC 3550 §5.1).
fn rewrite(packet: &mut [u8], own_ssrc: u32) -> Option<()> {
    let header: &mut [u8; 12] = packet.first_chunk_mut()?;
    let [flags, _, s0, s1, t0, t1, t2, t3, ssrc @ ..] = header;
    if *flags >> 6 != 2 {
        return None;
    }
    [*s0, *s1] = u16::from_be_bytes([*s0, *s1]).wrapping_add(1000).to_be_bytes();
    [*t0, *t1, *t2, *t3] = u32::from_be_bytes([*t0, *t1, *t2, *t3]).wrapping_add(9999).to_be_bytes();
    *ssrc = own_ssrc.to_be_bytes();
    Some(())
}

/// The loop as a child process; dropped, it ends.
pub(crate) struct BareLoop {
    child: Child,
    pub(crate) process: Process,
    /// Where each leg listens; legs 2n and 2n + 1 are a call.
    pub(crate) legs: Vec<SocketAddr>,
}

impl BareLoop {
    /// `peers` in the order of the legs.
    pub(crate) fn start(peers: &[SocketAddr], cores: Cores) -> Result<Self, Failure> {
        process::run_on(cores.server)?;
        let calls = peers.len() / 2;
        let child = Command::new(std::env::current_exe()?)
            .args(["bare-loop", &calls.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        process::run_on(cores.load)?;
        let child = child?;
        let mut bare = Self { process: Process::of(child.id())?, child, legs: vec![] };
        let mut line = String::new();
        let output = bare.child.stdout.take().ok_or("the bare loop has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        for port in line.split_whitespace() {
            bare.legs.push(SocketAddr::from(([127, 0, 0, 1], port.parse()?)));
        }
        let ports: Vec<String> = peers.iter().map(|peer| peer.port().to_string()).collect();
        let mut input = bare.child.stdin.take().ok_or("the bare loop has no input")?;
        writeln!(input, "{}", ports.join(" "))?;
        Ok(bare)
    }
}

impl Drop for BareLoop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_rewritten_and_the_payload_is_not() {
        let mut packet = [0x80, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9, 9, 77];
        assert_eq!(rewrite(&mut packet, 5), Some(()));
        assert_eq!(packet, [0x80, 0, 0x03, 0xe9, 0, 0, 0x27, 0x11, 0, 0, 0, 5, 77]);
        assert_eq!(rewrite(&mut [0x40; 13], 5), None, "another version");
        assert_eq!(rewrite(&mut [0x80; 11], 5), None, "too short");
    }
}
