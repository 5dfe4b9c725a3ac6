//! The coordinator's end of a connection: lets somebody in, or says why not. Never with a word to the one outside beyond
//! TLS's own alert.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::{RootCertStore, pki_types::CertificateDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::arguments::ArgumentsError;
use crate::authority::Authority;
use crate::bundle::Bundle;
use crate::refusal::Refusal;
use crate::role::Role;
use crate::stream::Stream;
use crate::token::{self, PROOF, Side, Token};
use crate::{pem, provider};

/// What every gRPC connection begins with.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How gRPC is called in a handshake.
pub(crate) const GRPC: &[u8] = b"h2";

/// See the module.
#[derive(Clone)]
pub struct Server {
    acceptor: Option<TlsAcceptor>,
    token: Option<Token>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.in_words())
    }
}

impl Server {
    /// Whoever comes is let in, with all rights: for one machine.
    #[must_use]
    pub fn plain() -> Self {
        Self { acceptor: None, token: None }
    }

    /// Whoever shows a certificate of `authority` (by `bundle`), or holds `token`.
    ///
    /// # Errors
    /// If certificate and key are none, or do not belong together; if there is neither an authority nor a token.
    pub fn secure(bundle: Option<&Bundle>, token: Option<Token>) -> Result<Self, ArgumentsError> {
        let own;
        let (bundle, authority) = match (bundle, &token) {
            (Some(bundle), _) => (bundle, Some(bundle.authority.as_str()).filter(|text| !text.is_empty())),
            // Whoever holds the token knows us by it, not by this certificate.
            (None, Some(_)) => {
                own = as_token_holder()?;
                (&own, None)
            }
            (None, None) => return Err(ArgumentsError::NothingGiven),
        };
        let mut protocols = Vec::new();
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| ArgumentsError::Cannot(error.to_string()))?;
        let verifier = match authority {
            Some(authority) => {
                protocols.push(GRPC.to_vec());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(authority)?.into(), provider());
                // With a token too, who has no certificate may still hold that.
                let verifier = if token.is_some() { verifier.allow_unauthenticated() } else { verifier };
                verifier.build().map_err(|error| ArgumentsError::Authority(error.to_string()))?
            }
            None if token.is_some() => Arc::new(NoClientAuth),
            None => return Err(ArgumentsError::Nobody),
        };
        let certificates = pem::certificates(&bundle.certificate).map_err(ArgumentsError::Certificate)?;
        let key = pem::key(&bundle.key).map_err(ArgumentsError::Key)?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates, key)
            .map_err(|error| ArgumentsError::Certificate(error.to_string()))?;
        if token.is_some() {
            protocols.push(token::PROTOCOL.to_vec());
        }
        config.alpn_protocols = protocols;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self { acceptor: Some(TlsAcceptor::from(Arc::new(config))), token })
    }

    /// Whether anything has to be shown.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.acceptor.is_some()
    }

    /// What has to be shown, in words.
    #[must_use]
    pub fn in_words(&self) -> &'static str {
        match (&self.acceptor, &self.token) {
            (None, _) => "plain text",
            (Some(_), None) => "mutual TLS",
            (Some(_), Some(_)) => "TLS with a run token",
        }
    }

    /// Lets somebody in: the connection, and who it is; nobody in particular where nothing has to be shown.
    ///
    /// # Errors
    /// If it has no rights here, or shows nothing within `patience`.
    pub async fn admit(&self, stream: TcpStream, patience: Duration) -> Result<(Stream, Option<Role>), Refusal> {
        let admitted = async {
            match &self.acceptor {
                None => preface(&stream).await.map(|()| (Stream::Plain(stream), None)),
                Some(acceptor) => self.shown(acceptor, stream).await.map(|(stream, role)| (stream, Some(role))),
            }
        };
        tokio::time::timeout(patience, admitted).await.unwrap_or(Err(Refusal::Late(patience.as_secs())))
    }

    async fn shown(&self, acceptor: &TlsAcceptor, stream: TcpStream) -> Result<(Stream, Role), Refusal> {
        let mut stream = acceptor.accept(stream).await?;
        let (_, connection) = stream.get_ref();
        let role = if connection.alpn_protocol() == Some(token::PROTOCOL) {
            let token = self.token.as_ref().ok_or(Refusal::WrongProtocol)?;
            let binding = token::binding(connection)?;
            let mut said = [0; 1 + PROOF];
            stream.read_exact(&mut said).await?;
            let role = token.verify(&said, &binding).ok_or(Refusal::BadToken)?;
            stream.write_all(token.sign(Side::Coordinator, role, &binding).as_ref()).await?;
            stream.flush().await?;
            role
        } else {
            let shown = connection.peer_certificates().and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?;
            role_in(shown).filter(|&role| role != Role::Coordinator).ok_or(Refusal::NoRole)?
        };
        Ok((Stream::Tls(Box::new(stream.into())), role))
    }
}

/// A certificate for a coordinator that is known by the token it holds.
pub(crate) fn as_token_holder() -> Result<Bundle, ArgumentsError> {
    let made = Authority::new("token").and_then(|authority| authority.issue(Role::Coordinator, &[]));
    let bundle = made.map_err(|error| ArgumentsError::Cannot(error.to_string()))?;
    // Nobody else has a certificate of that authority.
    Ok(Bundle { authority: String::new(), ..bundle })
}

/// The one role that a certificate gives.
pub(crate) fn role_in(certificate: &CertificateDer<'_>) -> Option<Role> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut roles = certificate.valid_uri_names().filter_map(Role::from_uri);
    let role = roles.next();
    role.filter(|_| roles.next().is_none())
}

pub(crate) fn roots(authority: &str) -> Result<RootCertStore, ArgumentsError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(authority).map_err(ArgumentsError::Authority)? {
        roots.add(certificate).map_err(|error| ArgumentsError::Authority(error.to_string()))?;
    }
    Ok(roots)
}

/// Looks at what comes without taking it: only gRPC goes further, and only once its first words are all there.
async fn preface(stream: &TcpStream) -> Result<(), Refusal> {
    let mut seen = [0; PREFACE.len()];
    loop {
        stream.readable().await?;
        let there = stream.peek(&mut seen).await?;
        if there == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if seen[..there] != PREFACE[..there] {
            return Err(Refusal::NotGrpc);
        }
        if there == PREFACE.len() {
            return Ok(());
        }
        // What was seen stays readable: without a pause this would spin until the rest comes.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
