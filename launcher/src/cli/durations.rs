//! Durations as people write them on a command line.

use std::time::Duration;

const LONGEST: f64 = 1e6;

/// A number of seconds, as in `30` or `0.5`.
///
/// # Errors
/// If it is none, or not between 0 and a million.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    if (0.0..=LONGEST).contains(&number) {
        Ok(Duration::from_secs_f64(number))
    } else {
        Err(format!("{text} is not between 0 and 1000000 seconds"))
    }
}

/// A duration with its unit, as in `20s`, `500ms`, `2m` or `1h`.
///
/// # Errors
/// If it is none, is 0, or is longer than a million seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration, as in 20s, 500ms or 2m");
    let units = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(units);
    let second = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * second;
    if seconds > 0.0 && seconds <= LONGEST {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} is not above 0 and at most 1000000 seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        for (text, seconds) in [("20s", 20.0), ("500ms", 0.5), ("2m", 120.0), ("0.5h", 1800.0), ("1.5s", 1.5)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["20", "", "s", "20 s", "20d", "-3s", "0s", "nans", "infs", "1e9s", "2m30s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
