//! Programs that the measurement starts: none outlives it, none is waited for without a bound.

use std::fmt::Display;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use corelane::bench::StopFlag;
use corelane::sys::{clock, process};

use super::Failure;

/// How often a running program is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes of a program's messages that are worth repeating.
const MESSAGES_LEN_MAX: usize = 2000;
/// How long a program may take that only makes something ready.
const TOOL_WITHIN: Duration = Duration::from_secs(30);

/// A running program; dropping it kills it.
pub(crate) struct Process {
    name: String,
    child: Child,
    output: File,
    messages: File,
}

impl Process {
    /// Starts `command`, which should die with its parent. What it prints goes to files without a
    /// name, so that it never waits for a reader.
    pub(crate) fn spawn(name: impl Display, command: Command) -> Result<Self, Failure> {
        Self::spawn_reading(name, command, Stdio::null())
    }

    fn spawn_reading(
        name: impl Display,
        mut command: Command,
        input: Stdio,
    ) -> Result<Self, Failure> {
        let (output, messages) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command
            .stdin(input)
            .stdout(OwnedFd::from(output.try_clone()?))
            .stderr(OwnedFd::from(messages.try_clone()?));
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().to_string_lossy();
            format!("cannot start {name} ({program}): {error}")
        })?;
        Ok(Self { name: name.to_string(), child, output, messages })
    }

    /// CPU time it has used, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Failure> {
        Ok(process::cpu_time(self.child.id())?.as_secs_f64())
    }

    /// The most memory it has had resident, in MiB.
    pub(crate) fn resident_mib_peak(&self) -> Result<f64, Failure> {
        Ok(process::resident_bytes_peak(self.child.id())? as f64 / f64::from(1 << 20))
    }

    /// Fails if it has ended, with what it said.
    pub(crate) fn ensure_alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.complaint(&format!("ended with {status}")).into()),
        }
    }

    /// Waits for its end and returns what it printed: from that, callers tell how it went. Killed
    /// after `within`, or when `stop` is raised.
    pub(crate) fn finish(mut self, within: Duration, stop: &StopFlag) -> Result<String, Failure> {
        self.wait(within, stop)?;
        text_of(&mut self.output)
    }

    fn wait(&mut self, within: Duration, stop: &StopFlag) -> Result<ExitStatus, Failure> {
        let deadline = clock::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if stop.is_raised() {
                return Err("interrupted".into());
            }
            if clock::now() >= deadline {
                return Err(self.complaint(&format!("did not end within {within:?}")).into());
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// What became of it, and the last of what it said about that.
    fn complaint(&mut self, fate: &str) -> String {
        let text = text_of(&mut self.messages).unwrap_or_default();
        complaint(&self.name, fate, &text)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `command` prints when it is given `input`.
///
/// # Errors
/// When it cannot be started, fails or takes too long; with its last words.
pub(crate) fn output_of(name: &str, command: Command, input: &str) -> Result<String, Failure> {
    let mut file = tempfile::tempfile()?;
    file.write_all(input.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    let mut process = Process::spawn_reading(name, command, Stdio::from(file))?;
    let status = process.wait(TOOL_WITHIN, &StopFlag::new())?;
    if status.success() {
        text_of(&mut process.output)
    } else {
        Err(process.complaint(&format!("ended with {status}")).into())
    }
}

fn complaint(name: &str, fate: &str, messages: &str) -> String {
    let messages = messages.trim();
    let tail = (0..messages.len())
        .find(|&at| messages.is_char_boundary(at) && messages.len() - at <= MESSAGES_LEN_MAX)
        .map_or("", |at| &messages[at..]);
    if tail.is_empty() { format!("{name} {fate}") } else { format!("{name} {fate}: {tail}") }
}

fn text_of(file: &mut File) -> Result<String, Failure> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{Process, complaint, output_of};
    use corelane::bench::StopFlag;
    use corelane::lab::wait_until;
    use std::process::Command;
    use std::time::Duration;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::spawn("shell", command).unwrap()
    }

    #[test]
    fn output_of_any_length_is_returned() {
        let (within, stop) = (Duration::from_secs(30), StopFlag::new());
        let output = shell("head -c 300000 /dev/zero").finish(within, &stop).unwrap();
        assert_eq!(output.len(), 300_000);
    }

    #[test]
    fn what_has_ended_is_told_with_its_last_words() {
        let mut process = shell("echo no >&2; exit 3");
        let error = wait_until(Duration::from_secs(30), "the shell to end", || {
            process.ensure_alive().err()
        });
        assert_eq!(error.unwrap().to_string(), "shell ended with exit status: 3: no");
    }

    #[test]
    fn a_tool_is_given_its_input_and_must_succeed() {
        assert_eq!(output_of("cat", Command::new("cat"), "a key\n").unwrap(), "a key\n");
        let mut fails = Command::new("sh");
        fails.args(["-c", "echo wrong key >&2; exit 1"]);
        let error = output_of("tool", fails, "").unwrap_err().to_string();
        assert_eq!(error, "tool ended with exit status: 1: wrong key");
        let error = output_of("tool", Command::new("/nowhere"), "").unwrap_err().to_string();
        assert!(error.starts_with("cannot start tool (/nowhere)"), "{error}");
    }

    #[test]
    fn what_does_not_end_is_killed() {
        let error = shell("sleep 600").finish(Duration::ZERO, &StopFlag::new()).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        let stop = StopFlag::new();
        stop.raise();
        let error = shell("sleep 600").finish(Duration::from_secs(600), &stop).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
    }

    #[test]
    fn long_messages_are_cut_at_the_front() {
        let text = complaint("x", "failed", &format!("{}end", "é".repeat(3000)));
        assert!(text.len() < 2100 && text.ends_with("end"), "{}", text.len());
    }
}
