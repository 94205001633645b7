//! Where a network's gateway sends packets: the longest prefix that contains the destination (RFC 1812 section 5.2.4.3).
//!
//! A table is made once and then only read. The prefixes are flattened into ranges that don't overlap, in order of their
//! first address, each with the route of the longest prefix over it: a lookup is one binary search, however the
//! prefixes nest. Building takes time in proportion to n log n.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_wire::Vni;

/// What becomes of packets to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is an address of a gateway of the router itself.
    Local,
    /// The destination is on that network.
    Connected(Vni),
    /// The next hop is on that network.
    Via(Vni, IpAddr),
}

/// One prefix and its route; bits of the address behind the prefix mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// An address in the prefix.
    pub address: IpAddr,
    /// Bits of the prefix, at most 32 for IPv4 and 128 for IPv6; more count as those.
    pub len: u8,
    /// What becomes of what has it.
    pub route: Route,
}

/// A router's table for both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Routes {
    /// The table with these routes. Of two routes to the same prefix the first stands.
    pub fn new(routes: impl IntoIterator<Item = RouteSpec>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for RouteSpec {
            address,
            len,
            route,
        } in routes
        {
            match address {
                IpAddr::V4(ip) => v4.push(Prefix::new(ip.to_bits(), len, route)),
                IpAddr::V6(ip) => v6.push(Prefix::new(ip.to_bits(), len, route)),
            }
        }
        Self {
            v4: Ranges::flatten(v4),
            v6: Ranges::flatten(v6),
        }
    }

    /// The route of the longest prefix that contains `to`.
    #[inline]
    pub fn lookup(&self, to: IpAddr) -> Option<Route> {
        match to {
            IpAddr::V4(ip) => self.lookup_v4(ip),
            IpAddr::V6(ip) => self.lookup_v6(ip),
        }
    }

    /// The same for IPv4.
    #[inline]
    pub fn lookup_v4(&self, to: Ipv4Addr) -> Option<Route> {
        self.v4.lookup(to.to_bits())
    }

    /// The same for IPv6.
    #[inline]
    pub fn lookup_v6(&self, to: Ipv6Addr) -> Option<Route> {
        self.v6.lookup(to.to_bits())
    }
}

/// An address as a number.
trait Bits: Copy + Ord {
    const WIDTH: u8;
    /// The first and the last number whose upper `len` bits are those of `self`.
    fn range(self, len: u8) -> (Self, Self);
    fn next(self) -> Option<Self>;
}

macro_rules! bits {
    ($type:ty, $width:literal) => {
        impl Bits for $type {
            const WIDTH: u8 = $width;

            fn range(self, len: u8) -> (Self, Self) {
                // A shift by the whole width is none of the machine's.
                let host = <$type>::MAX.checked_shr(len.into()).unwrap_or(0);
                (self & !host, self | host)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    };
}

bits!(u32, 32);
bits!(u128, 128);

/// A route over a range of addresses that nests in others or lies apart from them, as prefixes do.
#[derive(Clone, Copy, Debug)]
struct Prefix<B> {
    first: B,
    last: B,
    route: Route,
}

impl<B: Bits> Prefix<B> {
    fn new(address: B, len: u8, route: Route) -> Self {
        let (first, last) = address.range(len.min(B::WIDTH));
        Self { first, last, route }
    }
}

/// Where a range begins that ends before the next one, and its route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<B> {
    /// In order.
    firsts: Vec<B>,
    /// One for each.
    routes: Vec<Option<Route>>,
}

impl<B> Default for Ranges<B> {
    fn default() -> Self {
        Self {
            firsts: Vec::new(),
            routes: Vec::new(),
        }
    }
}

impl<B: Bits> Ranges<B> {
    fn flatten(mut prefixes: Vec<Prefix<B>>) -> Self {
        // A longer prefix behind the shorter one that it is in; the sort is stable, so the first of two stays the first.
        prefixes.sort_by(|a, b| (a.first, b.last).cmp(&(b.first, a.last)));
        prefixes.dedup_by_key(|prefix| (prefix.first, prefix.last));
        let mut ranges = Self::default();
        let mut around: Vec<Prefix<B>> = Vec::new();
        for prefix in prefixes {
            ranges.close(&mut around, Some(prefix.first));
            ranges.begin(prefix.first, Some(prefix.route));
            around.push(prefix);
        }
        ranges.close(&mut around, None);
        ranges
    }

    /// Ends the prefixes that end before `next`: behind each goes on the one around it.
    fn close(&mut self, around: &mut Vec<Prefix<B>>, next: Option<B>) {
        while let Some(ended) = around.pop_if(|prefix| next.is_none_or(|next| prefix.last < next)) {
            if let Some(behind) = ended.last.next() {
                self.begin(behind, around.last().map(|prefix| prefix.route));
            }
        }
    }

    /// From `first` on `route`; what began there before has no address.
    fn begin(&mut self, first: B, route: Option<Route>) {
        if self.firsts.last() == Some(&first) {
            self.firsts.pop();
            self.routes.pop();
        }
        self.firsts.push(first);
        self.routes.push(route);
    }

    #[inline]
    fn lookup(&self, to: B) -> Option<Route> {
        let begun = self.firsts.partition_point(|first| *first <= to);
        *self.routes.get(begun.checked_sub(1)?)?
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    fn spec(text: &str, route: Route) -> RouteSpec {
        let (address, len) = text.split_once('/').unwrap();
        RouteSpec {
            address: address.parse().unwrap(),
            len: len.parse().unwrap(),
            route,
        }
    }

    fn found(routes: &Routes, to: &str) -> Option<Route> {
        routes.lookup(to.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_wins_and_families_are_apart() {
        let next = Route::Via(vni(1), "10.32.0.7".parse().unwrap());
        let routes = Routes::new([
            spec("10.32.0.0/16", Route::Connected(vni(1))),
            spec("10.33.0.0/16", Route::Connected(vni(2))),
            spec("10.33.0.1/32", Route::Local),
            spec("10.0.0.0/8", next),
            spec("fd00::/64", Route::Connected(vni(2))),
        ]);
        for (to, wanted) in [
            ("10.31.255.255", Some(next)),
            ("10.32.0.0", Some(Route::Connected(vni(1)))),
            ("10.32.255.255", Some(Route::Connected(vni(1)))),
            ("10.33.0.0", Some(Route::Connected(vni(2)))),
            ("10.33.0.1", Some(Route::Local)),
            ("10.33.0.2", Some(Route::Connected(vni(2)))),
            ("10.34.0.0", Some(next)),
            ("9.255.255.255", None),
            ("11.0.0.0", None),
            ("::a20:1", None),
            ("fd00::1", Some(Route::Connected(vni(2)))),
            ("fd00:0:0:1::", None),
        ] {
            assert_eq!(found(&routes, to), wanted, "{to}");
        }
        assert_eq!(found(&Routes::default(), "10.0.0.1"), None);
    }

    #[test]
    fn default_routes_and_the_last_address_are_prefixes_as_others() {
        let (all, last) = (Route::Connected(vni(1)), Route::Connected(vni(2)));
        let routes = Routes::new([
            spec("0.0.0.0/0", all),
            spec("255.255.255.255/32", last),
            spec("::/0", all),
            spec("ffff::/16", last),
        ]);
        assert_eq!(found(&routes, "0.0.0.0"), Some(all));
        assert_eq!(found(&routes, "255.255.255.254"), Some(all));
        assert_eq!(found(&routes, "255.255.255.255"), Some(last));
        assert_eq!(found(&routes, "fffe:ffff::"), Some(all));
        assert_eq!(found(&routes, "ffff:ffff::1"), Some(last));
    }

    #[test]
    fn of_two_routes_to_a_prefix_the_first_stands() {
        let first = Route::Connected(vni(1));
        let routes = Routes::new([
            spec("10.0.0.0/8", first),
            spec("10.7.7.7/8", Route::Connected(vni(2))),
        ]);
        assert_eq!(found(&routes, "10.1.2.3"), Some(first));
    }

    /// The prefix rule, told without a table.
    fn longest(specs: &[RouteSpec], to: u32) -> Option<Route> {
        let mut best: Option<(u8, Route)> = None;
        for spec in specs {
            let IpAddr::V4(ip) = spec.address else {
                continue;
            };
            let mask = u32::MAX.checked_shl(u32::from(32 - spec.len)).unwrap_or(0);
            let better = best.is_none_or(|(len, _)| spec.len > len);
            if ip.to_bits() & mask == to & mask && better {
                best = Some((spec.len, spec.route));
            }
        }
        best.map(|(_, route)| route)
    }

    proptest! {
        /// Few bits differ, so that prefixes nest and meet.
        #[test]
        fn a_table_finds_what_the_rule_says(
            prefixes in prop::collection::vec((0u32..64, 0u8..=32, 1u32..9), 0..24),
            probes in prop::collection::vec(0u32..64, 32),
            shift in 0u32..=26,
        ) {
            let specs: Vec<_> = prefixes.iter().map(|(bits, len, to)| RouteSpec {
                address: IpAddr::V4((bits << shift).into()),
                len: *len,
                route: Route::Connected(vni(*to)),
            }).collect();
            let routes = Routes::new(specs.iter().copied());
            for bits in probes {
                for to in [bits << shift, (bits << shift).wrapping_sub(1), bits] {
                    prop_assert_eq!(routes.lookup_v4(to.into()), longest(&specs, to));
                }
            }
        }
    }
}
