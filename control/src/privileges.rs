//! What a daemon may do (capabilities(7)): it keeps what it needs and gives up the rest for good, for itself and for what it
//! starts. It stays user 0, which owns its files, but user 0 without capabilities.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tracing::warn;

/// What an agent needs:
///
/// | capability | for |
/// |---|---|
/// | `NET_ADMIN` | TAPs, links and addresses, large socket buffers |
/// | `NET_RAW` | a link of the host as a port of a network |
/// | `NET_BIND_SERVICE` | ports of the host below 1024 |
/// | `SYS_ADMIN` | entering a container's network namespace (setns(2)) |
/// | `SYS_PTRACE` | opening `/proc/PID/ns/net` of another user's process |
/// | `SYS_RESOURCE` | file descriptors for many ports; the fd holder's protection from the OOM killer |
pub(crate) const AGENT: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RESOURCE);

/// What the fd holder needs once it listens: file descriptors that it was given can be kept and passed on by anybody.
pub(crate) const HOLDER: CapabilitySet = CapabilitySet::empty();

/// Gives up all capabilities but these, of this thread and of all that it starts. So it comes before other threads. A
/// daemon that may not do that goes on with what it has, and says so.
pub(crate) fn keep_only(wanted: CapabilitySet) {
    if let Err(error) = try_keep_only(wanted) {
        warn!(%error, "capabilities that aren't needed could not be given up");
    }
}

fn try_keep_only(wanted: CapabilitySet) -> io::Result<()> {
    let has = capabilities(None)?;
    // A program that is started as user 0 gets all of the bounding set. Taking out of it needs one that goes below.
    if has.effective.contains(CapabilitySet::SETPCAP) {
        narrow_bounding_set(wanted)?;
    }
    clear_ambient_capability_set()?;
    let kept = has.permitted.intersection(wanted);
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    set_no_new_privs(true)?;
    Ok(())
}

fn narrow_bounding_set(wanted: CapabilitySet) -> io::Result<()> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if wanted.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last one that the kernel knows.
            Err(rustix::io::Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_what_it_needs_and_no_more() {
        // Capabilities are each thread's own: the tests beside this one keep theirs.
        let seen = std::thread::spawn(|| {
            let before = capabilities(None).unwrap();
            keep_only(AGENT);
            let after = capabilities(None).unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            (before, after, status)
        });
        let (before, after, status) = seen.join().unwrap();
        assert_eq!(after.permitted, before.permitted.intersection(AGENT));
        assert_eq!(after.effective, after.permitted);
        assert!(after.inheritable.is_empty());
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!(line("NoNewPrivs:"), "1");
        if before.effective.contains(CapabilitySet::SETPCAP) {
            let bounding = u64::from_str_radix(&line("CapBnd:"), 16).unwrap();
            assert_eq!(bounding & !AGENT.bits(), 0, "{status}");
        }
    }
}
