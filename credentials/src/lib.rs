//! Who may speak to a run's coordinator, and how that is proved on a connection.
//!
//! | module | what it is about |
//! | --- | --- |
//! | [`role`] | who there is, and what each may do |
//! | [`authority`] | a certificate authority for one run, which lives in memory alone |
//! | [`bundle`] | what one party needs to prove who it is, as text and as files |
//! | [`token`] | the run token, and the proof of holding it that is good for one connection only |
//! | [`arguments`] | `--tls`, `--tls-ca`, `--tls-cert`, `--tls-key`, `--token-file`, and what follows from them |
//! | [`client`], [`server`] | the two ends of a connection |
//! | [`page`] | the web page's end of a connection, and the keys that browsers show |
//! | [`refusal`] | why somebody was not let in |
//!
//! A connection is proved before the first byte of gRPC: who has no rights sees a TLS handshake that fails, and nothing else.
//! TLS 1.3 alone; no session is resumed, so a certificate that has expired opens nothing.

pub mod arguments;
pub mod authority;
pub mod bundle;
pub mod client;
pub mod page;
mod pem;
pub mod refusal;
pub mod role;
pub mod server;
pub mod stream;
pub mod token;

pub use arguments::{Arguments, ArgumentsError, Mode};
pub use authority::Authority;
pub use bundle::Bundle;
pub use client::Client;
pub use page::{Page, PageKeys};
pub use refusal::Refusal;
pub use role::{Right, Role};
pub use server::Server;
pub use stream::Stream;
pub use token::Token;

/// The name in the coordinator's certificate, whatever its address is: a run's authority signs one coordinator.
pub const COORDINATOR_NAME: &str = "coordinator.began";

/// How one end of a TLS connection is set up, with ring and nothing older than TLS 1.3.
pub(crate) fn provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    std::sync::Arc::new(rustls::crypto::ring::default_provider())
}
