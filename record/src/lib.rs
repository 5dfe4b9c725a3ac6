//! The files of a run: where each lies, how it is written and how it is read back.
//!
//! Files that matter are written aside, synced and renamed, so that a reader sees the old one or the new one and never
//! half of either. No torch, no network, no clock beyond time stamps.

mod checkpoint;
mod error;
mod journal;
mod manifest;
mod run_dir;
mod survey;
pub mod tensorboard;

pub use checkpoint::{Checkpoint, CheckpointState, FORMAT as CHECKPOINT_FORMAT, hash};
pub use error::RecordError;
pub use journal::{
    CurveRow, DiagnosisRow, DigestRow, Entry, EvaluationRow, EventRow, InputsRow, Journal, LeaseRow, Span, StartRow,
    StepRow, TensorDigest,
};
pub use manifest::{Launch, LaunchedTrainer, RunManifest};
pub use run_dir::{Announcement, RunDir, RunLock, write_atomically};
pub use survey::Survey;
