//! What is wrong with a configuration, and how it is shown: `file:line:column`, the source line, a
//! caret and the nearest thing that would have been right.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

/// Problems printed at most; a file of another kind altogether would otherwise fill the terminal.
const SHOWN_MAX: usize = 50;
/// Characters of a source line shown at most.
const LINE_SHOWN_MAX: usize = 160;
/// The names behind which a cryptographic key stands that everybody may see.
const PUBLIC_KEYS: [&str; 2] = ["public_key", "server_key"];
/// What the names of keys contain behind which people expect to write a secret.
const SECRET_WORDS: [&str; 5] = ["private", "preshared", "secret", "password", "psk"];

/// Where a value came from, and so where a complaint about it points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it. As the place of a problem: the configuration as a whole.
    #[default]
    Default,
    /// The file, at these bytes.
    File(Range<usize>),
    /// A command-line flag or environment variable of this name.
    Flag(String),
}

/// Whether a problem keeps the daemon from starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but it is probably not what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub origin: Origin,
    /// What is wrong.
    pub what: String,
    /// What mends it, if that is not plain from `what`.
    pub help: Option<String>,
}

/// Collects problems while a configuration is read.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn error(&mut self, origin: Origin, what: impl Into<String>) {
        self.push(Severity::Error, origin, what.into(), None);
    }

    pub(crate) fn error_with_help(
        &mut self,
        origin: Origin,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Severity::Error, origin, what.into(), Some(help.into()));
    }

    pub(crate) fn warning(&mut self, origin: Origin, what: impl Into<String>) {
        self.push(Severity::Warning, origin, what.into(), None);
    }

    fn push(&mut self, severity: Severity, origin: Origin, what: String, help: Option<String>) {
        self.0.push(Problem { severity, origin, what, help });
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.0.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Keeps only the problems that lie on none of the lines of `text` that `lines` start.
    pub(crate) fn forget_lines(&mut self, text: &str, spoiled: &[Range<usize>]) {
        let index = LineIndex::new(text);
        let spoiled: BTreeSet<usize> =
            spoiled.iter().map(|span| index.line_of(span.start)).collect();
        self.0.retain(|problem| match &problem.origin {
            Origin::File(span) => !spoiled.contains(&index.line_of(span.start)),
            Origin::Default | Origin::Flag(_) => true,
        });
    }

    pub(crate) fn into_report(mut self, name: &str, text: &str) -> Report {
        // In the order of the file; what has no place in it comes last.
        self.0.sort_by_key(|problem| match &problem.origin {
            Origin::File(span) => span.start,
            Origin::Default | Origin::Flag(_) => usize::MAX,
        });
        Report { name: name.to_owned(), text: text.to_owned(), problems: self.0 }
    }
}

/// Problems together with the text they are about. `Display` shows them all.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    text: String,
    problems: Vec<Problem>,
}

impl Report {
    /// The problems, in the order of the file.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether nothing at all is wrong.
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Each problem with its place on one line, for a log; of too many, the first and how many
    /// more there are.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let index = LineIndex::new(&self.text);
        let shown = self.problems.iter().take(SHOWN_MAX);
        let lines = shown.map(move |problem| {
            format!("{}: {}", self.place(&index, &problem.origin), problem.what)
        });
        lines.chain(self.more())
    }

    /// Says how many problems are not shown, if any.
    fn more(&self) -> Option<String> {
        let more = self.problems.len().checked_sub(SHOWN_MAX).filter(|&more| more > 0)?;
        Some(format!("{}: and {more} more problems", self.name))
    }

    /// `file:line:column`, both counted from 1 and the column in characters, or the flag.
    fn place(&self, index: &LineIndex, origin: &Origin) -> String {
        match origin {
            Origin::Default => self.name.clone(),
            Origin::Flag(flag) => flag.clone(),
            Origin::File(span) => {
                let (line, column) = index.position(&self.text, span.start);
                format!("{}:{}:{}", self.name, line + 1, column + 1)
            }
        }
    }

    fn show(
        &self,
        index: &LineIndex,
        problem: &Problem,
        out: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        writeln!(out, "{}: {severity}: {}", self.place(index, &problem.origin), problem.what)?;
        if let Origin::File(span) = &problem.origin {
            let (line, column) = index.position(&self.text, span.start);
            show_source(out, index.line(&self.text, line), line, column, self.width(span))?;
        }
        match &problem.help {
            Some(help) => writeln!(out, "  = help: {help}"),
            None => Ok(()),
        }
    }

    /// Characters of `span`, or 1 if it does not lie on character boundaries.
    fn width(&self, span: &Range<usize>) -> usize {
        self.text.get(span.clone()).map_or(1, |text| text.chars().count())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let index = LineIndex::new(&self.text);
        for problem in self.problems.iter().take(SHOWN_MAX) {
            self.show(&index, problem, out)?;
        }
        match self.more() {
            Some(more) => writeln!(out, "{more}"),
            None => Ok(()),
        }
    }
}

/// Prints one source line with carets under `width` characters from `column` on.
fn show_source(
    out: &mut fmt::Formatter<'_>,
    line: &str,
    number: usize,
    column: usize,
    width: usize,
) -> fmt::Result {
    let number = (number + 1).to_string();
    let gutter = " ".repeat(number.len());
    let shown = displayable(line);
    // A caret far out on a long line moves the window along.
    let first = column.saturating_sub(LINE_SHOWN_MAX / 2);
    let window: String = shown.chars().skip(first).take(LINE_SHOWN_MAX).collect();
    let room = window.chars().count().saturating_sub(column - first).max(1);
    let padding: String =
        window.chars().take(column - first).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    // A secret cut off the line must not leave the carets hanging in the air.
    let padding = format!("{padding}{}", " ".repeat(column - first - padding.chars().count()));
    writeln!(out, "{gutter} |")?;
    writeln!(out, "{number} | {window}")?;
    writeln!(out, "{gutter} | {padding}{}", "^".repeat(width.clamp(1, room)))
}

/// The line without terminal control characters and without a secret written where none belongs.
fn displayable(line: &str) -> String {
    let end = secret_start(line).unwrap_or(line.len());
    let mut shown: String = line[..end]
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    if end < line.len() {
        shown.push('…');
    }
    shown
}

/// Whether a key is named as if a secret itself stood behind it, which this format never has.
pub(crate) fn names_secret(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    !lower.ends_with("_file") && SECRET_WORDS.iter().any(|word| lower.contains(word))
}

/// Whether a key speaks of a cryptographic key that this format does not have: perhaps a secret
/// one, its name mistyped.
fn names_unknown_key(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    lower.ends_with("key") && !PUBLIC_KEYS.contains(&&*lower)
}

/// Where a value begins that somebody wrote into the file although it belongs into a key file.
fn secret_start(line: &str) -> Option<usize> {
    line.match_indices('=').map(|(at, _)| at).find_map(|at| {
        let before = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let is_boundary = |c: char| !c.is_alphanumeric() && !"_-".contains(c);
        let key = before.rsplit(is_boundary).next().unwrap_or(before);
        (names_secret(key) || names_unknown_key(key)).then_some(at + 1)
    })
}

/// Byte offsets of line starts.
pub(crate) struct LineIndex(Vec<usize>);

impl LineIndex {
    pub(crate) fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    /// The 0-based number of the line that holds the byte at `offset`.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.0.partition_point(|&start| start <= offset).saturating_sub(1)
    }

    /// The 0-based line and column, the column in characters.
    fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.line_of(offset);
        let before = text.get(self.start(line)..offset.min(text.len())).unwrap_or("");
        (line, before.chars().count())
    }

    fn start(&self, line: usize) -> usize {
        self.0.get(line).copied().unwrap_or(0)
    }

    fn line<'t>(&self, text: &'t str, line: usize) -> &'t str {
        let rest = text.get(self.start(line)..).unwrap_or("");
        rest.lines().next().unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        let mut problems = Problems::default();
        problems.error_with_help(
            Origin::File(span),
            "unknown key `lisen`",
            "did you mean `listen`?",
        );
        problems.into_report("server.toml", text).to_string()
    }

    #[test]
    fn a_problem_shows_its_place_its_line_and_its_help() {
        assert_eq!(
            shown("[server]\n  lisen = 1\n", 11..16),
            "server.toml:2:3: error: unknown key `lisen`\n\
             \x20 |\n\
             2 |   lisen = 1\n\
             \x20 |   ^^^^^\n\
             \x20 = help: did you mean `listen`?\n"
        );
    }

    #[test]
    fn columns_count_characters_and_survive_spans_beyond_the_text() {
        assert!(shown("é = 1", 3..4).starts_with("server.toml:1:3:"));
        assert!(shown("", 7..9).starts_with("server.toml:1:1:"));
        assert!(shown("é", 1..2).starts_with("server.toml:1:1:"));
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert!(!shown("a = \"\u{1b}[31m\"", 0..1).contains('\u{1b}'));
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_printed() {
        for line in [
            "private_key = \"hunter2\"",
            "prviate_key = \"hunter2\"",
            "\"preshared_key\" = \"hunter2\"",
            "server = { PrivateKey = \"hunter2\" }",
            "private_key_file = \"k\"\nx = { psk='hunter2' }",
        ] {
            let last = line.rfind('=').unwrap_or(0) + 2;
            assert!(!shown(line, last..last + 3).contains("hunter2"), "{line}");
        }
        assert!(shown("private_key_file = \"/etc/key\"", 0..3).contains("/etc/key"));
    }

    #[test]
    fn a_caret_far_out_on_a_long_line_stays_in_view() {
        let line = format!("{}x", " ".repeat(5000));
        let text = shown(&line, 5000..5001);
        assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
        assert!(text.contains("x\n"));
    }
}
