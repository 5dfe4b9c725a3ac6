//! Laying one thing over another: a file over a preset, `--set key=value` over both.
//!
//! Whatever is laid over must be there already: an unknown key or a value of another kind is an error that names it.

use toml::{Table, Value};

use super::{ConfigError, RunConfig};

impl RunConfig {
    /// This configuration with a TOML text laid over it. `place` names the text in errors.
    ///
    /// # Errors
    /// If the text is not TOML, or has an unknown key or a value of the wrong kind.
    pub fn overlay(&self, text: &str, place: &str) -> Result<Self, ConfigError> {
        let over: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
            place: place.into(),
            reason: error.to_string().trim().to_owned(),
        })?;
        self.overlay_table(&over, place)
    }

    /// This configuration with one `key=value` laid over it. A value that is not TOML is taken as a string.
    ///
    /// # Errors
    /// If it is not an assignment, the key is unknown or the value of the wrong kind.
    pub fn set(&self, assignment: &str) -> Result<Self, ConfigError> {
        let (key, value) = assignment.split_once('=').ok_or_else(|| ConfigError::NotAnAssignment(assignment.into()))?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || value.is_empty() {
            return Err(ConfigError::NotAnAssignment(assignment.into()));
        }
        let value = format!("v = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("v"))
            .unwrap_or_else(|| Value::String(value.into()));
        self.overlay_table(&nested(key, value), "--set")
    }

    fn overlay_table(&self, over: &Table, place: &str) -> Result<Self, ConfigError> {
        let mut merged = self.to_table();
        merge(&mut merged, over, place, "")?;
        Value::Table(merged).try_into().map_err(|error: toml::de::Error| {
            // The kinds are right, so a number does not fit. Which one, only trying each alone can tell.
            let too_large = leaves(over, "").into_iter().find(|(key, value)| {
                let mut alone = Self::default().to_table();
                merge(&mut alone, &nested(key, value.clone()), place, "").is_err()
                    || Value::Table(alone).try_into::<Self>().is_err()
            });
            match too_large {
                Some((key, value)) => ConfigError::WrongKind {
                    place: place.into(),
                    key,
                    expected: "a smaller number".into(),
                    found: value.to_string(),
                },
                None => ConfigError::Syntax { place: place.into(), reason: error.message().to_owned() },
            }
        })
    }
}

fn merge(base: &mut Table, over: &Table, place: &str, prefix: &str) -> Result<(), ConfigError> {
    for (key, value) in over {
        let dotted = format!("{prefix}{key}");
        let wrong = |expected: &str, found: &Value| ConfigError::WrongKind {
            place: place.into(),
            key: dotted.clone(),
            expected: expected.into(),
            found: found.to_string().trim().to_owned(),
        };
        if !base.contains_key(key) {
            return Err(ConfigError::UnknownKey { place: place.into(), nearest: nearest(&dotted), key: dotted });
        }
        let slot = &mut base[key.as_str()];
        *slot = match (&mut *slot, value) {
            (Value::Table(base), Value::Table(over)) => {
                merge(base, over, place, &format!("{dotted}."))?;
                continue;
            }
            (Value::Table(_), _) => return Err(wrong("a table of keys", value)),
            (Value::Integer(_), Value::Integer(v)) if *v >= 0 => Value::Integer(*v),
            (Value::Integer(_), _) => return Err(wrong("a whole number of at least 0", value)),
            (Value::Float(_), Value::Integer(v)) => Value::Float(*v as f64),
            (Value::Float(_), Value::Float(v)) => Value::Float(*v),
            (Value::Float(_), _) => return Err(wrong("a number", value)),
            (Value::Boolean(_), Value::Boolean(v)) => Value::Boolean(*v),
            (Value::Boolean(_), _) => return Err(wrong("true or false", value)),
            (Value::String(_), Value::String(v)) => {
                let names = |names: &[&str]| names.contains(&v.as_str());
                match dotted.as_str() {
                    "run.precision" if !names(&["f32", "tf32", "bf16", "f64"]) => {
                        return Err(wrong("\"f32\", \"tf32\", \"bf16\" or \"f64\"", value));
                    }
                    "run.reduce" if !names(&["tree", "fast"]) => return Err(wrong("\"tree\" or \"fast\"", value)),
                    "run.on_corruption" if !names(&["heal", "set_aside", "stop"]) => {
                        return Err(wrong("\"heal\", \"set_aside\" or \"stop\"", value));
                    }
                    "guard.not_finite" | "guard.jump" | "guard.pinned" | "guard.rising" | "guard.diversity"
                        if !names(&["off", "warn", "stop", "rollback"]) =>
                    {
                        return Err(wrong("\"off\", \"warn\", \"stop\" or \"rollback\"", value));
                    }
                    _ => Value::String(v.clone()),
                }
            }
            (Value::String(_), _) if dotted == "data.path" => Value::String(value.to_string()),
            _ => return Err(wrong("a string", value)),
        };
    }
    Ok(())
}

/// A value under a dotted key, as tables within tables.
fn nested(key: &str, value: Value) -> Table {
    match key.split_once('.') {
        Some((section, rest)) => Table::from_iter([(section.to_owned(), Value::Table(nested(rest, value)))]),
        None => Table::from_iter([(key.to_owned(), value)]),
    }
}

/// Every value that is no table, under its dotted key.
fn leaves(table: &Table, prefix: &str) -> Vec<(String, Value)> {
    let leaf = |(key, value): (&String, &Value)| match value {
        Value::Table(inner) => leaves(inner, &format!("{prefix}{key}.")),
        value => vec![(format!("{prefix}{key}"), value.clone())],
    };
    table.iter().flat_map(leaf).collect()
}

/// The key most like this one, if any is like it at all.
fn nearest(key: &str) -> Option<String> {
    let keys = RunConfig::default().keys().into_iter().map(|(key, _)| key);
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    keys.map(|known| (distance(&known, key).min(distance(&last(&known), &last(key))), known))
        .min()
        .filter(|(distance, _)| *distance <= 1 + key.len() / 4)
        .map(|(_, known)| known)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{PRESETS, Precision};

    #[test]
    fn what_is_written_out_reads_back_the_same() -> Result<(), ConfigError> {
        for name in PRESETS {
            let config = RunConfig::preset(name)?;
            config.validate()?;
            assert_eq!(RunConfig::default().overlay(&config.to_toml(), "run.toml")?, config);
        }
        Ok(())
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest_one() {
        let error = RunConfig::default().set("run.stepz=3").unwrap_err().to_string();
        assert_eq!(error, "--set: there is no key \"run.stepz\"; did you mean \"run.steps\"?");
        let error = RunConfig::default().overlay("[objectiv]\ngamma = 1", "a.toml").unwrap_err().to_string();
        assert!(error.contains("objectiv") && error.contains("a.toml"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        for (set, words) in [
            ("run.steps=many", "run.steps must be a whole number of at least 0, got \"many\""),
            ("run.steps=-1", "run.steps must be a whole number"),
            ("data.flip=1", "data.flip must be true or false"),
            ("run.reduce=ring", "run.reduce must be \"tree\" or \"fast\""),
            ("run=3", "run must be a table"),
            ("nothing", "expected key=value"),
        ] {
            let error = RunConfig::default().set(set).unwrap_err().to_string();
            assert!(error.contains(words), "{set}: {error}");
        }
        let huge = RunConfig::default().set("model.size=99999999999").unwrap_err().to_string();
        assert!(huge.contains("99999999999"), "{huge}");
    }

    #[test]
    fn a_path_needs_no_quotes() -> Result<(), ConfigError> {
        assert_eq!(RunConfig::default().set("data.path=/data/faces-64")?.data.path, "/data/faces-64");
        for (name, precision) in [("tf32", Precision::Tf32), ("bf16", Precision::Bf16), ("f64", Precision::F64)] {
            assert_eq!(RunConfig::default().set(&format!("run.precision={name}"))?.run.precision, precision);
        }
        Ok(())
    }
}
