//! The decision: frame, tables and time in, actions out. No socket, clock, log or lock that a writer can hold for long.
//!
//! [`Datapath::process`] is the one list of stages a frame goes through; nothing else calls a stage. A stage ends a
//! frame's way by returning its [`DropReason`].

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod admit;
mod bridge;
mod gateway;
mod route;
mod services;
mod transmit;
mod uplink;

pub(crate) use route::network_mtu;
use weft_wire::FrameRef;

use crate::stats::Lane;
use crate::table::Tables;
use crate::table::fdb::{Fdb, Tick};
use crate::verdict::{Action, DropReason, Source};

/// What the stages consult, for one batch of frames.
#[derive(Debug, Clone, Copy)]
pub struct Datapath<'t> {
    tables: &'t Tables,
    fdb: &'t Fdb,
    lane: Lane,
}

impl<'t> Datapath<'t> {
    /// A datapath by this version of the tables, counting for one worker.
    pub const fn new(tables: &'t Tables, fdb: &'t Fdb, lane: Lane) -> Self {
        Self { tables, fdb, lane }
    }

    /// Decides on one frame. `actions` is emptied first; afterwards it holds deliveries, or one
    /// [`Drop`](Action::Drop), never both and never nothing. The frame and its drop are counted at its source already;
    /// who carries out the deliveries counts them.
    pub fn process(&self, from: Source, frame: FrameRef<'_>, now: Tick, actions: &mut Vec<Action>) {
        actions.clear();
        let counters = self.tables.source_counters(from);
        if let Some(counters) = counters {
            counters.received(self.lane, frame.len());
        }
        if let Err(reason) = self.stages(from, frame, now, actions) {
            if let Some(counters) = counters {
                counters.dropped(self.lane, reason);
            }
            actions.clear();
            actions.push(Action::Drop(reason));
        }
    }

    fn stages(
        &self,
        from: Source,
        frame: FrameRef<'_>,
        now: Tick,
        actions: &mut Vec<Action>,
    ) -> Result<(), DropReason> {
        let admitted = admit::admit(self.tables, from, frame)?;
        if let Some(port) = admitted.from_uplink {
            let known = (self.tables, self.fdb);
            return uplink::uplink(known, port, &admitted, now, actions);
        }
        if admitted.from_services {
            return services::services(self.tables, self.fdb, &admitted, now, actions);
        }
        let known = (self.tables, self.fdb);
        match gateway::gateway(known, from, &admitted, frame, now)? {
            gateway::Next::Done(action) => {
                actions.push(action);
                return Ok(());
            }
            gateway::Next::Bridge => {}
        }
        let next = bridge::bridge(self.fdb, from, &admitted, now)?;
        transmit::transmit(self.tables, from, &admitted, next, actions)
    }
}
