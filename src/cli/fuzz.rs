//! What fuzz targets call, and `tests/corpora.rs` with every file of their corpora.

use clap::Parser;

use crate::telemetry::status::{StatusAnswer, StatusRequest};

use super::{Cli, Command, status_text};

/// Reads `data` as a command line, one argument a line, and what it says about a tunnel as a
/// configuration. No file is touched and nothing is done.
pub fn command_line(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let line = std::iter::once("corelane").chain(text.lines());
    let loaded = match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Command::Serve(args)) => args.source_without_file().load_serve().map(drop),
        Ok(Command::Up(args)) => args.source_without_file().load_up().map(drop),
        Ok(_) => Ok(()),
        Err(error) => return drop(error.to_string()),
    };
    if let Err(error) = loaded {
        drop(error.to_string());
    }
}

/// Reads `data` as a daemon's answer and shows it, then as a client's request.
pub fn status_exchange(data: &[u8]) {
    if let Ok(StatusAnswer::Status(report)) = serde_json::from_slice(data) {
        for (before, colour) in [(None, true), (Some(&*report), false)] {
            let text = status_text::render(&report, before, colour);
            assert!(text.ends_with('\n'));
        }
        assert!(serde_json::to_string(&report).is_ok());
    }
    let _ = serde_json::from_slice::<StatusRequest>(data);
}
