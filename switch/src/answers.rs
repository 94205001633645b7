//! Answers to senders whose frames go no further, and to those who ask the gateway: written to the port they came from, at
//! a bounded rate.

use std::net::IpAddr;
use std::time::Duration;

use weft_wire::{EthernetFrame, IcmpError, MacAddr, Mtu, PortId, echo_reply, icmp_error};

use crate::datapath::network_mtu;
use crate::gateway::{GATEWAY_MAC, Heard, hear};
use crate::neighbor::{Claim, Question, claimed, said};
use crate::table::Tables;
use crate::table::fdb::Tick;
use crate::verdict::{Action, DropReason};

/// Ports that are limited apart; beyond, some share a limit.
const SLOTS: usize = 256;
/// Answers of the gateway to one port in a millisecond: resolving and asking follow each other at once.
const GATEWAY_ANSWERS: u8 = 16;
/// Between two tellings that a port claims what is another's.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);
/// Errors to one port at once: who traces a route asks many hops together.
const ERRORS: u64 = 32;

/// Not more than one error per port and millisecond but for a burst (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4): a
/// sender needs one, and whoever floods gets no flood back.
#[derive(Debug)]
pub(crate) struct Answers {
    errors: Box<[Bucket; SLOTS]>,
    /// When the gateway answered last, and how many times in that millisecond.
    gateway: Box<[(Tick, u8); SLOTS]>,
    /// What the last frame claimed.
    claim: Option<Claim>,
    /// When a claim was told last.
    claims: Box<[Option<Tick>; SLOTS]>,
}

/// The port that a frame came from, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'t> {
    pub(crate) tables: &'t Tables,
    pub(crate) id: PortId,
    pub(crate) now: Tick,
}

impl Asker<'_> {
    fn slot(&self) -> usize {
        self.id.index() % SLOTS
    }

    /// Who has an address on the port's network.
    fn owner(&self, ip: IpAddr) -> Option<MacAddr> {
        let network = self.tables.port(self.id)?.network?;
        self.tables.neighbors().get(network, ip)
    }

    fn gateways(&self) -> &[IpAddr] {
        self.tables.gateways_of_port(self.id)
    }
}

/// A token bucket: a token each millisecond, at most [`ERRORS`].
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// When it was empty, as far as it has filled since.
    empty: Tick,
}

impl Bucket {
    const fn has_one(&self, now: Tick) -> bool {
        self.empty.0 < now.0 + ERRORS
    }

    fn take(&mut self, now: Tick) {
        self.empty = Tick(self.empty.0.max(now.0) + 1);
    }
}

impl Answers {
    pub(crate) fn new() -> Self {
        Self {
            errors: Box::new([Bucket::default(); SLOTS]),
            gateway: Box::new([(Tick(0), 0); SLOTS]),
            claim: None,
            claims: Box::new([None; SLOTS]),
        }
    }

    /// What the sender of a frame is told after `actions` were carried out; some way may have been too narrow for it.
    pub(crate) fn answer(
        &mut self,
        from: Asker<'_>,
        frame: &[u8],
        (too_big, actions): (Option<Mtu>, &[Action]),
    ) -> Option<Vec<u8>> {
        match (too_big, actions) {
            (Some(mtu), _) => self.error(from, frame, IcmpError::TooBig(mtu)),
            (None, [Action::Drop(DropReason::SpoofedAddress)]) => self.defend(from, frame),
            (None, [Action::Drop(reason)]) => self.dropped(from, frame, *reason),
            (None, [Action::Answer]) => self.gateway(from, frame),
            (None, _) => None,
        }
    }

    /// What a frame's sender is told that was dropped for `reason`, if anything.
    fn dropped(&mut self, from: Asker<'_>, frame: &[u8], reason: DropReason) -> Option<Vec<u8>> {
        let error = match reason {
            DropReason::TooBig => IcmpError::TooBig(network_mtu(from.tables, from.id, frame)?),
            DropReason::NoRoute | DropReason::RouteLoop => IcmpError::NoRoute,
            DropReason::NoNeighbor => IcmpError::AddressUnreachable,
            DropReason::TtlExceeded => IcmpError::TimeExceeded,
            DropReason::Isolated => IcmpError::Prohibited,
            DropReason::Runt
            | DropReason::BadOffload
            | DropReason::BadSource
            | DropReason::BadVlan
            | DropReason::SpoofedMac
            | DropReason::SpoofedAddress
            | DropReason::VlanNotAllowed
            | DropReason::LinkReserved
            | DropReason::UnknownVni
            | DropReason::SameSide
            | DropReason::SplitHorizon
            | DropReason::CameBack
            | DropReason::NoListener
            | DropReason::NotAnswered
            | DropReason::PortFull
            | DropReason::PortDown
            | DropReason::PortGone
            | DropReason::PortRefused => return None,
        };
        self.error(from, frame, error)
    }

    /// The gateway's error about a frame that it was to route, else that of whom the frame is for.
    fn error(&mut self, from: Asker<'_>, frame: &[u8], error: IcmpError) -> Option<Vec<u8>> {
        let bucket = &mut self.errors[from.slot()];
        if !bucket.has_one(from.now) {
            return None;
        }
        let routed = EthernetFrame::new(frame).ok()?.destination() == GATEWAY_MAC;
        let answer = if routed {
            // Only one of the packet's family makes an answer.
            let mut gateways = from.gateways().iter();
            gateways.find_map(|gateway| icmp_error(frame, Some(*gateway), error))
        } else {
            icmp_error(frame, None, error)
        }?;
        bucket.take(from.now);
        Some(answer)
    }

    /// What the gateway answers to a frame that is for it, if it isn't asked too often.
    fn gateway(&mut self, from: Asker<'_>, frame: &[u8]) -> Option<Vec<u8>> {
        let (last, answers) = &mut self.gateway[from.slot()];
        if *last != from.now {
            (*last, *answers) = (from.now, 0);
        }
        if *answers >= GATEWAY_ANSWERS {
            return None;
        }
        let answer = match hear(from.gateways(), frame) {
            Heard::Answer(answer) => answer,
            // For the gateway of another network of its router, as the datapath saw.
            Heard::Route => echo_reply(frame)?,
            Heard::NotOurs => {
                let ethernet = EthernetFrame::new(frame).ok()?;
                let question = Question::of(&ethernet)?;
                let owner = from.owner(question.target)?;
                if question.is_probe {
                    self.claim = Some(Claim {
                        ip: question.target,
                        mac: ethernet.source(),
                    });
                }
                question.answer(owner, ethernet.source())?
            }
            Heard::Nothing | Heard::Asks => return None,
        };
        *answers += 1;
        Some(answer)
    }

    /// What a port is told that used or wanted an address that isn't its own: if it asked whether somebody has it, that
    /// somebody has.
    fn defend(&mut self, from: Asker<'_>, frame: &[u8]) -> Option<Vec<u8>> {
        let ethernet = EthernetFrame::new(frame).ok()?;
        let claimed = claimed(&ethernet)?;
        let owner = from.owner(claimed)?;
        if owner == ethernet.source() {
            return None;
        }
        self.claim = Some(Claim {
            ip: claimed,
            mac: ethernet.source(),
        });
        let question = Question::of(&ethernet).filter(|question| question.is_probe)?;
        let bucket = &mut self.errors[from.slot()];
        if !bucket.has_one(from.now) {
            return None;
        }
        bucket.take(from.now);
        question.answer(owner, ethernet.source())
    }

    /// Hears what a port says of addresses that may send from any: if one is another's, that may be meant, and the frame
    /// goes its way, but people are told.
    #[inline]
    pub(crate) fn overhear(&mut self, from: Asker<'_>, frame: &[u8]) {
        let Ok(ethernet) = EthernetFrame::new(frame) else {
            return;
        };
        let mac = ethernet.source();
        let is_anothers = |ip: &IpAddr| from.owner(*ip).is_some_and(|owner| owner != mac);
        if let Some(ip) = said(&ethernet).filter(is_anothers) {
            self.claim = Some(Claim { ip, mac });
        }
    }

    /// The address of another that the frame's sender used or wanted: to be told to people, now and then.
    pub(crate) fn take_claim(&mut self, from: Asker<'_>) -> Option<Claim> {
        let claim = self.claim.take()?;
        let last = &mut self.claims[from.slot()];
        if last.is_some_and(|last| from.now.since(last) < CLAIM_AGAIN) {
            return None;
        }
        *last = Some(from.now);
        Some(claim)
    }
}

#[cfg(test)]
mod tests;
