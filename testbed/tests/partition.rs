//! Three hosts; one is cut off, goes on by itself, and comes back.

use std::time::Duration;

use weft_testbed::lab::traffic::{answers, ping};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Container, Hosts, Lab};

/// A dead connection is noticed by silence; this is how long that may take, either way.
const NOTICE: Duration = Duration::from_secs(20);

fn everybody_reaches_everybody(containers: &[&Container]) {
    for from in containers {
        for to in containers {
            if from.ip() != to.ip() {
                ping(&from.ns, to.ip());
            }
        }
    }
}

#[test]
fn a_host_that_was_cut_off_goes_on_by_itself_and_all_agree_after_healing() {
    let net = Hosts::up(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    let c3 = net.lab.container(host3, "blue", "c3", &[]);
    net.wait_in_sync();
    everybody_reaches_everybody(&[&c1, &c2, &c3]);

    net.cut_off(3);
    assert!(!answers(&c1.ns, c3.ip()) && !answers(&c3.ns, c2.ip()));
    ping(&c1.ns, c2.ip());
    // Both sides change: endpoints come and go, a network is made.
    let c4 = net.lab.container(host3, "blue", "c4", &[]);
    ping(&c4.ns, c3.ip());
    host3.disconnect("blue", &c3.ns);
    let c5 = net.lab.container(host2, "blue", "c5", &[]);
    host1.weft(&["network", "create", "red", "--subnet", "10.33.0.0/16"]);
    host1.disconnect("blue", &c1.ns);
    wait_until(NOTICE, "both sides know that they're apart", || {
        let away = host1
            .nodes()
            .iter()
            .any(|node| node.name == "host3" && node.state == "disconnected");
        away && !host3.status().in_sync
    });
    let refusal = host3.refused(&["network", "create", "green"]);
    assert!(refusal.message.contains("controller"), "{refusal:?}");
    // Its address is still c3's as far as this side knows: it isn't given out twice.
    let refusal = host2.refused(&[
        "network",
        "connect",
        "blue",
        "--netns",
        c1.ns.name(),
        "--ip",
        &c3.ip().to_string(),
    ]);
    assert!(
        refusal.message.contains(&c3.ip().to_string()),
        "{refusal:?}"
    );

    net.heal(3);
    net.wait_in_sync();
    let blue: Vec<_> = net.hosts.iter().map(|host| host.network("blue")).collect();
    assert!(blue.iter().all(|seen| *seen == blue[0]), "{blue:#?}");
    let names: Vec<_> = blue[0]
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(names, ["c2", "c4", "c5"]);
    assert!(
        net.hosts
            .iter()
            .all(|host| host.subnets() == host1.subnets())
    );
    let c6 = net.lab.container(host3, "red", "c6", &[]);
    let c7 = net.lab.container(host1, "red", "c7", &[]);
    everybody_reaches_everybody(&[&c2, &c4, &c5]);
    everybody_reaches_everybody(&[&c6, &c7]);
}

#[test]
fn no_address_is_given_out_twice_by_hosts_that_are_apart() {
    let net = Hosts::up(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    for (host, name) in [(host1, "a1"), (host2, "a2"), (host3, "a3")] {
        net.lab.container(host, "blue", name, &[]);
    }
    net.cut_off(2);
    net.cut_off(3);
    let containers: Vec<Container> = [(host1, "b1"), (host2, "b2"), (host3, "b3")]
        .into_iter()
        .flat_map(|(host, name)| (0..5).map(move |number| (host, format!("{name}-{number}"))))
        .map(|(host, name)| net.lab.container(host, "blue", &name, &[]))
        .collect();
    net.heal(2);
    net.heal(3);
    net.wait_in_sync();
    let mut ips: Vec<_> = containers.iter().map(Container::ip).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(
        ips.len(),
        containers.len(),
        "every address is one container's"
    );
    assert_eq!(host1.network("blue").members.len(), 3 + containers.len());
    ping(&containers[0].ns, containers[14].ip());
    ping(&containers[7].ns, containers[12].ip());
}
