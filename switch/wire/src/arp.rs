//! ARP for IPv4 over Ethernet (RFC 826): read by the spoof check and by ARP answering, built by the latter.

use std::net::Ipv4Addr;

use crate::MacAddr;
use crate::error::{Layer, WireError, array_at, be16, head};
use crate::ethernet::{ETHERNET_HEADER_LEN, EtherType, ethernet_header};

/// Bytes of an ARP packet for IPv4 over Ethernet.
pub const ARP_LEN: usize = 28;
/// Bytes of an Ethernet frame with an ARP packet, unpadded.
pub const ARP_FRAME_LEN: usize = ETHERNET_HEADER_LEN + ARP_LEN;

mod field {
    pub(super) const HARDWARE: usize = 0;
    pub(super) const OPERATION: usize = 6;
    pub(super) const SENDER_MAC: usize = 8;
    pub(super) const SENDER_IP: usize = 14;
    pub(super) const TARGET_MAC: usize = 18;
    pub(super) const TARGET_IP: usize = 24;
}

/// Hardware type Ethernet, protocol IPv4, address lengths 6 and 4: the only ARP there is.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What an ARP packet asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
    /// Anything else (RARP, InARP): not ours to understand.
    Other(u16),
}

impl ArpOperation {
    const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Request,
            2 => Self::Reply,
            other => Self::Other(other),
        }
    }

    const fn code(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
            Self::Other(code) => code,
        }
    }
}

/// An ARP packet known to be one for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a> {
    packet: &'a [u8; ARP_LEN],
}

impl<'a> Arp<'a> {
    /// Looks at an Ethernet payload; padding behind the packet is ignored.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 28 bytes, [`WireError::Malformed`] for other hardware or protocols.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let packet = head::<ARP_LEN>(bytes, Layer::Arp)?;
        if packet[field::HARDWARE..field::OPERATION] != ETHERNET_IPV4 {
            let what = "not about IPv4 addresses on Ethernet";
            return Err(WireError::Malformed {
                layer: Layer::Arp,
                what,
            });
        }
        Ok(Self { packet })
    }

    /// What it asks or says.
    pub const fn operation(&self) -> ArpOperation {
        ArpOperation::from_code(be16(self.packet, field::OPERATION))
    }

    /// The sender's MAC.
    pub fn sender_mac(&self) -> MacAddr {
        MacAddr(array_at(self.packet, field::SENDER_MAC))
    }

    /// The sender's address; 0.0.0.0 in a probe (RFC 5227).
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4, _>(self.packet, field::SENDER_IP))
    }

    /// The target's MAC; meaningless in a request.
    pub fn target_mac(&self) -> MacAddr {
        MacAddr(array_at(self.packet, field::TARGET_MAC))
    }

    /// The address asked for, or the one the reply is for.
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4, _>(self.packet, field::TARGET_IP))
    }

    /// Its meaning, taken out of the bytes.
    pub fn message(&self) -> ArpMessage {
        ArpMessage {
            operation: self.operation(),
            sender_mac: self.sender_mac(),
            sender_ip: self.sender_ip(),
            target_mac: self.target_mac(),
            target_ip: self.target_ip(),
        }
    }
}

/// The meaning of an ARP packet, to be written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpMessage {
    /// Request or reply.
    pub operation: ArpOperation,
    /// The sender's MAC.
    pub sender_mac: MacAddr,
    /// The sender's address.
    pub sender_ip: Ipv4Addr,
    /// The target's MAC, zero in a request.
    pub target_mac: MacAddr,
    /// The target's address.
    pub target_ip: Ipv4Addr,
}

impl ArpMessage {
    /// The question who has `target`.
    pub const fn request(sender_mac: MacAddr, sender_ip: Ipv4Addr, target: Ipv4Addr) -> Self {
        let (operation, target_mac) = (ArpOperation::Request, MacAddr::ZERO);
        Self {
            operation,
            sender_mac,
            sender_ip,
            target_mac,
            target_ip: target,
        }
    }

    /// The answer to this question: `owner` has the address that was asked for.
    pub const fn answer(&self, owner: MacAddr) -> Self {
        Self {
            operation: ArpOperation::Reply,
            sender_mac: owner,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }

    /// As it goes on the wire.
    pub fn to_bytes(&self) -> [u8; ARP_LEN] {
        let mut packet = [0; ARP_LEN];
        packet[field::HARDWARE..field::OPERATION].copy_from_slice(&ETHERNET_IPV4);
        packet[field::OPERATION..field::SENDER_MAC]
            .copy_from_slice(&self.operation.code().to_be_bytes());
        packet[field::SENDER_MAC..field::SENDER_IP].copy_from_slice(&self.sender_mac.octets());
        packet[field::SENDER_IP..field::TARGET_MAC].copy_from_slice(&self.sender_ip.octets());
        packet[field::TARGET_MAC..field::TARGET_IP].copy_from_slice(&self.target_mac.octets());
        packet[field::TARGET_IP..].copy_from_slice(&self.target_ip.octets());
        packet
    }

    /// The whole frame: from the sender's MAC, to everybody if it is a request, else to the target's MAC.
    pub fn to_frame(&self) -> [u8; ARP_FRAME_LEN] {
        let destination = match self.operation {
            ArpOperation::Request => MacAddr::BROADCAST,
            ArpOperation::Reply | ArpOperation::Other(_) => self.target_mac,
        };
        let mut frame = [0; ARP_FRAME_LEN];
        let (header, packet) = frame.split_at_mut(ETHERNET_HEADER_LEN);
        header.copy_from_slice(&ethernet_header(
            destination,
            self.sender_mac,
            EtherType::ARP,
        ));
        packet.copy_from_slice(&self.to_bytes());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_request_is_answered_to_the_one_who_asked() {
        let [here, there] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        let request = ArpMessage::request(ASKER, here, there);
        let frame = request.to_frame();
        assert_eq!(
            frame[..14],
            ethernet_header(MacAddr::BROADCAST, ASKER, EtherType::ARP)
        );
        let read = Arp::new(&frame[14..]).unwrap();
        assert_eq!(read.message(), request);

        let answer = read.message().answer(OWNER).to_frame();
        assert_eq!(answer[..14], ethernet_header(ASKER, OWNER, EtherType::ARP));
        let answer = Arp::new(&answer[14..]).unwrap();
        assert_eq!(answer.operation(), ArpOperation::Reply);
        assert_eq!((answer.sender_mac(), answer.sender_ip()), (OWNER, there));
        assert_eq!((answer.target_mac(), answer.target_ip()), (ASKER, here));
    }

    #[test]
    fn short_and_foreign_packets_are_refused() {
        let packet =
            ArpMessage::request(ASKER, Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST).to_bytes();
        for len in 0..ARP_LEN {
            assert!(matches!(
                Arp::new(&packet[..len]),
                Err(WireError::Truncated { needed: 28, .. })
            ));
        }
        for at in 0..6 {
            let mut foreign = packet;
            foreign[at] ^= 0x10;
            assert!(matches!(
                Arp::new(&foreign),
                Err(WireError::Malformed { .. })
            ));
        }
    }
}
