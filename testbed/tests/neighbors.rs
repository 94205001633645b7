//! Who has an address is known: nobody asks the whole network, who takes another's address is told, and people too.

use std::net::IpAddr;
use std::time::Duration;

use weft_testbed::lab::capture::Capture;
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Lab, Pair};

fn blue(pair: &Pair) {
    let subnets = ["--subnet", "10.32.0.0/16", "--subnet", "fd32:1::/64"];
    let words = [&["network", "create", "blue"][..], &subnets].concat();
    pair.host1.weft(&words);
    pair.wait_in_sync();
}

#[test]
fn questions_for_endpoints_are_answered_where_they_are_asked() {
    let pair = Pair::up(Lab::new());
    blue(&pair);
    let here = pair.lab.container(&pair.host1, "blue", "here", &[]);
    let near = pair.lab.container(&pair.host1, "blue", "near", &[]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    pair.wait_in_sync();
    // What interfaces say when they come up is over.
    std::thread::sleep(Duration::from_secs(2));
    let filter = "arp[6:2] = 1 or icmp6[0] = 135";
    let bystander = Capture::start(&near.ns, "eth0", &[filter]);
    let others = format!("(broadcast or multicast) and not ether src {}", far.mac());
    let asked = Capture::start(&far.ns, "eth0", &[&others]);
    for ip in [IpAddr::from(far.v4()), far.v6()] {
        ping(&here.ns, ip);
        let neighbors = here.ns.ip(&["neigh", "show", &ip.to_string()]);
        assert!(neighbors.contains(&far.mac().to_string()), "{neighbors}");
    }
    let (bystander, asked) = (bystander.stop().text(), asked.stop().text());
    assert!(!bystander.contains(&far.v4().to_string()), "{bystander}");
    assert!(!bystander.contains(&far.v6().to_string()), "{bystander}");
    assert!(
        !asked.contains("who-has") && !asked.contains("who has"),
        "{asked}"
    );
}

#[test]
fn who_takes_anothers_address_is_told_and_both_are_named() {
    let pair = Pair::up(Lab::new());
    blue(&pair);
    let owner = pair.lab.container(&pair.host2, "blue", "owner", &[]);
    let thief = pair.lab.container(&pair.host1, "blue", "thief", &[]);
    pair.wait_in_sync();
    let warned = |ip: IpAddr| {
        let warnings = pair.host1.status().warnings;
        warnings.iter().any(|warning| {
            let says = |what: &str| warning.contains(what);
            says(&ip.to_string()) && says("owner") && says("host2") && says("thief")
        })
    };
    assert_eq!(pair.host1.status().warnings, [""; 0]);
    // By ARP probes (RFC 5227).
    let to = owner.v4().to_string();
    let probe = ["-D", "-I", "eth0", "-c", "2", "-w", "3", &to];
    let finished = thief.ns.run("arping", &probe);
    assert_eq!(finished.code, Some(1), "somebody has it: {finished}");
    assert!(
        finished
            .stdout
            .to_lowercase()
            .contains(&owner.mac().to_string()),
        "{finished}"
    );
    wait_until(SOON, "the ARP probe is told", || warned(owner.v4().into()));
    // By duplicate address detection (RFC 4862).
    let six = format!("{}/64", owner.v6());
    std::thread::sleep(Duration::from_secs(1));
    thief.ns.ip(&["addr", "add", &six, "dev", "eth0"]);
    wait_until(SOON, "the address is not taken", || {
        thief
            .ns
            .ip(&["addr", "show", "dev", "eth0"])
            .contains("dadfailed")
    });
    wait_until(SOON, "the probe is told", || warned(owner.v6()));
    // Its kernel keeps the address that it may not use.
    thief.ns.ip(&["addr", "del", &six, "dev", "eth0"]);
    ping(&thief.ns, owner.v4().into());
    ping(&thief.ns, owner.v6());
    let log = pair.host1.agent().log();
    assert!(log.contains("duplicate address"), "{log}");
}

#[test]
fn who_may_spoof_is_named_too() {
    let pair = Pair::up(Lab::new());
    blue(&pair);
    let owner = pair.lab.container(&pair.host2, "blue", "owner", &[]);
    let extra = ["--allow-spoof"];
    let spoof = pair.lab.container(&pair.host1, "blue", "spoof", &extra);
    pair.wait_in_sync();
    let to = owner.v4().to_string();
    let mine = spoof.v4().to_string();
    let says = |ip: &str| {
        let args = ["-U", "-I", "eth0", "-c", "1", "-w", "2", "-s", ip, ip];
        spoof.ns.run("arping", &args);
    };
    // Of its own address there is nothing to tell.
    says(&mine);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(pair.host1.status().warnings, [""; 0]);
    let address = format!("{to}/16");
    spoof.ns.ip(&["addr", "add", &address, "dev", "eth0"]);
    says(&to);
    let told = || {
        let warnings = pair.host1.status().warnings;
        warnings
            .iter()
            .any(|warning| warning.contains(&to) && warning.contains("port spoof"))
    };
    wait_until(SOON, "both holders are named", told);
}

#[test]
fn an_address_that_moves_to_another_mac_is_announced() {
    let pair = Pair::up(Lab::new());
    blue(&pair);
    let here = pair.lab.container(&pair.host1, "blue", "here", &[]);
    let fixed = |mac| ["--ip", "10.32.0.77", "--ip", "fd32:1::77", "--mac", mac];
    let first = fixed("02:00:00:00:00:71");
    let old = pair.lab.container(&pair.host1, "blue", "old", &first);
    pair.wait_in_sync();
    let addresses = [IpAddr::from(old.v4()), old.v6()];
    for ip in addresses {
        ping(&here.ns, ip);
    }
    pair.host1.disconnect("blue", &old.ns);
    let second = fixed("02:00:00:00:00:72");
    let new = pair.lab.container(&pair.host2, "blue", "new", &second);
    pair.wait_in_sync();
    for ip in addresses {
        ping(&here.ns, ip);
        let neighbors = here.ns.ip(&["neigh", "show", &ip.to_string()]);
        assert!(neighbors.contains(&new.mac().to_string()), "{neighbors}");
    }
}
