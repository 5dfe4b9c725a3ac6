//! The page's end of a connection. Browsers come without a certificate, so that TLS lets them in with or without one; who
//! showed none has to hold a page key, which the page asks for with each request.
//!
//! A page key stands for one role and opens nothing but the page: neither the run token nor a private key follows from it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{digest, hmac};
use rustls::ServerConfig;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::arguments::ArgumentsError;
use crate::bundle::Bundle;
use crate::refusal::Refusal;
use crate::role::Role;
use crate::server::{as_token_holder, role_in, roots};
use crate::stream::Stream;
use crate::token::Token;
use crate::{pem, provider};

/// Bytes of a page key: beyond guessing.
const KEY: usize = 24;
/// What it is derived from, beside the secret.
const LABEL: &str = "began page key 1: ";

/// The page keys of a run: one for those who steer it, one for those who look on.
#[derive(Clone)]
pub struct PageKeys {
    control: String,
    observer: String,
}

impl PageKeys {
    /// Of the run token, or else of the coordinator's private key; none where there is neither.
    #[must_use]
    pub fn of(bundle: Option<&Bundle>, token: Option<&Token>) -> Option<Self> {
        let of_bundle = |bundle: &Bundle| hmac::Key::new(hmac::HMAC_SHA256, bundle.key.trim().as_bytes());
        let secret = token.map(Token::secret).cloned().or_else(|| bundle.map(of_bundle))?;
        let key = |role: Role| {
            let tag = hmac::sign(&secret, format!("{LABEL}{role}").as_bytes());
            URL_SAFE_NO_PAD.encode(&tag.as_ref()[..KEY])
        };
        Some(Self { control: key(Role::Control), observer: key(Role::Observer) })
    }

    /// The key for a role, if it is one that comes with a browser.
    #[must_use]
    pub fn key(&self, role: Role) -> Option<&str> {
        match role {
            Role::Control => Some(&self.control),
            Role::Observer => Some(&self.observer),
            Role::Coordinator | Role::Trainer => None,
        }
    }

    /// The role that a key stands for; takes as long for any wrong one.
    #[must_use]
    pub fn role(&self, key: &str) -> Option<Role> {
        // Compared as MACs under a fresh key, so that neither content nor length shows in the time.
        let blind = hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).ok()?;
        let is = |known: &str| {
            let tag = hmac::sign(&blind, known.as_bytes());
            hmac::verify(&blind, key.as_bytes(), tag.as_ref()).is_ok()
        };
        let (control, observer) = (is(&self.control), is(&self.observer));
        if control { Some(Role::Control) } else { observer.then_some(Role::Observer) }
    }
}

impl fmt::Debug for PageKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PageKeys")
    }
}

/// See the module.
#[derive(Clone)]
pub struct Page {
    secure: Option<(TlsAcceptor, PageKeys, String)>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure.is_some() { "HTTPS" } else { "plain HTTP" })
    }
}

impl Page {
    /// Whoever comes is let in, with all rights: for one machine.
    #[must_use]
    pub fn plain() -> Self {
        Self { secure: None }
    }

    /// HTTPS with `bundle`'s certificate, or one made for the occasion where there is only a token.
    ///
    /// # Errors
    /// If certificate and key are none, or do not belong together; if there is neither a bundle nor a token.
    pub fn secure(bundle: Option<&Bundle>, token: Option<&Token>) -> Result<Self, ArgumentsError> {
        let keys = PageKeys::of(bundle, token).ok_or(ArgumentsError::NothingGiven)?;
        let own;
        let bundle = match bundle {
            Some(bundle) => bundle,
            None => {
                own = as_token_holder()?;
                &own
            }
        };
        let verifier = match bundle.authority.as_str() {
            "" => Arc::new(NoClientAuth),
            authority => WebPkiClientVerifier::builder_with_provider(roots(authority)?.into(), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| ArgumentsError::Authority(error.to_string()))?,
        };
        let certificates = pem::certificates(&bundle.certificate).map_err(ArgumentsError::Certificate)?;
        let shown = certificates.first().ok_or_else(|| ArgumentsError::Certificate("there is none in it".into()))?;
        let fingerprint = fingerprint(shown);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ArgumentsError::Cannot(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, pem::key(&bundle.key).map_err(ArgumentsError::Key)?)
            .map_err(|error| ArgumentsError::Certificate(error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self { secure: Some((TlsAcceptor::from(Arc::new(config)), keys, fingerprint)) })
    }

    /// Whether a visitor has to show anything; if so, TLS is spoken.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// The keys, where a visitor has to show something.
    #[must_use]
    pub fn keys(&self) -> Option<&PageKeys> {
        self.secure.as_ref().map(|(_, keys, _)| keys)
    }

    /// SHA-256 of the certificate that browsers are shown, in hexadecimal pairs.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.secure.as_ref().map(|(_, _, fingerprint)| fingerprint.as_str())
    }

    /// Takes a connection: and who it is, where a certificate says so.
    ///
    /// # Errors
    /// If TLS fails, or takes longer than `patience`.
    pub async fn admit(&self, stream: TcpStream, patience: Duration) -> Result<(Stream, Option<Role>), Refusal> {
        let Some((acceptor, ..)) = &self.secure else { return Ok((Stream::Plain(stream), None)) };
        let shaken = tokio::time::timeout(patience, acceptor.accept(stream)).await;
        let stream = shaken.map_err(|_| Refusal::Late(patience.as_secs()))??;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let role = shown.and_then(role_in).filter(|&role| role != Role::Coordinator);
        Ok((Stream::Tls(Box::new(stream.into())), role))
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_key_stands_for_one_role_of_one_run_and_is_the_same_again() -> Result<(), Box<dyn std::error::Error>> {
        let token = Token::new(&"k".repeat(40))?;
        let keys = PageKeys::of(None, Some(&token)).ok_or("no keys")?;
        let again = PageKeys::of(None, Some(&Token::new(&"k".repeat(40))?)).ok_or("no keys")?;
        let other = PageKeys::of(None, Some(&Token::new(&"x".repeat(40))?)).ok_or("no keys")?;
        for role in [Role::Control, Role::Observer] {
            let key = keys.key(role).ok_or("no key")?;
            assert_eq!((keys.role(key), again.role(key), other.role(key)), (Some(role), Some(role), None));
            assert_eq!(keys.role(&key[1..]), None);
        }
        assert_eq!((keys.role(""), keys.key(Role::Trainer), keys.key(Role::Coordinator)), (None, None, None));
        assert!(PageKeys::of(None, None).is_none());
        assert_eq!(format!("{keys:?}"), "PageKeys");
        Ok(())
    }
}
