//! What one party needs to prove who it is: the authority's certificate, its own, and its key. As text it is handed to
//! another machine over a pipe; as files only their owner can read them.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::role::Role;

/// See the module. All three are PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The certificate of the run's authority.
    pub authority: String,
    /// The party's own.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// Where the files of a bundle are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Of the authority.
    pub authority: PathBuf,
    /// Of the party.
    pub certificate: PathBuf,
    /// Of the party's key.
    pub key: PathBuf,
}

impl Paths {
    /// Where the files of a role are in a folder: `ca.pem`, `trainer.pem`, `trainer.key`.
    #[must_use]
    pub fn of(folder: &Path, role: Role) -> Self {
        let named = |ending: &str| folder.join(format!("{role}.{ending}"));
        Self { authority: folder.join("ca.pem"), certificate: named("pem"), key: named("key") }
    }

    /// What tells a program that is started where they are.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, std::ffi::OsString)> {
        vec![
            ("BEGAN_TLS", "required".into()),
            ("BEGAN_TLS_CA", self.authority.clone().into()),
            ("BEGAN_TLS_CERT", self.certificate.clone().into()),
            ("BEGAN_TLS_KEY", self.key.clone().into()),
        ]
    }
}

/// Everything in a program's environment that tells it who it is. Taken out before another is told something else.
pub const ENVIRONMENT: [&str; 5] = ["BEGAN_TLS", "BEGAN_TLS_CA", "BEGAN_TLS_CERT", "BEGAN_TLS_KEY", "BEGAN_TOKEN_FILE"];

impl Bundle {
    /// Writes its files into a folder that only its owner can look into; the folder is made if need be.
    ///
    /// # Errors
    /// If it cannot be written, or is a folder that others may write to.
    pub fn write(&self, folder: &Path, role: Role) -> io::Result<Paths> {
        private_folder(folder)?;
        let paths = Paths::of(folder, role);
        write_private(&paths.authority, &self.authority)?;
        write_private(&paths.certificate, &self.certificate)?;
        write_private(&paths.key, &self.key)?;
        Ok(paths)
    }
}

/// Makes a folder that only its owner can look into.
///
/// # Errors
/// If it cannot be made, or what is there may be looked into by others and that cannot be changed.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(named)?;
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)).map_err(named)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    // Made anew: what lay there may be somebody else's, or a link.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(named)
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;

    #[test]
    fn only_their_owner_can_read_the_files_and_the_key_is_not_shown() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let private = folder.path().join("a/b");
        let bundle = Authority::new("run")?.issue(Role::Trainer, &[])?;
        bundle.write(&private, Role::Trainer)?;
        let paths = bundle.write(&private, Role::Trainer)?;
        let mode = |path: &Path| std::fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
        assert_eq!((mode(&private)?, mode(&paths.key)?), (0o700, 0o600));
        assert_eq!(std::fs::read_to_string(&paths.key)?, bundle.key);
        assert!(!format!("{bundle:?}").contains("PRIVATE"));
        Ok(())
    }
}
