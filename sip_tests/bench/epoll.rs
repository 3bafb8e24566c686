//! Readiness of many sockets: epoll's calls with the descriptor owned.

use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{
    EpollCreateFlags, EpollEvent, EpollFlags, EpollOp, epoll_create1, epoll_ctl, epoll_wait,
};
use nix::unistd;

use crate::Failure;

/// Watches descriptors for input, level-triggered.
pub(crate) struct Epoll {
    descriptor: RawFd,
    events: Vec<EpollEvent>,
}

impl Epoll {
    pub(crate) fn new() -> Result<Self, Failure> {
        let descriptor = epoll_create1(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { descriptor, events: vec![EpollEvent::empty(); 1024] })
    }

    /// `token` comes back from [`Self::wait`] when there is something to read.
    pub(crate) fn add(&self, source: &impl AsRawFd, token: u64) -> Result<(), Failure> {
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        Ok(epoll_ctl(self.descriptor, EpollOp::EpollCtlAdd, source.as_raw_fd(), &mut event)?)
    }

    /// The tokens of what is ready; none after `limit`, which is cut to milliseconds.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<impl Iterator<Item = u64> + use<'_>, Failure> {
        let milliseconds = isize::try_from(limit.as_millis()).unwrap_or(1000);
        let ready = match epoll_wait(self.descriptor, &mut self.events, milliseconds) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        Ok(self.events.iter().take(ready).map(EpollEvent::data))
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let _ = unistd::close(self.descriptor);
    }
}
