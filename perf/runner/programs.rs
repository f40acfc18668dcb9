//! Where the programs are that are measured, and which versions they have.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use super::Failure;
use super::plan::Contender;
use super::process::output_of;

/// This project's own programs.
pub(crate) const CEILING: &str = "ceiling";
pub(crate) const CORELANE: &str = "corelane";
/// What makes certificates.
pub(crate) const OPENSSL: &str = "openssl";

/// Directories of programs for administrators, which the search path of others lacks.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// The script that installs what others make.
const INSTALLER: &str = "perf/install-contenders";

/// The places where programs are looked for.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// This project's own, by name.
    own: BTreeMap<&'static str, PathBuf>,
    /// Where `cargo install` has put what others make.
    tools: PathBuf,
    /// Where the system has its programs.
    system: Vec<PathBuf>,
}

/// A contender that is not installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Absent {
    pub(crate) contender: Contender,
    /// Its programs that were not found.
    pub(crate) programs: Vec<&'static str>,
    /// The command that installs them.
    pub(crate) install: String,
}

impl Programs {
    /// Looks for this project's programs below `release`, the directory of cargo's profile, and for
    /// those of others in `tools/bin` and where the system has programs.
    pub(crate) fn new(release: &Path, tools: &Path) -> Self {
        let own =
            [(CEILING, release.join("examples").join(CEILING)), (CORELANE, release.join(CORELANE))];
        let path = env::var_os("PATH").unwrap_or_default();
        let system = env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from)).collect();
        Self { own: own.into(), tools: tools.to_owned(), system }
    }

    /// The file of the program called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn path(&self, name: &'static str) -> Result<PathBuf, Failure> {
        let candidates = match self.own.get(name) {
            Some(own) => vec![own.clone()],
            None => {
                let directories = [self.tools.join("bin")].into_iter().chain(self.system.clone());
                directories.map(|directory| directory.join(name)).collect()
            }
        };
        let found = candidates.into_iter().find(|candidate| candidate.is_file());
        found.ok_or_else(|| match self.own.get(name) {
            Some(own) => {
                let own = own.display();
                format!("{own} is missing: `cargo build --release --examples --bins`").into()
            }
            None => format!("{name} is not installed: `{INSTALLER}`").into(),
        })
    }

    /// What `contender` lacks, if it lacks anything.
    pub(crate) fn absent(&self, contender: Contender) -> Option<Absent> {
        let programs: Vec<_> = needs(contender)
            .iter()
            .copied()
            .filter(|&name| !self.own.contains_key(name) && self.path(name).is_err())
            .collect();
        let install = format!("{INSTALLER} {}", contender.name());
        (!programs.is_empty()).then_some(Absent { contender, programs, install })
    }

    /// The versions of what is measured and of what measures, as far as they can be had.
    pub(crate) fn versions(&self, contenders: &[Contender]) -> BTreeMap<&'static str, String> {
        let measured = contenders.iter().filter_map(|&contender| needs(contender).first().copied());
        let names = measured.chain(["iperf3"]).filter(|&name| name != CEILING);
        names.filter_map(|name| Some((name, self.version(name)?))).collect()
    }

    fn version(&self, name: &'static str) -> Option<String> {
        let path = self.path(name).ok()?;
        // Not every program can say its version.
        if let Some(version) = self.installed_version(name) {
            return Some(version);
        }
        let word = if name == "nebula" { "-version" } else { "--version" };
        let mut command = Command::new(path);
        command.arg(word);
        version_in(&output_of(name, command, "").ok()?)
    }

    /// What cargo noted when it installed `name`.
    fn installed_version(&self, name: &str) -> Option<String> {
        let notes = fs::read_to_string(self.tools.join(".crates.toml")).ok()?;
        version_in_notes(&notes, name)
    }
}

/// The programs that a contender consists of, the one that moves packets first.
const fn needs(contender: Contender) -> &'static [&'static str] {
    match contender {
        Contender::Veth => &[],
        Contender::Ceiling => &[CEILING],
        Contender::CorelaneOneWorker | Contender::CorelaneTwoWorkers => &[CORELANE],
        Contender::WireguardGo => &["wireguard-go"],
        Contender::Boringtun => &["boringtun-cli"],
        Contender::Openvpn => &["openvpn", OPENSSL],
        Contender::Nebula => &["nebula", "nebula-cert"],
        Contender::Quincy => &["quincy-server", "quincy-client", OPENSSL],
    }
}

/// The first word that looks like a version: digits with a dot between them.
fn version_in(output: &str) -> Option<String> {
    let looks_right =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.contains('.');
    let words = output.split_whitespace().map(|word| word.trim_start_matches('v'));
    words.take(20).find(looks_right).map(str::to_owned)
}

/// The version in cargo's list of installed crates, whose lines are `"NAME VERSION (SOURCE)" = …`.
fn version_in_notes(notes: &str, name: &str) -> Option<String> {
    notes.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix('"')?.strip_prefix(name)?.strip_prefix(' ')?;
        rest.split(' ').next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::{Programs, version_in, version_in_notes};
    use crate::runner::plan::Contender;
    use std::fs;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (output, version) in [
            ("wireguard-go v0.0.20220316\n\nUserspace WireGuard", Some("0.0.20220316")),
            ("OpenVPN 2.6.14 x86_64-pc-linux-gnu [SSL", Some("2.6.14")),
            ("Version: 1.6.1\n", Some("1.6.1")),
            ("iperf 3.12 (cJSON 1.7.15)", Some("3.12")),
            ("error: unexpected argument '--version' found", None),
            ("", None),
        ] {
            assert_eq!(version_in(output).as_deref(), version, "{output}");
        }
    }

    #[test]
    fn cargo_notes_what_it_installed() {
        let notes = "[v1]\n\"quincy-server 3.1.1 (registry+https://x)\" = [\"quincy-server\"]\n";
        assert_eq!(version_in_notes(notes, "quincy-server").as_deref(), Some("3.1.1"));
        assert_eq!(version_in_notes(notes, "quincy"), None);
    }

    #[test]
    fn what_is_not_installed_is_told_with_the_command_that_installs_it() {
        let tools = tempfile::tempdir().unwrap();
        let mut programs = Programs::new(tools.path(), tools.path());
        programs.system.clear();
        let absent = programs.absent(Contender::Nebula).unwrap();
        assert_eq!(absent.programs, ["nebula", "nebula-cert"]);
        assert_eq!(absent.install, "perf/install-contenders nebula");
        fs::create_dir(tools.path().join("bin")).unwrap();
        fs::write(tools.path().join("bin/nebula"), "").unwrap();
        assert_eq!(programs.absent(Contender::Nebula).unwrap().programs, ["nebula-cert"]);
        fs::write(tools.path().join("bin/nebula-cert"), "").unwrap();
        assert_eq!(programs.absent(Contender::Nebula), None);
        assert_eq!(programs.absent(Contender::Veth), None);
        let error = programs.path("openvpn").unwrap_err().to_string();
        assert!(error.contains("perf/install-contenders"), "{error}");
    }
}
