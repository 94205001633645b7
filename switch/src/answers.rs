//! Answers to senders whose frames don't fit, and to those who ask the gateway: written to the port they came from, at a
//! bounded rate.

use std::net::IpAddr;

use weft_wire::{Mtu, PortId};

use crate::gateway::{Heard, hear};
use crate::table::fdb::Tick;

/// Ports that are limited apart; beyond, some share a limit.
const SLOTS: usize = 256;
/// Answers of the gateway to one port in a millisecond: resolving and asking follow each other at once.
const GATEWAY_ANSWERS: u8 = 16;

/// Not more than one answer per port and millisecond (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4): a sender needs
/// one, and whoever floods gets no flood back.
#[derive(Debug)]
pub(crate) struct Answers {
    last: Box<[Option<Tick>; SLOTS]>,
    /// When the gateway answered last, and how many times in that millisecond.
    gateway: Box<[(Tick, u8); SLOTS]>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            last: Box::new([None; SLOTS]),
            gateway: Box::new([(Tick(0), 0); SLOTS]),
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

    /// What a gateway with `addresses` answers to a frame of `port`, if it isn't asked too often.
    pub(crate) fn gateway(
        &mut self,
        (port, now): (PortId, Tick),
        frame: &[u8],
        addresses: &[IpAddr],
    ) -> Option<Vec<u8>> {
        let (last, answers) = &mut self.gateway[port.index() % SLOTS];
        if *last != now {
            (*last, *answers) = (now, 0);
        }
        if *answers >= GATEWAY_ANSWERS {
            return None;
        }
        let Heard::Answer(answer) = hear(addresses, frame) else {
            return None;
        };
        *answers += 1;
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

    #[test]
    fn the_gateway_answers_a_port_so_many_times_a_millisecond() {
        let gateway = std::net::Ipv4Addr::new(10, 0, 0, 1);
        let here = std::net::Ipv4Addr::new(10, 0, 0, 9);
        let asker = weft_wire::MacAddr([2, 0, 0, 0, 0, 1]);
        let request = weft_wire::ArpMessage::request(asker, here, gateway);
        let mut answers = Answers::new();
        let mut ask = |port, at| {
            let (from, frame) = ((PortId(port), Tick(at)), request.to_frame());
            answers
                .gateway(from, &frame, &[IpAddr::V4(gateway)])
                .is_some()
        };
        assert!((0..GATEWAY_ANSWERS).all(|_| ask(1, 5)));
        assert!(!ask(1, 5));
        assert!(ask(2, 5) && ask(1, 6));
    }
}
