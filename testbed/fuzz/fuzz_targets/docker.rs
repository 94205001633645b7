//! Docker's plugin protocol, its own API and the options of networks: whatever the bytes, reading ends; and what is read is
//! answered in JSON.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_control::docker::host;
use weft_control::docker::options::Options;
use weft_control::docker::wire::{self, BadCall, Call};

const METHODS: [&str; 10] = [
    "/NetworkDriver.CreateNetwork",
    "/NetworkDriver.DeleteNetwork",
    "/NetworkDriver.CreateEndpoint",
    "/NetworkDriver.Join",
    "/NetworkDriver.Leave",
    "/IpamDriver.RequestPool",
    "/IpamDriver.ReleasePool",
    "/IpamDriver.RequestAddress",
    "/IpamDriver.ReleaseAddress",
    "/Plugin.Activate",
];

fuzz_target!(|bytes: &[u8]| {
    let [first, body @ ..] = bytes else { return };
    match wire::parse(METHODS[usize::from(*first) % METHODS.len()], body) {
        Ok(Call::CreateNetwork(call)) => {
            let _ = Options::read(&call.options);
        }
        Ok(call) => {
            let _ = call.key();
        }
        Err(BadCall::Field(side, sentence)) => {
            assert!(wire::error_json(side, &sentence).is_object());
        }
        Err(BadCall::Unknown(sentence)) => panic!("a known method: {sentence}"),
    }
    if let Ok(value) = serde_json::from_slice(body) {
        let networks = host::networks(&value, "weft");
        let _ = host::endpoints_on(&value, &networks);
        let _ = host::attached(&value, &networks);
        let _ = host::event(&value);
    }
});
