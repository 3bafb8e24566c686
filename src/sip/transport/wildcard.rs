//! A UDP socket on the unspecified address of a machine with several: which of them a datagram was sent to, and from
//! which an answer leaves (`IP_PKTINFO` in ip(7), RFC 3542 §6). Without it the kernel answers from the address on
//! the way to the peer, which a peer that called another one does not know.
//!
//! This is no more than the system's call; what to do with the addresses is [`super::udp`]'s.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};

/// Room for one packet information of either family, with its header.
const CONTROL: usize = 64;

/// Asks the kernel to tell each datagram's destination.
pub(super) fn enable(socket: &impl AsFd, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

/// One datagram: its length, who sent it, and the address of ours that it was sent to, if the kernel says so.
pub(super) fn receive(
    socket: &impl AsRawFd,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<IpAddr>)> {
    let mut control = [0; CONTROL];
    let mut parts = [IoSliceMut::new(buffer)];
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let peer = received.address.as_ref().and_then(socket_address);
    let peer = peer.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let called = received.cmsgs()?.find_map(|message| match message {
        // The local address; of a broadcast it is the one to answer from.
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::V4(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes())))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr))),
        _ => None,
    });
    Ok((received.bytes, peer, called.filter(|called| !called.is_multicast())))
}

/// Sends one datagram from that address of ours.
pub(super) fn send(socket: &impl AsRawFd, wire: &[u8], from: IpAddr, to: SocketAddr) -> io::Result<usize> {
    let (parts, to) = ([IoSlice::new(wire)], SockaddrStorage::from(to));
    // Interface 0: the kernel's choice by its routes.
    let sent = match from {
        IpAddr::V4(from) => {
            let ipi_spec_dst = in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr: in_addr { s_addr: 0 } };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to))
        }
        IpAddr::V6(from) => {
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to))
        }
    };
    Ok(sent?)
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}
