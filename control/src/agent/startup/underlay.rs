//! The address that tunnels are bound to: given, remembered, or none on a single host.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tracing::{info, warn};
use weft_wire::Mtu;

use super::{Agent, AgentError, Settings};
use crate::link::{self, LinkError, LinkWatch, LocalLink};

/// What a standalone agent's tunnels are bound to when nobody says otherwise: nothing comes or goes there.
const STANDALONE_UNDERLAY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// With this underlay MTU a standalone host's networks get Ethernet's 1500.
const STANDALONE_UNDERLAY_MTU: u32 = 1550;

#[derive(Clone, Debug)]
pub(super) struct Underlay {
    pub(super) address: IpAddr,
    pub(super) ifname: String,
    pub(super) mtu: Mtu,
    /// There is no other host: only the MTU counts, for the networks of this one.
    pub(super) standalone: bool,
}

pub(super) async fn find_underlay(settings: &Settings) -> Result<Underlay, AgentError> {
    let address = match (settings.underlay, settings.standalone) {
        (Some(address), _) => address,
        (None, true) => STANDALONE_UNDERLAY,
        (None, false) => {
            return Err(AgentError::Missing {
                what: "the underlay address",
                why: "tunnels are bound to it and other hosts reach this one by it",
                flag: "--underlay IP",
            });
        }
    };
    if settings.standalone && address.is_loopback() {
        // In a fresh network namespace even loopback is down.
        link::ensure_loopback_up()
            .await
            .map_err(|error| AgentError::System {
                what: "bring up loopback",
                source: io::Error::other(error),
            })?;
        let mtu = Mtu::new(STANDALONE_UNDERLAY_MTU).expect("a constant in range");
        return Ok(Underlay {
            address,
            ifname: "lo".to_owned(),
            mtu,
            standalone: true,
        });
    }
    let failed = |error| AgentError::System {
        what: "list this host's addresses",
        source: io::Error::other(error),
    };
    match link::local_link_of_address(address).await.map_err(failed)? {
        Some(found) => {
            let mtu = mtu_of(&found);
            Ok(Underlay {
                address,
                ifname: found.ifname,
                mtu,
                standalone: false,
            })
        }
        None => {
            let have = link::local_addresses().await.map_err(failed)?;
            let have = have
                .iter()
                .map(IpAddr::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            Err(AgentError::NotOurAddress { address, have })
        }
    }
}

fn mtu_of(link: &LocalLink) -> Mtu {
    Mtu::new(link.mtu.min(Mtu::MAX)).unwrap_or(Mtu::ETHERNET)
}

/// Lets the containers' MTU follow the underlay link's. Paths to agents are measured anyway; to a static VTEP the link
/// is all that is known.
pub(super) async fn follow_link(agent: Arc<Agent>) {
    if agent.facts.standalone {
        return;
    }
    if let Err(error) = watch_link(&agent).await {
        warn!(%error, "changes of the underlay link's MTU aren't seen until the agent starts again");
    }
}

async fn watch_link(agent: &Agent) -> Result<(), LinkError> {
    let mut watch = LinkWatch::start()?;
    loop {
        // While it has no address (a link that is set up anew), the last one counts.
        let found = link::local_link_of_address(agent.facts.underlay).await?;
        if let Some(link) = &found {
            let mtu = mtu_of(link);
            if mtu != **agent.underlay_mtu.load() {
                info!(%mtu, link = %link.ifname, "the underlay link's MTU is another one");
                agent.underlay_mtu.store(Arc::new(mtu));
                agent.changed.notify_one();
            }
        }
        if !watch.changed(found.map(|link| link.ifindex)).await {
            return Err(LinkError::Netlink(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
