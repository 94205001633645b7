//! A socket that the user may not use. Alone in its file: the test copies the binary, and another test that forks at that
//! moment would inherit the open copy, which then cannot be executed.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use common::{FakeAgent, told};

#[test]
fn a_socket_of_another_group_is_explained() {
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let agent = FakeAgent::start(Vec::new());
    mode(agent.socket().parent().unwrap(), 0o755);
    mode(&agent.socket(), 0o660);
    // The other user may not be able to reach the build directory.
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o755);
    let weft = dir.path().join("weft");
    std::fs::copy(env!("CARGO_BIN_EXE_weft"), &weft).unwrap();
    let mut command = Command::new(&weft);
    command
        .args(["ports", "--socket"])
        .arg(agent.socket())
        .uid(65534)
        .gid(65534);
    let output = command
        .output()
        .expect("this test needs root, to become another user");
    let (code, _, err) = told(output);
    assert_eq!(code, 1);
    assert!(
        err.contains("may not be used: permission denied\n  hint: be root"),
        "{err}"
    );
}
