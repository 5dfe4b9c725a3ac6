//! Names as Kubernetes takes them, and as it refuses them: each check says what was wrong with which flag.

use anyhow::{Result, bail};

/// The longest name of a run: with what is put behind it (`-coordinator-0-0`, `-nodes-65535`) a host name still has at most
/// 63 characters.
pub const LONGEST_NAME: usize = 40;

/// Longest label, label value and part of a label's key.
const LONGEST_LABEL: usize = 63;
/// Longest name of an object, and prefix of a label's key.
const LONGEST_SUBDOMAIN: usize = 253;

fn is_label(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= LONGEST_LABEL
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= LONGEST_SUBDOMAIN && text.split('.').all(is_label)
}

/// The name part of a label's key, or a label's value that is not empty.
fn is_qualified(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= LONGEST_LABEL
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn is_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified(name),
        None => is_qualified(text),
    }
}

/// The name of a run: a DNS label that begins with a letter (a Service's has to), short enough for what is put behind it.
///
/// # Errors
/// If it is none.
pub fn run(text: &str) -> Result<String> {
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
    if !is_label(text) || !begins || text.len() > LONGEST_NAME {
        bail!(
            "--name {text:?} cannot be the name of a run on Kubernetes: it takes lowercase letters, digits and -, begins with \
             a letter, ends with a letter or digit, and has at most {LONGEST_NAME} characters"
        );
    }
    Ok(text.into())
}

/// A DNS label: a namespace.
///
/// # Errors
/// If it is none.
pub fn label(flag: &str, text: &str) -> Result<String> {
    if !is_label(text) {
        bail!(
            "{flag} {text:?} is no DNS label: that takes lowercase letters, digits and -, begins and ends with a letter or \
             digit, and has at most {LONGEST_LABEL} characters"
        );
    }
    Ok(text.into())
}

/// The name of an object that is there: a claim, a secret, a storage class.
///
/// # Errors
/// If it is none.
pub fn object(flag: &str, text: &str) -> Result<String> {
    if !is_subdomain(text) {
        bail!(
            "{flag} {text:?} is no name of a Kubernetes object: that takes DNS labels (lowercase letters, digits and -) joined \
             by dots, and has at most {LONGEST_SUBDOMAIN} characters"
        );
    }
    Ok(text.into())
}

/// A queue's name, which is the value of a label, too.
///
/// # Errors
/// If it is none.
pub fn queue(text: &str) -> Result<String> {
    object("--queue", text)?;
    if !is_qualified(text) {
        bail!("--queue {text:?} is too long for the label that names it: at most {LONGEST_LABEL} characters");
    }
    Ok(text.into())
}

/// The key of a label.
///
/// # Errors
/// If it is none.
pub fn key(flag: &str, text: &str) -> Result<String> {
    if !is_key(text) {
        bail!(
            "{flag} {text:?} is no key of a label: that is a name of at most {LONGEST_LABEL} letters, digits, -, _ and dots, \
             which may stand behind a domain and a slash, as in topology.kubernetes.io/zone"
        );
    }
    Ok(text.into())
}

/// A label with its value.
///
/// # Errors
/// If it is none.
pub fn pair(flag: &str, text: &str) -> Result<(String, String)> {
    let Some((name, value)) = text.split_once('=') else {
        bail!("{flag} {text:?}: expected KEY=VALUE, as in --node-selector gpu=h100");
    };
    let name = key(flag, name)?;
    if !value.is_empty() && !is_qualified(value) {
        bail!(
            "{flag} {text:?}: {value:?} is no value of a label: that takes at most {LONGEST_LABEL} letters, digits, -, _ and dots"
        );
    }
    Ok((name, value.into()))
}

/// A value of a label.
///
/// # Errors
/// If it is none.
pub fn value(flag: &str, text: &str) -> Result<String> {
    if !is_qualified(text) {
        bail!(
            "{flag} {text:?} is no value of a label: that takes at most {LONGEST_LABEL} letters, digits, -, _ and dots, and \
             begins and ends with a letter or digit"
        );
    }
    Ok(text.into())
}

/// A variable of the pods' environment, as in `NCCL_DEBUG=INFO`.
///
/// # Errors
/// If it is none, or one that the manifests set themselves.
pub fn variable(flag: &str, text: &str) -> Result<(String, String)> {
    let Some((name, value)) = text.split_once('=') else {
        bail!("{flag} {text:?}: expected NAME=VALUE, as in --env NCCL_DEBUG=INFO");
    };
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(letters) {
        bail!("{flag} {text:?}: {name:?} is no name of a variable: that takes letters, digits and _, no digit first");
    }
    if name.starts_with("BEGAN_") || name == "HOME" {
        bail!("{flag} {text:?}: {name} is set by the manifests; the flag or key that it stands for says it");
    }
    if value.contains('\0') {
        bail!("{flag} {text:?}: a value cannot hold a zero byte");
    }
    Ok((name.into(), value.into()))
}

/// An extended resource and how many of it, as in `rdma/hca_shared_devices_a` or `vpc.amazonaws.com/efa=4`.
///
/// # Errors
/// If it is none.
pub fn resource(flag: &str, text: &str) -> Result<(String, u32)> {
    let (name, count) = text.split_once('=').unwrap_or((text, "1"));
    let count = match count.parse::<u32>() {
        Ok(number) if (1..=1024).contains(&number) && count.starts_with(|c: char| c.is_ascii_digit()) => number,
        _ => bail!("{flag} {text:?}: {count:?} is no number of devices from 1 to 1024"),
    };
    // One without a domain would be taken for one of Kubernetes' own, which it has no other of.
    let domain = name.split_once('/').map_or("", |(domain, _)| domain);
    if !is_key(name) || domain.is_empty() || domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") {
        bail!(
            "{flag} {text:?}: {name:?} is no extended resource: that is a domain, a slash and a name, as in \
             rdma/hca_shared_devices_a"
        );
    }
    Ok((name.into(), count))
}

/// A reference to a container image: `[REGISTRY[:PORT]/]PATH[:TAG][@DIGEST]`.
///
/// # Errors
/// If it is none.
pub fn image(text: &str) -> Result<String> {
    if is_image(text) {
        return Ok(text.into());
    }
    bail!(
        "--image {text:?} is no reference to an image, as in registry.example/team/began:0.1.0 or with @sha256:... behind it"
    )
}

fn is_image(text: &str) -> bool {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let sound_digest = digest.is_none_or(|digest| {
        digest
            .strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)))
    });
    let (rest, last) = name.rsplit_once('/').map_or((None, name), |(rest, last)| (Some(rest), last));
    let (last, tag) = last.split_once(':').map_or((last, None), |(last, tag)| (last, Some(tag)));
    let sound_tag = tag.is_none_or(|tag| {
        (1..=128).contains(&tag.len())
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    });
    let mut parts: Vec<&str> = rest.map(|rest| rest.split('/').collect()).unwrap_or_default();
    // A first part with a dot or a port, or localhost, is a host.
    if let Some(host) = parts.first().copied().filter(|first| first.contains(['.', ':']) || *first == "localhost") {
        let (host, port) = host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port)));
        let sound = host.split('.').all(|part| is_label(&part.to_ascii_lowercase()));
        if !sound || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return false;
        }
        parts.remove(0);
    }
    parts.push(last);
    sound_digest && sound_tag && text.len() <= 512 && parts.iter().all(|part| is_component(part))
}

/// A part of an image's path: runs of lowercase letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_component(part: &str) -> bool {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    part.starts_with(sound)
        && part.ends_with(sound)
        && part.chars().all(|c| sound(c) || "-_.".contains(c))
        && !["..", "._", "_.", "-.", ".-", "___", "_-", "-_"].iter().any(|wrong| part.contains(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_takes_are_taken() -> Result<()> {
        run("faces-64")?;
        label("--namespace", "team-1")?;
        object("--data-claim", "my.claim-2")?;
        queue("user-queue")?;
        for sound in ["topology.kubernetes.io/zone", "rack", "cloud.google.com/gce-topology-block", "Rack_1.a"] {
            key("--topology", sound)?;
        }
        assert_eq!(pair("--node-selector", "gpu=H100")?, ("gpu".into(), "H100".into()));
        assert_eq!(variable("--env", "OTEL_A1=a=b c")?, ("OTEL_A1".into(), "a=b c".into()));
        assert_eq!(variable("--env", "_A=")?.1, "");
        assert_eq!(resource("--rdma", "vpc.amazonaws.com/efa=32")?, ("vpc.amazonaws.com/efa".into(), 32));
        assert_eq!(resource("--rdma", "rdma/hca_shared_devices_a")?.1, 1);
        for sound in [
            "began",
            "began:0.1.0",
            "registry.example:5000/team/began:a_b-C.1",
            "localhost/began",
            "a.example/b/c__d/e--f@sha256:0123456789012345678901234567890123456789012345678901234567890abc",
        ] {
            image(sound)?;
        }
        Ok(())
    }

    #[test]
    fn names_that_kubernetes_refuses_are_refused_by_flag() {
        let long = "a".repeat(64);
        for wrong in ["", "Faces", "9faces", "faces-", "-faces", "fa_ces", "fa.ces", "gesichter-für", &"a".repeat(41)]
        {
            assert!(run(wrong).is_err_and(|error| error.to_string().contains("--name")), "{wrong}");
        }
        for wrong in ["", "Team", "a.b", "team_1", &long] {
            assert!(label("--namespace", wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "a..b", "A", "a/b", "a b"] {
            assert!(object("--data-claim", wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "zone/", "/zone", "a/b/c", "-zone", "zo ne", "Topology.io/zone", &long] {
            assert!(key("--topology", wrong).is_err(), "{wrong}");
        }
        for wrong in ["gpu", "=h100", "gpu=h 100", "gpu=-h"] {
            assert!(pair("--node-selector", wrong).is_err(), "{wrong}");
        }
        for wrong in ["A", "=b", "1A=b", "A-B=c", "A B=c", "BEGAN_GRACE=1", "HOME=/x", "A=\0"] {
            assert!(variable("--env", wrong).is_err_and(|error| error.to_string().contains("--env")), "{wrong}");
        }
        for wrong in
            ["rdma", "rdma/", "rdma/a=0", "rdma/a=-1", "rdma/a=x", "rdma/a=+1000", "kubernetes.io/a", "rdma/a=1=2"]
        {
            assert!(resource("--rdma", wrong).is_err(), "{wrong}");
        }
        for wrong in [
            "",
            "Began",
            "began:",
            "began:-x",
            "be gan",
            "began@sha256:12",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a..b",
            "h.example:x/a",
        ] {
            assert!(image(wrong).is_err(), "{wrong}");
        }
        assert!(queue(&format!("{}.a", "a".repeat(62))).is_err());
    }
}
