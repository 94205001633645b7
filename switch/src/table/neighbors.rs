//! Whose MAC an address has: the endpoints of the control plane's map, on all hosts, of every network that this host
//! answers or routes for. It says what ARP and neighbor discovery would find out, so that nobody needs to ask the cluster;
//! where the MAC is, the [FDB](super::fdb) knows.
//!
//! Workers only read; a lookup takes its shard's lock for reading. The control plane writes one entry at a time, and
//! bounds how many there are.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use dashmap::DashMap;
use weft_wire::{MacAddr, Vni};

use super::hash::KeyedHash;

/// An address of a network; IPv4 as IPv4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    vni: Vni,
    ip: u128,
}

impl Key {
    #[inline]
    const fn new(vni: Vni, ip: IpAddr) -> Self {
        let ip = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
            IpAddr::V6(ip) => ip.to_bits(),
        };
        Self { vni, ip }
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the halves are taken apart"
        )]
        let (high, low) = ((self.ip >> 64) as u64, self.ip as u64);
        state.write_u64(high);
        state.write_u64(low);
        state.write_u32(self.vni.value());
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Neighbors {
    entries: DashMap<Key, MacAddr, KeyedHash>,
}

impl Neighbors {
    /// The endpoint with `ip` on that network has this MAC; gives the one it had before.
    pub fn set(&self, vni: Vni, ip: IpAddr, mac: MacAddr) -> Option<MacAddr> {
        self.entries.insert(Key::new(vni, ip), mac)
    }

    /// Nobody has `ip` on that network any more.
    pub fn remove(&self, vni: Vni, ip: IpAddr) {
        self.entries.remove(&Key::new(vni, ip));
    }

    /// Who has it.
    #[inline]
    pub fn get(&self, vni: Vni, ip: IpAddr) -> Option<MacAddr> {
        self.entries.get(&Key::new(vni, ip)).map(|entry| *entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_of_its_network_and_family() {
        let [one, two] = [1, 2].map(|number| Vni::new(number).unwrap());
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap());
        let neighbors = Neighbors::default();
        assert_eq!(neighbors.set(one, v4, mac(1)), None);
        assert_eq!(neighbors.set(two, v4, mac(2)), None);
        assert_eq!(neighbors.set(one, v6, mac(3)), None);
        assert_eq!(neighbors.set(one, v4, mac(4)), Some(mac(1)));
        assert_eq!(neighbors.get(one, v4), Some(mac(4)));
        assert_eq!(neighbors.get(two, v4), Some(mac(2)));
        assert_eq!(neighbors.get(one, v6), Some(mac(3)));
        neighbors.remove(one, v4);
        assert_eq!(neighbors.get(one, v4), None);
        assert_eq!(neighbors.get(two, v4), Some(mac(2)));
    }
}
