//! What guests say, as far as people read it: guests are not to be believed, and neither a log nor a
//! terminal may be theirs to write.

/// The most of a text that is shown, in characters.
const SHOWN: usize = 500;

/// A text of a guest's in one line, without what would do something to a terminal.
pub fn one_line(text: &str) -> String {
    let mut shown: String =
        text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).take(SHOWN + 1).collect();
    if let Some((end, _)) = shown.char_indices().nth(SHOWN) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

/// Whether a character may end a line, move a cursor, or turn the direction of what follows.
fn is_harmful(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_short_line() {
        assert_eq!(one_line("eth0 is down"), "eth0 is down");
        assert_eq!(one_line("a\n2026 ERROR forged\x1b[2J\u{9b}b"), "a 2026 ERROR forged [2J b");
        assert_eq!(one_line("a\u{202e}b\u{2028}c"), "a b c");
        let long = one_line(&"ü".repeat(10_000));
        assert_eq!((long.chars().count(), long.ends_with('…')), (SHOWN + 1, true));
        assert_eq!(one_line(&"x".repeat(SHOWN)).len(), SHOWN);
    }
}
