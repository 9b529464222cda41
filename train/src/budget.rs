//! How long a run trains: a number of steps, samples, tokens, epochs, or a time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a run may use up. Written as a number and a unit: `70000steps`, `10Msamples`, `2Gtokens`, `3epochs`, `90m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Budget {
    /// Optimizer steps.
    Steps(u64),
    /// Samples trained on.
    Samples(u64),
    /// Tokens trained on, special tokens included, padding never.
    Tokens(u64),
    /// Visits of every training sample.
    Epochs(f64),
    /// Seconds of training, evaluations and waiting for checkpoints included.
    Time(f64),
}

/// What a text is that is no budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is not a budget: {reason}; write a number and a unit, for example 1h, 90m, 1h30m, 70000steps, \
     10Msamples, 2Gtokens or 3epochs"
)]
pub struct NoBudget {
    found: String,
    reason: String,
}

/// Seconds of each unit of time, the longest first.
const TIMES: [(&str, f64); 4] = [("d", 86_400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];

impl FromStr for Budget {
    type Err = NoBudget;

    fn from_str(text: &str) -> Result<Budget, NoBudget> {
        let refuse = |reason: String| NoBudget { found: text.to_owned(), reason };
        let compact: String = text.chars().filter(|c| !matches!(c, ' ' | '_')).collect();
        let parts = split(&compact).map_err(refuse)?;
        let budget = match parts.as_slice() {
            [] => return Err(refuse("it is empty".to_owned())),
            [(number, unit)] if seconds(unit).is_none() => counted(*number, unit).map_err(refuse)?,
            parts => {
                let mut sum = 0.0;
                for (number, unit) in parts {
                    sum += number
                        * seconds(unit).ok_or_else(|| refuse(format!("{unit:?} is no unit of time")))?;
                }
                Budget::Time(sum)
            }
        };
        let positive = match budget {
            Budget::Steps(n) | Budget::Samples(n) | Budget::Tokens(n) => n > 0,
            Budget::Epochs(n) | Budget::Time(n) => n > 0.0 && n.is_finite(),
        };
        if positive { Ok(budget) } else { Err(refuse("it is nothing".to_owned())) }
    }
}

/// `1h30m` as numbers and their units.
fn split(text: &str) -> Result<Vec<(f64, &str)>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        if number.is_empty() {
            return Err("it does not begin with a number".to_owned());
        }
        if unit.is_empty() {
            return Err(format!("{number} has no unit"));
        }
        parts.push((number.parse().map_err(|_| format!("{number} is not a number"))?, unit));
        rest = tail;
    }
    Ok(parts)
}

/// Seconds of a unit of time.
fn seconds(unit: &str) -> Option<f64> {
    let short = match unit {
        "sec" | "second" | "seconds" => "s",
        "min" | "minute" | "minutes" => "m",
        "hour" | "hours" => "h",
        "day" | "days" => "d",
        other => other,
    };
    TIMES.iter().find(|(name, _)| *name == short).map(|(_, seconds)| *seconds)
}

/// A number of steps, samples, tokens or epochs. The unit may begin with k, M, G (or B) or T, for thousands and so on.
fn counted(number: f64, unit: &str) -> Result<Budget, String> {
    const NAMES: [&str; 4] = ["step", "sample", "token", "epoch"];
    const FACTORS: [(&str, f64); 7] =
        [("", 1.0), ("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("B", 1e9), ("T", 1e12)];
    let singular = unit.strip_suffix('s').unwrap_or(unit);
    let known = NAMES.iter().find_map(|name| Some((*name, singular.strip_suffix(name)?)));
    let Some((name, prefix)) = known else {
        return Err(format!("there is no unit {unit:?}"));
    };
    let Some((_, factor)) = FACTORS.iter().find(|(known, _)| *known == prefix) else {
        return Err(format!("{prefix:?} is none of k, M, G, B and T"));
    };
    let count = number * factor;
    if name == "epoch" {
        return Ok(Budget::Epochs(count));
    }
    if count.fract() != 0.0 || count >= 2f64.powi(53) {
        return Err(format!("{count} {name}s is not a whole number below 9·10¹⁵"));
    }
    Ok(match name {
        "step" => Budget::Steps(count as u64),
        "sample" => Budget::Samples(count as u64),
        _ => Budget::Tokens(count as u64),
    })
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Steps(n) => write!(f, "{n}steps"),
            Budget::Samples(n) => write!(f, "{n}samples"),
            Budget::Tokens(n) => write!(f, "{n}tokens"),
            Budget::Epochs(n) => write!(f, "{n}epochs"),
            Budget::Time(seconds) => {
                let mut left = *seconds;
                for (unit, size) in &TIMES[..3] {
                    let whole = (left / size).floor();
                    if whole >= 1.0 {
                        write!(f, "{whole}{unit}")?;
                        left -= whole * size;
                    }
                }
                if left > 0.0 { write!(f, "{left}s") } else { Ok(()) }
            }
        }
    }
}

impl TryFrom<String> for Budget {
    type Error = NoBudget;

    fn try_from(text: String) -> Result<Budget, NoBudget> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> String {
        budget.to_string()
    }
}

/// An optional budget in a configuration file: its text, or `"none"`.
pub(crate) mod or_none {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Budget;

    pub(crate) fn serialize<S: Serializer>(budget: &Option<Budget>, out: S) -> Result<S::Ok, S::Error> {
        match budget {
            Some(budget) => out.collect_str(budget),
            None => out.serialize_str("none"),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Budget>, D::Error> {
        match String::deserialize(from)?.as_str() {
            "none" => Ok(None),
            text => text.parse().map(Some).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_with_units_are_read() {
        for (text, expected) in [
            ("1h", Budget::Time(3600.0)),
            ("90m", Budget::Time(5400.0)),
            ("1h30m", Budget::Time(5400.0)),
            ("1.5 h", Budget::Time(5400.0)),
            ("2d 1s", Budget::Time(172_801.0)),
            ("45min", Budget::Time(2700.0)),
            ("70000steps", Budget::Steps(70_000)),
            ("70_000 steps", Budget::Steps(70_000)),
            ("1step", Budget::Steps(1)),
            ("10Msamples", Budget::Samples(10_000_000)),
            ("2Gtokens", Budget::Tokens(2_000_000_000)),
            ("2Btokens", Budget::Tokens(2_000_000_000)),
            ("1.5ktokens", Budget::Tokens(1500)),
            ("3epochs", Budget::Epochs(3.0)),
            ("0.5epochs", Budget::Epochs(0.5)),
        ] {
            assert_eq!(text.parse::<Budget>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_budget_says_why() {
        for (text, reason) in [
            ("", "it is empty"),
            ("70000", "70000 has no unit"),
            ("steps", "does not begin with a number"),
            ("-1h", "does not begin with a number"),
            ("3weeks", "there is no unit \"weeks\""),
            ("10msamples", "\"m\" is none of k, M, G, B and T"),
            ("1h30steps", "\"steps\" is no unit of time"),
            ("1.5steps", "1.5 steps is not a whole number"),
            ("0steps", "it is nothing"),
            ("0m", "it is nothing"),
            ("1.2.3h", "1.2.3 is not a number"),
        ] {
            let message = text.parse::<Budget>().unwrap_err().to_string();
            assert!(message.contains(reason) && message.contains("for example 1h"), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(count in 1..1u64 << 53, kind in 0..5) {
            let budget = match kind {
                0 => Budget::Steps(count),
                1 => Budget::Samples(count),
                2 => Budget::Tokens(count),
                3 => Budget::Epochs(count as f64 / 8.0),
                _ => Budget::Time((count % (1 << 30)) as f64 / 4.0 + 0.25),
            };
            prop_assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget);
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,12}") {
            let _ = text.parse::<Budget>();
        }
    }
}
