//! Resolves a configuration from its layers: preset, then file, then `--set`.
//!
//! Every value is applied on its own and the whole is read again after each, so that whatever is wrong is blamed on
//! the line or option that brought it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use model::ModelConfig;
use toml::de::DeTable;
use toml::{Table, Value};

use crate::budget::Budget;
use crate::config::Config;
use crate::error::Error;

/// A preset that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// What `--preset` calls it.
    pub name: &'static str,
    /// Its TOML with comments; the first line says what it is.
    pub text: &'static str,
}

/// All presets.
pub const PRESETS: [Preset; 5] = [
    Preset { name: "tiny", text: include_str!("../presets/tiny.toml") },
    Preset { name: "mosaic-bert-base", text: include_str!("../presets/mosaic-bert-base.toml") },
    Preset {
        name: "mosaic-bert-base-linear-mask",
        text: include_str!("../presets/mosaic-bert-base-linear-mask.toml"),
    },
    Preset { name: "mosaic-bert-large", text: include_str!("../presets/mosaic-bert-large.toml") },
    Preset { name: "bert-base", text: include_str!("../presets/bert-base.toml") },
];

/// The preset that is used where none is named.
pub const DEFAULT_PRESET: &str = "mosaic-bert-base";

/// Keys whose value may be a number or a table, and is replaced as a whole.
const WHOLE: [&str; 1] = ["train.mask_rate"];

impl Preset {
    /// The preset called `name`.
    ///
    /// # Errors
    /// [`Error::UnknownPreset`] with the names that exist.
    pub fn find(name: &str) -> Result<Preset, Error> {
        PRESETS.into_iter().find(|preset| preset.name == name).ok_or_else(|| Error::UnknownPreset {
            name: name.to_owned(),
            known: PRESETS.map(|preset| preset.name).join(", "),
        })
    }

    /// The first comment line: what the preset is.
    pub fn summary(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches(['#', ' '])
    }
}

/// One value and where it came from.
struct Assignment {
    key: String,
    value: Value,
    origin: String,
}

/// Resolves and checks a configuration.
///
/// # Errors
/// An unknown preset or key, a value of the wrong type, a value out of range: each names the file and line, or the
/// option, that is to blame.
pub fn resolve(preset: &str, file: Option<&Path>, sets: &[String]) -> Result<Config, Error> {
    resolve_with(preset, None, file, sets)
}

/// The same; the architecture is `model`'s in place of the preset's, where there is one. File and `--set` still win.
///
/// # Errors
/// Those of [`resolve`].
pub fn resolve_with(
    preset: &str,
    model: Option<&ModelConfig>,
    file: Option<&Path>,
    sets: &[String],
) -> Result<Config, Error> {
    let mut table: Table = Preset::find(preset)?.text.parse().expect("presets are tested to be valid TOML");
    if let Some(model) = model {
        let model = Value::try_from(model).expect("a configuration has only strings and numbers");
        table.insert("model".to_owned(), model);
    }
    let keys = leaves(&table);
    let mut assignments = Vec::new();
    if let Some(path) = file {
        assignments.extend(read_file(path, &keys)?);
    }
    for argument in sets {
        assignments.push(read_set(argument, &keys)?);
    }
    assign(table, assignments)
}

/// Changes single values of a resolved configuration, by `--set`.
///
/// # Errors
/// As [`resolve`].
pub fn change(config: &Config, sets: &[String]) -> Result<Config, Error> {
    let table: Table = config.to_toml().parse().expect("it was written by this program");
    let keys = leaves(&table);
    let assignments = sets.iter().map(|set| read_set(set, &keys)).collect::<Result<_, _>>()?;
    assign(table, assignments)
}

/// Applies the assignments one by one, then checks the whole.
fn assign(mut table: Table, assignments: Vec<Assignment>) -> Result<Config, Error> {
    let mut config = Config::deserialize_table(&table)
        .expect("presets are tested to be complete, as is what this program writes");
    for Assignment { key, value, origin } in assignments {
        let shown = value.to_string();
        insert(&mut table, &key, value);
        config = Config::deserialize_table(&table).map_err(|error| Error::ConfigValue {
            origin,
            key,
            value: shown,
            reason: error.message().lines().next().unwrap_or_default().to_owned(),
        })?;
    }
    // One way to say a number of steps.
    if let Some(Budget::Steps(steps)) = config.train.budget {
        (config.train.steps, config.train.budget) = (steps, None);
    }
    config.validate()?;
    Ok(config)
}

impl Config {
    fn deserialize_table(table: &Table) -> Result<Config, toml::de::Error> {
        Value::Table(table.clone()).try_into()
    }
}

/// All leaf keys of a table, dotted.
fn leaves(table: &Table) -> BTreeSet<String> {
    fn walk(prefix: &str, table: &Table, keys: &mut BTreeSet<String>) {
        for (name, value) in table {
            let key = join(prefix, name);
            match value {
                Value::Table(inner) if !WHOLE.contains(&key.as_str()) => walk(&key, inner, keys),
                _ => {
                    keys.insert(key);
                }
            }
        }
    }
    let mut keys = BTreeSet::new();
    walk("", table, &mut keys);
    keys
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Reads the assignments of a TOML file, each with its line.
fn read_file(path: &Path, keys: &BTreeSet<String>) -> Result<Vec<Assignment>, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let syntax = |source| Error::ConfigSyntax { path: path.to_owned(), source: Box::new(source) };
    let values: Table = text.parse().map_err(syntax)?;
    // The same text once more, this time with the place of every key.
    let places = DeTable::parse(&text).map_err(syntax)?;
    let mut found = Vec::new();
    walk_file("", &values, places.get_ref(), keys, &|byte| origin(path, &text, byte), &mut found)?;
    Ok(found)
}

/// `FILE, line N` of a byte.
fn origin(path: &Path, text: &str, byte: usize) -> String {
    format!("{}, line {}", path.display(), 1 + text[..byte].matches('\n').count())
}

fn walk_file(
    prefix: &str,
    values: &Table,
    places: &DeTable<'_>,
    keys: &BTreeSet<String>,
    origin: &dyn Fn(usize) -> String,
    found: &mut Vec<Assignment>,
) -> Result<(), Error> {
    for (name, place) in places {
        let key = join(prefix, name.get_ref());
        let (value, origin_here) = (&values[name.get_ref().as_ref()], origin(name.span().start));
        match (value, place.get_ref().as_table()) {
            _ if keys.contains(&key) => {
                found.push(Assignment { key, value: value.clone(), origin: origin_here });
            }
            (Value::Table(inner), Some(inner_places)) if is_section(&key, keys) => {
                walk_file(&key, inner, inner_places, keys, origin, found)?;
            }
            _ => return Err(unknown(&key, origin_here, keys)),
        }
    }
    Ok(())
}

/// Reads one `key.path=value`. The value is TOML; what is not TOML is a string, so that names need no quotes.
fn read_set(argument: &str, keys: &BTreeSet<String>) -> Result<Assignment, Error> {
    let Some((key, text)) = argument.split_once('=') else {
        return Err(Error::SetSyntax { argument: argument.to_owned() });
    };
    let (key, text) = (key.trim(), text.trim());
    if !keys.contains(key) {
        return Err(unknown(key, "--set".to_owned(), keys));
    }
    let value = format!("value = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    Ok(Assignment { key: key.to_owned(), value, origin: "--set".to_owned() })
}

fn is_section(key: &str, keys: &BTreeSet<String>) -> bool {
    keys.iter().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// The error for a key that does not exist, with up to three that are alike.
fn unknown(key: &str, origin: String, keys: &BTreeSet<String>) -> Error {
    if is_section(key, keys) {
        let members: Vec<&str> =
            keys.iter().filter(|known| known.starts_with(&format!("{key}."))).map(String::as_str).collect();
        let nearest = format!("it is a section, with {}", members.join(", "));
        return Error::UnknownKey { origin, key: key.to_owned(), nearest };
    }
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(known, key);
        // `steps` or `trian.steps` mean `train.steps`: a matching last part counts nearly as much as the whole.
        let part = strsim::normalized_damerau_levenshtein(&last(known), &last(key));
        whole.max(0.95 * part)
    };
    let mut ranked: Vec<(f64, &str)> = keys.iter().map(|known| (likeness(known), known.as_str())).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<String> =
        ranked.iter().take(3).filter(|entry| entry.0 >= 0.5).map(|entry| format!("`{}`", entry.1)).collect();
    let nearest = match near.as_slice() {
        [] => "`train presets NAME` lists all keys".to_owned(),
        _ => format!("did you mean {}?", near.join(" or ")),
    };
    Error::UnknownKey { origin, key: key.to_owned(), nearest }
}

/// Replaces the value of a dotted key that is known to exist.
fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(section) {
                insert(inner, rest, value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(arguments: &[&str]) -> Result<Config, Error> {
        resolve("tiny", None, &arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn file(text: &str) -> Result<Config, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        fs::write(&path, text).unwrap();
        resolve("tiny", Some(&path), &[])
    }

    #[test]
    fn every_preset_is_valid_complete_and_says_what_it_is() {
        let keys = leaves(&PRESETS[0].text.parse().unwrap());
        for preset in PRESETS {
            let config = resolve(preset.name, None, &[]).unwrap();
            assert_eq!(leaves(&preset.text.parse().unwrap()), keys, "{}", preset.name);
            assert_eq!(leaves(&config.to_toml().parse().unwrap()), keys, "{}", preset.name);
            assert!(preset.text.starts_with("# ") && preset.summary().len() > 10);
        }
    }

    #[test]
    fn the_resolved_configuration_reads_back_as_itself() {
        let config = set(&["train.budget=1h30m", "train.mask_rate={ from = 0.3, to = 0.15 }"]).unwrap();
        assert_eq!(file(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn later_layers_win() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        fs::write(&path, "seed = 5\n[train]\nsteps = 10\nbatch_size = 3\n").unwrap();
        let config =
            resolve("tiny", Some(&path), &["train.steps=20".into(), "loader.policy=truncate".into()])
                .unwrap();
        assert_eq!((config.seed, config.train.steps, config.train.batch_size), (5, 20, 3));
        assert_eq!(config.loader.policy, loader::SamplePolicy::Truncate);
    }

    #[test]
    fn unknown_keys_name_the_nearest_and_the_line() {
        let message = set(&["train.step=3"]).unwrap_err().to_string();
        assert!(
            message.starts_with("--set: there is no key `train.step`; did you mean `train.steps`"),
            "{message}"
        );
        let message = set(&["lr=3"]).unwrap_err().to_string();
        assert!(message.contains("`optimizer.lr`"), "{message}");
        let message = file("seed = 1\n[train]\nsteps = 3\nbatchsize = 4\n").unwrap_err().to_string();
        assert!(message.contains("run.toml, line 4: there is no key `train.batchsize`"), "{message}");
        assert!(message.contains("`train.batch_size`"), "{message}");
        let message = file("[trian]\nsteps = 3\n").unwrap_err().to_string();
        assert!(message.contains("line 1: there is no key `trian`"), "{message}");
    }

    #[test]
    fn values_of_the_wrong_type_name_the_line() {
        let message = file("[train]\nsteps = 3\n[optimizer]\nlr = \"fast\"\n").unwrap_err().to_string();
        assert!(message.contains("run.toml, line 4: `optimizer.lr = \"fast\"` is refused"), "{message}");
        let message = set(&["train.device=gpu"]).unwrap_err().to_string();
        assert!(message.contains("`train.device = \"gpu\"`") && message.contains("cuda"), "{message}");
        let message = set(&["train"]).unwrap_err().to_string();
        assert!(message.contains("key.path=value"), "{message}");
        let message = set(&["train=3"]).unwrap_err().to_string();
        assert!(message.contains("it is a section") && message.contains("train.seq_len"), "{message}");
    }

    #[test]
    fn a_budget_in_steps_is_the_number_of_steps_and_others_stay() {
        let config = set(&["train.budget=12steps"]).unwrap();
        assert_eq!((config.train.steps, config.train.budget), (12, None));
        let config = set(&["train.budget=3epochs"]).unwrap();
        assert_eq!(config.train.budget, Some(Budget::Epochs(3.0)));
        let message = set(&["train.budget=3weeks"]).unwrap_err().to_string();
        assert!(message.contains("there is no unit \"weeks\"") && message.contains("1h30m"), "{message}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (argument, key) in [
            ("train.steps=0", "train.steps"),
            ("optimizer.lr=-1.0", "optimizer.lr"),
            ("optimizer.betas=[0.9, 1.0]", "optimizer.betas"),
            ("schedule.warmup_fraction=1.0", "schedule.warmup_fraction"),
            ("schedule.decay_fraction=0.95", "schedule.decay_fraction"),
            ("optimizer.clip_norm=-1.0", "optimizer.clip_norm"),
            ("train.mask_rate={ from = 0.3, to = 0.0 }", "train.mask_rate"),
            ("train.seq_len=2", "seq_len"),
        ] {
            let message = set(&[argument]).unwrap_err().to_string();
            assert!(message.contains(key), "{argument}: {message}");
        }
        let error = resolve("bert-base", None, &["train.seq_len=1024".into()]).unwrap_err().to_string();
        assert!(error.contains("max_position_embeddings") && error.contains("1024"), "{error}");
    }

    #[test]
    fn the_papers_recipe_is_the_papers() {
        let config = resolve("mosaic-bert-base", None, &[]).unwrap();
        assert_eq!(config.train.steps * config.train.batch_size as u64, 286_720_000);
        let peak =
            (0..config.train.steps).find(|step| config.schedule.factor(*step as f64 / 70_000.0) == 1.0);
        assert_eq!(peak, Some(4_200));
        let mut falling = resolve("mosaic-bert-base-linear-mask", None, &[]).unwrap();
        for (progress, rate) in [(0.0, 0.3), (0.5, 0.225), (1.0, 0.15)] {
            assert!((falling.train.mask_rate.at(progress) - rate).abs() < 1e-12, "at {progress}");
        }
        falling.train.mask_rate = config.train.mask_rate;
        assert_eq!(falling, config, "nothing else differs");
    }
}
