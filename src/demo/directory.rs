//! The private directory of a demo.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;

use super::DemoError;

/// A directory that only this user can enter; removed with all that is in it when dropped.
#[derive(Debug)]
pub(super) struct PrivateDirectory(PathBuf);

impl PrivateDirectory {
    /// Makes one where temporary files belong.
    pub(super) fn create() -> Result<Self, DemoError> {
        let random = OsRng
            .try_next_u64()
            .map_err(|error| DemoError::io("read random bytes")(io::Error::other(error)))?;
        let directory = std::env::temp_dir().join(format!("corelane-demo-{random:016x}"));
        DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .map_err(DemoError::io(format!("make the directory {}", directory.display())))?;
        Ok(Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // Best effort: what a killed daemon left here is removed as well, and a directory that is
        // already gone is what was wanted.
        let _ = fs::remove_dir_all(&self.0);
    }
}
