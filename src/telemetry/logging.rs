//! Log output to stderr: lines for people, or one JSON object per line for machines.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

use env_logger::fmt::Formatter;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};
use serde_json::Map;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: time, level, module, message, key-value pairs. Under systemd the journal's
    /// priority prefix takes the place of the time and the level.
    Text,
    /// One JSON object per line: `time` (RFC 3339, UTC), `level`, `target`, `message`, and `fields`
    /// if the record has key-value pairs.
    Json,
}

/// A name that is no log format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected \"text\" or \"json\"")]
pub struct UnknownLogFormat;

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Starts logging to stderr. `filter` is a level, or levels by module as in `RUST_LOG`; the caller
/// has checked it. A second call in one process changes nothing.
pub fn init(format: LogFormat, filter: &str) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    match format {
        LogFormat::Json => builder.format(json_line),
        LogFormat::Text if stderr_is_journal() => builder.format(journal_line),
        LogFormat::Text => builder.format(text_line),
    };
    // Only a logger that is there already makes this fail.
    let _ = builder.try_init();
}

fn text_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    let time = out.timestamp_millis();
    write!(out, "{time} {style}{:<5}{style:#} {}: ", record.level(), short_target(record))?;
    message_and_fields(out, record)
}

/// A line for systemd's journal: the priority of `sd-daemon(3)`, and no time, which it adds.
fn journal_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    write!(out, "<{priority}>{}: ", short_target(record))?;
    message_and_fields(out, record)
}

fn json_line(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut object = Map::new();
    object.insert("time".to_owned(), out.timestamp_micros().to_string().into());
    object.insert("level".to_owned(), record.level().as_str().to_ascii_lowercase().into());
    object.insert("target".to_owned(), record.target().into());
    object.insert("message".to_owned(), record.args().to_string().into());
    let mut fields = JsonFields(Map::new());
    // The visitor never fails.
    let _ = record.key_values().visit(&mut fields);
    if !fields.0.is_empty() {
        object.insert("fields".to_owned(), fields.0.into());
    }
    writeln!(out, "{}", serde_json::Value::from(object))
}

/// The module without the crate's own name, which is the same on every line.
fn short_target<'r>(record: &'r Record<'_>) -> &'r str {
    record.target().strip_prefix("corelane::").unwrap_or_else(|| record.target())
}

fn message_and_fields(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    write!(out, "{}", OneLine(&record.args().to_string()))?;
    let mut fields = TextFields(String::new());
    // The visitor never fails.
    let _ = record.key_values().visit(&mut fields);
    writeln!(out, "{}", OneLine(&fields.0))
}

/// Text without control characters: nothing that came from outside can forge a line or move the
/// cursor of a terminal.
struct OneLine<'t>(&'t str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c.is_control() {
                true => write!(out, "{}", c.escape_default())?,
                false => out.write_char(c)?,
            }
        }
        Ok(())
    }
}

struct TextFields(String);

impl<'kvs> VisitSource<'kvs> for TextFields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push_str(&format!(" {key}={value}"));
        Ok(())
    }
}

struct JsonFields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for JsonFields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let value = if let Some(truth) = value.to_bool() {
            truth.into()
        } else if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_i64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            number.into()
        } else {
            value.to_string().into()
        };
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}

/// Whether stderr is the journal's socket, by the device and inode that systemd says it has
/// (systemd.exec(5), `$JOURNAL_STREAM`).
fn stderr_is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    !io::stderr().is_terminal()
        && std::fs::metadata("/proc/self/fd/2")
            .is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Log;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: fn(&mut Formatter, &Record<'_>) -> io::Result<()>) -> String {
        let sink = Sink::default();
        let logger = env_logger::Builder::new()
            .parse_filters("info")
            .format(format)
            .target(env_logger::Target::Pipe(Box::new(sink.clone())))
            .build();
        let fields = [("peer", Value::from("a\"b")), ("worker", Value::from(3))];
        logger.log(
            &Record::builder()
                .level(Level::Warn)
                .target("corelane::control")
                .key_values(&fields)
                .args(format_args!("two\nlines \u{1b}[31m"))
                .build(),
        );
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_holds_everything_and_parses() {
        let line = logged(json_line);
        assert_eq!(line.lines().count(), 1);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["level"], "warn");
        assert_eq!(object["target"], "corelane::control");
        assert_eq!(object["message"], "two\nlines \u{1b}[31m");
        assert_eq!(object["fields"], serde_json::json!({"peer": "a\"b", "worker": 3}));
        let time = object["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{time}");
    }

    #[test]
    fn text_lines_escape_what_could_forge_a_line() {
        let line = logged(text_line);
        assert!(line.ends_with("control: two\\nlines \\u{1b}[31m peer=a\"b worker=3\n"), "{line}");
        assert_eq!(
            logged(journal_line),
            "<4>control: two\\nlines \\u{1b}[31m peer=a\"b worker=3\n"
        );
    }
}
