//! What the services of this host say to its ports. The gateway has the same MAC on every host, so this is neither learned
//! nor sent into a tunnel: each host's services speak for its own ports.

use super::admit::Admitted;
use super::transmit::to_port;
use crate::table::Tables;
use crate::table::fdb::{Fdb, FdbKey, Place, Tick};
use crate::verdict::{Action, DropReason};

pub(super) fn services(
    tables: &Tables,
    fdb: &Fdb,
    frame: &Admitted<'_, '_>,
    now: Tick,
    actions: &mut Vec<Action>,
) -> Result<(), DropReason> {
    let mac = frame.ethernet.destination();
    if mac.is_multicast() {
        let everybody = frame.network.ports.iter();
        actions.extend(everybody.map(|port| Action::ToPort(*port)));
        return some(actions);
    }
    let station = FdbKey {
        vni: frame.vni,
        vlan: frame.vlan,
        mac,
    };
    match fdb.lookup(station, now, frame.network.spec.ageing) {
        Some(Place::Port(port)) => {
            actions.push(to_port(tables, frame.vni, port)?);
            Ok(())
        }
        Some(Place::Peer(_)) => Err(DropReason::SplitHorizon),
        None => Err(DropReason::NoListener),
    }
}

fn some(actions: &[Action]) -> Result<(), DropReason> {
    if actions.is_empty() {
        return Err(DropReason::NoListener);
    }
    Ok(())
}
