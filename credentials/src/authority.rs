//! A certificate authority for one launch of a run. Its key lives in the launcher's memory and is never written down:
//! whoever reads the files of a run can at most be who those files are for, and nobody new.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use crate::COORDINATOR_NAME;
use crate::bundle::Bundle;
use crate::role::Role;

/// How far another machine's clock may be behind.
const SKEW: Duration = Duration::from_secs(24 * 3600);
/// How long certificates are good for; a launch that lasts longer is stopped and resumed, which makes new ones.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// See the module.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
    run: String,
}

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// From then on.
    pub from: SystemTime,
    /// To then.
    pub until: SystemTime,
}

impl Validity {
    /// From a day ago, for clocks that are behind, and for a year.
    #[must_use]
    pub fn of_a_launch() -> Self {
        let now = SystemTime::now();
        Self { from: now - SKEW, until: now + LIFE }
    }
}

impl Authority {
    /// A new one, with a new key; `run` is only a name.
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn new(run: &str) -> Result<Self, rcgen::Error> {
        let mut params = params(run, "authority", Validity::of_a_launch());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key), run: run.into() })
    }

    /// Its certificate, which everyone knows it by.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Everything that one in this role needs. `names`: where a coordinator is reached, addresses or host names, for tools
    /// that look at them; those of this project look for [`COORDINATOR_NAME`].
    ///
    /// # Errors
    /// If a name is none, or the system gives no randomness.
    pub fn issue(&self, role: Role, names: &[String]) -> Result<Bundle, rcgen::Error> {
        self.issue_for(role, names, Validity::of_a_launch())
    }

    /// The same, for another time than a launch's.
    ///
    /// # Errors
    /// If a name is none, or the system gives no randomness.
    pub fn issue_for(&self, role: Role, names: &[String], validity: Validity) -> Result<Bundle, rcgen::Error> {
        let mut params = params(&self.run, role.name(), validity);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names.push(SanType::URI(role.uri().as_str().try_into()?));
        // One who asks can never pass for one who serves, nor the other way round.
        if role == Role::Coordinator {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names.push(SanType::DnsName(COORDINATOR_NAME.try_into()?));
            for name in names {
                params.subject_alt_names.push(match name.parse::<IpAddr>() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) => SanType::DnsName(name.as_str().try_into()?),
                });
            }
        } else {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Bundle { authority: self.certificate.clone(), certificate, key: key.serialize_pem() })
    }
}

fn params(run: &str, name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "began");
    params.distinguished_name.push(DnType::OrganizationalUnitName, run);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
    params
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("run", &self.run).finish_non_exhaustive()
    }
}
