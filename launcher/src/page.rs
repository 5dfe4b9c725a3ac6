//! `launcher page`, and the line at a launch's start: where a run's page is, with the key that opens it.
//!
//! A key opens the page for whoever reads it: it is shown to a person at a terminal or who asks for it, and is in no log.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use began_credentials::bundle::Paths;
use began_credentials::{Arguments, PageKeys, Role};
use began_record::{Announcement, RunDir};

use crate::cli::PageArgs;
use crate::credentials::{self, Credentials};
use crate::launch::Listening;

/// Where a page is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `http://HOST:PORT/` or `https://HOST:PORT/`.
    pub url: String,
    /// The key for it, if it asks for one and it is known.
    pub key: Option<String>,
    /// SHA-256 of its certificate, if it has one.
    pub fingerprint: Option<String>,
}

impl Place {
    /// Of the page of a coordinator that said where it listens, if it serves one.
    ///
    /// # Errors
    /// If its credentials are gone.
    pub fn of(listening: &Listening, credentials: &Credentials) -> Result<Option<Self>> {
        let Some(url) = &listening.page else { return Ok(None) };
        let keys = credentials.page_keys()?;
        let key = keys.as_ref().and_then(|keys| keys.key(Role::Control)).map(str::to_owned);
        Ok(Some(Self { url: reachable(url), key, fingerprint: listening.fingerprint.clone() }))
    }

    /// The address with the key in it. What is behind `#` stays in the browser.
    #[must_use]
    pub fn with_key(&self) -> String {
        match &self.key {
            Some(key) => format!("{}#key={key}", self.url),
            None => self.url.clone(),
        }
    }
}

/// A page that listens everywhere is reached by this machine's name.
#[must_use]
pub fn reachable(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let everywhere = rest.trim_end_matches('/').parse::<SocketAddr>().ok().filter(|at| at.ip().is_unspecified());
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    match (everywhere, host) {
        (Some(at), Some(host)) => format!("{scheme}://{host}:{}/", at.port()),
        _ => url.into(),
    }
}

/// Whether others than this machine could reach an address.
#[must_use]
pub fn is_exposed(http: &str) -> bool {
    let here = |at: SocketAddr| at.ip().to_canonical().is_loopback();
    std::net::ToSocketAddrs::to_socket_addrs(http).is_ok_and(|mut addresses| !addresses.all(here))
}

/// `launcher page RUN`.
///
/// # Errors
/// If it is no run, or no coordinator serves a page of it, or its key cannot be told from here.
pub fn page(args: &PageArgs) -> Result<u8> {
    let run = RunDir::open(&args.run)?;
    let Some(announcement) = run.announcement()? else {
        bail!("no coordinator serves {}: `launcher diagnose` shows a run that is over", args.run.display());
    };
    let Some(url) = &announcement.page else {
        bail!(
            "the coordinator of {} serves no page: start or resume the run with --http HOST:PORT",
            args.run.display()
        );
    };
    let role = Role::from(args.role);
    let key = match url.starts_with("https://") {
        false => None,
        true => Some(keys(&announcement, &args.credentials)?.key(role).context("no key for that role")?.to_owned()),
    };
    let place = Place { url: reachable(url), key, fingerprint: None };
    writeln!(std::io::stdout(), "{}", place.with_key())?;
    Ok(0)
}

/// The keys of a coordinator's page: from its own credentials, given or where it says that they lie.
fn keys(announcement: &Announcement, given: &Arguments) -> Result<PageKeys> {
    let found = match given.is_given() {
        true => given.page_keys()?,
        false => {
            let folder = announcement.credentials.as_deref();
            let files = folder.map(|folder| Paths::of(folder, Role::Coordinator)).filter(|files| files.key.exists());
            files.map(|files| credentials::of_files(&files).page_keys()).transpose()?.flatten()
        }
    };
    found.context(
        "the page's key is derived from the coordinator's private key or the run token, and neither is here: run this where \
         the launcher or the coordinator runs, or give --token-file, or the coordinator's own --tls-cert and --tls-key",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_listens_everywhere_is_reached_by_the_machines_name_and_any_other_by_its_own_address() {
        let url = "http://127.0.0.1:7431/";
        assert_eq!(reachable(url), url);
        let named = reachable("https://0.0.0.0:7431/");
        assert!(named.starts_with("https://") && named.ends_with(":7431/") && !named.contains("0.0.0.0"), "{named}");
        let place = Place { url: url.into(), key: Some("k".into()), fingerprint: None };
        assert_eq!(place.with_key(), "http://127.0.0.1:7431/#key=k");
    }
}
