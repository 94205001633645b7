//! Which networks travel in clear and which encrypted: asked for every frame that goes out and every one that comes in.
//! What isn't listed travels not at all, so a network that the tunnel hasn't heard of yet can't leave by the wrong way.

use weft_wire::Vni;

/// How a network's frames travel between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Carriage {
    /// VXLAN (RFC 7348).
    Clear,
    /// ESP in UDP between agents (RFC 4303), keyed by a QUIC session.
    Encrypted,
}

/// The networks and how each travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    /// Sorted by VNI; `None`: nobody has said anything, and every network travels in clear.
    listed: Option<Box<[(Vni, Carriage)]>>,
}

impl Networks {
    /// Of two entries with the same VNI the encrypted one counts.
    pub(crate) fn new(networks: impl IntoIterator<Item = (Vni, Carriage)>) -> Self {
        let mut listed: Vec<_> = networks.into_iter().collect();
        listed.sort_unstable_by_key(|(vni, carriage)| (*vni, *carriage != Carriage::Encrypted));
        listed.dedup_by_key(|(vni, _)| *vni);
        Self {
            listed: Some(listed.into_boxed_slice()),
        }
    }

    /// How frames of `vni` travel; `None`: not at all.
    #[inline]
    pub(crate) fn carriage(&self, vni: Vni) -> Option<Carriage> {
        let Some(listed) = &self.listed else {
            return Some(Carriage::Clear);
        };
        let at = listed.binary_search_by_key(&vni, |(listed, _)| *listed);
        at.ok().map(|at| listed[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_travels_not_at_all_and_doubt_means_encrypted() {
        let vni = |value| Vni::new(value).unwrap();
        assert_eq!(Networks::default().carriage(vni(5)), Some(Carriage::Clear));
        let networks = Networks::new([
            (vni(9), Carriage::Clear),
            (vni(5), Carriage::Clear),
            (vni(7), Carriage::Encrypted),
            (vni(5), Carriage::Encrypted),
        ]);
        let found: Vec<_> = [4, 5, 7, 9, 10]
            .map(|value| networks.carriage(vni(value)))
            .to_vec();
        let encrypted = Some(Carriage::Encrypted);
        assert_eq!(
            found,
            [None, encrypted, encrypted, Some(Carriage::Clear), None]
        );
        assert_eq!(Networks::new([]).carriage(vni(5)), None);
    }
}
