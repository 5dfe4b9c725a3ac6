//! Flags of `campaign`.

use std::path::PathBuf;

use clap::Args;

use super::place::PlaceArgs;

/// Flags of `campaign`.
#[derive(Args, Clone, Debug)]
pub struct CampaignArgs {
    /// The file that describes the campaign, as deploy/reproduce/campaign.toml
    pub file: PathBuf,
    /// The folder for its runs and its table
    #[arg(long, env = "BEGAN_OUT", value_name = "DIR")]
    pub out: PathBuf,
    /// Where the nodes are.
    #[command(flatten)]
    pub place: PlaceArgs,
}
