//! The Debian package on a machine with systemd: installed, started, upgraded in mid-transfer, hung, removed, purged.

#![expect(clippy::too_many_lines, reason = "scenarios are told in order")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use weft_testbed::Lab;
use weft_testbed::lab::machine::Machine;
use weft_testbed::lab::process;
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::lab::weft_bin;

/// Building a package: compressing a debug build takes a while.
const BUILD_PATIENCE: Duration = Duration::from_secs(300);

fn build(version: &str, out: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("package");
    let mut command = Command::new(script);
    command
        .args(["--version", version, "--compress", "gzip", "--bin"])
        .arg(weft_bin())
        .arg("--out")
        .arg(out);
    let said = process::run(&mut command, BUILD_PATIENCE).expect_done();
    PathBuf::from(said.trim())
}

#[test]
fn a_package_is_installed_upgraded_in_mid_transfer_and_removed() {
    let lab = Lab::new();
    let files = lab.dir().join("files");
    fs::create_dir_all(&files).unwrap();
    let packages = ["0.0.1-1", "0.0.2-1"].map(|version| build(version, &files));
    let names = packages.each_ref().map(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        format!("/root/{name}")
    });
    // What Debian's own checker finds is mended, not overlooked.
    let lint = process::run(
        Command::new("lintian")
            .args([
                "--fail-on",
                "error,warning",
                "--suppress-tags",
                "embedded-library",
            ])
            .arg(&packages[0]),
        BUILD_PATIENCE,
    );
    assert_eq!(lint.code, Some(0), "{lint}");
    let ns = lab.namespace("machine");
    let machine = Machine::boot(&lab, &ns, &files);

    // A first installation starts nothing: nobody said yet what this host is.
    machine.run(&format!("dpkg -i {}", names[0]));
    assert_eq!(
        machine
            .attempt("systemctl is-active weft-agent")
            .stdout
            .trim(),
        "inactive"
    );
    assert_eq!(
        machine
            .attempt("systemctl is-enabled weft-agent")
            .stdout
            .trim(),
        "disabled"
    );
    machine
        .run("test -x /usr/bin/weft && test -x /usr/lib/cni/weft && test -s /etc/weft/weft.toml");
    machine.run("bash -c '. /usr/share/bash-completion/completions/weft && complete -p weft'");
    machine.run("man -w weft-agent-run weft-network-connect weft-cni-install weft");
    machine.run("systemd-analyze verify --man=no weft-agent.service weft-controller.service");

    // Started: systemd is told when the agent is ready, and how it is.
    machine
        .run("echo 'standalone = true' >>/etc/weft/weft.toml && systemctl enable --now weft-agent");
    let show = |what: &str| {
        let line = format!("systemctl show --value --property={what} weft-agent");
        machine.run(&line).trim().to_owned()
    };
    assert_eq!(show("ActiveState"), "active");
    machine.run("weft status --wait");
    wait_until(
        Duration::from_secs(15),
        "systemd knows how the agent is",
        || {
            show("StatusText").contains("0 ports")
                && show("StatusText").contains("controller 127.0.0.1")
        },
    );
    machine.run("weft network create blue --subnet 10.32.0.0/16");
    for name in ["c1", "c2"] {
        machine.run(&format!(
            "ip netns add {name} && weft network connect blue --netns {name} --name {name}"
        ));
    }
    let port_of = |name: &str| -> Value {
        let ports: Vec<Value> = serde_json::from_str(&machine.run("weft ports --json")).unwrap();
        ports.into_iter().find(|port| port["name"] == name).unwrap()
    };
    let address = port_of("c2")["addresses"][0]
        .as_str()
        .unwrap()
        .replace("/16", "");
    machine.run(&format!("ip netns exec c1 ping -c 1 -W 5 {address}"));
    // By a process, too: the capabilities are enough for that.
    machine.run("unshare -n sleep 600 & sleep 0.5; weft network connect blue --pid $! --name c3; weft network disconnect blue --name c3; kill $!");

    // Upgraded in mid-transfer: another agent, the same fd holder, no connection lost.
    let agent = show("MainPID");
    let holder = machine.run("pgrep -f 'weft fd-holde[r]'");
    machine.run("ip netns exec c2 iperf3 -s -1 -D");
    let transfer = format!(
        "(ip netns exec c1 iperf3 -c {address} -t 8 -i 0.1 -J >/root/iperf; echo $? >/root/iperf.rc) >/dev/null 2>&1 &"
    );
    machine.run(&transfer);
    std::thread::sleep(Duration::from_secs(1));
    machine.run(&format!("dpkg -i {}", names[1]));
    assert_ne!(show("MainPID"), agent, "it was started anew");
    assert_eq!(machine.run("pgrep -f 'weft fd-holde[r]'"), holder);
    assert_eq!(show("ActiveState"), "active");
    wait_until(Duration::from_secs(30), "the transfer ends", || {
        machine.attempt("test -s /root/iperf.rc").code == Some(0)
    });
    let report = machine.run("cat /root/iperf");
    assert_eq!(machine.run("cat /root/iperf.rc").trim(), "0", "{report}");
    let report: Value = serde_json::from_str(&report).unwrap();
    let intervals = report["intervals"].as_array().unwrap();
    let moved = |interval: &&Value| interval["sum"]["bytes"].as_f64().unwrap_or(0.0) > 0.0;
    let still = intervals.iter().filter(|interval| !moved(interval)).count();
    assert!(
        intervals.len() >= 70 && still <= 10,
        "{still} of {} tenths of a second without a byte",
        intervals.len()
    );
    // What was written into the configuration is still there.
    machine.run("grep -q '^standalone = true' /etc/weft/weft.toml");

    // An agent that hangs is noticed and started again.
    machine.run("mkdir -p /run/systemd/system/weft-agent.service.d && printf '[Service]\\nWatchdogSec=2\\nTimeoutAbortSec=1\\n' >/run/systemd/system/weft-agent.service.d/test.conf && systemctl daemon-reload && systemctl restart weft-agent");
    let agent = show("MainPID");
    machine.run(&format!("kill -STOP {agent}"));
    wait_until(Duration::from_secs(20), "the watchdog bites", || {
        show("MainPID") != agent && show("ActiveState") == "active"
    });
    machine.run(&format!("ip netns exec c1 ping -c 1 -W 5 {address}"));
    assert_eq!(port_of("c1")["state"], "up");

    // Removed: containers' interfaces and processes are gone; purged: everything.
    machine.run("weft cni install --link --subnet 10.40.0.0/16");
    let interfaces = |name: &str| {
        let links: Vec<Value> =
            serde_json::from_str(&machine.run(&format!("ip -n {name} -json link"))).unwrap();
        let names = links.iter().filter_map(|link| link["ifname"].as_str());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    for name in ["c1", "c2"] {
        assert_eq!(interfaces(name), ["lo", "eth0"], "of {name}");
    }
    // Also when the agent is stopped: its ports are in the fd holder's hands.
    machine.run("systemctl stop weft-agent");
    assert_eq!(interfaces("c1"), ["lo", "eth0"]);
    machine.run("dpkg -r weft");
    for name in ["c1", "c2"] {
        assert_eq!(interfaces(name), ["lo"], "of {name}");
    }
    assert_eq!(
        machine.attempt("pgrep -x weft").code,
        Some(1),
        "nothing of weft runs"
    );
    for gone in [
        "/usr/bin/weft",
        "/opt/cni/bin/weft",
        "/etc/cni/net.d/10-weft.conflist",
        "/lib/systemd/system/weft-agent.service",
    ] {
        machine.run(&format!("! test -e {gone}"));
    }
    machine.run("test -e /etc/weft/weft.toml && test -d /var/lib/weft");
    machine.run("dpkg -P weft");
    for gone in ["/etc/weft", "/var/lib/weft", "/run/weft"] {
        machine.run(&format!("! test -e {gone}"));
    }
    // And again, as if it had never been there.
    machine.run(&format!("dpkg -i {}", names[1]));
    assert_eq!(
        machine
            .attempt("systemctl is-enabled weft-agent")
            .stdout
            .trim(),
        "disabled"
    );
}

#[test]
fn a_node_is_installed_as_the_daemonset_does_it() {
    let lab = Lab::new();
    let files = lab.dir().join("files");
    fs::create_dir_all(&files).unwrap();
    let package = build("0.0.1-1", &files);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kubernetes/install-node");
    fs::copy(script, files.join("install-node")).unwrap();
    let ns = lab.namespace("machine");
    ns.ip(&["link", "add", "u0", "type", "bridge"]);
    ns.ip(&["addr", "add", "10.99.0.1/24", "dev", "u0"]);
    ns.ip(&["link", "set", "u0", "up"]);
    let machine = Machine::boot(&lab, &ns, &files);
    let package = package.file_name().unwrap().to_string_lossy().into_owned();
    machine.run(&format!("dpkg -i /root/{package}"));
    // The controller's unit, with next to no privileges.
    machine.run("systemctl enable --now weft-controller");
    let token = machine.run("weft controller token");
    let install = |more: &str| {
        machine.run(&format!(
            "WEFT_JOIN=10.99.0.1:6783 WEFT_TOKEN={} NODE_NAME=n1 NODE_IP=10.99.0.1 SUBNET=10.40.0.0/16 \
             WEFT_UNIT=/lib/systemd/system/weft-agent.service {more} sh /root/install-node",
            token.trim()
        ))
    };
    let pid = || {
        let line = "systemctl show --value --property=MainPID weft-agent";
        machine.run(line).trim().to_owned()
    };
    install("");
    assert_eq!(
        machine.run("readlink /opt/cni/bin/weft").trim(),
        "/opt/weft/bin/weft"
    );
    machine.run("weft status --wait | grep -q 'n1'");
    machine.run(
        "ip netns add pod; jq '.plugins[0] + {name, cniVersion: \"1.1.0\"}' /etc/cni/net.d/10-weft.conflist |
         CNI_COMMAND=ADD CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 /opt/cni/bin/weft",
    );
    // Again: nothing has changed, nothing is restarted.
    let first = pid();
    install("");
    assert_eq!(pid(), first);
    // Another program: a new agent, the same interface.
    let link = machine.run("ip -n pod -o link show eth0");
    machine.run("cp /usr/bin/weft /root/newer && echo >>/root/newer");
    install("WEFT_PROGRAM=/root/newer");
    assert_ne!(pid(), first);
    machine.run("weft status --wait && weft ports | grep -q ' up '");
    assert_eq!(machine.run("ip -n pod -o link show eth0"), link);
    // A pod's end with the agent under systemd.
    machine.run(
        "jq '.plugins[0] + {name, cniVersion: \"1.1.0\"}' /etc/cni/net.d/10-weft.conflist |
         CNI_COMMAND=DEL CNI_CONTAINERID=pod CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 /opt/cni/bin/weft",
    );
    assert_eq!(machine.run("weft ports --json | jq length").trim(), "0");
}
