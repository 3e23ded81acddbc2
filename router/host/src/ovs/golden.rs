//! Messages between `ovs-dpctl` 3.1 and Linux 6.1, as strace saw them: a line is a name and bytes in hexadecimal.

/// Bytes before the attributes: `nlmsghdr`, `genlmsghdr`, `ovs_header`.
pub(super) const HEADERS: usize = 16 + 4 + 4;

/// The message of a name.
pub(super) fn message(name: &str) -> Vec<u8> {
    let line = include_str!("golden/messages.txt").lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let digits = line.expect(name).as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Its attributes.
pub(super) fn attributes(name: &str) -> Vec<u8> {
    message(name).split_off(HEADERS)
}
