//! Machine code of a GPU as NVIDIA's `cuobjdump` and `nvdisasm` print it.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Where `cuobjdump` is, and the folders in which it finds `nvdisasm`.
pub struct Tools {
    cuobjdump: PathBuf,
    path: OsString,
}

/// One kernel.
pub struct Function {
    pub name: String,
    pub registers: u32,
    pub stack: u32,
    pub local: u32,
    pub code: Code,
}

/// Instructions with their addresses.
pub struct Code(Vec<(u64, String)>);

impl Tools {
    /// Named by `BEGAN_CUOBJDUMP`, in PATH, beside NVRTC or libtorch as the wheels put them, or the system's.
    pub fn find() -> std::result::Result<Self, String> {
        let named = env::var_os("BEGAN_CUOBJDUMP").map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let beside_nvrtc =
            env::var_os("BEGAN_NVRTC").and_then(|nvrtc| Some(Path::new(&nvrtc).parent()?.join("../bin")));
        let folders = named.as_deref().and_then(Path::parent).map(Path::to_path_buf).into_iter();
        let folders = folders.chain(env::split_paths(&path)).chain(beside_nvrtc).chain(beside_libtorch());
        let folders: Vec<PathBuf> = folders.chain([PathBuf::from("/usr/local/cuda/bin")]).collect();
        let find = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|file| file.is_file());
        let cuobjdump = named.or_else(|| find("cuobjdump")).ok_or("no cuobjdump here (BEGAN_CUOBJDUMP names one)")?;
        find("nvdisasm").ok_or("no nvdisasm here, which cuobjdump needs")?;
        let path = env::join_paths(&folders).map_err(|error| error.to_string())?;
        Ok(Self { cuobjdump, path })
    }

    fn print(&self, what: &str, cubin: &Path) -> Result<String> {
        let out = Command::new(&self.cuobjdump).arg(what).arg(cubin).env("PATH", &self.path).output()?;
        if !out.status.success() {
            let why = String::from_utf8_lossy(&out.stderr);
            return Err(format!("{} {what}: {why}", self.cuobjdump.display()).into());
        }
        Ok(String::from_utf8(out.stdout)?)
    }

    /// The kernels of a cubin.
    pub fn functions(&self, code: &[u8]) -> Result<Vec<Function>> {
        let folder = tempfile::tempdir()?;
        let cubin = folder.path().join("kernels.cubin");
        fs::write(&cubin, code)?;
        let (usage, code) = (self.print("-res-usage", &cubin)?, self.print("-sass", &cubin)?);
        let mut out = Vec::new();
        for part in usage.split("Function ").skip(1) {
            let name = part.split(':').next().unwrap_or_default().to_owned();
            let number = |key: &str| -> Result<u32> {
                let word = part.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
                Ok(word.ok_or_else(|| format!("no {key} of {name} in {usage}"))?.parse()?)
            };
            let (registers, stack, local) = (number("REG")?, number("STACK")?, number("LOCAL")?);
            let body = code.split("Function : ").find_map(|body| body.strip_prefix(&name)?.strip_prefix('\n'));
            let code = Code::read(body.ok_or_else(|| format!("no code of {name}"))?);
            out.push(Function { name, registers, stack, local, code });
        }
        Ok(out)
    }
}

/// Where wheels put programs, seen from the libtorch that this process runs with.
fn beside_libtorch() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let library = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(Path::new(&library[library.find('/')?..]).parent()?.join("../../nvidia/cu13/bin"))
}

impl Code {
    /// From lines as `/*0340*/  @P0 LDG.E.128 R4, desc[UR4][R4.64] ;  /* ... */`.
    fn read(text: &str) -> Self {
        let instruction = |line: &str| {
            let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
            Some((u64::from_str_radix(address, 16).ok()?, rest.split_once(';')?.0.trim().to_owned()))
        };
        Self(text.lines().filter_map(instruction).collect())
    }

    /// The instructions between a jump back and where it goes to, among which are stores of 16 bytes.
    pub fn pixel_loop(&self) -> Option<Self> {
        let target = |instruction: &str| {
            let (_, target) = instruction.split_once("BRA")?.1.rsplit_once("0x")?;
            u64::from_str_radix(target, 16).ok()
        };
        self.0.iter().find_map(|(end, instruction)| {
            let start = target(instruction).filter(|start| start < end)?;
            let inside = self.0.iter().filter(|(address, _)| (start..=*end).contains(address));
            let inside = Self(inside.cloned().collect());
            inside.has("STG.E.128").then_some(inside)
        })
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn has(&self, operation: &str) -> bool {
        self.0.iter().any(|(_, instruction)| instruction.contains(operation))
    }

    pub fn loads_before_the_first_store(&self) -> usize {
        let before = self.0.iter().take_while(|(_, instruction)| !instruction.contains("STG"));
        before.filter(|(_, instruction)| instruction.contains("LDG.E.128")).count()
    }

    /// Whether all loads from global memory and stores into it are 16 bytes wide.
    pub fn only_moves_16_bytes(&self) -> bool {
        let moves =
            |instruction: &&(u64, String)| ["LDG", "STG", "LD.", "ST."].iter().any(|name| instruction.1.contains(name));
        self.0.iter().filter(moves).all(|(_, instruction)| instruction.contains("G.E.128"))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(address, instruction)| writeln!(f, "{address:04x} {instruction}"))
    }
}
