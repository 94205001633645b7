//! Options of a TCP header (RFC 9293 section 3.1) that the relay speaks: maximum segment size, window scale (RFC 7323)
//! and selective acknowledgments (RFC 2018). Everything else is skipped; timestamps are not offered.

/// Bytes of options that a header has room for.
pub(super) const MAX_OPTIONS_LEN: usize = 40;
/// Blocks that fit beside nothing else.
pub(super) const MAX_SACK_BLOCKS: usize = 4;
/// RFC 7323 section 2.3: a shift beyond this is taken as this.
const MAX_SHIFT: u8 = 14;
/// RFC 9293 section 3.7.1: what may be sent to who doesn't say.
const DEFAULT_MSS: u16 = 536;
/// A peer that asks for less would make every byte a segment.
const MIN_MSS: u16 = 64;

mod kind {
    pub(super) const END: u8 = 0;
    pub(super) const NOP: u8 = 1;
    pub(super) const MSS: u8 = 2;
    pub(super) const WINDOW_SCALE: u8 = 3;
    pub(super) const SACK_PERMITTED: u8 = 4;
    pub(super) const SACK: u8 = 5;
}

/// What a SYN says about its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SynOptions {
    /// Largest payload that it takes in one segment, in bytes.
    pub(super) mss: u16,
    /// By how much its windows are shifted; `None`: it doesn't scale, and nor may we.
    pub(super) shift: Option<u8>,
    /// It understands selective acknowledgments.
    pub(super) sack: bool,
}

impl SynOptions {
    /// Reads the option bytes of a SYN. Total: what is malformed ends the reading.
    pub(super) fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self {
            mss: DEFAULT_MSS,
            shift: None,
            sack: false,
        };
        while let [code, rest @ ..] = bytes {
            match *code {
                kind::END => break,
                kind::NOP => {
                    bytes = rest;
                    continue;
                }
                _ => {}
            }
            let len = rest.first().map_or(0, |len| usize::from(*len));
            let Some((this, rest)) = bytes.split_at_checked(len).filter(|_| len >= 2) else {
                break;
            };
            match *this {
                [kind::MSS, _, high, low] => {
                    options.mss = u16::from_be_bytes([high, low]).max(MIN_MSS);
                }
                [kind::WINDOW_SCALE, _, shift] => options.shift = Some(shift.min(MAX_SHIFT)),
                [kind::SACK_PERMITTED, _] => options.sack = true,
                _ => {}
            }
            bytes = rest;
        }
        options
    }

    /// The option bytes of a SYN, padded to whole words.
    pub(super) fn write(&self) -> OptionBytes {
        let [high, low] = self.mss.to_be_bytes();
        let mut bytes = OptionBytes::default();
        bytes.extend(&[kind::MSS, 4, high, low]);
        if self.sack {
            bytes.extend(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
        }
        if let Some(shift) = self.shift {
            bytes.extend(&[kind::NOP, kind::WINDOW_SCALE, 3, shift]);
        }
        bytes
    }
}

/// Encoded options.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptionBytes {
    bytes: [u8; MAX_OPTIONS_LEN],
    len: usize,
}

impl Default for OptionBytes {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_OPTIONS_LEN],
            len: 0,
        }
    }
}

impl OptionBytes {
    /// The blocks of an acknowledgment: from first byte to behind the last, at most four.
    pub(super) fn sack(blocks: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut bytes = Self::default();
        bytes.extend(&[kind::NOP, kind::NOP, kind::SACK, 2]);
        for (from, to) in blocks.take(MAX_SACK_BLOCKS) {
            bytes.extend(&from.to_be_bytes());
            bytes.extend(&to.to_be_bytes());
            bytes.bytes[3] += 8;
        }
        if bytes.len == 4 {
            Self::default()
        } else {
            bytes
        }
    }

    fn extend(&mut self, more: &[u8]) {
        let end = self.len + more.len();
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(more);
            self.len = end;
        }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_linux_sends_is_read() {
        // MSS 1460, SACK permitted, timestamps, NOP, window scale 7.
        let bytes = [
            2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7,
        ];
        let expected = SynOptions {
            mss: 1460,
            shift: Some(7),
            sack: true,
        };
        assert_eq!(SynOptions::parse(&bytes), expected);
    }

    #[test]
    fn what_is_cut_off_or_lies_about_its_length_ends_the_reading() {
        let nothing = SynOptions {
            mss: DEFAULT_MSS,
            shift: None,
            sack: false,
        };
        for bytes in [
            &[2, 4, 5][..],
            &[2, 0, 3, 3],
            &[2, 1],
            &[3, 200, 1],
            &[0, 4, 2],
        ] {
            assert_eq!(SynOptions::parse(bytes), nothing, "{bytes:?}");
        }
        assert_eq!(SynOptions::parse(&[2, 4, 0, 0]).mss, MIN_MSS);
        assert_eq!(SynOptions::parse(&[3, 3, 255]).shift, Some(MAX_SHIFT));
    }

    #[test]
    fn at_most_four_blocks_fit() {
        let blocks = OptionBytes::sack((0..9).map(|i| (i * 10, i * 10 + 5)));
        assert_eq!(blocks.as_slice().len(), 4 + 4 * 8);
        assert_eq!(blocks.as_slice()[3], 2 + 4 * 8);
        assert!(OptionBytes::sack(std::iter::empty()).as_slice().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mss in MIN_MSS.., shift in proptest::option::of(0..=MAX_SHIFT), sack: bool) {
            let options = SynOptions { mss, shift, sack };
            let bytes = options.write();
            prop_assert_eq!(bytes.as_slice().len() % 4, 0);
            prop_assert_eq!(SynOptions::parse(bytes.as_slice()), options);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            SynOptions::parse(&bytes);
        }
    }
}
