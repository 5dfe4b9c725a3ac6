//! All manifests of a run as one YAML text, in the order in which a cluster should see them.

use anyhow::{Context, Result};
use serde::Serialize;
use serde_saphyr::ser_options;

use super::wanted::{Keeper, Wanted};
use super::{jobs, keys, sets, surroundings};

/// The text.
///
/// # Errors
/// If something has no form in YAML, which nothing here should.
pub fn of(wanted: &Wanted) -> Result<String> {
    let mut text = Text("# Printed by `launcher kubernetes`.\n".into());
    text.add(&surroundings::configuration(wanted))?;
    text.add(&keys::empty(wanted))?;
    for claim in surroundings::claims(wanted) {
        text.add(&claim)?;
    }
    text.add(&surroundings::network_policy(wanted))?;
    if let Some(monitor) = surroundings::pod_monitor(wanted) {
        text.add(&monitor)?;
    }
    match wanted.keeper {
        Keeper::Jobs => {
            text.add(&surroundings::service(wanted))?;
            text.add(&jobs::coordinator(wanted))?;
            text.add(&jobs::nodes(wanted))?;
        }
        Keeper::JobSet => text.add(&sets::job_set(wanted))?,
        Keeper::TrainJob => {
            text.add(&sets::training_runtime(wanted))?;
            text.add(&sets::train_job(wanted))?;
        }
    }
    Ok(text.0)
}

/// The Secret with fresh keys, alone.
///
/// # Errors
/// If they cannot be made.
pub fn keys_of(wanted: &Wanted) -> Result<String> {
    let mut text = Text(String::new());
    text.add(&keys::fresh(wanted)?)?;
    Ok(text.0)
}

struct Text(String);

impl Text {
    fn add(&mut self, document: &impl Serialize) -> Result<()> {
        // Long lines stay as they are; a folded one reads like two.
        let options = ser_options! { folded_wrap_chars: 100_000 };
        let yaml = serde_saphyr::to_string_with_options(document, options).context("a manifest has no form in YAML")?;
        self.0 += "---\n";
        self.0 += &yaml;
        if !yaml.ends_with('\n') {
            self.0.push('\n');
        }
        Ok(())
    }
}
