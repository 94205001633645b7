//! The simulator of many agents, with few of them: it runs through and measures all that it is to measure.

use std::process::Command;

use weft_testbed::lab::weft_bin;

#[test]
fn a_small_cluster_with_a_real_agent_in_it_is_measured() {
    let mut scale = Command::new(env!("CARGO_BIN_EXE_weft-scale"));
    scale.env("WEFT_BIN", weft_bin());
    let size = ["--agents", "4", "--networks", "2", "--per-agent", "1"];
    let work = ["--endpoints", "8", "--changes", "2", "--real"];
    let done = scale.args(size).args(work).output().unwrap();
    let table = String::from_utf8(done.stdout).unwrap();
    assert!(
        done.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let lines = |what: &str| table.lines().filter(|line| line.contains(what)).count();
    for row in [
        "all join",
        "endpoints reported",
        "nothing happens",
        "an endpoint changes",
        // Two agents with two endpoints each, on the network that it has, too.
        "a real agent with 4 endpoints",
        "MTU changes",
        "all are back",
        // Every agent noticed that the controller was gone, and has a session again.
        "4 x session",
    ] {
        assert_eq!(lines(row), 1, "{row}:\n{table}");
    }
}
