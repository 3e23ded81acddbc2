//! Socket options that no crate has a safe name for, all of them whole numbers.
#![expect(unsafe_code, reason = "setsockopt of an option that no crate knows")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Sets an option of a socket.
pub(crate) fn set(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and hence open; the kernel reads `length` bytes at the address of `value`, which outlives
    // the call, and keeps nothing of it.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn options_are_set_and_errors_told() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        set(&socket, libc::SOL_SOCKET, libc::SO_BROADCAST, 1).unwrap();
        assert!(socket.broadcast().unwrap());
        assert_eq!(set(&socket, libc::SOL_SOCKET, -1, 1).unwrap_err().raw_os_error(), Some(libc::ENOPROTOOPT));
    }
}
