//! The subnet map as a table.

use ipnet::IpNet;
use weft_control::api::SubnetBlock;

use super::table::Table;
use super::units;

/// One row per block.
pub(crate) fn table(blocks: &[SubnetBlock]) -> String {
    let mut table = Table::new(&["NETWORK", "BLOCK", "NODE", "UNDERLAY", ">USED", ">SIZE"]);
    for block in blocks {
        table.row([
            block.network.clone(),
            block.prefix.to_string(),
            block.node.clone(),
            block
                .underlay
                .map(|address| address.to_string())
                .unwrap_or_default(),
            block.used.to_string(),
            size(block.prefix),
        ]);
    }
    table.to_string()
}

/// How many addresses a block has; as a power of two where the number would say nothing.
fn size(prefix: IpNet) -> String {
    match prefix.max_prefix_len() - prefix.prefix_len() {
        bits @ 0..64 => units::count(1 << bits),
        bits => format!("2^{bits}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_how_many_addresses_it_has() {
        assert_eq!(size("10.32.0.0/24".parse().unwrap()), "256");
        assert_eq!(size("10.32.0.7/32".parse().unwrap()), "1");
        assert_eq!(size("fd00::/64".parse().unwrap()), "2^64");
    }
}
