//! Waiting: which of a thread's few descriptors can be read, and how another thread wakes it.
//!
//! Level-triggered epoll: whoever leaves data behind, because its budget is used up, is told of it again.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
    },
};

/// Most descriptors of one poller: each has a bit in [`Ready`].
const SOURCES_MAX: usize = 8;

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

/// The descriptors that can be read (or have failed, which reading shows), by the numbers they were added with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ready(u8);

/// Wakes a [`Poller`] that it was added to, from any thread. Clones wake the same one.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Poller {
    /// One without descriptors.
    ///
    /// # Errors
    /// When the process has no descriptors or memory left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Waits for `source` too, as number `number`, which is less than 8.
    ///
    /// # Errors
    /// `InvalidInput` for a number too large; otherwise what epoll said.
    pub fn add(&self, source: impl AsFd, number: usize) -> io::Result<()> {
        if number >= SOURCES_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?)
    }

    /// Waits until something can be read, or `timeout` (rounded up to milliseconds) is over. A signal ends it early, with nothing ready.
    ///
    /// # Errors
    /// What epoll said; none is expected.
    pub fn wait(&self, timeout: Duration) -> io::Result<Ready> {
        let millis = timeout.as_micros().div_ceil(1000);
        let timeout = EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX);
        let mut events = [EpollEvent::empty(); SOURCES_MAX];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => Ok(Ready(events.iter().take(count).fold(0, |bits, event| bits | 1 << event.data()))),
            Err(Errno::EINTR) => Ok(Ready::default()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Ready {
    /// Whether the descriptor added as `number` is among them.
    pub fn contains(self, number: usize) -> bool {
        self.0 >> number & 1 == 1
    }
}

impl Waker {
    /// A waker that has not been used.
    ///
    /// # Errors
    /// When the process has no descriptors or memory left.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)))
    }

    /// Wakes; several times before the other side looks count as one.
    pub fn wake(&self) {
        // The only failure is a full counter, and then the other side is awake already.
        let _ = self.0.write(1);
    }

    /// Takes note of having been woken.
    pub fn clear(&self) {
        // The only failure is "was not woken".
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waker_wakes_once_until_it_is_cleared() {
        let (poller, waker) = (Poller::new().unwrap(), Waker::new().unwrap());
        poller.add(&waker, 3).unwrap();
        assert_eq!(poller.wait(Duration::ZERO).unwrap(), Ready::default());
        let other = waker.clone();
        std::thread::spawn(move || other.wake()).join().unwrap();
        waker.wake();
        let ready = poller.wait(Duration::from_secs(5)).unwrap();
        assert!(ready.contains(3) && !ready.contains(2));
        waker.clear();
        assert_eq!(poller.wait(Duration::ZERO).unwrap(), Ready::default());
        assert!(poller.add(&waker, SOURCES_MAX).is_err());
    }
}
