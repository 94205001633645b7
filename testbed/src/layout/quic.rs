//! Two hosts that `weft-quic` joins: the encrypted tunnel that weft doesn't have, to be measured beside the one it has.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::lab::process::Process;
use crate::lab::verdict::wait_until;
use crate::lab::{Lab, Namespace};

use super::{Wire, underlay};

/// UDP port of the first connection.
const PORT: u16 = 4433;
/// Until the TAP is there: QUIC's handshake may have to be tried again.
const PATIENCE: Duration = Duration::from_secs(20);
/// The TAP before it is the container's.
const TAP: &str = "q0";

/// Two hosts without weft, joined by QUIC datagrams.
///
/// ```text
///   NAME1                                          NAME2
///   10.99.0.1/24 u0 ------------ veth ------------ u0 10.99.0.2/24
///   weft-quic (opens)                              weft-quic (takes)
///      |                                              |
///   NAME-c1 eth0 (TAP) 10.88.0.1/24                NAME-c2 eth0 (TAP) 10.88.0.2/24
/// ```
#[derive(Debug)]
pub struct QuicPair {
    /// The hosts.
    pub hosts: [Namespace; 2],
    /// A container on each.
    pub containers: [Namespace; 2],
    /// What switches on each.
    pub daemons: [Arc<Process>; 2],
}

impl QuicPair {
    /// MTU of the containers: 1500 less IPv4 and UDP (28), what QUIC's packet and DATAGRAM frame take at most (38), VXLAN's
    /// header (8) and Ethernet's (14).
    pub const MTU: u32 = 1412;
    /// What a container's kernel hands over at once (IFLA_GSO_MAX_SIZE): 44 segments, as many as go in one train of QUIC
    /// packets, and the 321 bytes that TCP takes off.
    const SUPERFRAME_MAX: u32 = 44 * (Self::MTU - 40) + 321;

    /// Hosts NAME1 and NAME2 with `program`, which is weft-quic, and its further flags `args`. The lab may hold other
    /// things beside them.
    pub fn up(lab: &Lab, name: &str, program: &Path, args: &[&str]) -> Self {
        let Wire { hosts } = Wire::up(lab, name);
        let path = |path: &Path| path.display().to_string();
        let (program, certificates) = (path(program), path(&lab.dir().join(name)));
        hosts[0]
            .run(&program, &["certificates", &certificates])
            .expect_done();
        let daemons = [2, 1].map(|number: u8| {
            let host = &hosts[usize::from(number) - 1];
            let (number, local) = (number.to_string(), format!("{}:{PORT}", underlay(number)));
            let far = format!("{}:{PORT}", underlay(2));
            let fixed = [
                "run",
                "--tap",
                TAP,
                "--local",
                &local,
                "--host",
                &number,
                "--certificates",
                &certificates,
            ];
            let opens: &[&str] = if number == "1" {
                &["--connect", &far]
            } else {
                &[]
            };
            host.spawn(
                &format!("{name}{number}"),
                &program,
                &[&fixed[..], opens, args].concat(),
            )
        });
        let [second, first] = daemons;
        let daemons = [first, second];
        let containers = [0, 1].map(|at: usize| {
            let ns = lab.namespace(&format!("{name}-c{}", at + 1)).without_ipv6();
            plug(&hosts[at], &daemons[at], &ns);
            ns.ip(&[
                "addr",
                "add",
                &format!("{}/24", Self::ip(at)),
                "dev",
                "eth0",
            ]);
            ns
        });
        Self {
            hosts,
            containers,
            daemons,
        }
    }

    /// Address of the container on that host, 0 or 1.
    pub fn ip(at: usize) -> IpAddr {
        let number = if at == 0 { 1 } else { 2 };
        Ipv4Addr::new(10, 88, 0, number).into()
    }
}

/// Waits for the TAP, and gives it to a container.
fn plug(host: &Namespace, daemon: &Process, ns: &Namespace) {
    wait_until(PATIENCE, "weft-quic makes its TAP", || {
        assert!(daemon.is_running(), "weft-quic ended:\n{}", daemon.log());
        host.ifnames().iter().any(|name| name == TAP)
    });
    host.ip(&["link", "set", TAP, "netns", ns.name(), "name", "eth0"]);
    let (mtu, superframe) = (
        QuicPair::MTU.to_string(),
        QuicPair::SUPERFRAME_MAX.to_string(),
    );
    ns.ip(&[
        "link",
        "set",
        "eth0",
        "mtu",
        &mtu,
        "gso_max_size",
        &superframe,
        "up",
    ]);
}
