//! Where libnccl is looked for, and what is said when it is not there.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::dynamic::Opened;
use crate::version::Version;

/// The environment variable that names a file to load.
pub const VARIABLE: &str = "BEGAN_NCCL";

/// The name under which every build of NCCL since 2.0 can be linked.
const FILE: &str = "libnccl.so.2";

/// Where to look for the library. In this order, the first that there is:
///
/// 1. the copy that the process has loaded already, for instance through libtorch: two copies in one process would each
///    hold their own proxies and their own registrations;
/// 2. the file that the caller names ([`path`](Self::path)), then the one that the environment variable `BEGAN_NCCL` names;
/// 3. around the directories that the caller gives ([`directory`](Self::directory)): in them, in their `lib`, and where
///    the wheels of `PyPI` have it, `nvidia/nccl/lib` beside `torch`;
/// 4. the loader's own places (`LD_LIBRARY_PATH`, `ld.so.conf`, `/usr/lib`).
///
/// A file that somebody named (2) and that cannot be loaded is an error, and no reason to go on with another.
#[derive(Debug, Clone, Default)]
pub struct Search {
    exactly: Option<PathBuf>,
    path: Option<PathBuf>,
    directories: Vec<PathBuf>,
    /// Another file name than libnccl's, for this crate's own tests.
    file: Option<&'static str>,
}

impl Search {
    /// Everywhere, in the order above.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// This file and nothing else: neither a copy already loaded nor the environment.
    #[must_use]
    pub fn exactly(path: impl Into<PathBuf>) -> Self {
        Self { exactly: Some(path.into()), ..Self::default() }
    }

    /// A file to load, unless a copy is loaded already.
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// A directory to look in and around; may be repeated. That of libtorch is the one to give.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directories.push(directory.into());
        self
    }

    fn file(&self) -> &'static str {
        self.file.unwrap_or(FILE)
    }

    /// Every place in order; `named` are those a person asked for.
    fn places(&self, variable: Option<OsString>) -> Vec<(Place, bool)> {
        if let Some(path) = &self.exactly {
            return vec![(Place::File(path.clone()), true)];
        }
        let mut places = vec![(Place::AlreadyLoaded, false)];
        if let Some(path) = &self.path {
            places.push((Place::File(path.clone()), true));
        }
        if let Some(path) = variable.filter(|path| !path.is_empty()) {
            places.push((Place::Variable(path.into()), true));
        }
        for directory in &self.directories {
            let wheel = Path::new("nvidia/nccl/lib");
            // `torch` and `torch/lib` are both called libtorch's directory.
            let around = [
                Some(directory.clone()),
                Some(directory.join("lib")),
                Some(directory.join(wheel)),
                directory.parent().map(|up| up.join(wheel)),
                directory.parent().and_then(Path::parent).map(|up| up.join(wheel)),
            ];
            for candidate in around.into_iter().flatten() {
                let place = Place::File(candidate.join(self.file()));
                if !places.iter().any(|(earlier, _)| *earlier == place) {
                    places.push((place, false));
                }
            }
        }
        places.push((Place::System, false));
        places
    }

    /// The first that can be opened, or every place and why it could not be.
    pub(crate) fn open(&self) -> Result<Opened, LoadError> {
        self.open_with(env::var_os(VARIABLE))
    }

    fn open_with(&self, variable: Option<OsString>) -> Result<Opened, LoadError> {
        let mut tried = Vec::new();
        for (place, named) in self.places(variable) {
            let opened = match &place {
                Place::AlreadyLoaded => {
                    Opened::already(self.file()).ok_or_else(|| "no copy is loaded in this process".to_owned())
                }
                Place::File(path) | Place::Variable(path) if !path.exists() => Err("no such file".to_owned()),
                Place::File(path) | Place::Variable(path) => Opened::load(path),
                Place::System => Opened::load(Path::new(self.file())),
            };
            match opened {
                Ok(opened) => return Ok(opened),
                Err(reason) => tried.push(Tried { place, reason }),
            }
            if named {
                break;
            }
        }
        Err(LoadError::NotFound { tried })
    }
}

/// One place to look in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A copy loaded in this process before.
    AlreadyLoaded,
    /// A file.
    File(PathBuf),
    /// A file that the environment variable `BEGAN_NCCL` names.
    Variable(PathBuf),
    /// Wherever the loader looks.
    System,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyLoaded => f.write_str("what is loaded already"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(path) => write!(f, "{} ({VARIABLE})", path.display()),
            Self::System => f.write_str("the loader's own places"),
        }
    }
}

/// A place where the library was looked for, and why it was not taken from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Where.
    pub place: Place,
    /// Why not, in the loader's words where it was asked.
    pub reason: String,
}

/// Why there is no NCCL to work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It could be loaded from nowhere.
    #[error("libnccl.so.2 could not be loaded. Looked at:{}", list(.tried))]
    NotFound {
        /// Every place looked at, in order.
        tried: Vec<Tried>,
    },
    /// It is older than these bindings can work with.
    #[error("{} is NCCL {found}, and at least {} is needed", .path.display(), Version::OLDEST)]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// It lacks a function that every version since [`Version::OLDEST`] has: something else under NCCL's name.
    #[error("{} has no function {function}; it is not NCCL, or a stub of it", .path.display())]
    Incomplete {
        /// The file.
        path: PathBuf,
        /// The function.
        function: &'static str,
    },
    /// It does not say its version.
    #[error("{} does not say its version: ncclGetVersion returned {code}", .path.display())]
    NoVersion {
        /// The file.
        path: PathBuf,
        /// What the function returned.
        code: i32,
    },
}

fn list(tried: &[Tried]) -> String {
    tried.iter().map(|Tried { place, reason }| format!("\n  {place}: {reason}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_lists_every_place_looked_at_in_order() {
        let search = Search::new().directory("/nowhere/site-packages/torch");
        let search = Search { file: Some("libnccl-that-nobody-has.so.2"), ..search };
        let LoadError::NotFound { tried } = search.open_with(None).unwrap_err() else { panic!("another error") };
        let places: Vec<String> = tried.iter().map(|tried| tried.place.to_string()).collect();
        let file = "libnccl-that-nobody-has.so.2";
        assert_eq!(
            places,
            [
                "what is loaded already".to_owned(),
                format!("/nowhere/site-packages/torch/{file}"),
                format!("/nowhere/site-packages/torch/lib/{file}"),
                format!("/nowhere/site-packages/torch/nvidia/nccl/lib/{file}"),
                format!("/nowhere/site-packages/nvidia/nccl/lib/{file}"),
                format!("/nowhere/nvidia/nccl/lib/{file}"),
                "the loader's own places".to_owned(),
            ]
        );
        let text = LoadError::NotFound { tried }.to_string();
        assert!(text.contains("no such file"), "{text}");
        assert!(text.contains("cannot open shared object file"), "the loader's words are missing: {text}");
    }

    #[test]
    fn a_file_that_somebody_named_is_not_replaced_by_another() {
        let search = Search::new().path("/nowhere/libnccl.so.2").directory("/usr/lib");
        match (Opened::already(FILE), search.open_with(None)) {
            (None, Err(LoadError::NotFound { tried })) => assert_eq!(tried.len(), 2),
            (None, other) => panic!("{other:?}"),
            (Some(_), _) => {}
        }
    }

    #[test]
    fn a_file_that_is_no_library_says_so_in_the_loaders_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, "not a library").unwrap();
        let text = Search::exactly(&path).open_with(None).unwrap_err().to_string();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(text.contains("file too short") || text.contains("invalid ELF header"), "{text}");
    }

    #[test]
    fn a_copy_that_is_loaded_already_comes_first() {
        let double = nccl_double::library().unwrap();
        let opened = Opened::load(&double).unwrap();
        let search = Search { file: Some("libnccl_double.so"), ..Search::new().path("/nowhere/libnccl.so.2") };
        let again = search.open_with(None).unwrap();
        assert_eq!(again.symbol(c"ncclGetVersion"), opened.symbol(c"ncclGetVersion"));
    }

    #[test]
    fn the_place_of_the_wheel_beside_torch_is_found() {
        let site = tempfile::tempdir().unwrap();
        let wheel = site.path().join("nvidia/nccl/lib");
        std::fs::create_dir_all(&wheel).unwrap();
        std::os::unix::fs::symlink(nccl_double::library().unwrap(), wheel.join("libnccl-of-this-test.so")).unwrap();
        for libtorch in ["torch", "torch/lib"] {
            let search = Search::new().directory(site.path().join(libtorch));
            let search = Search { file: Some("libnccl-of-this-test.so"), ..search };
            assert!(!search.open_with(None).unwrap().symbol(c"ncclGetVersion").is_null());
        }
    }
}
