//! Reading the configuration again, with fewer rights than at the start.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use caps::Capability;

use crate::config::{Loaded, Source};
use crate::daemon::DaemonError;
use crate::exit::ExitCode;
use crate::host::privileges::{self, Reserve};

/// What lets root read the files of others, the weaker one first: containers often have the
/// stronger one only.
pub(super) const READING_FILES_OF_OTHERS: [Capability; 2] =
    [Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE];

/// The configuration, and the right to read it.
pub(super) struct Configuration {
    source: Source,
    reserve: Reserve,
}

impl Configuration {
    pub(super) fn new(source: Source, reserve: Reserve) -> Self {
        Self { source, reserve }
    }

    /// Loads the configuration and the key files that it names.
    ///
    /// # Errors
    /// A sentence for the administrator.
    pub(super) fn read_again<C, K>(
        &self,
        load: impl FnOnce(&Source) -> Result<Loaded<C>, DaemonError>,
        load_keys: impl FnOnce(&C) -> Result<K, DaemonError>,
    ) -> Result<(C, K), String> {
        let read = || {
            let loaded = load(&self.source)?;
            for warning in loaded.warnings.lines() {
                log::warn!("{warning}");
            }
            let keys = load_keys(&loaded.config)?;
            Ok((loaded.config, keys))
        };
        self.reserve.with(read).map_err(|error: DaemonError| match error.exit_code() {
            ExitCode::Denied => format!(
                "{error}; since its start the daemon has no rights but those of its user, be that \
                 root: let this user read the file, or restart the daemon"
            ),
            _ => error.to_string(),
        })
    }
}

/// Gives up every privilege but those of `kept`.
///
/// `files` are read again by a reload. Where they are another user's, the right to read them stays
/// in reserve.
pub(super) fn drop_privileges<'a>(
    kept: &[Capability],
    files: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<Reserve, DaemonError> {
    let is_needed = || files.into_iter().any(|file| is_forbidden(file));
    let reserve = privileges::drop_to_with_reserve(kept, &READING_FILES_OF_OTHERS, is_needed)?;
    if let Some(capability) = reserve.capability() {
        log::info!(
            "the configuration or a key is another user's: {capability} stays in reserve, for \
             reading it again"
        );
    }
    Ok(reserve)
}

/// Whether a file cannot be opened with the rights that the calling thread has.
pub(super) fn is_forbidden(file: &Path) -> bool {
    // Non-blocking, or a pipe without a writer would hold the start up for ever.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file);
    opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}
