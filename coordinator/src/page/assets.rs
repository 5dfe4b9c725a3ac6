//! The page's files, in the binary: it works wherever the coordinator runs, and asks no other host for anything.

use axum::body::Bytes;

/// A file as it is served.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Its content type.
    pub kind: &'static str,
    /// Itself.
    pub content: &'static [u8],
}

macro_rules! assets {
    ($($name:literal),* $(,)?) => {
        /// Every file, by name.
        const FILES: &[(&str, &[u8])] = &[$(($name, include_bytes!(concat!("../../page/", $name)))),*];
    };
}

assets!(
    "api.js",
    "colours.js",
    "controls.js",
    "curves.js",
    "dom.js",
    "film.js",
    "format.js",
    "grid.js",
    "head.js",
    "histogram.js",
    "history.js",
    "icon.svg",
    "index.html",
    "link.js",
    "live.js",
    "losses.js",
    "main.js",
    "manifest.js",
    "overview.js",
    "phase.js",
    "plot-input.js",
    "plot.js",
    "samples.js",
    "scale.js",
    "signin.js",
    "state.js",
    "style.css",
    "surface.js",
    "theme.js",
    "trainers.js",
    "world-map.js",
    "world-table.js",
    "world.js",
);

/// The file of this name.
#[must_use]
pub fn find(name: &str) -> Option<Asset> {
    let (_, content) = FILES.iter().find(|(known, _)| *known == name)?;
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    Some(Asset { kind, content })
}

impl Asset {
    /// What tells this version of it from others.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("\"{}\"", &blake3::hash(self.content).to_hex()[..16])
    }

    /// Itself.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes::from_static(self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_file_of_the_page_is_in_the_binary_and_no_other() -> std::io::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut there = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            there.extend(entry?.file_name().into_string().ok());
        }
        let mut known: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        there.sort();
        known.sort_unstable();
        assert_eq!(there, known);
        assert!(find("../Cargo.toml").is_none() && find("").is_none());
        Ok(())
    }

    #[test]
    fn no_file_asks_another_host_for_anything() {
        for (name, content) in FILES {
            let text = String::from_utf8_lossy(content);
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for outside in ["http://", "https://", "//cdn", "@import"] {
                assert!(!text.contains(outside), "{name} mentions {outside}");
            }
        }
    }
}
