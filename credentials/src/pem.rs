//! Reading certificates and secrets from text and files, with errors that name the file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// No file of certificates is larger.
const LARGEST: u64 = 1 << 20;

/// What a path says itself, in place of a file: `data:` and a text. So that a secret that came over a pipe can go on in an
/// environment, and lies nowhere.
pub(crate) fn inline(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix("data:")
}

/// The text of a file of certificates or of a secret.
pub(crate) fn read_secret(path: &Path) -> io::Result<String> {
    if let Some(text) = inline(path) {
        return Ok(text.to_owned());
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text)).map_err(named)?;
    if read as u64 > LARGEST {
        return Err(named(io::Error::new(io::ErrorKind::InvalidData, "it is larger than any certificate or key")));
    }
    Ok(text)
}

/// The certificates in a text, at least one.
pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in it".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("it is not PEM: {error}")),
    }
}

/// The private key in a text.
pub(crate) fn key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("there is no private key in it: {error}"))
}
