//! Kernel parameters under `/proc/sys/net`, which show the network namespace of the thread that
//! opens them.

use std::{fs, io};

const ROOT: &str = "/proc/sys/net";

/// Reads a parameter, named by its path below `/proc/sys/net`.
pub(super) fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(format!("{ROOT}/{name}")).map(|value| value.trim().to_owned())
}

/// Writes a parameter. `CAP_NET_ADMIN` over the namespace suffices.
pub(super) fn write(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("{ROOT}/{name}"), value)
}

/// The names of the entries of a directory of parameters.
pub(super) fn list(name: &str) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(format!("{ROOT}/{name}"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
