//! Names for containers that nobody has named, and the numbers of signals that have names.

use nix::{libc, sys::signal::Signal};

use super::error::EngineError;

const ADJECTIVES: [&str; 24] = [
    "agile", "amber", "bold", "brave", "bright", "calm", "clever", "deft", "eager", "fair", "fleet",
    "gentle", "keen", "kind", "lively", "lucid", "merry", "noble", "quick", "quiet", "sharp", "steady",
    "swift", "wise",
];
/// People without whom there would be no network to speak of.
const PEOPLE: [&str; 24] = [
    "abramson",
    "baran",
    "cerf",
    "clark",
    "crocker",
    "davies",
    "deering",
    "engelbart",
    "estrin",
    "feinler",
    "floyd",
    "hopper",
    "jacobson",
    "jennings",
    "kahn",
    "kleinrock",
    "licklider",
    "metcalfe",
    "mockapetris",
    "perlman",
    "postel",
    "pouzin",
    "roberts",
    "taylor",
];

/// A name nobody has asked for, `swift_perlman`; `attempt` makes later ones longer.
pub(super) fn random_name(attempt: u32) -> String {
    let pick = |list: &'static [&'static str]| list[rand::random_range(0..list.len())];
    let name = format!("{}_{}", pick(&ADJECTIVES), pick(&PEOPLE));
    if attempt == 0 { name } else { format!("{name}{}", rand::random_range(0..10_u32.pow(attempt.min(6)))) }
}

/// The number of a signal as Docker writes it: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
pub(super) fn signal_number(text: &str) -> Result<i32, EngineError> {
    parse_signal(text).ok_or_else(|| EngineError::invalid(format!("invalid signal: {text}")))
}

fn parse_signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    for (base, name) in [(libc::SIGRTMIN(), "RTMIN"), (libc::SIGRTMAX(), "RTMAX")] {
        if let Some(rest) = bare.strip_prefix(name) {
            let offset: i32 = if rest.is_empty() { 0 } else { rest.parse().ok()? };
            let number = base.checked_add(offset)?;
            return (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number);
        }
    }
    format!("SIG{bare}").parse::<Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers() {
        for (text, number) in [("SIGTERM", 15), ("term", 15), ("9", 9), ("SIGRTMIN+3", 37), ("HUP", 1)] {
            assert_eq!(signal_number(text), Ok(number), "{text}");
        }
        for text in ["", "0", "65", "SIGNOTHING", "SIGRTMIN+40", "SIGRTMIN+x"] {
            let error = signal_number(text).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid signal: {text}"));
        }
    }
}
