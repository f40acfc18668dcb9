//! Notices that certificate, key, client CA or revocation list have been replaced.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use crate::limits::LOGIN_FILES_LOOK_EVERY;

use super::{ServerTls, Service, TlsFiles, TlsSetupError};

/// What tells one version of a file from another: device, inode, bytes, and when it was changed in
/// seconds and nanoseconds. `None` if it is not there.
type Stamp = Option<[i64; 5]>;

/// The files as they were when they were last read.
#[derive(Debug)]
pub struct FilesWatch {
    files: TlsFiles,
    service: Service,
    stamps: Vec<Stamp>,
    due: Instant,
}

impl FilesWatch {
    /// Reads the files for the first time. What changes while they are read is noticed at the next
    /// look, so the stamps come first.
    ///
    /// # Errors
    /// See [`ServerTls::load`].
    pub fn load(
        files: TlsFiles,
        service: Service,
        now: Instant,
    ) -> Result<(Self, ServerTls), TlsSetupError> {
        let stamps = stamps(&files);
        let tls = ServerTls::load(&files, service)?;
        Ok((Self { files, service, stamps, due: now + LOGIN_FILES_LOOK_EVERY }, tls))
    }

    /// When to look again.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Looks, if it is time; what the files say if they have changed. Those that make no sense are
    /// told of once, and what was read before stays in force.
    pub fn look(&mut self, now: Instant) -> Option<ServerTls> {
        if now < self.due {
            return None;
        }
        self.due = now + LOGIN_FILES_LOOK_EVERY;
        let stamps = stamps(&self.files);
        if stamps == self.stamps {
            return None;
        }
        self.stamps = stamps;
        match ServerTls::load(&self.files, self.service) {
            Ok(tls) => {
                log::info!("the TLS certificates or revocations have changed and are in force");
                Some(tls)
            }
            Err(error) => {
                log::error!("{error}; what was read before stays in force");
                None
            }
        }
    }
}

fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    let TlsFiles { certificate, key, client_ca, client_crl } = files;
    let optional = [client_ca.as_deref(), client_crl.as_deref()];
    let always = [Some(certificate.as_path()), Some(key.as_path())];
    always.into_iter().chain(optional).flatten().map(stamp).collect()
}

fn stamp(path: &Path) -> Stamp {
    let file = fs::metadata(path).ok()?;
    Some([
        file.dev() as i64,
        file.ino() as i64,
        file.size() as i64,
        file.ctime(),
        file.ctime_nsec(),
    ])
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;
    use std::thread;

    use super::*;
    use crate::login::testing::Site;
    use crate::sys::clock;

    #[test]
    fn a_file_that_is_replaced_while_it_is_first_read_is_read_again() {
        let site = Site::new();
        let files = site.pki.tls_files();
        let pem = fs::read(&files.certificate).unwrap();
        // Whoever reads a FIFO waits, so the file can be replaced in the middle of it.
        fs::remove_file(&files.certificate).unwrap();
        assert!(Command::new("mkfifo").arg(&files.certificate).status().unwrap().success());
        let now = clock::now();
        let path = files.certificate.clone();
        let reader = thread::spawn(move || FilesWatch::load(files, Service::Login, now).unwrap());
        // This waits in turn until the reader has opened it.
        let mut fifo = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let renewed = path.with_extension("new");
        fs::write(&renewed, &pem).unwrap();
        fs::rename(&renewed, &path).unwrap();
        fifo.write_all(&pem).unwrap();
        drop(fifo);
        let (mut watch, _) = reader.join().unwrap();
        assert!(watch.look(watch.due()).is_some());
        assert!(watch.look(watch.due()).is_none(), "once is enough");
    }
}
