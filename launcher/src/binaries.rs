//! Where the other programs are: `trainer` and `coordinator` lie beside the launcher, unless the environment says
//! otherwise. Never searched for on PATH: a run must not be computed by a program nobody named.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The `trainer` binary: `BEGAN_TRAINER`, or beside the launcher.
///
/// # Errors
/// If it is not there; the error says where it was looked for.
pub fn trainer() -> Result<PathBuf> {
    find("trainer", "BEGAN_TRAINER")
}

/// The `coordinator` binary: `BEGAN_COORDINATOR`, or beside the launcher.
///
/// # Errors
/// If it is not there; the error says where it was looked for.
pub fn coordinator() -> Result<PathBuf> {
    find("coordinator", "BEGAN_COORDINATOR")
}

/// The launcher itself, to be started as an agent; links are resolved.
///
/// # Errors
/// If the system does not tell.
pub fn own() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the system does not tell where the launcher's own program is")?;
    // A program replaced while it runs is shown as "... (deleted)" and does not resolve; the name as given is then the best there is.
    Ok(own.canonicalize().unwrap_or(own))
}

fn find(name: &str, variable: &str) -> Result<PathBuf> {
    let named = std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    locate(name, variable, named, &own()?)
}

fn locate(name: &str, variable: &str, named: Option<PathBuf>, own: &Path) -> Result<PathBuf> {
    if let Some(named) = named {
        if named.is_file() {
            return std::path::absolute(&named).with_context(|| format!("{variable}={}", named.display()));
        }
        bail!("{variable} says that the {name} is {}, but there is no such file", named.display());
    }
    let beside = own.with_file_name(name);
    if beside.is_file() {
        return Ok(beside);
    }
    bail!(
        "the {name} was not found: looked for {} (beside the launcher); build it, or say where it is with {variable}",
        beside.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_an_error_that_says_where_it_was_looked_for() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let own = folder.path().join("launcher");
        let error = locate("trainer", "BEGAN_TRAINER", None, &own).unwrap_err().to_string();
        assert!(error.contains(&folder.path().join("trainer").display().to_string()), "{error}");
        assert!(error.contains("BEGAN_TRAINER"), "{error}");
        let error = locate("trainer", "BEGAN_TRAINER", Some("nowhere/t".into()), &own).unwrap_err().to_string();
        assert!(error.contains("nowhere/t"), "{error}");
        std::fs::write(folder.path().join("trainer"), "")?;
        assert_eq!(locate("trainer", "BEGAN_TRAINER", None, &own)?, folder.path().join("trainer"));
        Ok(())
    }
}
