//! The decision: frame, tables and time in, actions out. No socket, clock, log or lock that a writer can hold for long.
//!
//! [`Datapath::process`] is the one list of stages a frame goes through; nothing else calls a stage. A stage ends a
//! frame's way by returning its [`DropReason`].

#![deny(clippy::disallowed_methods)]

mod admit;
mod bridge;
mod transmit;

use weft_wire::FrameRef;

use crate::table::Tables;
use crate::table::fdb::{Fdb, Tick};
use crate::verdict::{Action, DropReason, Source};

/// What the stages consult, for one batch of frames.
#[derive(Debug, Clone, Copy)]
pub struct Datapath<'t> {
    tables: &'t Tables,
    fdb: &'t Fdb,
}

impl<'t> Datapath<'t> {
    /// A datapath by this version of the tables.
    pub const fn new(tables: &'t Tables, fdb: &'t Fdb) -> Self {
        Self { tables, fdb }
    }

    /// Decides on one frame. `actions` is emptied first; afterwards it holds deliveries, or one
    /// [`Drop`](Action::Drop), never both and never nothing.
    pub fn process(
        &self,
        from: Source,
        frame: FrameRef<'_>,
        now: Tick,
        actions: &mut Vec<Action>,
    ) {
        actions.clear();
        if let Err(reason) = self.stages(from, frame, now, actions) {
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
        let next = bridge::bridge(self.fdb, from, &admitted, now)?;
        transmit::transmit(from, &admitted, next, actions)
    }
}

#[cfg(test)]
mod tests;
