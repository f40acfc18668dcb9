//! Certificates that vouch for themselves, for programs that know the far end's by heart.

use std::path::{Path, PathBuf};
use std::process::Command;

use corelane::lab::addresses;

use crate::runner::Failure;
use crate::runner::process::output_of;
use crate::runner::programs::{OPENSSL, Programs};

/// A self-signed certificate in PEM, with its key.
pub(super) struct Certificate {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// SHA-256 over it in hexadecimal, with colons between the bytes.
    pub(super) fingerprint: String,
}

impl Certificate {
    /// Makes one for the server's address; `role` names its files in `directory`.
    pub(super) fn generate(
        programs: &Programs,
        directory: &Path,
        role: &str,
    ) -> Result<Self, Failure> {
        let openssl = programs.path(OPENSSL)?;
        let (certificate, key) =
            (directory.join(format!("{role}.crt")), directory.join(format!("{role}.key")));
        let mut request = Command::new(&openssl);
        request.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        request.args(["-nodes", "-days", "2", "-subj", &format!("/CN={role}")]);
        request.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        request.args(["-addext", &format!("subjectAltName=IP:{}", addresses::SERVER_V4)]);
        request.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        output_of("openssl req", request, "")?;
        let mut print = Command::new(&openssl);
        print.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(&certificate);
        let fingerprint = fingerprint(&output_of("openssl x509", print, "")?)?;
        Ok(Self { certificate, key, fingerprint })
    }
}

/// The fingerprint in what `openssl x509 -fingerprint` prints.
fn fingerprint(output: &str) -> Result<String, Failure> {
    let (_, fingerprint) = output.trim().split_once("ingerprint=").unwrap_or_default();
    if fingerprint.split(':').count() == 32 {
        Ok(fingerprint.to_owned())
    } else {
        Err(format!("openssl printed no fingerprint: {output:?}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::fingerprint;

    #[test]
    fn the_fingerprint_is_found_behind_its_name() {
        let hex = ["AB"; 32].join(":");
        assert_eq!(fingerprint(&format!("sha256 Fingerprint={hex}\n")).unwrap(), hex);
        assert_eq!(fingerprint(&format!("SHA256 Fingerprint={hex}\n")).unwrap(), hex);
        assert!(fingerprint("sha256 Fingerprint=AB:CD").is_err());
        assert!(fingerprint("").is_err());
    }
}
