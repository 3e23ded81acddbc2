//! Packets between two hosts that take longer, in the switch, unseen by either; where the kernel has `netem`.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use super::{command::Run, host::Host, switch::Switch};

/// A way between two hosts that is slower than others; as before when dropped.
#[derive(Debug)]
pub struct Slow {
    switch: Arc<Switch>,
    ports: [String; 2],
}

impl Slow {
    /// Lets all IPv4 packets between two hosts take `delay` longer, in each direction.
    pub fn new(switch: &Arc<Switch>, one: &Host, other: &Host, delay: Duration) -> Result<Self> {
        let slow = Self { switch: Arc::clone(switch), ports: [one.name().to_owned(), other.name().to_owned()] };
        for (from, to) in [(one, other), (other, one)] {
            let (port, source, delay) = (to.name(), from.v4(), delay.as_millis());
            // A fourth band, which nothing gets into by its priority.
            for command in [
                format!("qdisc add dev {port} root handle 1: prio bands 4"),
                format!("qdisc add dev {port} parent 1:4 handle 4: netem delay {delay}ms limit 10000"),
                format!("filter add dev {port} parent 1: protocol ip u32 match ip src {source} flowid 1:4"),
            ] {
                slow.tc(&command).checked()?;
            }
        }
        Ok(slow)
    }

    fn tc(&self, command: &str) -> Run {
        self.switch.namespace().run("tc").args(command.split(' '))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        if self.switch.namespace().path().exists() {
            for port in &self.ports {
                // The lab is about to go, or only one was made: nothing to tell anybody.
                let _ = self.tc(&format!("qdisc del dev {port} root")).output();
            }
        }
    }
}
