//! A controller whose disk is full takes no changes, says so, and goes on by itself when there is room again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use weft_testbed::lab::traffic::ping;
use weft_testbed::{Lab, Pair};

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
