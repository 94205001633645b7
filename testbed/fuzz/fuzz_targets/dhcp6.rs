//! Messages to DHCPv6, from any container.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::dhcp6(data));
