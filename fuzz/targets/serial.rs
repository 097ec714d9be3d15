//! The channel's serial port: whatever is left in it, in both directions, the next life comes and
//! carries its bytes, and nothing else.

#![no_main]

use tether_wire::serial::{Line, Side, Stage};

/// Everything that one end has to say goes to the other. What comes of the stream.
fn flow(from: &mut Line, to: &mut Line) -> Vec<u8> {
    let said = from.output().to_vec();
    from.sent(said.len());
    hear(to, &said)
}

fn hear(line: &mut Line, mut bytes: &[u8]) -> Vec<u8> {
    let mut got = Vec::new();
    while !bytes.is_empty() && line.stage() != Stage::Over {
        line.hear(&mut bytes);
        got.extend_from_slice(line.input());
        line.consume(usize::MAX);
    }
    got
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The first byte says how the rest is shared out, and who is killed.
    let Some((how, stale)) = data.split_first() else { return };
    let (to_guest, to_host) = stale.split_at(stale.len() * usize::from(how >> 1) / 128);
    let (mut guest, mut host) = (Line::new(Side::Guest), Line::new(Side::Host));
    let mut number = 0x80;
    let mut begin = |line: &mut Line| {
        number += 1;
        line.begin([number; 16]);
    };
    begin(&mut guest);
    begin(&mut host);
    // Nobody has said any of this to these two.
    hear(&mut guest, to_guest);
    hear(&mut host, to_host);
    if how & 1 == 1 {
        guest = Line::new(Side::Guest);
        guest.begin([0xee; 16]);
        // What it was told may be in the line still.
        hear(&mut guest, to_guest);
    }
    for _ in 0..8 {
        flow(&mut guest, &mut host);
        flow(&mut host, &mut guest);
        for line in [&mut guest, &mut host] {
            if line.stage() == Stage::Over {
                begin(line);
            }
        }
    }
    assert!(matches!(guest.stage(), Stage::Open { .. }), "{guest:?}");
    assert_eq!(guest.stage(), host.stage());
    assert_eq!(guest.write(data), data.len());
    assert_eq!(flow(&mut guest, &mut host), data);
    assert_eq!(host.write(data), data.len());
    assert_eq!(flow(&mut host, &mut guest), data);
});
