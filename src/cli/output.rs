//! Writing to stdout and stderr without a panic when nobody reads.

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::cli::CliError;
use crate::exit::ExitCode;

/// Writes `text` to stdout at once. A reader that has left (`| head`) ends the command quietly.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(CliError::silent(ExitCode::Ok)),
        Err(error) => Err(CliError::failure(format_args!("cannot write to stdout: {error}"))),
    }
}

/// Writes `text` to stderr; with stderr gone there is nobody left to tell.
pub(crate) fn warn(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// What clears a terminal before the next report; a file or pipe gets a blank line.
pub(crate) fn clear_screen() -> &'static str {
    if io::stdout().is_terminal() { "\x1b[H\x1b[2J\x1b[3J" } else { "\n" }
}

/// Whether stdout takes colours: a terminal that is not dumb, and no wish to the contrary
/// (no-color.org: `NO_COLOR` set and not empty).
pub(crate) fn stdout_has_colour() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal()
        && !is_set("NO_COLOR")
        && env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}
