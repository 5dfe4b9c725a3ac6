//! `launcher check`: looks at the nodes as before a run, and says what was found.

use std::io::Write;

use anyhow::Result;
use began_data::Manifest;

use super::place;
use super::survey::{Wanted, ready};
use crate::cli::CheckArgs;
use crate::train::count;

/// `launcher check`. Returns 0 if a run could be started.
///
/// # Errors
/// If not, with why.
pub async fn check(args: &CheckArgs) -> Result<u8> {
    let layout = place::find(&args.place, args.nodes, args.gpus, None)?;
    let data = args
        .data
        .as_ref()
        .map(|path| Ok::<_, anyhow::Error>((std::path::absolute(path)?, Manifest::load(path)?.digest)));
    let data = data.transpose()?;
    let ready = ready(
        layout,
        Wanted {
            device: args.device,
            data: data.as_ref().map(|(path, digest)| (path.as_path(), digest.as_str())),
            run: args.run.as_deref(),
            check: true,
        },
    )
    .await?;
    let mut stdout = std::io::stdout().lock();
    for line in &ready.said {
        writeln!(stdout, "{line}")?;
    }
    let world = count(ready.shape.world(), "trainer");
    writeln!(stdout, "ready: {world} on {} {}", count(ready.shape.nodes, "node"), ready.nodes.backend.name())?;
    Ok(0)
}
