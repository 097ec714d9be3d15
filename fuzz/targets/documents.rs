//! Documents in JSON, as files and hosts bring them: read, and checked whole.

#![no_main]

use tether_wire::{boot::BootDocument, names::NameTables, state::DesiredState};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(document) = serde_json::from_slice::<BootDocument>(data) {
        let _ = document.check();
    }
    if let Ok(state) = serde_json::from_slice::<DesiredState>(data) {
        let _ = state.check();
    }
    if let Ok(tables) = serde_json::from_slice::<NameTables>(data) {
        let _ = tables.check();
    }
});
