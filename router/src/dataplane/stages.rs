//! What a worker's stages did: how often it woke, what each system call brought or took. Their ratios are the batch sizes.

macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Something counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(usize)]
        pub(super) enum Stage { $($(#[doc = $doc])+ $name,)+ }

        impl Stage {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)+];
        }
    };
}

stages! {
    /// Turns of the worker's loop, each after a look at what is ready.
    Turns = "turns",
    /// Of these made with real-time priority.
    TurnsBeforeOthers = "turns_before_others",
    /// Frames read from the TAP, super-frames among them as one.
    FramesRead = "frames_read",
    /// Of these super-frames.
    SuperFramesRead = "super_frames_read",
    /// Bytes of all these.
    FrameBytesRead = "frame_bytes_read",
    /// Frames that went on before others that were read earlier.
    FramesOvertook = "frames_overtook",
    /// Frames written to the TAP, super-frames among them as one.
    FramesWritten = "frames_written",
    /// Of these super-frames.
    SuperFramesWritten = "super_frames_written",
    /// Bytes of all these.
    FrameBytesWritten = "frame_bytes_written",
    /// System calls that received something.
    ReceiveCalls = "receive_calls",
    /// Messages they brought, each of one or more datagrams joined by the kernel.
    MessagesReceived = "messages_received",
    /// Datagrams in these.
    DatagramsReceived = "datagrams_received",
    /// Runs sent, each by one system call where the kernel cuts segments.
    RunsSent = "runs_sent",
    /// Datagrams in these.
    DatagramsSent = "datagrams_sent",
}

/// Counts of all stages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stages([u64; Stage::ALL.len()]);

impl Stages {
    /// Counts `number` more.
    pub(super) fn count(&mut self, stage: Stage, number: usize) {
        if let Some(count) = self.0.get_mut(stage as usize) {
            *count += number as u64;
        }
    }

    /// Adds another thread's.
    pub(super) fn add(&mut self, other: &Self) {
        for (mine, other) in self.0.iter_mut().zip(other.0) {
            *mine += other;
        }
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Stage::ALL.iter().zip(self.0).map(|((_, name), count)| (*name, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_counted_by_name_and_add_up() {
        let mut sum = Stages::default();
        for (stage, number) in [(Stage::Turns, 1), (Stage::DatagramsSent, 47), (Stage::Turns, 2)] {
            let mut stages = Stages::default();
            stages.count(stage, number);
            sum.add(&stages);
        }
        let counted: Vec<_> = sum.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("turns", 3), ("datagrams_sent", 47)]);
    }
}
