//! Whether a thread goes before the processes of its core, and whether it has to wait for them.
#![expect(unsafe_code, reason = "sched_setscheduler, which nix has not")]

use std::{fs, io, time::Duration};

/// Lets the calling thread go before all ordinary ones, with the least real-time priority there is, or like any of them
/// (sched(7): SCHED_RR, SCHED_OTHER).
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_NICE or a limit that allows it, or where the thread's control group has no real-time.
pub fn go_before_others(does: bool) -> io::Result<()> {
    let (policy, sched_priority) = if does { (libc::SCHED_RR, 1) } else { (libc::SCHED_OTHER, 0) };
    let param = libc::sched_param { sched_priority };
    // SAFETY: 0 is the calling thread; the kernel reads `param`, which outlives the call, and keeps nothing of it.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How a thread has fared since it began (the kernel's Documentation/scheduler/sched-stats.rst, `/proc/PID/schedstat`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Turns {
    /// How long it could have run, and waited for a core.
    pub waited: Duration,
    /// How often it was given one.
    pub count: u64,
}

/// How the calling thread has fared; None if the kernel does not say (CONFIG_SCHED_INFO).
pub fn turns() -> Option<Turns> {
    parse(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

fn parse(text: &str) -> Option<Turns> {
    let mut numbers = text.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    let (_ran, waited, count) = (next()?, next()?, next()?);
    Some(Turns { waited: Duration::from_nanos(waited), count })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: no pointers; 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn only_the_calling_thread_goes_before_others_and_back() {
        std::thread::spawn(|| {
            match go_before_others(true) {
                Ok(()) => assert_eq!(policy(), libc::SCHED_RR),
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
            }
            go_before_others(false).unwrap();
            assert_eq!(policy(), libc::SCHED_OTHER);
        })
        .join()
        .unwrap();
        assert_eq!(policy(), libc::SCHED_OTHER);
    }

    #[test]
    fn a_thread_that_was_given_a_core_is_seen_to() {
        let before = turns().unwrap();
        std::thread::sleep(Duration::from_millis(1));
        let after = turns().unwrap();
        assert!(after.waited >= before.waited && after.count > before.count, "{before:?}, {after:?}");
    }

    #[test]
    fn what_the_kernel_says_is_read_or_not() {
        let turns = Turns { waited: Duration::from_nanos(3_608_686), count: 2 };
        assert_eq!(parse("122644 3608686 2\n"), Some(turns));
        assert_eq!(parse("122644 -1 2\n"), None);
        assert_eq!(parse("122644"), None);
    }
}
