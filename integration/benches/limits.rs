//! What each stage of the sleeve's path reaches alone, by the router's own code and with the sizes of bulk: sealing and opening,
//! datagrams between two hosts, frames through a TAP. `make bench-limits` runs it; it needs root and a quiet machine.
//!
//! Read from the environment: `BENCH_SECONDS` (2), the length of each measurement.

mod limits {
    pub(super) mod seal;
    pub(super) mod tap;
    pub(super) mod udp;
}

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use weft::crypto::session::Cipher;
use weft_integration::{bench, demo::screen, lab::Lab};

/// Bytes of a sealed packet: of short datagrams, of an underlay with an MTU of 1500, and of one with 9000.
const PACKETS: [usize; 3] = [128, 1420, 8920];

fn main() -> ExitCode {
    bench::main(run)
}

fn run() -> Result<bool> {
    let span = Duration::from_secs(bench::number("BENCH_SECONDS", 2, 1..=600)?.into());
    screen::line(bench::machine()?)?;
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        for len in PACKETS {
            let seen = limits::seal::measure(cipher, len, span)?;
            let (sealed, opened) = (gigabits(seen.sealed), gigabits(seen.opened));
            screen::line(format_args!("{cipher:?}, {len} bytes, one core: sealed {sealed}, opened {opened}"))?;
        }
    }
    let lab = Lab::new()?;
    let hosts = lab.hosts(["A", "B"])?;
    for is_whole in [true, false] {
        let wire = if is_whole { "runs pass whole" } else { "cut before the wire" };
        for len in PACKETS.into_iter().filter(|len| *len <= 1500) {
            let rate = limits::udp::measure(&hosts, len, is_whole, span)?;
            screen::line(format_args!("UDP, runs of {len} bytes, {wire}: {}", gigabits(rate)))?;
        }
    }
    for len in [limits::tap::SUPER, 1354, 60] {
        let rate = limits::tap::measure(hosts[0].namespace(), len, span)?;
        let frames = rate / len as f64;
        screen::line(format_args!("TAP to TAP by a bridge, frames of {len} bytes: {}, {frames:.0}/s", gigabits(rate)))?;
    }
    screen::line(bench::load()?)?;
    Ok(true)
}

fn gigabits(bytes_per_second: f64) -> String {
    format!("{:.1} Gbit/s", bytes_per_second * 8.0 / 1e9)
}
