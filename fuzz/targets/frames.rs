//! A byte stream from either end: cut into frames, and every frame read as a message. What is read is
//! written again, and read as the same.

#![no_main]

use tether_wire::message::{FromGuest, FromHost, Sender};
use tokio_util::codec::Decoder as _;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = bytes::BytesMut::from(data);
    let mut codec = Sender::Host.codec();
    while let Ok(Some(frame)) = codec.decode(&mut bytes) {
        if let Ok(Some(message)) = FromHost::from_frame(&frame) {
            assert_eq!(FromHost::from_frame(&message.to_frame()).ok(), Some(Some(message)));
        }
    }
    let mut bytes = bytes::BytesMut::from(data);
    let mut codec = Sender::Guest.codec();
    while let Ok(Some(frame)) = codec.decode(&mut bytes) {
        if let Ok(Some(message)) = FromGuest::from_frame(&frame) {
            assert_eq!(FromGuest::from_frame(&message.to_frame()).ok(), Some(Some(message)));
        }
    }
});
