//! Which checkpoint of a run can be gone on from, and what becomes of damaged ones.
//!
//! A damaged checkpoint is renamed, never removed: someone may want to look at it. Nothing is renamed unless an older one is
//! sound, and a checkpoint of another run is refused rather than passed over: somebody put it there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use began::Step;

use crate::{Checkpoint, RecordError, RunDir};

/// What the checkpoints of a run are good for.
#[derive(Debug)]
pub struct Survey {
    /// The newest that is as it was written; none if there is no checkpoint at all.
    pub sound: Option<Checkpoint>,
    /// Those newer than it, newest first.
    damaged: Vec<Damaged>,
}

#[derive(Debug)]
struct Damaged {
    step: Step,
    folder: PathBuf,
    reason: RecordError,
}

impl RunDir {
    /// Looks at the checkpoints, newest first, up to the first whose files are all there with the hashes they were written
    /// with.
    ///
    /// # Errors
    /// If there are checkpoints and none is sound: what is wrong with the newest. If the newest that can be read is of
    /// another run than `identity`, or may not be read.
    pub fn survey_checkpoints(&self, identity: &str) -> Result<Survey, RecordError> {
        let mut damaged = Vec::new();
        for (step, folder) in self.checkpoint_folders()?.into_iter().rev() {
            let examined = Checkpoint::read(self.path(), step, &folder).and_then(|checkpoint| {
                if checkpoint.state.run != identity {
                    let (found, expected) = (checkpoint.state.run, identity.to_owned());
                    return Err(RecordError::OtherRun { path: folder.clone(), found, expected });
                }
                checkpoint.state.check_files(&folder).map(|()| checkpoint)
            });
            match examined {
                Ok(sound) => return Ok(Survey { sound: Some(sound), damaged }),
                Err(reason) if is_damage(&reason) => damaged.push(Damaged { step, folder, reason }),
                Err(refused) => return Err(refused),
            }
        }
        match damaged.into_iter().next() {
            Some(newest) => Err(newest.reason),
            None => Ok(Survey { sound: None, damaged: Vec::new() }),
        }
    }

    /// Renames the damaged checkpoints of a survey, so that nothing takes them for checkpoints again; a sentence about each.
    ///
    /// # Errors
    /// If one cannot be renamed.
    pub fn set_aside(&self, survey: &Survey) -> Result<Vec<String>, RecordError> {
        let Some(sound) = &survey.sound else { return Ok(Vec::new()) };
        let mut said = Vec::new();
        for Damaged { step, folder, reason } in &survey.damaged {
            let aside = free_name(folder, *step);
            fs::rename(folder, &aside).map_err(RecordError::io("put aside", folder))?;
            said.push(format!(
                "{reason}; the damaged checkpoint of step {step} is kept as {}, and the run goes on from the one of step {}",
                aside.display(),
                sound.step
            ));
        }
        if !said.is_empty() {
            let folder = self.checkpoint_folder();
            File::open(&folder).and_then(|f| f.sync_all()).map_err(RecordError::io("sync", folder))?;
        }
        Ok(said)
    }

    /// [`RunDir::survey_checkpoints`] and [`RunDir::set_aside`] in one.
    ///
    /// # Errors
    /// As those two.
    pub fn set_aside_damaged_checkpoints(&self, identity: &str) -> Result<Vec<String>, RecordError> {
        self.set_aside(&self.survey_checkpoints(identity)?)
    }
}

/// Whether a checkpoint is not as it was written, rather than not ours to read.
fn is_damage(reason: &RecordError) -> bool {
    match reason {
        RecordError::Damaged { .. } | RecordError::Changed { .. } => true,
        RecordError::Io { error, .. } => error.kind() != io::ErrorKind::PermissionDenied,
        _ => false,
    }
}

/// `damaged-step-00001000` beside the checkpoint, numbered where that is taken.
fn free_name(folder: &Path, step: Step) -> PathBuf {
    let name = format!("damaged-{}", RunDir::step_name(step));
    let numbered = (2..).map(|n| folder.with_file_name(format!("{name}-{n}")));
    let mut names = std::iter::once(folder.with_file_name(&name)).chain(numbered);
    names.find(|place| !place.exists()).unwrap_or_else(|| folder.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CheckpointState, RunManifest, hash};
    use began::{Equilibrium, RunConfig};

    type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

    struct Desk {
        _folder: tempfile::TempDir,
        run: RunDir,
    }

    impl Desk {
        /// A run with checkpoints at these steps.
        fn new(steps: &[u64]) -> Result<Self> {
            let folder = tempfile::tempdir()?;
            let config = RunConfig::default();
            let manifest = RunManifest { run: "ours".into(), ..RunManifest::new(&config, "data".into()) };
            let run = RunDir::create(&folder.path().join("run"), &config, &manifest)?;
            let desk = Self { _folder: folder, run };
            for step in steps {
                desk.checkpoint(*step, "ours")?;
            }
            Ok(desk)
        }

        fn place(&self, step: u64) -> PathBuf {
            self.run.checkpoint_folder().join(RunDir::step_name(Step(step)))
        }

        fn checkpoint(&self, step: u64, run: &str) -> Result<()> {
            let folder = self.place(step);
            fs::create_dir_all(&folder)?;
            let mut files = std::collections::BTreeMap::new();
            for name in ["weights.safetensors", "optimizer.safetensors"] {
                fs::write(folder.join(name), format!("{name} of step {step}"))?;
                files.insert(name.to_owned(), hash(&folder.join(name))?);
            }
            let config = RunConfig::default();
            let state = CheckpointState {
                format: crate::CHECKPOINT_FORMAT,
                run: run.into(),
                equilibrium: Equilibrium { step: Step(step), ..Equilibrium::start(&config.optimizer) },
                epoch: 0,
                seed: 1,
                lanes: 1,
                model: config.model,
                carry: 0.0,
                digest: String::new(),
                files,
            };
            Ok(fs::write(folder.join("state.json"), serde_json::to_vec(&state)?)?)
        }

        fn names(&self) -> Result<Vec<String>> {
            let entries = fs::read_dir(self.run.checkpoint_folder())?;
            let mut names: Vec<String> =
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into()).collect();
            names.sort();
            Ok(names)
        }
    }

    #[test]
    fn a_sound_checkpoint_and_none_at_all_are_left_alone() -> Result<()> {
        for steps in [&[][..], &[3], &[3, 6]] {
            let desk = Desk::new(steps)?;
            assert_eq!(desk.run.set_aside_damaged_checkpoints("ours")?, [""; 0]);
            assert_eq!(desk.names()?.len(), steps.len());
        }
        Ok(())
    }

    #[test]
    fn damaged_checkpoints_are_put_aside_up_to_the_first_sound_one() -> Result<()> {
        let desk = Desk::new(&[3, 6, 9, 12])?;
        fs::remove_file(desk.place(12).join("weights.safetensors"))?;
        fs::write(desk.place(9).join("optimizer.safetensors"), "optimizer.safetensors of step 8")?;
        fs::write(desk.place(3).join("state.json"), "{ torn")?;
        let said = desk.run.set_aside_damaged_checkpoints("ours")?;
        assert_eq!(said.len(), 2);
        assert!(said[0].contains("step-00000012/weights.safetensors") && said[0].contains("No such file"), "{said:?}");
        assert!(said[1].contains("step-00000009/optimizer.safetensors was changed or damaged"), "{said:?}");
        assert!(said.iter().all(|text| text.contains("goes on from the one of step 6")), "{said:?}");
        assert_eq!(
            desk.names()?,
            ["damaged-step-00000009", "damaged-step-00000012", "step-00000003", "step-00000006"],
            "what is older than the sound one is nobody's business yet"
        );
        assert_eq!(desk.run.latest_checkpoint()?.map(|checkpoint| checkpoint.step), Some(Step(6)));
        Ok(())
    }

    #[test]
    fn a_second_damaged_checkpoint_of_a_step_does_not_replace_the_first() -> Result<()> {
        let desk = Desk::new(&[3])?;
        for _ in 0..2 {
            desk.checkpoint(6, "ours")?;
            fs::write(desk.place(6).join("state.json"), "{}")?;
            assert_eq!(desk.run.set_aside_damaged_checkpoints("ours")?.len(), 1);
        }
        assert_eq!(desk.names()?, ["damaged-step-00000006", "damaged-step-00000006-2", "step-00000003"]);
        Ok(())
    }

    #[test]
    fn where_none_is_sound_nothing_is_renamed_and_the_newest_is_named() -> Result<()> {
        let desk = Desk::new(&[3, 6])?;
        for step in [3, 6] {
            fs::write(desk.place(step).join("weights.safetensors"), "torn")?;
        }
        let error = desk.run.set_aside_damaged_checkpoints("ours").unwrap_err().to_string();
        assert!(error.contains("step-00000006/weights.safetensors"), "{error}");
        assert_eq!(desk.names()?, ["step-00000003", "step-00000006"]);
        Ok(())
    }

    #[test]
    fn a_checkpoint_of_another_run_is_refused_even_behind_a_damaged_one() -> Result<()> {
        let desk = Desk::new(&[3, 9])?;
        desk.checkpoint(6, "theirs")?;
        fs::remove_file(desk.place(9).join("state.json"))?;
        let error = desk.run.set_aside_damaged_checkpoints("ours").unwrap_err().to_string();
        assert!(error.contains("step-00000006 is of run theirs, this is run ours"), "{error}");
        assert_eq!(desk.names()?.len(), 3);
        Ok(())
    }

    #[test]
    fn a_torn_state_hides_no_other_checkpoint_and_alone_is_an_error() -> Result<()> {
        let desk = Desk::new(&[3, 6, 9])?;
        fs::write(desk.place(6).join("state.json"), "{ torn")?;
        let steps = |run: &RunDir| -> Result<Vec<u64>> { Ok(run.checkpoints()?.iter().map(|c| c.step.0).collect()) };
        assert_eq!(steps(&desk.run)?, [3, 9]);
        for step in [3, 9] {
            fs::remove_file(desk.place(step).join("state.json"))?;
        }
        let error = desk.run.checkpoints().unwrap_err().to_string();
        assert!(error.contains("step-00000009/state.json"), "the newest is named: {error}");
        assert_eq!(desk.run.checkpoint_folders()?.len(), 3);
        Ok(())
    }
}
