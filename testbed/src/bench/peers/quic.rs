//! Encrypted tunnels that weft doesn't have: QUIC datagrams, by weft's own switch (`weft-quic`).

use std::path::PathBuf;

use weft_testbed::{Lab, QuicPair};

use crate::contender::{Contender, Switch, Way};
use crate::result::{QUINN, QUINN_PROTO};

/// The program, which is built with this one.
fn program() -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a file");
    own.with_file_name("weft-quic")
}

fn contender(name: &'static str, lab: &Lab, args: &[&str]) -> Contender {
    let QuicPair {
        hosts,
        containers: [from, to],
        daemons,
    } = QuicPair::up(lab, name, &program(), args);
    Contender {
        name,
        local: None,
        cross: Some(Way {
            from,
            to,
            ip: QuicPair::ip(1),
        }),
        out: None,
        hosts: hosts.to_vec(),
        switch: Switch::Processes(daemons.iter().map(|daemon| daemon.pid()).collect()),
    }
}

/// quinn as it is, one connection.
pub(super) fn quinn(lab: &Lab) -> Contender {
    contender(QUINN, lab, &["--driver", "quinn"])
}

/// quinn-proto driven by the workers, a connection for each, few acknowledgments.
pub(super) fn quinn_proto(lab: &Lab) -> Contender {
    contender(
        QUINN_PROTO,
        lab,
        &["--driver", "quinn-proto", "--ack-every", "64"],
    )
}
