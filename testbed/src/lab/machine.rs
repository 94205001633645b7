//! A machine with systemd as its first process: Debian as it is installed here, on a layer that takes what is written and
//! is gone with it. For what happens at installing, upgrading and removing a package.
//!
//! ```text
//!   overlay (upper: tmpfs, lower: /)  ->  root of a PID, mount, IPC, UTS and cgroup namespace, in a lab's network namespace
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::verdict::wait_until;
use super::{Finished, Lab, Namespace, Process, must};

/// How long systemd may take to answer.
const BOOT_PATIENCE: Duration = Duration::from_secs(60);
/// How long a command inside may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(120);
/// What this Debian runs besides, and what the test doesn't want to run twice.
const MASKED: &str = "docker.service docker.socket containerd.service ssh.service cron.service";

/// Runs as root in mount, PID, IPC, UTS and cgroup namespaces of its own.
const BOOT: &str = r#"
set -eu
dir=$1 files=$2 masked=$3
read -r pid _ </proc/self/stat
mount --make-rprivate /
mount -t tmpfs none "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mkdir -p "$dir/upper/root"
cp -r "$files/." "$dir/upper/root/"
mount -t overlay none -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
cd "$dir/root"
mount -t proc none proc
mount --rbind /dev dev
mount -t tmpfs none run
mount -t sysfs none sys
mount -t cgroup2 none sys/fs/cgroup
# Nothing of the real machine's services; the target is ours and wants nothing.
rm -rf etc/systemd/system/*.wants
# Containers forbid packages to start anything; this one has an init.
rm -f usr/sbin/policy-rc.d
for unit in $masked; do ln -sf /dev/null "etc/systemd/system/$unit"; done
printf '[Unit]\nDescription=test\nAllowIsolate=yes\n' >etc/systemd/system/weft-test.target
echo "$pid" >"$files/pid"
mkdir -p .old
pivot_root . .old
cd /
umount -l /.old
exec env -i container=weft-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=weft-test.target \
    --log-target=console
"#;

/// A running machine. It ends with the lab, or with this.
#[derive(Debug)]
pub struct Machine {
    process: Arc<Process>,
    cgroup: PathBuf,
    mount: PathBuf,
    pid: u32,
}

impl Machine {
    /// Boots one in a namespace of the lab. `files` is put into its /root.
    #[track_caller]
    pub fn boot(lab: &Lab, ns: &Namespace, files: &Path) -> Self {
        assert!(
            Path::new("/lib/systemd/systemd").exists(),
            "install the Debian package systemd"
        );
        let dir = lab.dir().join("machine");
        let mount = lab.dir().join("cgroup");
        for dir in [&dir, &mount] {
            must(std::fs::create_dir_all(dir), "make a directory");
        }
        let text = |path: &Path| path.display().to_string();
        // A cgroup of its own, so that systemd manages nothing of the real machine's.
        super::process::run(
            std::process::Command::new("mount").args(["-t", "cgroup2", "none", &text(&mount)]),
            COMMAND_PATIENCE,
        )
        .expect_done();
        let cgroup = mount.join(lab.prefix());
        must(std::fs::create_dir(&cgroup), "make a cgroup");
        let script = format!(
            "echo $$ >{}/cgroup.procs && exec unshare -mpiuCf --kill-child sh -c \"$0\" boot \"$@\"",
            text(&cgroup)
        );
        let args = ["-c", &script, BOOT, &text(&dir), &text(files), MASKED];
        let process = ns.spawn("machine", "sh", &args);
        let pid_file = files.join("pid");
        let read = || {
            std::fs::read_to_string(&pid_file)
                .unwrap_or_default()
                .trim()
                .parse()
                .ok()
        };
        wait_until(BOOT_PATIENCE, "the machine boots", || {
            assert!(
                process.is_running(),
                "the machine ended:\n{}",
                process.log()
            );
            read().is_some()
        });
        let pid = read().unwrap_or_default();
        let machine = Self {
            process,
            cgroup,
            mount,
            pid,
        };
        wait_until(BOOT_PATIENCE, "systemd answers", || {
            assert!(
                machine.process.is_running(),
                "the machine ended:\n{}",
                machine.process.log()
            );
            machine.attempt("systemctl show --property=Version").code == Some(0)
        });
        machine
    }

    /// Runs a line of shell inside, whatever comes of it.
    #[track_caller]
    pub fn attempt(&self, line: &str) -> Finished {
        let mut command = std::process::Command::new("nsenter");
        let pid = self.pid.to_string();
        command.args([
            "--target", &pid, "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--net",
        ]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
            "HOME=/root",
        ]);
        command.args(["sh", "-c", line]);
        super::process::run(&mut command, COMMAND_PATIENCE)
    }

    /// Runs a line of shell inside; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.attempt(line).expect_done()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.attempt("systemctl --no-pager status weft-agent weft-controller; journalctl --no-pager -n 50");
            super::say(&log.stdout);
        }
        // Its first process goes with it, and with that one all others.
        self.process.kill();
        for _ in 0..100 {
            if std::fs::remove_dir(&self.cgroup).is_ok() || !self.cgroup.exists() {
                break;
            }
            remove_inner(&self.cgroup);
            std::thread::sleep(Duration::from_millis(20));
        }
        // The lab removes its directory; what is mounted there must be gone.
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.mount)
            .status();
    }
}

/// Removes the cgroups that systemd made; they go as their processes do.
fn remove_inner(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_inner(&entry.path());
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}
