//! Why somebody was not let in: for the coordinator's log, never for the one outside.

use std::io;

use rustls::{CertificateError, Error, InvalidMessage};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It speaks TLS and shows nothing.
    #[error("it showed no certificate")]
    NoCertificate,
    /// Another authority's.
    #[error("its certificate is not of this run's authority")]
    WrongAuthority,
    /// It was good once.
    #[error("its certificate has expired")]
    Expired,
    /// Its clock or ours is wrong.
    #[error("its certificate is not valid yet: look at the clocks")]
    NotYetValid,
    /// One of ours, for something else.
    #[error("its certificate gives it no role that could ask for anything")]
    NoRole,
    /// Something else about it.
    #[error("its certificate is not good: {0}")]
    BadCertificate(String),
    /// Not TLS at all.
    #[error("it speaks plain text where TLS is spoken")]
    PlainText,
    /// Not gRPC at all, where no TLS is spoken.
    #[error("it does not speak gRPC without TLS, which is what is spoken here")]
    NotGrpc,
    /// TLS, and then something that we do not speak.
    #[error("it speaks neither gRPC nor the run token's protocol inside TLS")]
    WrongProtocol,
    /// Wrong, of another run, or of another connection.
    #[error("it does not hold the run token, or said again what was said on another connection")]
    BadToken,
    /// It does not believe us.
    #[error("it does not trust this coordinator's certificate ({0})")]
    Mistrusted(String),
    /// It went.
    #[error("it hung up before it had shown who it is")]
    HungUp,
    /// It said nothing.
    #[error("it did not show who it is within {0} s")]
    Late(u64),
    /// Anything else.
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::from(error.clone()),
            None => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::NotConnected
                | io::ErrorKind::BrokenPipe => Self::HungUp,
                _ => Self::Handshake(error.to_string()),
            },
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::WrongAuthority,
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::NoRole,
                other => Self::BadCertificate(other.to_string()),
            },
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::PlainText,
            Error::NoApplicationProtocol => Self::WrongProtocol,
            Error::AlertReceived(alert) => Self::Mistrusted(format!("{alert:?}")),
            other => Self::Handshake(other.to_string()),
        }
    }
}
