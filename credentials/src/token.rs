//! The run token: one secret that all of a run's parties hold, where no certificates are handed out.
//!
//! It never crosses the wire. Each side proves that it holds it with a MAC over a value that TLS derives for this one
//! connection on both its ends (RFC 9266's idea); on any other connection, at any other time or through somebody in the
//! middle, the value is another and the proof is worth nothing.

use std::fmt;
use std::io;
use std::path::Path;

use ring::hmac;

use crate::pem::read_secret;
use crate::role::Role;

/// The protocol that both ends agree on (by ALPN) where the proof comes before gRPC.
pub const PROTOCOL: &[u8] = b"began-token/1";
/// What TLS derives the value from.
const LABEL: &[u8] = b"EXPORTER-began-run-token";
/// Bytes of a proof, and of the value.
pub const PROOF: usize = 32;
/// Fewer characters could be guessed.
const SHORTEST: usize = 32;

/// See the module.
#[derive(Clone)]
pub struct Token(hmac::Key);

/// Whose proof it is: one side's is not the other's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Caller,
    Coordinator,
}

/// What TLS derived for one connection.
pub type Binding = [u8; PROOF];

impl Token {
    /// Of these characters.
    ///
    /// # Errors
    /// If they are too few to be a secret.
    pub fn new(text: &str) -> io::Result<Self> {
        let text = text.trim();
        if text.len() < SHORTEST {
            let why = format!("a run token must have at least {SHORTEST} characters, it has {}", text.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())))
    }

    /// What is in a file.
    ///
    /// # Errors
    /// If it cannot be read, or is too short.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::new(&read_secret(path)?)
    }

    /// What a caller in a role says first on a connection.
    #[must_use]
    pub fn prove(&self, role: Role, binding: &Binding) -> [u8; 1 + PROOF] {
        let mut said = [0; 1 + PROOF];
        said[0] = role.code();
        said[1..].copy_from_slice(self.sign(Side::Caller, role, binding).as_ref());
        said
    }

    /// The role of a caller who said this, if it holds the token.
    pub(crate) fn verify(&self, said: &[u8; 1 + PROOF], binding: &Binding) -> Option<Role> {
        let role = Role::from_code(said[0]).filter(|&role| role != Role::Coordinator)?;
        self.check(Side::Caller, role, binding, &said[1..]).then_some(role)
    }

    /// What else is derived from it.
    pub(crate) fn secret(&self) -> &hmac::Key {
        &self.0
    }

    pub(crate) fn sign(&self, side: Side, role: Role, binding: &Binding) -> hmac::Tag {
        hmac::sign(&self.0, &message(side, role, binding))
    }

    /// In constant time.
    pub(crate) fn check(&self, side: Side, role: Role, binding: &Binding, proof: &[u8]) -> bool {
        hmac::verify(&self.0, &message(side, role, binding), proof).is_ok()
    }
}

fn message(side: Side, role: Role, binding: &Binding) -> [u8; 2 + PROOF] {
    let mut message = [0; 2 + PROOF];
    message[0] = match side {
        Side::Caller => b'>',
        Side::Coordinator => b'<',
    };
    message[1] = role.code();
    message[2..].copy_from_slice(binding);
    message
}

/// The value of a connection, the same at both its ends and nowhere else.
///
/// # Errors
/// If the handshake is not over.
pub fn binding<T>(connection: &rustls::ConnectionCommon<T>) -> io::Result<Binding> {
    connection.export_keying_material([0; PROOF], LABEL, None).map_err(io::Error::other)
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_its_role_connection_side_and_token_alone() -> io::Result<()> {
        let token = Token::new(&"k".repeat(40))?;
        let (here, elsewhere) = ([1; PROOF], [2; PROOF]);
        let said = token.prove(Role::Trainer, &here);
        assert_eq!(token.verify(&said, &here), Some(Role::Trainer));
        assert_eq!(token.verify(&said, &elsewhere), None);
        assert_eq!(Token::new(&"x".repeat(40))?.verify(&said, &here), None);
        let mut other_role = said;
        other_role[0] = Role::Control.code();
        assert_eq!(token.verify(&other_role, &here), None);
        assert_eq!(token.verify(&token.prove(Role::Coordinator, &here), &here), None);
        let reflected = token.sign(Side::Coordinator, Role::Trainer, &here);
        let mut back = said;
        back[1..].copy_from_slice(reflected.as_ref());
        assert_eq!(token.verify(&back, &here), None);
        Ok(())
    }

    #[test]
    fn what_could_be_guessed_is_no_token_and_no_token_is_shown() -> io::Result<()> {
        let short = Token::new("  hunter2 \n").map(|_| ()).unwrap_err().to_string();
        assert!(short.contains("at least 32") && !short.contains("hunter2"), "{short}");
        let token = Token::new(&"secret".repeat(9))?;
        assert_eq!(format!("{token:?}"), "Token");
        Ok(())
    }
}
