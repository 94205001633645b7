//! Images for container runtimes, made without a network: the static busybox under a few of its names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::{must, process};

/// Names that the image knows programs by.
const PROGRAMS: [&str; 10] = [
    "sh", "ip", "ping", "sleep", "cat", "nc", "nslookup", "wget", "httpd", "hostname",
];
/// How long a command that makes a part of it may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// A root file system, as a tar in `dir`.
#[track_caller]
pub fn root_tar(dir: &Path) -> PathBuf {
    let root = dir.join("image");
    must(fs::create_dir_all(root.join("bin")), "make the image");
    let busybox = run("sh", &["-c", "command -v busybox"]);
    must(
        fs::copy(busybox.trim(), root.join("bin/busybox")),
        "copy busybox (Debian package busybox-static)",
    );
    for program in PROGRAMS {
        must(
            symlink("busybox", root.join("bin").join(program)),
            "name a program",
        );
    }
    let tar = dir.join("image.tar");
    tar_of(&root, &["."], &tar);
    tar
}

/// An archive as `docker save` writes it, of an image called `name` whose containers sleep.
#[track_caller]
pub fn archive(dir: &Path, name: &str) -> PathBuf {
    let layer = root_tar(dir);
    let digest = run("sha256sum", &[&layer.to_string_lossy()]);
    let digest = digest.split(' ').next().unwrap_or_default();
    let parts = dir.join("archive");
    must(fs::create_dir_all(&parts), "make the archive");
    must(
        fs::rename(&layer, parts.join("layer.tar")),
        "move the layer",
    );
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": { "Cmd": ["/bin/sleep", "36000"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    for (file, text) in [("config.json", &config), ("manifest.json", &manifest)] {
        must(
            fs::write(parts.join(file), text.to_string()),
            "write a part of the archive",
        );
    }
    let archive = dir.join("archive.tar");
    tar_of(
        &parts,
        &["manifest.json", "config.json", "layer.tar"],
        &archive,
    );
    archive
}

#[track_caller]
fn tar_of(dir: &Path, files: &[&str], to: &Path) {
    let (dir, to) = (dir.to_string_lossy(), to.to_string_lossy());
    run("tar", &[&["-C", &dir, "-cf", &to], files].concat());
}

#[track_caller]
fn run(program: &str, args: &[&str]) -> String {
    process::run(Command::new(program).args(args), PATIENCE).expect_done()
}
