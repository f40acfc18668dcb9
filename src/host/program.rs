//! Running another program, such as `nft`: with `CAP_NET_ADMIN` as far as this program has it, with
//! an environment of its own, and not for long.

use std::env;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use caps::Capability;

use super::privileges;
use crate::limits::{PROGRAM_LOOK_EVERY, PROGRAM_OUTPUT_MAX};
use crate::sys::{clock, process};

/// Where programs are looked for, whatever `PATH` says: that of an ordinary user lacks the first
/// ones.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];

/// Why another program did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error("the program `{name}` is missing: {mending}")]
    Missing {
        /// What was looked for.
        name: &'static str,
        /// Where it is to be had.
        mending: &'static str,
    },
    /// It could not be run.
    #[error("`{command}` cannot be run: {source}")]
    Run {
        /// The program and its arguments.
        command: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("`{command}` failed ({status}): {said}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        said: String,
    },
    /// It went on for too long, and was killed.
    #[error("`{command}` did not end within {within:?} and was killed")]
    Late {
        /// The program and its arguments.
        command: String,
        /// How long it was waited for.
        within: Duration,
    },
}

/// A program that was found, and for how long it may run.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    within: Duration,
}

impl Program {
    /// Looks for a program in the directories of `PATH`, unless somebody with fewer rights has set
    /// it, and in those where programs of administrators are.
    pub(super) fn find(name: &str, within: Duration) -> Option<Self> {
        let directories = directories();
        let mut paths = directories.iter().map(|directory| directory.join(name));
        let path = paths.find(|path| is_executable(path))?;
        Some(Self { path, within })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs it with `input` to read, waits for its end and returns what it has written.
    pub(super) fn run(&self, arguments: &[&str], input: &str) -> Result<String, ProgramError> {
        let command = || {
            let words = std::iter::once(self.path.display().to_string());
            words.chain(arguments.iter().map(|word| (*word).to_owned())).collect::<Vec<_>>()
        };
        let unrun = |source| ProgramError::Run { command: command().join(" "), source };
        let Ended { status, mut said, written } =
            self.run_to_end(arguments, input).map_err(unrun)?;
        let Some(status) = status else {
            return Err(ProgramError::Late { command: command().join(" "), within: self.within });
        };
        if status.success() {
            return Ok(written);
        }
        if said.trim().is_empty() {
            said = written;
        }
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(ProgramError::Failed { command: command().join(" "), status, said })
    }

    /// Files instead of pipes: what the program leaves running in the background may hold them for
    /// as long as it likes.
    fn run_to_end(&self, arguments: &[&str], input: &str) -> io::Result<Ended> {
        let mut standard_input = process::memory_file()?;
        standard_input.write_all(input.as_bytes())?;
        standard_input.rewind()?;
        let (output, errors) = (process::memory_file()?, process::memory_file()?);
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", env::join_paths(directories()).unwrap_or_default())
            .env("LC_ALL", "C")
            .current_dir("/")
            // Ctrl-C on a terminal is meant for the daemon, which has to clean up.
            .process_group(0)
            .stdin(standard_input)
            .stdout(output.try_clone()?)
            .stderr(errors.try_clone()?);
        let mut child = privileges::lend(Capability::CAP_NET_ADMIN, || command.spawn())?;
        let status = self.await_end(&mut child)?;
        Ok(Ended { status, said: read_all(errors)?, written: read_all(output)? })
    }

    /// How it ended; `None` if it did not in time.
    fn await_end(&self, child: &mut Child) -> io::Result<Option<ExitStatus>> {
        let deadline = clock::now() + self.within;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if clock::now() >= deadline {
                child.kill()?;
                child.wait()?;
                return Ok(None);
            }
            thread::sleep(PROGRAM_LOOK_EVERY);
        }
    }
}

/// How a program ended, and what it has written.
struct Ended {
    /// `None` if it was killed.
    status: Option<ExitStatus>,
    /// On its standard error.
    said: String,
    /// On its standard output.
    written: String,
}

fn read_all(mut file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(PROGRAM_OUTPUT_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn directories() -> Vec<PathBuf> {
    let path = match process::has_more_rights_than_its_starter() {
        true => None,
        false => env::var_os("PATH"),
    };
    let path: Vec<_> =
        path.iter().flat_map(env::split_paths).filter(|it| it.is_absolute()).collect();
    path.into_iter().chain(DIRECTORIES.map(PathBuf::from)).collect()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::in_namespace;

    fn find(name: &str) -> Program {
        Program::find(name, Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn a_program_reads_its_input_and_what_it_writes_comes_back() {
        assert_eq!(find("sort").run(&["-r"], "1\n2\n").unwrap(), "2\n1\n");
        assert!(Program::find("no-such-program", Duration::ZERO).is_none());
    }

    #[test]
    fn a_failure_is_told_with_what_the_program_said() {
        let error = find("sh").run(&["-c", "echo no such luck >&2; exit 3"], "").unwrap_err();
        let error = error.to_string();
        assert!(error.contains("no such luck") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn one_that_does_not_end_is_killed_and_one_that_it_left_behind_is_not_waited_for() {
        let late = Program { within: Duration::from_millis(50), ..find("sleep") };
        assert!(matches!(late.run(&["60"], ""), Err(ProgramError::Late { .. })));
        let started = clock::now();
        assert_eq!(find("sh").run(&["-c", "sleep 5 & echo done"], "").unwrap(), "done\n");
        assert!(clock::now() - started < Duration::from_secs(4));
    }

    /// Another user has no way to hand capabilities on but these sets.
    #[test]
    fn net_admin_is_lent_and_not_given() {
        let (lent, before, after) = in_namespace(|| {
            let sets = || {
                let sets = [caps::CapSet::Inheritable, caps::CapSet::Ambient];
                sets.map(|set| caps::read(None, set).unwrap_or_default())
            };
            privileges::drop_to(&[Capability::CAP_NET_ADMIN]).unwrap();
            let before = sets();
            let lent = find("grep").run(&["^CapEff", "/proc/self/status"], "").unwrap();
            (lent, before, sets())
        });
        assert!(lent.contains("0000000000001000"), "{lent}");
        assert_eq!(before, after);
    }
}
