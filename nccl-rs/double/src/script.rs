//! What the double is told to do wrong. The language is described at the crate's root.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Fail,
    Refuse,
    Hang,
    Slow(Duration),
    Busy(Duration),
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Init,
    Split,
    Finalize,
    Operation(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    action: Action,
    place: Place,
    rank: Option<usize>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    entries: Vec<Entry>,
    version: Option<i32>,
}

impl Script {
    /// The environment's. One that cannot be read is said aloud and fails whatever is made under it.
    pub fn of_process() -> &'static Result<Self, String> {
        static SCRIPT: OnceLock<Result<Script, String>> = OnceLock::new();
        SCRIPT.get_or_init(|| Self::parse(&env::var("NCCL_DOUBLE").unwrap_or_default()))
    }

    /// The process's entries and those in a communicator's name.
    pub fn of_communicator(name: Option<&str>) -> Result<Self, String> {
        let mut script = Self::of_process().clone()?;
        if let Some(text) = name.and_then(|name| name.strip_prefix("double:")) {
            script.entries.extend(Self::parse(text)?.entries);
        }
        Ok(script)
    }

    pub fn version(&self) -> Option<i32> {
        self.version
    }

    /// What happens at a place on a rank: the first entry that says so.
    pub fn at(&self, place: Place, rank: usize) -> Option<Action> {
        let here = |entry: &&Entry| entry.place == place && entry.rank.is_none_or(|of| of == rank);
        self.entries.iter().find(here).map(|entry| entry.action)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut script = Self::default();
        for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
            let unreadable = || format!("NCCL_DOUBLE: {entry:?} is no entry of a script");
            if let Some(code) = entry.strip_prefix("version=") {
                script.version = Some(code.trim().parse().map_err(|_| unreadable())?);
            } else {
                script.entries.push(parse_entry(entry).ok_or_else(unreadable)?);
            }
        }
        Ok(script)
    }
}

fn parse_entry(entry: &str) -> Option<Entry> {
    let mut words = entry.split_whitespace();
    let action = words.next()?;
    let (verb, amount) = action.split_once('=').map_or((action, None), |(verb, amount)| (verb, Some(amount)));
    let time = || amount?.parse().ok().map(Duration::from_millis);
    let action = match verb {
        "fail" => Action::Fail,
        "refuse" => Action::Refuse,
        "hang" => Action::Hang,
        "exit" => Action::Exit,
        "slow" => Action::Slow(time()?),
        "busy" => Action::Busy(time()?),
        _ => return None,
    };
    if words.next()? != "at" {
        return None;
    }
    let place = match words.next()? {
        "init" => Place::Init,
        "split" => Place::Split,
        "finalize" => Place::Finalize,
        "op" => Place::Operation(words.next()?.parse().ok()?),
        _ => return None,
    };
    let rank = match words.next() {
        None => None,
        Some("on") => Some(words.next()?.parse().ok()?),
        Some(_) => return None,
    };
    words.next().is_none().then_some(Entry { action, place, rank })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_what_happens_where_and_to_whom() {
        let script = Script::parse("hang at op 3 on 1; slow=200 at init ;version=21403;").unwrap();
        assert_eq!(script.at(Place::Operation(3), 1), Some(Action::Hang));
        assert_eq!(script.at(Place::Operation(3), 0), None);
        assert_eq!(script.at(Place::Operation(2), 1), None);
        assert_eq!(script.at(Place::Init, 7), Some(Action::Slow(Duration::from_millis(200))));
        assert_eq!(script.version(), Some(21403));
    }

    #[test]
    fn what_is_no_script_is_refused() {
        for text in
            ["hang", "hang at", "hang at op", "slow at init", "dance at init", "fail at op 1 on", "fail at init now"]
        {
            assert!(Script::parse(text).is_err(), "{text}");
        }
    }
}
