//! What the wire between the hosts can do. A veth pair passes superframes and trains of datagrams whole, which no
//! network card does: the other two kinds cut them first.

use clap::ValueEnum;

use weft_testbed::Namespace;
use weft_testbed::layout::UNDERLAY_IFNAME;

/// Offloads of the underlay's interfaces, at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Underlay {
    /// As a veth pair is made: superframes and trains of datagrams pass whole.
    Full,
    /// Every packet is cut to the MTU before the wire (no TSO, GSO, USO); the receiver's GRO may join them again.
    Nogso,
    /// The same without GRO.
    Bare,
}

impl Underlay {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Nogso => "nogso",
            Self::Bare => "bare",
        }
    }

    /// Changes both ends of an underlay.
    pub(crate) fn apply(self, hosts: &[Namespace]) {
        let (segmentation, gro) = match self {
            Self::Full => ("on", "off"),
            Self::Nogso => ("off", "on"),
            Self::Bare => ("off", "off"),
        };
        for host in hosts {
            let args = [
                "-K",
                UNDERLAY_IFNAME,
                "tso",
                segmentation,
                "gso",
                segmentation,
                "tx-udp-segmentation",
                segmentation,
                "gro",
                gro,
            ];
            host.run("ethtool", &args).expect_done();
        }
    }
}
