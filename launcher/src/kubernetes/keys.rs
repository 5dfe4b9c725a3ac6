//! The keys of a run on Kubernetes: one Secret, of which each pod sees only what it needs, and the variables that say where.
//!
//! What the manifests print never holds a key. The Secret that they name is empty until [`fresh`] fills it; until then no pod
//! starts, because a file it asks for is not there.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result};
use began_credentials::{Authority, PageKeys, Role as Asks, Token};
use k8s_openapi::api::core::v1::{KeyToPath, Secret};

use super::labels::{self, Role};
use super::wanted::Wanted;
use crate::cli::Keys;

/// Where a pod finds them.
pub const FOLDER: &str = "/etc/began/tls";

/// Who holds it may look at the page and at its metrics: for Prometheus.
pub const PAGE_OBSERVER: &str = "page-observer";
/// Who holds it may press the page's buttons, too.
pub const PAGE_CONTROL: &str = "page-control";

/// The files that a pod sees.
#[must_use]
pub fn files(wanted: &Wanted, role: Role) -> Vec<KeyToPath> {
    let names: &[&str] = match (wanted.keys, role) {
        (Keys::Token, _) => &["token"],
        // Control and observer are for people and probes, who come in through this pod.
        (Keys::Certificates, Role::Coordinator) => &[
            "ca.pem",
            "coordinator.pem",
            "coordinator.key",
            "control.pem",
            "control.key",
            "observer.pem",
            "observer.key",
        ],
        (Keys::Certificates, Role::Node) => &["ca.pem", "trainer.pem", "trainer.key"],
    };
    let file = |name: &&str| KeyToPath { key: (*name).into(), path: (*name).into(), mode: None };
    names.iter().map(file).collect()
}

/// The variables that say where they are.
#[must_use]
pub fn variables(wanted: &Wanted, role: Role) -> Vec<(&'static str, String)> {
    let own = match role {
        Role::Coordinator => "coordinator",
        Role::Node => "trainer",
    };
    let mut variables = vec![("BEGAN_TLS", "required".to_owned())];
    variables.extend(match wanted.keys {
        Keys::Token => vec![("BEGAN_TOKEN_FILE", format!("{FOLDER}/token"))],
        Keys::Certificates => vec![
            ("BEGAN_TLS_CA", format!("{FOLDER}/ca.pem")),
            ("BEGAN_TLS_CERT", format!("{FOLDER}/{own}.pem")),
            ("BEGAN_TLS_KEY", format!("{FOLDER}/{own}.key")),
        ],
    });
    variables
}

/// What a look at the coordinator shows it, where the variables of its own pod do not do: it may only answer.
#[must_use]
pub fn looking(wanted: &Wanted) -> Vec<String> {
    match wanted.keys {
        Keys::Token => Vec::new(),
        Keys::Certificates => {
            vec![
                "--tls-cert".into(),
                format!("{FOLDER}/observer.pem"),
                "--tls-key".into(),
                format!("{FOLDER}/observer.key"),
            ]
        }
    }
}

/// The Secret, filled with keys that nobody has seen.
///
/// # Errors
/// If they cannot be made.
pub fn fresh(wanted: &Wanted) -> Result<Secret> {
    let (mut string_data, page) = match wanted.keys {
        Keys::Token => {
            let text = token()?;
            let page = PageKeys::of(None, Some(&Token::new(&text)?));
            (BTreeMap::from([("token".to_owned(), text)]), page)
        }
        Keys::Certificates => certificates(wanted)?,
    };
    for (name, role) in [(PAGE_OBSERVER, Asks::Observer), (PAGE_CONTROL, Asks::Control)] {
        let key = page.as_ref().and_then(|page| page.key(role)).context("no page key can be made")?;
        string_data.insert(name.into(), key.into());
    }
    Ok(Secret { string_data: Some(string_data), ..empty(wanted) })
}

/// Certificates of an authority whose key is forgotten at once: others are made by filling the Secret anew.
fn certificates(wanted: &Wanted) -> Result<(BTreeMap<String, String>, Option<PageKeys>)> {
    let authority = Authority::new(&wanted.name).context("cannot make an authority")?;
    let names = [labels::coordinator_host(wanted), "localhost".into(), "127.0.0.1".into()];
    let mut files = BTreeMap::from([("ca.pem".to_owned(), authority.certificate().to_owned())]);
    let mut page = None;
    for role in Asks::ALL {
        let made = authority.issue(role, &names).with_context(|| format!("cannot make the {role}'s certificate"))?;
        if role == Asks::Coordinator {
            page = PageKeys::of(Some(&made), None);
        }
        files.extend([(format!("{role}.pem"), made.certificate), (format!("{role}.key"), made.key)]);
    }
    Ok((files, page))
}

/// The Secret without them. Applied again, it leaves what was put into it.
#[must_use]
pub fn empty(wanted: &Wanted) -> Secret {
    Secret { metadata: labels::metadata(wanted, "keys"), type_: Some("Opaque".into()), ..Secret::default() }
}

/// 256 bits from the system.
fn token() -> Result<String> {
    let mut bytes = [0_u8; 32];
    let random = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    random.context("the system gives no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
