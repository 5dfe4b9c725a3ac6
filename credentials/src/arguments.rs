//! `--tls`, `--tls-ca`, `--tls-cert`, `--tls-key` and `--token-file`, and what follows from them. Off one machine there is
//! no way to speak or listen in plain text.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::bundle::Bundle;
use crate::client::Client;
use crate::page::{Page, PageKeys};
use crate::pem::{inline, read_secret};
use crate::role::Role;
use crate::server::Server;
use crate::token::Token;

/// Who this is, and whom it trusts.
#[derive(Args, Clone, Debug, Default)]
#[group(skip)]
pub struct Arguments {
    /// Whether connections are proved and encrypted: auto is if credentials are given, and plain text without, which
    /// works on one machine only
    #[arg(long, value_enum, default_value_t = Mode::Auto, env = "BEGAN_TLS")]
    pub tls: Mode,
    /// The certificate of the run's authority (PEM): whom to trust
    #[arg(long, env = "BEGAN_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The own certificate (PEM)
    #[arg(long, env = "BEGAN_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The key to it (PEM)
    #[arg(long, env = "BEGAN_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The run token, for a run without certificates
    #[arg(long, env = "BEGAN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// `--tls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// If credentials are given
    #[default]
    Auto,
    /// Plain text, on one machine
    Off,
    /// Always
    Required,
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentsError {
    /// Plain text off this machine.
    #[error(
        "{0} is reachable from other machines, and nothing listens there without credentials: give --tls-ca, --tls-cert and \
         --tls-key, or --token-file; or listen on 127.0.0.1"
    )]
    Exposed(SocketAddr),
    /// Nothing to prove anything with.
    #[error("--tls required: there is nothing to show; give --tls-ca, --tls-cert and --tls-key, or --token-file")]
    NothingGiven,
    /// A certificate without its key, or the other way round.
    #[error("--tls-cert and --tls-key belong together, and one of them is missing")]
    Half,
    /// A server that would let nobody in.
    #[error("--tls-ca is missing: without it, or --token-file, nobody could be let in")]
    Nobody,
    /// One who could prove nothing.
    #[error("--tls-ca alone shows nobody who this is: give --tls-cert and --tls-key, or --token-file")]
    Anonymous,
    /// A file.
    #[error("{flag} {error}")]
    File {
        /// Which.
        flag: &'static str,
        /// With the file's name.
        error: std::io::Error,
    },
    /// What is in it.
    #[error("--tls-ca: {0}")]
    Authority(String),
    /// What is in it.
    #[error("--tls-cert: {0}")]
    Certificate(String),
    /// What is in it.
    #[error("--tls-key: {0}")]
    Key(String),
    /// Something that should not be.
    #[error("cannot set up TLS: {0}")]
    Cannot(String),
}

impl Arguments {
    /// How to listen on these addresses.
    ///
    /// # Errors
    /// If that would be plain text off this machine, or what is given cannot be used.
    pub fn server(&self, listen: &[SocketAddr]) -> Result<Server, ArgumentsError> {
        if self.is_given() && self.tls != Mode::Off {
            let token = self.token()?;
            return match (self.bundle()?, &token) {
                (None, None) => Err(ArgumentsError::Anonymous),
                (bundle, _) => Server::secure(bundle.as_ref(), token),
            };
        }
        if self.tls == Mode::Required {
            return Err(ArgumentsError::NothingGiven);
        }
        match listen.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
            Some(exposed) => Err(ArgumentsError::Exposed(*exposed)),
            None => Ok(Server::plain()),
        }
    }

    /// How to serve the page on these addresses.
    ///
    /// # Errors
    /// As [`Arguments::server`].
    pub fn page(&self, listen: &[SocketAddr]) -> Result<Page, ArgumentsError> {
        if self.is_given() && self.tls != Mode::Off {
            return Page::secure(self.bundle()?.as_ref(), self.token()?.as_ref());
        }
        self.server(listen).map(|_| Page::plain())
    }

    /// The page keys of a coordinator that was told the same; none where it asks for none.
    ///
    /// # Errors
    /// If what is given cannot be used.
    pub fn page_keys(&self) -> Result<Option<PageKeys>, ArgumentsError> {
        if !self.is_given() || self.tls == Mode::Off {
            return Ok(None);
        }
        Ok(PageKeys::of(self.bundle()?.as_ref(), self.token()?.as_ref()))
    }

    /// How to speak to a coordinator; `role`: as what, where only the token is shown.
    ///
    /// # Errors
    /// If what is given cannot be used, or nothing is and something has to be.
    pub fn client(&self, role: Role) -> Result<Client, ArgumentsError> {
        if !self.is_given() || self.tls == Mode::Off {
            return if self.tls == Mode::Required { Err(ArgumentsError::NothingGiven) } else { Ok(Client::plain()) };
        }
        match (self.bundle()?, self.token()?) {
            (Some(bundle), _) if bundle.authority.is_empty() => Err(ArgumentsError::Nobody),
            (Some(bundle), _) => Client::with_certificate(&bundle),
            (None, Some(token)) => Client::with_token(token, role, self.authority()?.as_deref()),
            (None, None) => Err(ArgumentsError::Anonymous),
        }
    }

    /// Whether there is anything to show.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.tls_ca.is_some() || self.tls_cert.is_some() || self.tls_key.is_some() || self.token_file.is_some()
    }

    /// What tells a program that is started here the same.
    #[must_use]
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let tls = self.tls.to_possible_value().map(|value| value.get_name().into());
        let path = |path: &Option<PathBuf>| path.clone().map(OsString::from);
        let all = [
            ("BEGAN_TLS", tls),
            ("BEGAN_TLS_CA", path(&self.tls_ca)),
            ("BEGAN_TLS_CERT", path(&self.tls_cert)),
            ("BEGAN_TLS_KEY", path(&self.tls_key)),
            ("BEGAN_TOKEN_FILE", path(&self.token_file)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// The folder that the own certificate lies in, if it lies in one.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        let certificate = self.tls_cert.as_deref().filter(|path| inline(path).is_none())?;
        std::path::absolute(certificate).ok()?.parent().map(Path::to_path_buf)
    }

    fn token(&self) -> Result<Option<Token>, ArgumentsError> {
        let read = self.token_file.as_deref().map(Token::read).transpose();
        read.map_err(|error| ArgumentsError::File { flag: "--token-file", error })
    }

    fn authority(&self) -> Result<Option<String>, ArgumentsError> {
        self.tls_ca.as_deref().map(|path| read("--tls-ca", path)).transpose()
    }

    fn bundle(&self) -> Result<Option<Bundle>, ArgumentsError> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => Ok(Some(Bundle {
                authority: self.authority()?.unwrap_or_default(),
                certificate: read("--tls-cert", certificate)?,
                key: read("--tls-key", key)?,
            })),
            _ => Err(ArgumentsError::Half),
        }
    }
}

fn read(flag: &'static str, path: &Path) -> Result<String, ArgumentsError> {
    read_secret(path).map_err(|error| ArgumentsError::File { flag, error })
}
