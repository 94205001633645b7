//! Pods, as a kubelet has them made: Debian's containerd is asked by the container runtime interface and calls the CNI
//! plugin.

#![expect(clippy::too_many_lines, reason = "scenarios are told in order")]

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use weft_testbed::lab::Host;
use weft_testbed::lab::cri::{Containerd, PodWish};
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Lab, Pair};

/// Plugin directory and network configuration of a node, as `weft cni install` makes them.
fn install(host: &Host) -> (PathBuf, PathBuf) {
    let dir = host.ns.lab_file(&format!("{}-cni", host.name));
    let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
    let (bin_text, conf_text) = (bin.display().to_string(), conf.display().to_string());
    let subnets = ["--subnet", "10.40.0.0/16", "--subnet", "fd40::/64"];
    let dirs = ["--bin-dir", &bin_text, "--conf-dir", &conf_text];
    let install = ["cni", "install", "--link", "--name", "pods"];
    host.weft(&[&install[..], &subnets, &dirs].concat());
    (bin, conf)
}

#[test]
fn pods_of_two_nodes_reach_each_other_by_address_and_name_and_leave_nothing() {
    let pair = Pair::up(Lab::new());
    let hosts = [&pair.host1, &pair.host2];
    let [one, two] = hosts.map(|host| {
        let (bin, conf) = install(host);
        Containerd::start(host, (&bin, &conf))
    });
    let plain = PodWish::default();
    let wish = PodWish {
        ports: &[(8088, 80)],
        annotations: &[("kubernetes.io/ingress-bandwidth", "800M")],
    };
    let web = one.pod("web", &wish).unwrap();
    let db = two.pod("db", &plain).unwrap();
    let addresses = one.addresses(&web).unwrap();
    // What containerd tells its kubelet is what the agent gave.
    let port = pair.host1.ports().remove(0);
    let given: Vec<String> = port
        .addresses
        .iter()
        .map(|net| net.addr().to_string())
        .collect();
    assert_eq!(addresses, given);
    assert!(addresses[0].starts_with("10.40.") && addresses[1].starts_with("fd40:"));
    assert_eq!(port.name, "web", "the pod's name");
    assert_eq!(port.attachment.unwrap().container, web.id);
    // Both ways, from containers of the pods.
    let (main, other) = (one.container(&web).unwrap(), two.container(&db).unwrap());
    let there = two.addresses(&db).unwrap();
    for (from, container, to) in [(&one, &main, &there[0]), (&two, &other, &addresses[0])] {
        let script = format!("ping -c 3 -W 5 {to}");
        let (code, said) = from.exec(container, &script).unwrap();
        assert!(code == 0 && said.contains(" 0% packet loss"), "{said}");
    }
    let (code, said) = one.exec(&main, "nslookup db.pods. 10.40.0.1").unwrap();
    assert!(code == 0 && said.contains(&there[0]), "{said}");
    // Rates and ports, which containerd writes in words of its own.
    let rate = port.line.and_then(|line| line.limits.to_port);
    assert_eq!(rate.map(|rate| rate.bits_per_sec), Some(800_000_000));
    let serve = "mkdir /www; echo hello >/www/index.html; httpd -p 80 -h /www";
    let (code, said) = one.exec(&main, serve).unwrap();
    assert_eq!(code, 0, "{said}");
    assert_eq!(port.published.len(), 1, "{:?}", port.published);
    let ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 2 127.0.0.1 80";
    wait_until(SOON, "the container serves", || {
        let (_, said) = one.exec(&main, ask).unwrap();
        said.ends_with("hello\n")
    });
    let ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 2 10.99.0.1 8088";
    wait_until(SOON, "the node's port answers", || {
        let asked = pair.host2.ns.run("sh", &["-c", ask]);
        asked.stdout.ends_with("hello\n")
    });
    // Pods don't notice a new agent; a host of the network reaches them.
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    let far = pair.lab.container(&pair.host2, "pods", "far", &[]);
    let web_ip: IpAddr = addresses[0].parse().unwrap();
    ping(&far.ns, web_ip);
    // Without an agent a pod is refused with the reason; one that runs can be removed.
    pair.host1.stop_agent();
    let why = one.pod("late", &plain).unwrap_err();
    assert!(why.contains("no agent listens"), "{why}");
    one.remove(&web.id).unwrap();
    pair.host1.restart_agent();
    wait_until(SOON, "its port is forgotten", || {
        pair.host1.ports().is_empty()
    });
    let again = one.pod("again", &plain).unwrap();
    ping(&far.ns, one.addresses(&again).unwrap()[0].parse().unwrap());
    one.remove(&again.id).unwrap();
    two.remove(&db.id).unwrap();
    pair.host2.disconnect("pods", &far.ns);
    for host in hosts {
        assert!(host.ports().is_empty(), "{:?}", host.ports());
    }
    wait_until(SOON, "no endpoint is left", || {
        pair.host1.network("pods").members.is_empty()
    });
    let locks = pair.host1.socket().with_file_name("cni");
    assert_eq!(fs::read_dir(locks).unwrap().count(), 0);
}
