//! What people and programs see: tables, JSON and errors. The only place that prints.
//!
//! Tables are pure functions from the types of the local API to text, so that they are tested without an agent. They have
//! no borders and never break a row, in docker's and kubectl's way: `awk` and `grep` see one object per line, at any
//! width of the terminal. A reader that stops reading (`| head`) is no failure.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::json;

use crate::failure::Failure;

pub(crate) mod authority;
pub(crate) mod dns;
pub(crate) mod drops;
pub(crate) mod egress;
pub(crate) mod fdb;
pub(crate) mod lease;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod port;
pub(crate) mod progress;
pub(crate) mod router;
pub(crate) mod status;
pub(crate) mod subnet;
mod table;
pub(crate) mod token;
pub(crate) mod uplink;
mod units;
pub(crate) mod up;

/// Prints `value` as JSON, or the text that `text` makes of it.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn show<T: Serialize>(
    as_json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    if as_json {
        json(value)
    } else {
        bytes(text(value).as_bytes())
    }
}

/// Prints `value` as JSON.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Failure::new("output", format!("cannot write JSON: {error}")))?;
    text.push(b'\n');
    bytes(&text)
}

/// Prints the names of what is gone, one per line.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn removed(as_json: bool, names: &[String]) -> Result<(), Failure> {
    show(as_json, &json!({ "removed": names }), |_| lines(names))
}

/// One line of text.
pub(crate) fn line(text: impl Display) -> String {
    format!("{text}\n")
}

/// One line per item.
pub(crate) fn lines<T: Display>(items: &[T]) -> String {
    items.iter().map(line).collect()
}

/// Prints what is text already.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn bytes(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            "output",
            format!("cannot write to standard output: {error}"),
        )),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints why a command failed, to stderr.
pub(crate) fn failure(failure: &Failure, as_json: bool) {
    let mut err = std::io::stderr().lock();
    let coloured = err.is_terminal() && colour_wanted();
    let text = if as_json {
        failure_json(failure)
    } else {
        failure_text(failure, coloured)
    };
    // Nobody is left to tell when stderr is gone.
    let _ = err.write_all(text.as_bytes());
}

/// Prints what clap has to say: help and version to stdout, a wrong command line to stderr.
pub(crate) fn clap_error(error: &clap::Error) {
    // Nobody is left to tell when the stream is gone.
    let _ = error.print();
}

/// Whether colours may be used on a terminal (<https://no-color.org>).
pub(crate) fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn failure_text(failure: &Failure, coloured: bool) -> String {
    let paint = |style: &str, text: &str| match coloured {
        true => format!("\u{1b}[{style}m{text}\u{1b}[0m"),
        false => text.to_owned(),
    };
    let mut text = format!("{} {}\n", paint("1;31", "error:"), failure.message);
    if let Some(hint) = &failure.hint {
        text.push_str(&format!("  {} {hint}\n", paint("1;36", "hint:")));
    }
    text
}

fn failure_json(failure: &Failure) -> String {
    let error = json!({ "error": {
        "code": failure.code, "message": failure.message, "hint": failure.hint,
    }});
    line(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_next_step_on_its_own_line() {
        let error = Failure::new("not_found", "network \"blue\" is not known");
        assert_eq!(
            failure_text(&error, false),
            "error: network \"blue\" is not known\n"
        );
        let error = error.hint("see `weft network ls`");
        assert_eq!(
            failure_text(&error, false),
            "error: network \"blue\" is not known\n  hint: see `weft network ls`\n"
        );
        assert!(failure_text(&error, true).starts_with("\u{1b}[1;31merror:\u{1b}[0m network"));
    }

    #[test]
    fn an_error_for_programs_is_one_object() {
        let error = Failure::new("not_found", "m").hint("h");
        let read: serde_json::Value = serde_json::from_str(&failure_json(&error)).unwrap();
        assert_eq!(
            read,
            json!({"error": {"code": "not_found", "message": "m", "hint": "h"}})
        );
    }
}
