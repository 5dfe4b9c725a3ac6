//! The other end: who asks a coordinator for something, and proves who it is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower_service::Service;

use crate::arguments::ArgumentsError;
use crate::bundle::Bundle;
use crate::role::Role;
use crate::server::{GRPC, roots};
use crate::stream::Stream;
use crate::token::{self, PROOF, Side, Token};
use crate::{COORDINATOR_NAME, pem, provider};

/// How long a connection may take until both sides have shown who they are.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Clone, Default)]
pub struct Client(Option<Secured>);

#[derive(Clone)]
struct Secured {
    connector: TlsConnector,
    token: Option<(Token, Role)>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            None => "plain text",
            Some(Secured { token: None, .. }) => "a certificate",
            Some(_) => "a run token",
        })
    }
}

impl Client {
    /// One who shows nothing, and so is heard on its own machine only.
    #[must_use]
    pub fn plain() -> Self {
        Self(None)
    }

    /// One who shows a certificate, and speaks only to a coordinator of the same authority.
    ///
    /// # Errors
    /// If certificate and key are none, or do not belong together.
    pub fn with_certificate(bundle: &Bundle) -> Result<Self, ArgumentsError> {
        let certificates = pem::certificates(&bundle.certificate).map_err(ArgumentsError::Certificate)?;
        let key = pem::key(&bundle.key).map_err(ArgumentsError::Key)?;
        let mut config = builder()?
            .with_root_certificates(roots(&bundle.authority)?)
            .with_client_auth_cert(certificates, key)
            .map_err(|error| ArgumentsError::Certificate(error.to_string()))?;
        config.alpn_protocols = vec![GRPC.to_vec()];
        Ok(Self::over(config, None))
    }

    /// One who holds the run token, and speaks only to a coordinator that holds it too; with an authority, only to one whose
    /// certificate is of it besides.
    ///
    /// # Errors
    /// If the authority's certificate is none.
    pub fn with_token(token: Token, role: Role, authority: Option<&str>) -> Result<Self, ArgumentsError> {
        let builder = builder()?;
        let mut config = match authority {
            Some(authority) => builder.with_root_certificates(roots(authority)?).with_no_client_auth(),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(KnownByToken)).with_no_client_auth(),
        };
        config.alpn_protocols = vec![token::PROTOCOL.to_vec()];
        Ok(Self::over(config, Some((token, role))))
    }

    fn over(mut config: ClientConfig, token: Option<(Token, Role)>) -> Self {
        config.resumption = rustls::client::Resumption::disabled();
        Self(Some(Secured { connector: TlsConnector::from(Arc::new(config)), token }))
    }

    /// Whether it shows anything.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.is_some()
    }

    /// A connection to `host:port`, on which both sides have shown who they are.
    ///
    /// # Errors
    /// If nobody answers there, it is not who it should be, or it would be plain text off this machine.
    pub async fn open(&self, address: &str) -> io::Result<Stream> {
        let late = |_| {
            let why = format!("{address} had not shown who it is within {} s", PATIENCE.as_secs());
            io::Error::new(io::ErrorKind::TimedOut, why)
        };
        tokio::time::timeout(PATIENCE, self.shown(address)).await.map_err(late)?
    }

    async fn shown(&self, address: &str) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let Some(Secured { connector, token }) = &self.0 else {
            let peer = stream.peer_addr()?.ip().to_canonical();
            if !peer.is_loopback() {
                let why = format!(
                    "{address} is another machine, and plain text is for one machine only: give --tls-ca, --tls-cert and \
                     --tls-key, or --token-file"
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            return Ok(Stream::Plain(stream));
        };
        let name = ServerName::try_from(COORDINATOR_NAME).map_err(io::Error::other)?;
        let mut stream = connector.connect(name, stream).await?;
        if let Some((token, role)) = token {
            let (_, connection) = stream.get_ref();
            if connection.alpn_protocol() != Some(token::PROTOCOL) {
                return Err(io::Error::other(format!("{address} does not take a run token")));
            }
            let binding = token::binding(connection)?;
            stream.write_all(&token.prove(*role, &binding)).await?;
            stream.flush().await?;
            let mut proof = [0; PROOF];
            let refused = |error: io::Error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other(format!("{address} refused the run token")),
                _ => error,
            };
            stream.read_exact(&mut proof).await.map_err(refused)?;
            if !token.check(Side::Coordinator, *role, &binding, &proof) {
                let why = format!("whoever answers at {address} does not hold the run token");
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
        }
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// A gRPC channel to `host:port`; `endpoint` for everything but where it goes.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub async fn connect(&self, endpoint: Endpoint, address: &str) -> Result<Channel, tonic::transport::Error> {
        endpoint.connect_with_connector(Dial { client: self.clone(), address: address.into() }).await
    }
}

/// Opens connections for a channel, which may want another when one breaks.
struct Dial {
    client: Client,
    address: Arc<str>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (client, address) = (self.client.clone(), self.address.clone());
        Box::pin(async move { client.open(&address).await.map(TokioIo::new) })
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, ArgumentsError> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| ArgumentsError::Cannot(error.to_string()))
}

/// Takes any certificate: the coordinator is known by its proof of the run token, which is bound to this connection, so
/// that nobody in the middle can pass it on.
#[derive(Debug)]
struct KnownByToken;

impl ServerCertVerifier for KnownByToken {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
