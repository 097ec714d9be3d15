//! The lines on the console that a program may look for.
//!
//! A host that was away while its guest ended finds them in the console's log. They never change
//! their form, and are there at any log level. A console that takes nothing is no reason to end.

use std::io::{self, Write as _};

use tether_wire::message::Exit;

/// `tether VERSION: process 1`: the first sign of life.
pub fn tell_started() {
    tell(&format!("tether {}: process 1", env!("CARGO_PKG_VERSION")));
}

/// `tether: workload ended: exit 7`, `… signal 9` or `… not started: WHY`.
pub fn tell_ended(exit: &Exit) {
    tell(&format!("tether: workload ended: {}", ended(exit)));
}

/// `tether: cannot run: WHY`: this machine is of no use, and powers off.
pub fn tell_cannot_run(why: &str) {
    tell(&format!("tether: cannot run: {}", one_line(why)));
}

fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn ended(exit: &Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit {code}"),
        Exit::Signal(signal) => format!("signal {signal}"),
        Exit::NotStarted(why) => format!("not started: {}", one_line(why)),
    }
}

/// A text in which a stranger may have put anything, on one line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_have_their_form() {
        assert_eq!(ended(&Exit::Code(7)), "exit 7");
        assert_eq!(ended(&Exit::Signal(9)), "signal 9");
        assert_eq!(ended(&Exit::NotStarted("a\nb: no".into())), "not started: a b: no");
    }
}
