//! A network namespace for a test: of its own, and gone with it.

use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread in a new network namespace, whose loopback is up with an MTU of 1500.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ip("link set lo up mtu 1500");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The same, for a test that tells something.
pub(crate) fn in_namespace_with<T: Send>(told: &mut T, test: impl FnOnce(&mut T) + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            ip("link set lo up mtu 1500");
            test(told);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `ip` in the thread's namespace.
pub(crate) fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}
