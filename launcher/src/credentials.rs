//! The credentials of a launch: made at its start, handed to every process that it starts, gone with it.
//!
//! The authority's key stays in this process's memory. What processes of this machine and user need lies in a private folder
//! outside the run's directory (which people copy around and share): `$XDG_STATE_HOME/began/tls/`, or
//! `~/.local/state/began/tls/`, one folder a launch, removed at its end. Other machines get theirs over the pipe to their agent
//! ([`Credentials::line_for`]), and there it stays in the environment of the processes. It must never be on a command line.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use began_credentials::bundle::{ENVIRONMENT, Paths, private_folder};
use began_credentials::{Arguments, Authority, Bundle, Client, Mode, PageKeys, Role, Token};
use began_record::{Announcement, RunDir};
use serde::{Deserialize, Serialize};

use crate::watch::Contact;

/// A folder whose launcher does not hold it is swept away, but not one that is being made.
const BEING_MADE: Duration = Duration::from_secs(60);

/// What the processes of a launch prove themselves with.
#[derive(Debug)]
pub enum Credentials {
    /// Nothing: all of them are on this machine.
    Plain,
    /// Certificates of the launch's own authority.
    Certificates(Box<Certificates>),
    /// One token for all.
    Token(PathBuf),
}

/// See [`Credentials::Certificates`].
#[derive(Debug)]
pub struct Certificates {
    authority: Authority,
    folder: PathBuf,
    /// Held while the folder is in use.
    _held: File,
}

/// What one party gets over a pipe, to be kept in memory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Handed {
    /// It shows a certificate.
    Certificate(Bundle),
    /// It holds the run token.
    Token(String),
}

/// Certificates for a launch of `run`. `names`: the addresses and host names at which its coordinator will be reached.
///
/// # Errors
/// If there is no private folder for them.
pub fn make(run: &str, names: &[String]) -> Result<Credentials> {
    make_in(&state_folder()?, run, names)
}

fn make_in(base: &Path, run: &str, names: &[String]) -> Result<Credentials> {
    private_folder(base).context("there is no private folder for certificates")?;
    sweep(base);
    let folder = base.join(format!("{run}-{}", std::process::id()));
    private_folder(&folder).context("there is no private folder for certificates")?;
    let held = hold(&folder)?;
    let authority = Authority::new(run).context("cannot make an authority")?;
    for role in Role::ALL {
        authority
            .issue(role, names)
            .with_context(|| format!("cannot make the {role}'s certificate"))?
            .write(&folder, role)?;
    }
    Ok(Credentials::Certificates(Box::new(Certificates { authority, folder, _held: held })))
}

impl Credentials {
    /// What a launch works with: certificates where they are required, or where its coordinator is to be reached from other
    /// machines; a token where one is given.
    ///
    /// # Errors
    /// If they cannot be made, or plain text is asked for where it is not spoken.
    pub fn for_launch(tls: Mode, token: Option<&Path>, run: &str, names: &[String], exposed: bool) -> Result<Self> {
        match (tls, token) {
            (Mode::Off, _) if exposed => {
                bail!("--tls off: plain text is for one machine only, and this run is on several")
            }
            (Mode::Off, _) => Ok(Self::Plain),
            (_, Some(token)) => {
                Token::read(token).context("--token-file")?;
                Ok(Self::Token(std::path::absolute(token)?))
            }
            (Mode::Required, None) => make(run, names),
            (Mode::Auto, None) if exposed => make(run, names),
            (Mode::Auto, None) => Ok(Self::Plain),
        }
    }

    /// What is to be in the environment of a process of this machine that is to be in this role.
    #[must_use]
    pub fn environment_for(&self, role: Role) -> Vec<(&'static str, OsString)> {
        match self {
            Self::Plain => Vec::new(),
            Self::Certificates(made) => Paths::of(&made.folder, role).environment(),
            Self::Token(path) => vec![("BEGAN_TLS", "required".into()), ("BEGAN_TOKEN_FILE", path.into())],
        }
    }

    /// Puts that into a command's environment, in place of what this process was told about itself.
    pub fn tell(&self, command: &mut tokio::process::Command, role: Role) {
        forget(command);
        command.envs(self.environment_for(role));
    }

    /// For a process on another machine: one line, to be sent over a pipe, which [`environment_from`] reads there. Every
    /// machine gets a certificate of its own. Nothing where nothing has to be proved.
    ///
    /// # Errors
    /// If the token cannot be read, or a certificate not be made.
    pub fn line_for(&self, role: Role) -> Result<Option<String>> {
        let handed = match self {
            Self::Plain => return Ok(None),
            Self::Certificates(made) => Handed::Certificate(made.authority.issue(role, &[])?),
            Self::Token(path) => {
                Handed::Token(std::fs::read_to_string(path).context("--token-file")?.trim().to_owned())
            }
        };
        Ok(Some(serde_json::to_string(&handed)?))
    }

    /// The certificates of a role, for a Secret; nothing where there are none.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn bundle_for(&self, role: Role, names: &[String]) -> Result<Option<Bundle>> {
        match self {
            Self::Certificates(made) => Ok(Some(made.authority.issue(role, names)?)),
            _ => Ok(None),
        }
    }

    /// The keys to the coordinator's page; none where it asks for none.
    ///
    /// # Errors
    /// If the files are gone.
    pub fn page_keys(&self) -> Result<Option<PageKeys>> {
        Ok(match self {
            Self::Plain => None,
            Self::Certificates(made) => of_files(&Paths::of(&made.folder, Role::Coordinator)).page_keys()?,
            Self::Token(path) => PageKeys::of(None, Some(&Token::read(path)?)),
        })
    }

    /// How this process speaks to the coordinator: it may steer the run.
    ///
    /// # Errors
    /// If the files are gone.
    pub fn client(&self) -> Result<Client> {
        Ok(match self {
            Self::Plain => Client::plain(),
            Self::Certificates(made) => Client::with_certificate(&made.authority.issue(Role::Control, &[])?)?,
            Self::Token(path) => Client::with_token(Token::read(path)?, Role::Control, None)?,
        })
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Takes everything out of a command's environment that this process was told about itself.
pub fn forget(command: &mut tokio::process::Command) {
    for name in ENVIRONMENT {
        command.env_remove(name);
    }
}

/// What the line of [`Credentials::line_for`] puts into the environment of processes that are started here. It stays in
/// memory: nothing is written on this machine.
///
/// # Errors
/// If it is no such line; the error does not repeat it.
pub fn environment_from(line: &str) -> Result<Vec<(&'static str, OsString)>> {
    // The parser's own words could hold a part of a key.
    let Ok(handed) = serde_json::from_str(line) else { bail!("what was handed over are no credentials") };
    let data = |text: String| OsString::from(format!("data:{text}"));
    Ok(match handed {
        Handed::Certificate(Bundle { authority, certificate, key }) => vec![
            ("BEGAN_TLS", "required".into()),
            ("BEGAN_TLS_CA", data(authority)),
            ("BEGAN_TLS_CERT", data(certificate)),
            ("BEGAN_TLS_KEY", data(key)),
        ],
        Handed::Token(token) => vec![("BEGAN_TLS", "required".into()), ("BEGAN_TOKEN_FILE", data(token))],
    })
}

/// What tells the same as the files of a role.
#[must_use]
pub fn of_files(files: &Paths) -> Arguments {
    Arguments {
        tls: Mode::Required,
        tls_ca: Some(files.authority.clone()),
        tls_cert: Some(files.certificate.clone()),
        tls_key: Some(files.key.clone()),
        token_file: None,
    }
}

/// How to reach the coordinator of a run: with what is `given`, or else with what lies where the coordinator says that its
/// credentials are.
///
/// # Errors
/// If it wants credentials and there are none here.
pub fn contact(announcement: &Announcement, given: &Arguments) -> Result<Contact> {
    let address = announcement.address.clone();
    if !announcement.tls || given.is_given() {
        return Ok(Contact { address, credentials: given.client(Role::Control)? });
    }
    let folder = announcement.credentials.as_deref();
    let files = folder.map(|folder| Paths::of(folder, Role::Control)).filter(|files| files.key.exists());
    let Some(files) = files else {
        let place =
            folder.map_or_else(String::new, |folder| format!(" (the launch keeps some in {})", folder.display()));
        bail!(
            "the coordinator at {address} wants to know who asks, and there are no credentials here{place}: give --tls-ca, \
             --tls-cert and --tls-key, or --token-file"
        );
    };
    Ok(Contact { address, credentials: of_files(&files).client(Role::Control)? })
}

/// The same, for the coordinator that a run has announced, if it has.
///
/// # Errors
/// If the announcement cannot be read, or there are no credentials.
pub fn contact_of(run: &RunDir, given: &Arguments) -> Result<Option<Contact>> {
    run.announcement()?.map(|announcement| contact(&announcement, given)).transpose()
}

fn state_folder() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
    let state = state.context("there is no private folder for certificates: set HOME or XDG_STATE_HOME")?;
    Ok(state.join("began/tls"))
}

/// Marks a folder as in use by this process, for as long as the file is open.
fn hold(folder: &Path) -> Result<File> {
    let file = File::create(folder.join("held")).with_context(|| folder.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(error) => bail!("{} is in use already: {error}", folder.display()),
    }
}

/// Removes what launches that were killed have left behind.
fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|about| about.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > BEING_MADE));
        let left = || File::open(entry.path().join("held")).is_ok_and(|file| file.try_lock().is_ok());
        if old && left() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_launch_has_a_folder_of_its_own_that_goes_with_it() -> Result<()> {
        let base = tempfile::tempdir()?;
        let made = make_in(base.path(), "abc", &["10.0.0.1".into()])?;
        let environment = made.environment_for(Role::Trainer);
        let key = environment.iter().find(|(name, _)| *name == "BEGAN_TLS_KEY").map(|(_, path)| PathBuf::from(path));
        let key = key.context("no key")?;
        assert!(key.ends_with("trainer.key") && key.is_file(), "{key:?}");
        let lying: Vec<_> =
            std::fs::read_dir(key.parent().context("no folder")?)?.flatten().map(|f| f.file_name()).collect();
        assert_eq!(lying.len(), 2 * Role::ALL.len() + 2, "the authority's key lies there: {lying:?}");
        drop(made);
        assert!(!key.exists());
        Ok(())
    }

    #[test]
    fn what_a_killed_launch_left_is_swept_away_and_what_is_in_use_is_not() -> Result<()> {
        let base = tempfile::tempdir()?;
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        for name in ["left-1", "used-2"] {
            private_folder(&base.path().join(name))?;
        }
        drop(hold(&base.path().join("left-1"))?);
        let _held = hold(&base.path().join("used-2"))?;
        for name in ["left-1", "used-2"] {
            File::open(base.path().join(name))?.set_modified(long_ago)?;
        }
        sweep(base.path());
        assert!(!base.path().join("left-1").exists() && base.path().join("used-2").exists());
        Ok(())
    }

    #[test]
    fn what_is_handed_over_a_pipe_is_one_line_and_becomes_an_environment() -> Result<()> {
        let base = tempfile::tempdir()?;
        let line = make_in(base.path(), "abc", &[])?.line_for(Role::Trainer)?.context("nothing to hand over")?;
        assert!(!line.contains('\n'));
        let environment = environment_from(&line)?;
        assert_eq!(environment.len(), 4);
        let read = Arguments {
            tls: Mode::Required,
            tls_ca: Some(environment[1].1.clone().into()),
            tls_cert: Some(environment[2].1.clone().into()),
            tls_key: Some(environment[3].1.clone().into()),
            token_file: None,
        };
        assert!(read.client(Role::Trainer)?.is_secure());
        let error = environment_from(&line[..line.len() - 40]).err().map(|error| format!("{error:#}"));
        assert!(error.is_some_and(|error| error.len() < 60), "it repeats what it could not read");
        Ok(())
    }

    #[test]
    fn off_one_machine_there_are_credentials_whether_asked_for_or_not() {
        let off = Credentials::for_launch(Mode::Off, None, "r", &[], true).err().map(|error| error.to_string());
        assert!(off.is_some_and(|why| why.contains("one machine")));
        assert!(matches!(Credentials::for_launch(Mode::Auto, None, "r", &[], false), Ok(Credentials::Plain)));
    }
}
