//! Whose MAC an address has: the endpoints of the control plane's map, on all hosts, of every network that this host
//! answers or routes for. It says what ARP and neighbor discovery would find out, so that nobody needs to ask the cluster;
//! where the MAC is, the [FDB](super::fdb) knows.
//!
//! Stations keep what they were told for as long as they please, so it is remembered for a while who had an address that
//! nobody has: who gets it next is announced.
//!
//! Workers only read; a lookup takes its shard's lock for reading. The control plane writes one entry at a time, and
//! bounds how many there are.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Addresses that nobody has any more and that are remembered.
const GONE: usize = 65_536;

/// Who had the addresses that became free last.
#[derive(Debug, Default)]
struct Gone {
    /// With the number under which it is in `order`.
    macs: HashMap<Key, (MacAddr, u64), KeyedHash>,
    /// As they became free; one that isn't in the map with its number was taken again.
    order: VecDeque<(Key, u64)>,
    next: u64,
}

impl Gone {
    fn put(&mut self, key: Key, mac: MacAddr) {
        self.macs.insert(key, (mac, self.next));
        self.order.push_back((key, self.next));
        self.next += 1;
        if self.order.len() > GONE
            && let Some((oldest, number)) = self.order.pop_front()
            && self.macs.get(&oldest).is_some_and(|gone| gone.1 == number)
        {
            self.macs.remove(&oldest);
        }
    }

    fn take(&mut self, key: Key) -> Option<MacAddr> {
        self.macs.remove(&key).map(|(mac, _)| mac)
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Neighbors {
    entries: DashMap<Key, MacAddr, KeyedHash>,
    gone: Mutex<Gone>,
}

impl Neighbors {
    /// The endpoint with `ip` on that network has this MAC; gives the one that whoever had it last has, as far as that is
    /// remembered.
    pub fn set(&self, vni: Vni, ip: IpAddr, mac: MacAddr) -> Option<MacAddr> {
        let key = Key::new(vni, ip);
        let before = self.entries.insert(key, mac);
        before.or_else(|| self.gone().take(key))
    }

    /// Nobody has `ip` on that network any more.
    pub fn remove(&self, vni: Vni, ip: IpAddr) {
        let key = Key::new(vni, ip);
        if let Some((_, mac)) = self.entries.remove(&key) {
            self.gone().put(key, mac);
        }
    }

    fn gone(&self) -> MutexGuard<'_, Gone> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert_eq!(neighbors.set(one, v4, mac(5)), Some(mac(4)));
        assert_eq!(neighbors.set(one, v4, mac(6)), Some(mac(5)));
    }

    #[test]
    fn those_that_are_long_gone_are_forgotten_first() {
        let vni = Vni::new(1).unwrap();
        let ip = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let neighbors = Neighbors::default();
        for number in 0..=GONE {
            neighbors.set(vni, ip(number), mac);
            neighbors.remove(vni, ip(number));
        }
        assert_eq!(neighbors.gone().order.len(), GONE);
        assert_eq!(neighbors.set(vni, ip(0), mac), None);
        assert_eq!(neighbors.set(vni, ip(1), mac), Some(mac));
    }
}
