//! Both ends of real connections: who is let in, as whom, and why others are not.

use std::io;
use std::time::{Duration, SystemTime};

use began_credentials::authority::Validity;
use began_credentials::{Arguments, Authority, Bundle, Client, Mode, Refusal, Role, Server, Stream, Token};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What makes good arguments bad ones.
type Spoil<'a> = &'a dyn Fn(&mut Arguments);

const PATIENCE: Duration = Duration::from_secs(20);

/// What the server makes of one connection, and what the caller gets to see of it.
async fn meet<F: Future<Output = io::Result<Stream>>>(
    server: &Server,
    caller: impl FnOnce(String) -> F,
) -> Result<(std::result::Result<Option<Role>, Refusal>, io::Result<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let serving = async {
        let (stream, _) = listener.accept().await?;
        Ok::<_, io::Error>(match server.admit(stream, PATIENCE).await {
            Ok((mut stream, role)) => {
                stream.write_all(b"!").await?;
                stream.flush().await?;
                (Ok(role), Some(stream))
            }
            Err(refusal) => (Err(refusal), None),
        })
    };
    let calling = async {
        // With TLS 1.3 a caller learns that it was refused from its first read.
        let mut stream = caller(address).await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await.map(|_| ())
    };
    let (served, called) = tokio::time::timeout(PATIENCE, async { tokio::join!(serving, calling) }).await?;
    Ok((served?.0, called))
}

fn with(bundle: &Bundle) -> Result<Client> {
    Ok(Client::with_certificate(bundle)?)
}

fn mutual(authority: &Authority) -> Result<Server> {
    Ok(Server::secure(Some(&authority.issue(Role::Coordinator, &["127.0.0.1".into()])?), None)?)
}

/// One who speaks TLS and gRPC, and shows nothing.
async fn without_certificate(authority: &Authority, address: &str) -> io::Result<Stream> {
    let mut roots = rustls::RootCertStore::empty();
    let known = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).map_err(io::Error::other)?;
    roots.add(known).map_err(io::Error::other)?;
    let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(began_credentials::COORDINATOR_NAME).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    let stream = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await?;
    Ok(Stream::Tls(Box::new(stream.into())))
}

async fn refused(server: &Server, client: &Client) -> Result<Refusal> {
    let (served, called) = meet(server, async |address| client.open(&address).await).await?;
    assert!(called.is_err(), "the caller was answered");
    Ok(served.err().ok_or("it was let in")?)
}

#[tokio::test]
async fn whoever_shows_a_certificate_of_the_runs_authority_is_let_in_as_what_it_says() -> Result {
    let authority = Authority::new("run")?;
    let server = mutual(&authority)?;
    for role in [Role::Trainer, Role::Control, Role::Observer] {
        let client = with(&authority.issue(role, &[])?)?;
        let (served, called) = meet(&server, async |address| client.open(&address).await).await?;
        called?;
        assert_eq!(served?, Some(role));
    }
    Ok(())
}

#[tokio::test]
async fn a_missing_wrong_expired_or_misused_certificate_is_refused_by_name() -> Result {
    let authority = Authority::new("run")?;
    let server = mutual(&authority)?;
    let other = Authority::new("run")?;
    let mut forged = other.issue(Role::Trainer, &[])?;
    forged.authority = authority.certificate().to_owned();
    assert_eq!(refused(&server, &with(&forged)?).await?, Refusal::WrongAuthority);

    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let expired = Validity { from: now - 2 * hour, until: now - hour };
    let expired = authority.issue_for(Role::Trainer, &[], expired)?;
    assert_eq!(refused(&server, &with(&expired)?).await?, Refusal::Expired);
    let early = authority.issue_for(Role::Trainer, &[], Validity { from: now + hour, until: now + 2 * hour })?;
    assert_eq!(refused(&server, &with(&early)?).await?, Refusal::NotYetValid);

    // The coordinator's own certificate is for serving alone.
    let coordinator = authority.issue(Role::Coordinator, &[])?;
    assert_eq!(refused(&server, &with(&coordinator)?).await?, Refusal::NoRole);

    let (served, called) = meet(&server, async |address| without_certificate(&authority, &address).await).await?;
    assert_eq!((served, called.is_err()), (Err(Refusal::NoCertificate), true));

    // No certificate either: one that holds a token shows none, and this server takes none.
    let token = Client::with_token(Token::new(&"t".repeat(32))?, Role::Trainer, None)?;
    assert_eq!(refused(&server, &token).await?, Refusal::WrongProtocol);
    Ok(())
}

#[tokio::test]
async fn a_trainer_cannot_pass_for_the_coordinator_nor_can_another_runs_coordinator() -> Result {
    let authority = Authority::new("run")?;
    let client = with(&authority.issue(Role::Trainer, &[])?)?;
    for bundle in [authority.issue(Role::Trainer, &[])?, Authority::new("run")?.issue(Role::Coordinator, &[])?] {
        let server = Server::secure(Some(&bundle), None)?;
        let (served, called) = meet(&server, async |address| client.open(&address).await).await?;
        assert!(matches!(served, Err(Refusal::Mistrusted(_))), "{served:?}");
        assert!(called.is_err());
    }
    Ok(())
}

#[tokio::test]
async fn plain_text_silence_and_a_hang_up_are_refused_by_name() -> Result {
    let server = mutual(&Authority::new("run")?)?;
    let (served, called) = meet(&server, async |address| {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        Ok(Stream::Plain(stream))
    })
    .await?;
    assert_eq!(served, Err(Refusal::PlainText));
    // TLS's own alert, or nothing.
    assert!(called.is_ok() || called.is_err());
    let (served, _) = meet(&server, async |address| {
        drop(TcpStream::connect(address).await?);
        Err(io::Error::other("gone"))
    })
    .await?;
    assert_eq!(served, Err(Refusal::HungUp));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let _silent = TcpStream::connect(listener.local_addr()?).await?;
    let (stream, _) = listener.accept().await?;
    let late = server.admit(stream, Duration::from_millis(50)).await.map(|_| ());
    assert_eq!(late, Err(Refusal::Late(0)));
    Ok(())
}

#[tokio::test]
async fn whoever_holds_the_token_is_let_in_and_both_sides_prove_it() -> Result {
    let token = || Token::new(&"right".repeat(8));
    let server = Server::secure(None, Some(token()?))?;
    let client = Client::with_token(token()?, Role::Control, None)?;
    let (served, called) = meet(&server, async |address| client.open(&address).await).await?;
    called?;
    assert_eq!(served?, Some(Role::Control));

    let guess = Client::with_token(Token::new(&"wrong".repeat(8))?, Role::Control, None)?;
    assert_eq!(refused(&server, &guess).await?, Refusal::BadToken);

    // One who shows a certificate that this server would make itself knows no token.
    let stranger = Server::secure(None, Some(Token::new(&"other".repeat(8))?))?;
    let (_, called) = meet(&stranger, async |address| client.open(&address).await).await?;
    assert!(called.is_err());
    Ok(())
}

#[tokio::test]
async fn with_certificates_and_a_token_either_is_enough_and_one_is_needed() -> Result {
    let authority = Authority::new("run")?;
    let token = || Token::new(&"right".repeat(8));
    let server = Server::secure(Some(&authority.issue(Role::Coordinator, &[])?), Some(token()?))?;
    let holder = Client::with_token(token()?, Role::Trainer, Some(authority.certificate()))?;
    let shower = with(&authority.issue(Role::Observer, &[])?)?;
    for (client, role) in [(holder, Role::Trainer), (shower, Role::Observer)] {
        let (served, called) = meet(&server, async |address| client.open(&address).await).await?;
        called?;
        assert_eq!(served?, Some(role));
    }
    Ok(())
}

#[tokio::test]
async fn without_tls_only_grpc_is_let_in() -> Result {
    let server = Server::plain();
    for (said, expected) in [
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Ok(None)),
        (b"GET / HTTP/1.1\r\n\r\n", Err(Refusal::NotGrpc)),
        (&[0x16, 3, 1], Err(Refusal::NotGrpc)),
    ] {
        let (served, _) = meet(&server, async |address| {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(said).await?;
            Ok(Stream::Plain(stream))
        })
        .await?;
        assert_eq!(served, expected);
    }
    Ok(())
}

#[test]
fn off_this_machine_nobody_listens_without_credentials() -> Result {
    let refused = |tls, address: &str| -> Result<String> {
        let arguments = Arguments { tls, ..Arguments::default() };
        let refused = arguments.server(&[address.parse()?]).map(|_| ()).err().map(|error| error.to_string());
        Ok(refused.unwrap_or_default())
    };
    for (tls, address) in [
        (Mode::Auto, "0.0.0.0:1"),
        (Mode::Off, "10.0.0.1:1"),
        (Mode::Auto, "[::]:1"),
        (Mode::Off, "[::ffff:10.0.0.1]:1"),
    ] {
        let why = refused(tls, address)?;
        assert!(why.contains("--tls-ca") && why.contains("127.0.0.1"), "{address}: {why}");
    }
    let alone = Arguments { tls_ca: Some("data:".into()), ..Arguments::default() };
    assert!(alone.server(&["127.0.0.1:1".parse()?]).is_err_and(|why| why.to_string().contains("--tls-ca alone")));
    for address in ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1"] {
        assert_eq!(refused(Mode::Auto, address)?, "");
        assert!(refused(Mode::Required, address)?.contains("nothing to show"));
    }
    Ok(())
}

#[test]
fn files_that_are_missing_or_not_what_they_should_be_are_named() -> Result {
    let folder = tempfile::tempdir()?;
    let paths = Authority::new("run")?.issue(Role::Trainer, &[])?.write(folder.path(), Role::Trainer)?;
    let given = || Arguments {
        tls: Mode::Auto,
        tls_ca: Some(paths.authority.clone()),
        tls_cert: Some(paths.certificate.clone()),
        tls_key: Some(paths.key.clone()),
        token_file: None,
    };
    assert!(given().client(Role::Trainer)?.is_secure());
    let absent = folder.path().join("absent");
    let other_key = Authority::new("run")?.issue(Role::Trainer, &[])?;
    let other_key = other_key.write(&folder.path().join("other"), Role::Trainer)?.key;
    let cases: [(Spoil<'_>, &str); 7] = [
        (&|a| a.tls_key = None, "belong together"),
        (&|a| a.tls_cert = None, "belong together"),
        (&|a| a.tls_ca = None, "--tls-ca is missing"),
        (&|a| a.tls_key = Some(absent.clone()), "absent"),
        (&|a| a.tls_cert = Some(paths.key.clone()), "--tls-cert"),
        (&|a| a.tls_key = Some(paths.certificate.clone()), "--tls-key"),
        (&|a| a.tls_key = Some(other_key.clone()), "--tls-cert"),
    ];
    for (spoil, named) in cases {
        let mut arguments = given();
        spoil(&mut arguments);
        let error = arguments.client(Role::Trainer).map(|_| ()).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains(named)), "{named}: {error:?}");
        assert!(arguments.server(&["127.0.0.1:1".parse()?]).is_err(), "{named}");
    }
    Ok(())
}
