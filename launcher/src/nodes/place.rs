//! Which backend a launch uses and why, how many nodes it has and how many trainers on each.
//!
//! It is found out from what was said and from the surroundings, and it is said with its reason; whatever does not fit is
//! refused with both numbers.

use anyhow::{Context, Result, bail};

use super::hosts::{self, Host};
use super::local::Local;
use super::slurm::{self, Slurm};
use super::ssh::Ssh;
use super::{Backend, Nodes};
use crate::binaries;
use crate::cli::{NodeCount, Place, PlaceArgs};
use crate::configure::Shape;

/// Where a launch is to be, before anyone has looked at its nodes.
#[derive(Debug)]
pub struct Layout {
    /// How its nodes are reached.
    pub nodes: Nodes,
    /// Nodes and trainers.
    pub shape: Shape,
    /// With fewer nodes it does not start.
    pub least: u32,
    /// What a new run's lanes are counted for.
    pub most: u32,
    /// Why it is there, where that was left to the launcher.
    pub why: Option<String>,
}

/// Where the launch is to be. `last`: nodes and trainers if nothing says how many, hosts least of all.
///
/// # Errors
/// If what was said does not fit together, or not the surroundings.
pub fn find(args: &PlaceArgs, nodes: Option<NodeCount>, gpus: Option<u32>, last: Option<Shape>) -> Result<Layout> {
    find_in(
        args,
        nodes,
        gpus,
        last,
        |name| std::env::var(name).ok().filter(|value| !value.is_empty()),
        slurm::host_names,
    )
}

fn find_in(
    args: &PlaceArgs,
    nodes: Option<NodeCount>,
    gpus: Option<u32>,
    last: Option<Shape>,
    variable: impl Fn(&str) -> Option<String>,
    host_names: impl Fn(&str) -> Result<Vec<String>>,
) -> Result<Layout> {
    let allocation = variable("SLURM_JOB_ID").zip(variable("SLURM_JOB_NODELIST"));
    let (place, why) = match (args.on, &args.hosts, &allocation) {
        (Place::Auto, Some(_), _) => (Place::Ssh, Some("over ssh: --hosts says on which hosts".to_owned())),
        (Place::Auto, None, Some((job, list))) => {
            (Place::Slurm, Some(format!("under SLURM: this is in the allocation of job {job}, nodes {list}")))
        }
        (Place::Auto, None, None) => (Place::Local, None),
        (Place::Local | Place::Slurm, Some(hosts), _) => {
            bail!("--hosts {hosts}: only --on ssh takes hosts")
        }
        (place, ..) => (place, None),
    };
    let launcher = || args.node_launcher.clone().map_or_else(binaries::own, Ok);
    let last_nodes = last.map(|shape| NodeCount::exactly(shape.nodes));
    let last_gpus = last.map(|shape| shape.gpus);
    let (backend, count, most, gpus): (Box<dyn Backend>, u32, u32, u32) = match place {
        Place::Ssh => {
            let Some(text) = &args.hosts else { bail!("--on ssh needs --hosts: a list of hosts, or a file of them") };
            let mut hosts = hosts::read(text)?;
            let (count, most) = fitting(nodes, hosts.len(), "--hosts names")?;
            hosts.truncate(count as usize);
            let gpus = slots(&hosts, gpus, last_gpus)?;
            let backend = Ssh {
                hosts,
                arguments: args.ssh_args.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned).collect(),
                launcher: launcher()?,
                environment: environment(args),
                lost_after: args.lost_after,
            };
            (Box::new(backend), count, most, gpus)
        }
        Place::Slurm => {
            let Some((job, list)) = allocation else {
                bail!(
                    "--on slurm: this is in no allocation (SLURM_JOB_ID is not set); start it in one, with salloc or in a \
                     batch script (deploy/slurm/began.sbatch), or say --submit to have one submitted"
                )
            };
            let tasks = variable("SLURM_STEP_NUM_TASKS").and_then(|tasks| tasks.parse::<u32>().ok());
            if tasks.is_some_and(|tasks| tasks > 1) {
                bail!(
                    "this launcher is one of {} that srun started; start one alone, without srun: it starts an agent on every \
                     node itself",
                    tasks.unwrap_or_default()
                );
            }
            let mut hosts = host_names(&list)?;
            let (count, most) = fitting(nodes, hosts.len(), "the allocation has")?;
            hosts.truncate(count as usize);
            let gpus = gpus.or(last_gpus).unwrap_or_else(|| slurm_gpus(variable));
            (Box::new(Slurm { job, hosts, launcher: launcher()? }), count, most, gpus)
        }
        Place::Auto | Place::Local => {
            let count = nodes.or(last_nodes).unwrap_or(NodeCount::exactly(1));
            (Box::new(Local), count.most, count.most, gpus.or(last_gpus).unwrap_or(1))
        }
    };
    let least = nodes.map_or(count, |nodes| nodes.least.min(count));
    // Off this machine the address is known once a node has said where it sees us, if it was not given.
    if args.share_gpu && backend.is_remote() {
        bail!("--share-gpu is for nodes on this machine, and these are {}", backend.name());
    }
    let interface = if backend.is_remote() { args.interface.clone() } else { None };
    let address = if backend.is_remote() { args.address } else { None };
    let nodes = Nodes { backend, address, interface, share_gpu: args.share_gpu, lost_after: args.lost_after };
    Ok(Layout { nodes, shape: Shape { nodes: count, gpus }, least, most, why })
}

/// How many of the hosts there are to use, and how many there may ever be.
fn fitting(nodes: Option<NodeCount>, there: usize, who: &str) -> Result<(u32, u32)> {
    let there = u32::try_from(there).context("more hosts than can be")?;
    let Some(NodeCount { least, most }) = nodes else { return Ok((there, there)) };
    if there < least {
        bail!("--nodes {least}{}, but {who} {there}", if least < most { format!(":{most}") } else { String::new() });
    }
    Ok((most.min(there), most))
}

fn slots(hosts: &[Host], gpus: Option<u32>, last: Option<u32>) -> Result<u32> {
    let least = hosts.iter().filter_map(|host| host.slots).min();
    let gpus = gpus.or(last).or(least).unwrap_or(1);
    match hosts.iter().find(|host| host.slots.is_some_and(|slots| slots < gpus)) {
        Some(host) => {
            bail!("--gpus {gpus}, but {} has slots={} (--hosts)", host.name, host.slots.unwrap_or_default())
        }
        None => Ok(gpus),
    }
}

/// GPUs of a node as the allocation says them, as in `gpu:2`, `a100:4` or `8`; or its tasks.
fn slurm_gpus(variable: impl Fn(&str) -> Option<String>) -> u32 {
    ["SLURM_GPUS_PER_NODE", "SLURM_GPUS_ON_NODE", "SLURM_NTASKS_PER_NODE"]
        .iter()
        .find_map(|name| variable(name)?.rsplit(':').next()?.parse().ok().filter(|count| *count > 0))
        .unwrap_or(1)
}

/// What programs on other hosts get in their environment; this is the one place that decides it. ssh starts them with
/// nothing of ours, and SLURM with everything.
fn environment(args: &PlaceArgs) -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    let own = ["BEGAN_TRAINER", "BEGAN_LOG", "RUST_BACKTRACE"].map(std::ffi::OsString::from);
    let named = args.environment.iter().cloned();
    // Where traces go, and which: asked for here, and meant for all.
    let traces = std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_encoded_bytes().starts_with(b"OTEL_"));
    own.into_iter()
        .chain(traces)
        .chain(named)
        .filter_map(|word| {
            let text = word.to_string_lossy().into_owned();
            match text.split_once('=') {
                Some((name, value)) => Some((name.into(), value.into())),
                None => std::env::var_os(&word).map(|value| (word, value)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, node_count, with_default_command};
    use clap::Parser;

    fn found(line: &str, nodes: &str, variables: &[(&str, &str)]) -> Result<Layout> {
        let words = format!("launcher --run r {line}");
        let cli = Cli::try_parse_from(with_default_command(words.split_whitespace().map(Into::into)))?;
        let Command::Train(args) = cli.command else { bail!("not train") };
        let nodes = if nodes.is_empty() { None } else { Some(node_count(nodes).map_err(anyhow::Error::msg)?) };
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        let names = |list: &str| Ok(list.split(',').map(str::to_owned).collect());
        find_in(&args.place, nodes, args.gpus, None, variable, names)
    }

    const JOB: [(&str, &str); 3] =
        [("SLURM_JOB_ID", "7"), ("SLURM_JOB_NODELIST", "n1,n2,n3"), ("SLURM_GPUS_PER_NODE", "a100:4")];

    #[test]
    fn auto_finds_out_where_it_is_and_says_why() -> Result<()> {
        let layout = found("", "", &[])?;
        assert_eq!((layout.nodes.backend.name(), layout.why), ("on this machine", None));
        let layout = found("", "", &JOB)?;
        assert_eq!((layout.nodes.backend.name(), layout.shape), ("under SLURM", Shape { nodes: 3, gpus: 4 }));
        assert!(layout.why.is_some_and(|why| why.contains("job 7") && why.contains("n1,n2,n3")));
        let layout = found("--hosts a:slots=2,b:slots=3", "", &JOB)?;
        assert_eq!((layout.nodes.backend.name(), layout.shape), ("over ssh", Shape { nodes: 2, gpus: 2 }));
        assert!(layout.why.is_some_and(|why| why.contains("--hosts")));
        Ok(())
    }

    #[test]
    fn a_range_takes_what_there_is() -> Result<()> {
        let layout = found("", "2:4", &JOB)?;
        assert_eq!((layout.shape.nodes, layout.least, layout.most), (3, 2, 4));
        let layout = found("--hosts a,b,c,d", "2:3", &[])?;
        assert_eq!((layout.shape.nodes, layout.least, layout.most), (3, 2, 3));
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        for (line, nodes, variables, words) in [
            ("--on ssh", "", &[][..], "needs --hosts"),
            ("--on local --hosts a", "", &[], "only --on ssh takes hosts"),
            ("--on slurm", "", &[], "SLURM_JOB_ID is not set"),
            ("--hosts a,b", "3", &[], "--nodes 3, but --hosts names 2"),
            ("", "4:8", &JOB, "--nodes 4:8, but the allocation has 3"),
            ("--hosts a:slots=2 --gpus 4", "", &[], "--gpus 4, but a has slots=2"),
            ("", "", &[JOB[0], JOB[1], ("SLURM_STEP_NUM_TASKS", "3")], "without srun"),
        ] {
            let error = format!("{:#}", found(line, nodes, variables).expect_err(line));
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
