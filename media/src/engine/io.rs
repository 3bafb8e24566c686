//! The narrow waist to the kernel: UDP sockets, readiness and waking. With `ring`, `pages` and `priority` the only `unsafe` of
//! the project.
//!
//! Everything above works with tokens and datagrams, so that another way of moving packets (io_uring, in `ring`)
//! stands beside this one. epoll, level-triggered: what is not read now is told again.

#![allow(unsafe_code, reason = "system calls that the standard library does not wrap")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Tells the waiting thread that its queue has something: the token of [`Wake`].
pub(super) const WAKE: u64 = u64::MAX;

/// Readiness events taken at once.
const EVENTS: usize = 512;
/// Receive buffer asked for: bursts of strangers' packets must not push out the peer's between two ticks.
const RECEIVE_BUFFER: usize = 512 * 1024;

/// A UDP socket on `address`, non-blocking, and shared with nobody.
pub(super) fn bind(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(address, port);
    let kind = socket2::Type::DGRAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    // The system may allow less; that is no reason to refuse a call.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket.into())
}

/// Datagrams that the kernel dropped because the socket's buffer was full, modulo 2^32.
pub(super) fn overrun(socket: &UdpSocket) -> u32 {
    /// `SK_MEMINFO_DROPS` of `<linux/sock_diag.h>`, and the number of values before and including it.
    const DROPS: usize = 8;
    const SO_MEMINFO: libc::c_int = 55;
    let mut values = [0u32; DROPS + 1];
    let mut length = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the descriptor is open for the length of the borrow, and the kernel writes at most `length`
    // bytes into `values`, which has room for that many.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if outcome == 0 { values.last().copied().unwrap_or(0) } else { 0 }
}

/// Wakes a thread that waits for events.
#[derive(Debug)]
pub(super) struct Wake(File);

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer; its result is checked before it is owned.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        Ok(Self(File::from(own(descriptor)?)))
    }

    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the thread is woken already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    pub(super) fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

/// What is ready to be read.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    pub(super) fn new(wake: &Wake) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointer; its result is checked before it is owned.
        let epoll = own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let poller = Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS] };
        poller.add(&wake.0, WAKE)?;
        Ok(poller)
    }

    /// From now on [`Self::wait`] tells `token` while something can be read. It ends when the descriptor is
    /// closed.
    pub(super) fn add(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, token)
    }

    /// From now on nothing is told of it.
    pub(super) fn remove(&self, socket: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, socket, 0)
    }

    fn control(&self, what: libc::c_int, socket: &impl AsFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        let descriptor = socket.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open for the length of their borrows; the kernel only reads `event`.
        let outcome = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), what, descriptor, &raw mut event) };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Fills `ready` with tokens; waits for the first one for `longest`, in whole milliseconds and at least one
    /// unless it is zero; `None`: as long as it takes.
    pub(super) fn wait(&mut self, longest: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let timeout_ms = longest.map_or(-1, |longest| {
            libc::c_int::try_from(longest.as_micros().div_ceil(1000)).unwrap_or(libc::c_int::MAX)
        });
        let room = self.events.len() as libc::c_int;
        // SAFETY: the kernel writes at most `room` events into `events`, which has as many elements, all
        // initialised.
        let count =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms) };
        match usize::try_from(count) {
            Ok(count) => ready.extend(self.events.iter().take(count).map(|event| event.u64)),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// It can be read while a socket that was added can.
impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Takes over a descriptor that a system call just made.
fn own(descriptor: libc::c_int) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller got this descriptor from the kernel this moment, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn readiness_is_told_until_it_is_read_and_ends_with_the_socket() {
        let (wake, mut ready) = (Wake::new().unwrap(), vec![]);
        let mut poller = Poller::new(&wake).unwrap();
        let socket = bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        poller.add(&socket, 7).unwrap();
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, []);
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        for _ in 0..2 {
            poller.wait(None, &mut ready).unwrap();
            assert_eq!(ready, [7]);
        }
        poller.remove(&socket).unwrap();
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, []);
        poller.add(&socket, 8).unwrap();
        poller.wait(None, &mut ready).unwrap();
        assert_eq!(ready, [8]);
        drop(socket);
        wake.wake();
        poller.wait(None, &mut ready).unwrap();
        assert_eq!(ready, [WAKE]);
        wake.clear();
        poller.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert_eq!(ready, []);
    }

    #[test]
    fn a_full_socket_buffer_is_counted() {
        let socket = bind(Ipv4Addr::LOCALHOST.into(), 0).unwrap();
        assert_eq!(overrun(&socket), 0);
        for _ in 0..20_000 {
            socket.send_to(&[0; 200], socket.local_addr().unwrap()).unwrap();
        }
        assert!(overrun(&socket) > 0);
    }
}
