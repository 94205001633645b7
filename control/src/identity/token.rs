//! Join tokens: `weft1.<fingerprint of the cluster's authority>.<token id>.<secret>`.
//!
//! The fingerprint lets the new node know the right controller; id and secret let the controller know a node that was
//! let in by its operator. A token works once and for a limited time; the controller keeps only a digest of the secret.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

/// Text before the first dot; another layout gets another number.
const KIND: &str = "weft1";
/// Bytes of the secret: 128 bits can't be guessed.
const SECRET_LEN: usize = 16;
/// Bytes of the id.
const ID_LEN: usize = 8;

/// Names a token; not secret. 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId(pub String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Proves that its bearer was let in. Never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret([u8; SECRET_LEN]);

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

impl TokenSecret {
    /// What the controller keeps of it: SHA-256, in hexadecimal.
    pub fn digest(&self) -> String {
        HEXLOWER.encode(digest(&SHA256, &self.0).as_ref())
    }

    /// In hexadecimal, as it goes to the controller inside TLS.
    pub fn reveal(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// From the text of [`Self::reveal`]; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        Some(Self(unhex(text)?))
    }
}

/// A join token. Its text form is what `weft controller token` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's certificate.
    pub ca: [u8; 32],
    /// Which token.
    pub id: TokenId,
    /// The proof.
    pub secret: TokenSecret,
}

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is something else.
    #[error("this is no join token; give what `weft controller token` printed, the whole line")]
    NotAToken,
    /// It is of a layout that this weft doesn't know.
    #[error(
        "the token is of kind {0}, this weft reads {KIND}; use the same version of weft on both sides"
    )]
    OtherKind(String),
    /// It begins as a token but a part is missing or broken.
    #[error(
        "the token's {0} is broken or cut off; copy the whole line that `weft controller token` printed"
    )]
    Broken(&'static str),
}

impl JoinToken {
    /// A new token for the cluster of that authority.
    pub fn mint(ca: [u8; 32]) -> Self {
        let id = HEXLOWER.encode(&rand::random::<[u8; ID_LEN]>());
        Self {
            ca,
            id: TokenId(id),
            secret: TokenSecret(rand::random()),
        }
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ca = HEXLOWER.encode(&self.ca);
        write!(f, "{KIND}.{ca}.{}.{}", self.id, self.secret.reveal())
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let kind = parts.next().unwrap_or_default();
        let known = kind
            .strip_prefix("weft")
            .is_some_and(|number| number.parse::<u32>().is_ok());
        match (known, kind) {
            (true, KIND) => {}
            (true, _) => return Err(TokenError::OtherKind(kind.to_owned())),
            (false, _) => return Err(TokenError::NotAToken),
        }
        let mut part = |what| parts.next().ok_or(TokenError::Broken(what));
        let ca = unhex(part("fingerprint")?).ok_or(TokenError::Broken("fingerprint"))?;
        let id: [u8; ID_LEN] = unhex(part("id")?).ok_or(TokenError::Broken("id"))?;
        let secret = TokenSecret::from_hex(part("secret")?).ok_or(TokenError::Broken("secret"))?;
        if parts.next().is_some() {
            return Err(TokenError::Broken("end"));
        }
        Ok(Self {
            ca,
            id: TokenId(HEXLOWER.encode(&id)),
            secret,
        })
    }
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .ok()?
        .try_into()
        .ok()
}
