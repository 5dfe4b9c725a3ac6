//! The flags of `diagnose` and `compare`.

use std::path::PathBuf;

use clap::Args;

/// Flags of `diagnose`.
#[derive(Args, Clone, Debug)]
pub struct DiagnoseArgs {
    /// The run's folder, of a run that is going on or has ended
    pub run: PathBuf,
    /// Write a report with pictures and plots too: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
}

/// Flags of `compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// The runs' folders
    #[arg(required = true, num_args = 2..)]
    pub runs: Vec<PathBuf>,
    /// Write a report with plots too: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE.html")]
    pub out: Option<PathBuf>,
}
