//! Places for callers nobody knows yet: so many at once, and of these so many from one address, so that one host can't
//! take them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// A number of places for strangers.
#[derive(Debug)]
pub struct Places {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place that was taken; free again when it goes.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    /// `most` at once, `most_of_one` from one address.
    pub fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_of_one,
            taken: Mutex::default(),
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    /// Takes a place, if there is one for that address.
    pub fn take(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let source = source(from);
        let mut taken = self.lock();
        if taken.all >= self.most {
            return None;
        }
        let of_this = taken.by_source.entry(source).or_default();
        if *of_this >= self.most_of_one {
            return None;
        }
        *of_this += 1;
        taken.all += 1;
        drop(taken);
        let places = Arc::clone(self);
        Some(Place { places, source })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(of_this) = taken.by_source.get_mut(&self.source) {
            *of_this -= 1;
            if *of_this == 0 {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

/// Whoever has one IPv6 address has the 2^64 of its link.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_all_and_for_each_source_and_come_free() {
        let places = Places::new(3, 2);
        let of = |text: &str| places.take(text.parse().unwrap());
        let first = of("192.0.2.1").unwrap();
        let second = of("192.0.2.1").unwrap();
        assert!(of("192.0.2.1").is_none());
        let third = of("192.0.2.2").unwrap();
        assert!(of("192.0.2.3").is_none());
        drop(first);
        let again = of("192.0.2.1").unwrap();
        assert_eq!(places.taken(), 3);
        drop((second, third, again));
        assert_eq!(places.taken(), 0);
        assert!(places.lock().by_source.is_empty());
    }

    #[test]
    fn the_addresses_of_one_ipv6_link_are_one_source() {
        let places = Places::new(9, 1);
        let of = |text: &str| places.take(text.parse().unwrap());
        let _first = of("2001:db8::1").unwrap();
        assert!(of("2001:db8::ffff:2").is_none());
        assert!(of("2001:db8:0:1::1").is_some());
    }
}
