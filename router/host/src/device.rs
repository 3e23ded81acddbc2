//! Which device has an address.

use std::{io, net::IpAddr};

use nix::ifaddrs::getifaddrs;

/// The name of the device of this host that has an address; None if none has it.
///
/// # Errors
/// What the kernel says.
pub fn device_of(address: IpAddr) -> io::Result<Option<String>> {
    let is_it = |storage: nix::sys::socket::SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        v4.or(v6) == Some(address)
    };
    let mut devices = getifaddrs().map_err(io::Error::from)?;
    Ok(devices.find(|device| device.address.is_some_and(is_it)).map(|device| device.interface_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address_and_nobody_has_one_of_a_documentation_net() {
        assert_eq!(device_of([127, 0, 0, 1].into()).unwrap().as_deref(), Some("lo"));
        assert_eq!(device_of([192, 0, 2, 77].into()).unwrap(), None);
    }
}
