//! Messages of the control channel: whatever the bytes, decoding ends in a message or an error, and a message that was
//! read is the same after being written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_control::channel::codec::{decode, decode_frame, decode_request, encode};
use weft_control::channel::messages::{
    Answer, Ask, Hello, JoinHello, JoinWelcome, Push, Refusal, RenewHello, Reply, Request, Welcome,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = decode_request(bytes) {
        let frame = encode(&request).expect("what was read can be written");
        assert_eq!(decode_frame::<Request>(&frame).as_ref(), Ok(&request));
    }
    if let Ok(push) = decode::<Push>(bytes) {
        let frame = encode(&push).expect("what was read can be written");
        assert_eq!(decode_frame::<Push>(&frame).as_ref(), Ok(&push));
    }
    let _ = decode_frame::<Push>(bytes);
    let _ = decode::<Hello>(bytes);
    let _ = decode::<JoinHello>(bytes);
    let _ = decode::<RenewHello>(bytes);
    let _ = decode::<Ask>(bytes);
    let _ = decode::<Result<Welcome, Refusal>>(bytes);
    let _ = decode::<Result<JoinWelcome, Refusal>>(bytes);
    let _ = decode::<Result<Reply, Refusal>>(bytes);
    let _ = decode::<Result<Answer, Refusal>>(bytes);
});
