//! Keys from a TLS exporter (RFC 5705, RFC 8446 section 7.5). Both ends of a QUIC session compute the same keys without
//! sending them; direction and generation are the exporter's context, so no key serves twice.

use std::fmt;

/// The exporter's label. Labels that IANA doesn't know begin so (RFC 5705 section 4).
pub const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL weft esp aes-128-gcm";
/// Bytes of an AES-128 key.
pub(super) const KEY_LEN: usize = 16;
/// Bytes of the salt, the fixed part of every nonce (RFC 4106 section 4).
pub(super) const SALT_LEN: usize = 4;

/// Which end of the QUIC session seals with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The end that opened the session.
    Initiator,
    /// The other end.
    Responder,
}

/// Key and salt of one direction. Neither copied nor printed.
pub struct KeyMaterial {
    pub(super) key: [u8; KEY_LEN],
    pub(super) salt: [u8; SALT_LEN],
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(secret)")
    }
}

/// The keys with which `sender` seals in `generation`, which counts the rekeyings of a session. `export` is the
/// session's exporter: it fills the output from label and context.
///
/// # Errors
/// The exporter's own.
pub fn export_keys<E>(
    sender: Sender,
    generation: u32,
    export: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), E>,
) -> Result<KeyMaterial, E> {
    let [a, b, c, d] = generation.to_be_bytes();
    let direction = match sender {
        Sender::Initiator => 0,
        Sender::Responder => 1,
    };
    let mut secret = [0; KEY_LEN + SALT_LEN];
    export(&mut secret, EXPORTER_LABEL, &[direction, a, b, c, d])?;
    let mut material = KeyMaterial {
        key: [0; KEY_LEN],
        salt: [0; SALT_LEN],
    };
    material.key.copy_from_slice(&secret[..KEY_LEN]);
    material.salt.copy_from_slice(&secret[KEY_LEN..]);
    Ok(material)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// What the exporter is asked for, and that its output is key, then salt.
    #[test]
    fn direction_and_generation_are_the_context() {
        let mut asked = Vec::new();
        for (sender, generation) in [
            (Sender::Initiator, 0),
            (Sender::Responder, 0),
            (Sender::Initiator, 0x0102_0304),
        ] {
            let keys = export_keys(sender, generation, |out, label, context| {
                assert_eq!(label, EXPORTER_LABEL);
                asked.push(context.to_vec());
                (0_u8..).zip(out).for_each(|(n, byte)| *byte = n);
                Ok::<_, Infallible>(())
            });
            let KeyMaterial { key, salt } = keys.unwrap();
            assert_eq!(key.as_slice(), (0..16).collect::<Vec<u8>>());
            assert_eq!(salt, [16, 17, 18, 19]);
        }
        assert_eq!(asked, [[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 1, 2, 3, 4]]);
    }

    #[test]
    fn a_failed_export_makes_no_keys_and_secrets_aren_t_printed() {
        assert_eq!(
            export_keys(Sender::Initiator, 0, |_, _, _| Err("closed")).unwrap_err(),
            "closed"
        );
        let keys = export_keys(Sender::Initiator, 0, |out, _, _| {
            out.fill(77);
            Ok::<_, Infallible>(())
        });
        assert!(!format!("{keys:?}").contains("77"));
    }
}
