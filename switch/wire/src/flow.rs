//! A number that stands for a frame's flow: chooses the tunnel's source port and steers work. Frames of one flow in
//! one direction have the same hash; the reverse direction has another. Not keyed: never index a table of unbounded
//! chains with it.

use crate::error::Layer;
use crate::error::head;
use crate::ethernet::EthernetFrame;
use crate::layout::{Addresses, Layout};

/// The hash of addresses, protocol and ports; of addresses only for fragments (all fragments of a packet, and nothing
/// else, share them); of MACs and ethertype for what is not well-formed IP. Total: bytes that are no frame hash to 0.
#[inline]
pub fn flow_hash(bytes: &[u8]) -> u32 {
    match Layout::of(bytes) {
        Ok(Some(layout)) => finish(hash_packet(bytes, &layout)),
        Ok(None) | Err(_) => EthernetFrame::new(bytes).map_or(0, |frame| {
            let seed = mix(frame.source().as_u64(), frame.destination().as_u64());
            finish(mix(seed, u64::from(frame.ethertype().0)))
        }),
    }
}

fn hash_packet(bytes: &[u8], layout: &Layout) -> u64 {
    let seed = match layout.addresses {
        Addresses::V4 {
            source,
            destination,
        } => mix(
            u64::from(source.to_bits()),
            u64::from(destination.to_bits()),
        ),
        Addresses::V6 {
            source,
            destination,
        } => {
            let (source, destination) = (source.to_bits(), destination.to_bits());
            mix(fold(source), fold(destination))
        }
    };
    if layout.fragment {
        return seed;
    }
    let transport = bytes.get(layout.transport..layout.end).unwrap_or_default();
    let ports = match head::<4>(transport, Layer::Udp) {
        Ok(ports) if layout.protocol.has_ports() => u32::from_be_bytes(*ports),
        Ok(_) | Err(_) => 0,
    };
    mix(
        seed,
        (u64::from(layout.protocol.0) << 32) | u64::from(ports),
    )
}

/// Both halves of an IPv6 address count, and not as a mere exclusive or.
fn fold(address: u128) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are taken apart"
    )]
    mix((address >> 64) as u64, address as u64)
}

/// One multiplication of 64 by 64 bits, both halves folded: each input bit moves about half of the output bits.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    // Fractional digits of the square roots of 2 and 3: odd, and nothing up the sleeve.
    let product = u128::from(a ^ 0x6a09_e667_f3bc_c909) * u128::from(b ^ 0xbb67_ae85_84ca_a73b);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are taken apart"
    )]
    let (high, low) = ((product >> 64) as u64, product as u64);
    high ^ low
}

fn finish(hash: u64) -> u32 {
    let hash = mix(hash, 0);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are taken apart"
    )]
    let (high, low) = ((hash >> 32) as u32, hash as u32);
    high ^ low
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn tcp(source_port: u16, fragment: u16) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        bytes.extend([
            0x45, 0, 0, 40, 0, 7, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        bytes[20..22].copy_from_slice(&fragment.to_be_bytes());
        bytes.extend(source_port.to_be_bytes());
        bytes.extend([0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn ports_part_flows_and_payload_does_not() {
        let one = tcp(40_000, 0);
        let mut later = one.clone();
        later[38..42].copy_from_slice(&[9, 9, 9, 9]);
        assert_eq!(flow_hash(&one), flow_hash(&later));
        assert_ne!(flow_hash(&one), flow_hash(&tcp(40_001, 0)));
    }

    #[test]
    fn a_thousand_flows_spread_over_sixteen_sockets() {
        let mut sockets = [0; 16];
        let mut hashes = HashSet::new();
        for port in 40_000..41_000 {
            let hash = flow_hash(&tcp(port, 0));
            hashes.insert(hash);
            sockets[hash as usize % 16] += 1;
        }
        assert_eq!(hashes.len(), 1000);
        assert!(
            sockets.iter().all(|count| (35..90).contains(count)),
            "{sockets:?}"
        );
    }

    #[test]
    fn all_fragments_of_a_packet_have_one_hash() {
        let first = flow_hash(&tcp(40_000, 0x2000));
        assert_eq!(first, flow_hash(&tcp(1, 0x2001)));
        assert_eq!(first, flow_hash(&tcp(2, 0x0002)));
        assert_ne!(first, flow_hash(&tcp(40_000, 0)));
    }

    #[test]
    fn what_is_no_ip_is_told_apart_by_addresses_and_ethertype() {
        let mut arp = tcp(1, 0);
        arp[13] = 6;
        let mut other = arp.clone();
        other[5] = 7;
        assert_ne!(flow_hash(&arp), flow_hash(&other));
        let mut broken = tcp(1, 0);
        broken[14] = 0x41;
        assert_ne!(flow_hash(&broken), 0);
        assert_eq!(flow_hash(&arp[..13]), 0);
    }
}
