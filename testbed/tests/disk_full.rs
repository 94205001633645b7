//! A controller whose disk is full takes no changes, says so, and goes on by itself when there is room again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Lab, Pair};

/// A map is saved a second after the last time; on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A small file system; gone with it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, kib: u32) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={kib}k,mode=700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .status();
        assert!(mounted.unwrap().success());
        Self(at.to_owned())
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        // It ends with an error: that is what it's for.
        let _ = std::fs::write(&ballast, vec![0; 64 << 20]);
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still uses it keeps it for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_changes_and_nothing_else() {
    let pair = Pair::cold(Lab::new());
    let disk = Disk::mount(Path::new(pair.controller.data()), 4096);
    pair.controller.start();
    for host in [&pair.host1, &pair.host2] {
        host.join(&pair.controller);
    }
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let ballast = disk.fill();
    // The store has some room of its own in its file.
    let mut made = Vec::new();
    let refusal = loop {
        let name = format!("n{}", made.len());
        let finished = pair.host1.try_weft(&["network", "create", &name]);
        if finished.code != Some(0) {
            break finished;
        }
        made.push(name);
        assert!(made.len() < 2000, "the disk never gets full");
    };
    assert!(refusal.stderr.contains("write this down"), "{refusal}");
    // Nobody lost the controller, and what needs no change goes on.
    pair.wait_in_sync();
    let again = pair.host2.refused(&["network", "create", "more"]);
    assert_eq!(again.code, "store_failed", "{again:?}");
    assert!(
        again.message.contains("weft.redb") && again.message.contains("room"),
        "{again:?}"
    );
    std::fs::remove_file(ballast).unwrap();
    // The same controller, the same store.
    pair.host2.weft(&["network", "create", "more"]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    pair.controller.kill();
    pair.controller.start();
    pair.wait_in_sync();
    let names = pair.host2.weft(&["network", "ls"]);
    assert!(
        made.iter().all(|name| names.contains(name)) && names.contains("more"),
        "{names}"
    );
    ping(&c2.ns, c1.ip());
    drop(disk);
}

#[test]
fn an_agent_starts_on_a_full_disk_and_says_what_it_cannot_write() {
    let pair = Pair::cold(Lab::new());
    let disk = Disk::mount(&pair.host2.state(), 1024);
    pair.controller.start();
    for host in [&pair.host1, &pair.host2] {
        host.join(&pair.controller);
    }
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    pair.wait_in_sync();
    pair.host2.kill_agent();
    let ballast = disk.fill();
    pair.host2.restart_agent();
    pair.wait_in_sync();
    ping(&c1.ns, c2.ip());
    // It follows, and can't write that down.
    pair.host1.weft(&["network", "create", "red"]);
    let unsaved = || {
        let warnings = pair.host2.status().warnings;
        warnings
            .iter()
            .any(|warning| warning.contains("can't be saved"))
    };
    wait_until(PATIENCE, "status says what isn't saved", unsaved);
    let refused = pair.lab.namespace("refused");
    let connect = ["network", "connect", "blue", "--netns", refused.name()];
    let refusal = pair.host2.refused(&connect);
    assert!(refusal.message.contains("No space left"), "{refusal:?}");
    assert_eq!(pair.host2.ports().len(), 1, "nothing is left of it");
    std::fs::remove_file(ballast).unwrap();
    wait_until(PATIENCE, "all is saved", || !unsaved());
    pair.host2.weft(&connect);
    pair.host2.kill_agent();
    pair.host2.restart_agent();
    pair.wait_in_sync();
    assert_eq!(pair.host2.ports().len(), 2);
    ping(&c2.ns, c1.ip());
    pair.host2.kill_agent();
    drop(disk);
}
