//! The authorities of a cluster: one, or two while the first is being replaced.
//!
//! | step | signs controllers | signs nodes | trusted | goes on when |
//! |---|---|---|---|---|
//! | settled | A | A | A | an operator says so |
//! | announced | A | A | A, B | every node trusts B |
//! | switched | A | B | A, B | every node has a certificate of B |
//! | settled | B | B | B | |
//!
//! So at each step everybody's certificate is taken by everybody, and a node that is away holds the next step up.

use std::time::Duration;

use rustls_pki_types::CertificateDer;

use super::IdentityError;
use super::Issued;
use super::ca::{Applicant, Authority};
use crate::model::ClusterId;
use crate::store::{AuthorityRecord, NextAuthority};

/// Where a cluster is in replacing its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is one authority.
    Settled,
    /// There is a next one, which nodes learn to trust.
    Announced,
    /// The next one signs nodes.
    Switched,
}

/// The authorities with their private keys.
#[derive(Debug)]
pub struct Authorities {
    record: AuthorityRecord,
    current: Authority,
    next: Option<Authority>,
}

impl Authorities {
    /// As they were stored.
    ///
    /// # Errors
    /// A sentence: a key isn't readable or isn't its certificate's.
    pub fn restore(record: AuthorityRecord) -> Result<Self, String> {
        let cluster = || record.cluster.clone();
        let current = Authority::restore(cluster(), &record.ca_cert, &record.ca_key)?;
        let next = record.next.as_ref();
        let next = next.map(|next| Authority::restore(cluster(), &next.ca_cert, &next.ca_key));
        let next = next.transpose()?;
        Ok(Self {
            record,
            current,
            next,
        })
    }

    /// As they are stored.
    pub fn record(&self) -> &AuthorityRecord {
        &self.record
    }

    /// The cluster they stand for.
    pub fn cluster(&self) -> &ClusterId {
        &self.record.cluster
    }

    /// How far the replacement is.
    pub fn step(&self) -> Step {
        match &self.record.next {
            None => Step::Settled,
            Some(next) if next.signs => Step::Switched,
            Some(_) => Step::Announced,
        }
    }

    /// Signs controllers' certificates; new nodes know the cluster by it.
    pub fn serving(&self) -> &Authority {
        &self.current
    }

    /// The one that is to replace it.
    pub fn next(&self) -> Option<&Authority> {
        self.next.as_ref()
    }

    /// Signs nodes' certificates.
    pub fn signing(&self) -> &Authority {
        match (self.step(), &self.next) {
            (Step::Switched, Some(next)) => next,
            (Step::Settled | Step::Announced | Step::Switched, _) => &self.current,
        }
    }

    /// Whose certificates are taken, the serving one first.
    pub fn trusted(&self) -> Vec<CertificateDer<'static>> {
        let all = std::iter::once(&self.current).chain(&self.next);
        all.map(|authority| authority.cert().clone()).collect()
    }

    /// Their names, in the same order.
    pub fn trusted_ids(&self) -> Vec<String> {
        let all = std::iter::once(&self.current).chain(&self.next);
        all.map(Authority::id).collect()
    }

    /// What makes a node a member, its certificate good for `ttl`.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn issue(
        &self,
        applicant: Applicant,
        (name, ttl): (&str, Duration),
    ) -> Result<Issued, IdentityError> {
        Ok(Issued {
            cert: self.signing().sign_node(applicant, (name, ttl))?,
            cas: self.trusted(),
        })
    }
}

impl AuthorityRecord {
    /// The authority of a new cluster.
    pub fn first(authority: &Authority) -> Self {
        Self {
            cluster: authority.cluster().clone(),
            ca_cert: authority.cert().to_vec(),
            ca_key: authority.key_pem(),
            next: None,
        }
    }

    /// With one that is to replace it; `None` when there is one already.
    pub fn announce(&self, next: &Authority) -> Option<Self> {
        if self.next.is_some() {
            return None;
        }
        let next = NextAuthority {
            ca_cert: next.cert().to_vec(),
            ca_key: next.key_pem(),
            signs: false,
        };
        Some(Self {
            next: Some(next),
            ..self.clone()
        })
    }

    /// One step further; `None` when there is nothing to replace.
    pub fn advance(&self) -> Option<Self> {
        let next = self.next.clone()?;
        if next.signs {
            return Some(Self {
                cluster: self.cluster.clone(),
                ca_cert: next.ca_cert,
                ca_key: next.ca_key,
                next: None,
            });
        }
        let next = NextAuthority {
            signs: true,
            ..next
        };
        Some(Self {
            next: Some(next),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_replaced_in_steps_in_which_everybody_is_taken_by_everybody() {
        let old = Authority::mint().unwrap();
        let new = Authority::mint_for(old.cluster().clone()).unwrap();
        let settled = AuthorityRecord::first(&old);
        assert_eq!(settled.advance(), None);
        let announced = settled.announce(&new).unwrap();
        assert_eq!(announced.announce(&new), None);
        let switched = announced.advance().unwrap();
        let replaced = switched.advance().unwrap();
        assert_eq!(replaced.advance(), None);
        assert_eq!(replaced, AuthorityRecord::first(&new));
        let (a, b) = (old.id(), new.id());
        assert_ne!(a, b);
        let expected = [
            (settled, Step::Settled, &a, &a, vec![&a]),
            (announced, Step::Announced, &a, &a, vec![&a, &b]),
            (switched, Step::Switched, &a, &b, vec![&a, &b]),
            (replaced, Step::Settled, &b, &b, vec![&b]),
        ];
        for (record, step, serving, signing, trusted) in expected {
            let authorities = Authorities::restore(record).unwrap();
            assert_eq!(authorities.step(), step);
            assert_eq!(authorities.serving().id(), *serving);
            assert_eq!(authorities.signing().id(), *signing);
            assert_eq!(
                authorities.trusted_ids().iter().collect::<Vec<_>>(),
                trusted
            );
        }
    }
}
