//! Whom to call: the controllers that the operator named and those that the cluster told of, in an order that puts what
//! was lost last.

use std::net::SocketAddr;

/// Addresses, the next to be called first.
#[derive(Debug)]
pub(super) struct Whom {
    given: Vec<SocketAddr>,
    order: Vec<SocketAddr>,
}

impl Whom {
    /// `given` by the operator; not each agent begins with the same one.
    pub(super) fn new(given: Vec<SocketAddr>) -> Self {
        let mut order = given.clone();
        order.sort_unstable();
        order.dedup();
        if !order.is_empty() {
            let first = rand::random_range(0..order.len());
            order.rotate_left(first);
        }
        Self { given, order }
    }

    /// All of them.
    pub(super) fn order(&self) -> Vec<SocketAddr> {
        self.order.clone()
    }

    /// Whether there is another one to go to.
    pub(super) fn are_several(&self) -> bool {
        self.order.len() > 1
    }

    /// Called last from now on.
    pub(super) fn put_last(&mut self, lost: SocketAddr) {
        if let Some(at) = self.order.iter().position(|address| *address == lost) {
            let lost = self.order.remove(at);
            self.order.push(lost);
        }
    }

    /// The cluster told of these. Those given by the operator stay.
    pub(super) fn learn(&mut self, told: &[SocketAddr]) {
        let Self { given, order } = self;
        order.retain(|address| told.contains(address) || given.contains(address));
        for address in told {
            if !order.contains(address) {
                order.push(*address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 6783))
    }

    #[test]
    fn what_was_lost_comes_last_and_what_is_told_comes_along() {
        let mut whom = Whom::new(vec![at(1)]);
        assert!(!whom.are_several());
        whom.learn(&[at(1), at(2), at(3)]);
        whom.put_last(at(1));
        assert_eq!(whom.order(), [at(2), at(3), at(1)]);
        whom.put_last(at(9));
        // The operator's word counts even if the cluster doesn't know of it.
        whom.learn(&[at(3)]);
        assert_eq!(whom.order(), [at(3), at(1)]);
        assert!(whom.are_several());
        whom.learn(&[]);
        assert_eq!(whom.order(), [at(1)]);
    }

    #[test]
    fn not_all_begin_with_the_same_one() {
        let all = vec![at(1), at(2), at(1)];
        let firsts: std::collections::BTreeSet<_> = (0..200)
            .map(|_| Whom::new(all.clone()).order()[0])
            .collect();
        assert_eq!(firsts.len(), 2);
        assert!(Whom::new(Vec::new()).order().is_empty());
    }
}
