//! With real namespaces: these need root and the `ip` program.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A namespace that goes with the test.
pub(crate) struct TestNetns {
    pub(crate) name: String,
}

impl TestNetns {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-tp{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    pub(crate) fn open(&self) -> Netns {
        Netns::open(&NetnsArg::Name(self.name.clone())).unwrap()
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, args: &[&str]) -> String {
        ip(&[&["-n", self.name.as_str()], args].concat())
    }
}

impl Drop for TestNetns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

pub(crate) fn ip(args: &[&str]) -> String {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("these tests need the ip program");
    assert!(
        output.status.success(),
        "ip {args:?} failed (these tests need root): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn own_id() -> (u64, u64) {
    Netns::open(&NetnsArg::Path("/proc/thread-self/ns/net".into()))
        .unwrap()
        .id()
}

#[test]
fn a_namespace_is_found_by_name_and_by_path_and_is_the_same() {
    let netns = TestNetns::new();
    let by_name = netns.open();
    let path = format!("/run/netns/{}", netns.name);
    let by_path = Netns::open(&NetnsArg::Path(path.clone().into())).unwrap();
    let by_slash = Netns::open(&NetnsArg::Name(path.clone())).unwrap();
    assert_eq!(by_name.id(), by_path.id());
    assert_eq!(by_name.id(), by_slash.id());
    assert_eq!(by_name.name(), netns.name);
    assert_eq!(by_path.name(), path);
    assert_ne!(by_name.id(), own_id());
}

#[test]
fn a_namespace_is_found_by_a_process_in_it() {
    let netns = TestNetns::new();
    let mut child = Command::new("ip")
        .args(["netns", "exec", &netns.name, "sleep", "60"])
        .spawn()
        .unwrap();
    let expected = netns.open().id();
    let found = (0..100).any(|_| {
        thread::sleep(std::time::Duration::from_millis(20));
        Netns::open(&NetnsArg::Pid(child.id())).is_ok_and(|found| found.id() == expected)
    });
    let ended = child.kill().and_then(|()| child.wait());
    assert!(found && ended.is_ok());
    let error = Netns::open(&NetnsArg::Pid(child.id())).unwrap_err();
    assert!(matches!(error, NetnsError::NoSuchProcess { .. }), "{error}");
}

#[test]
fn an_unknown_name_is_refused_and_the_known_ones_are_listed() {
    let netns = TestNetns::new();
    for name in ["weft-no-such", "", ".", ".."] {
        let error = Netns::open(&NetnsArg::Name(name.to_owned())).unwrap_err();
        let NetnsError::NoSuchNamespace { known, .. } = &error else {
            panic!("{error}")
        };
        assert!(known.contains(&netns.name));
        assert!(error.hint().unwrap().contains("--pid"));
    }
}

#[test]
fn files_that_are_no_network_namespace_are_refused() {
    for (path, why) in [
        ("/etc/hostname", "ordinary file"),
        ("/proc/self/ns/mnt", "another kind"),
    ] {
        let error = Netns::open(&NetnsArg::Path(path.into())).unwrap_err();
        assert!(matches!(error, NetnsError::NotANamespace { .. }), "{error}");
        assert!(
            error.to_string().contains(path) && error.to_string().contains(why),
            "{error}"
        );
    }
}

#[test]
fn a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = Netns::open(&NetnsArg::Path(path)).unwrap_err();
    assert!(matches!(error, NetnsError::NotANamespace { .. }), "{error}");
}

#[test]
fn work_runs_inside_and_the_caller_stays_outside() {
    let netns = TestNetns::new();
    let before = own_id();
    let inside = netns.open().run(own_id).unwrap();
    assert_eq!(inside, netns.open().id());
    assert_eq!(
        netns.open().run_async(|| async { own_id() }).unwrap(),
        inside
    );
    assert_eq!(own_id(), before);
}

#[test]
fn a_panic_inside_reaches_the_caller() {
    let netns = TestNetns::new();
    let opened = netns.open();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        opened.run(|| panic!("inside"))
    }));
    assert!(caught.is_err());
}
