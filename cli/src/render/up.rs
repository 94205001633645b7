//! What `weft up` says: what is there, and what to type next.

use crate::command::up::Up;

pub(crate) fn text(up: &Up) -> String {
    let network = &up.network;
    let mut text = match &up.started {
        Some(started) => format!(
            "agent:    started (pid {}, log {})\n",
            started.pid,
            started.log.display()
        ),
        None => "agent:    running\n".to_owned(),
    };
    let subnets: Vec<String> = (network.subnets.iter())
        .map(|subnet| format!("{} (gateway {})", subnet.cidr, subnet.gateway))
        .collect();
    let made = if up.made { ", made" } else { "" };
    text += &format!(
        "network:  {}{made}, {}, MTU {}\n",
        network.name,
        subnets.join(", "),
        network.mtu
    );
    text += &format!(
        "next:     ip netns add web && weft network connect {} --netns web && ip netns exec web ip addr\n",
        network.name
    );
    if up.docker
        && let Some(subnet) = network.subnets.first()
    {
        text += &format!(
            "docker:   docker network create -d weft --ipam-driver weft --subnet {} -o weft.network={} {}\n",
            subnet.cidr, network.name, network.name
        );
    }
    text += "end:      weft down\n";
    text
}

#[cfg(test)]
mod tests {
    use weft_control::api::{NetworkInfo, SubnetInfo};
    use weft_control::model::Transport;
    use weft_wire::{Mtu, Vni};

    use super::*;
    use crate::command::up::Started;

    #[test]
    fn the_next_lines_to_type_are_named() {
        let network: NetworkInfo = serde_json::from_value(serde_json::json!({
            "name": "weft", "id": "1", "vni": Vni::new(4096).unwrap(),
            "subnets": [SubnetInfo {
                cidr: "10.32.0.0/16".parse().unwrap(),
                ip_range: None,
                gateway: "10.32.0.1".parse().unwrap(),
                aux_addresses: std::collections::BTreeMap::new(),
            }],
            "transport": Transport::Vxlan, "encrypted": false, "internal": false,
            "mtu": Mtu::new(1500).unwrap(), "mtu_set": false, "ageing_secs": 300, "vteps": [], "endpoints": 0,
        }))
        .unwrap();
        let mut up = Up {
            started: Some(Started {
                pid: 7,
                log: "/var/lib/weft/agent.log".into(),
            }),
            network,
            made: true,
            docker: true,
        };
        assert_eq!(
            text(&up),
            "agent:    started (pid 7, log /var/lib/weft/agent.log)\n\
             network:  weft, made, 10.32.0.0/16 (gateway 10.32.0.1), MTU 1500\n\
             next:     ip netns add web && weft network connect weft --netns web && ip netns exec web ip addr\n\
             docker:   docker network create -d weft --ipam-driver weft --subnet 10.32.0.0/16 -o weft.network=weft weft\n\
             end:      weft down\n"
        );
        up.started = None;
        up.docker = false;
        up.made = false;
        assert!(!text(&up).contains("docker"));
        assert!(text(&up).starts_with("agent:    running\nnetwork:  weft, 10.32"));
    }
}
