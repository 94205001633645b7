//! Answers to senders whose frames don't fit: written to the port they came from, at a bounded rate.

use weft_wire::{Mtu, PortId};

use crate::table::fdb::Tick;

/// Ports that are limited apart; beyond, some share a limit.
const SLOTS: usize = 256;

/// Not more than one answer per port and millisecond (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4): a sender needs
/// one, and whoever floods gets no flood back.
#[derive(Debug)]
pub(crate) struct Answers {
    last: Box<[Option<Tick>; SLOTS]>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            last: Box::new([None; SLOTS]),
        }
    }

    /// The answer to a frame of `port` that is longer than packets of `mtu` make, if it is to have one.
    pub(crate) fn too_big(
        &mut self,
        (port, now): (PortId, Tick),
        frame: &[u8],
        mtu: Mtu,
    ) -> Option<Vec<u8>> {
        let last = &mut self.last[port.index() % SLOTS];
        if last.is_some_and(|last| last == now) {
            return None;
        }
        let answer = weft_wire::too_big(frame, mtu)?;
        *last = Some(now);
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    #[test]
    fn a_port_is_answered_once_a_millisecond_and_others_beside_it() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut frame, &[0; 1400])
            .unwrap();
        let mut answers = Answers::new();
        let mtu = Mtu::new(1250).unwrap();
        let mut ask = |port, at| {
            answers
                .too_big((PortId(port), Tick(at)), &frame, mtu)
                .is_some()
        };
        assert!(ask(1, 5) && ask(2, 5));
        assert!(!ask(1, 5) && !ask(2, 5));
        assert!(ask(1, 6));
    }
}
