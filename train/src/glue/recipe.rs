//! How each task is fine-tuned: a preset, or a TOML file that names what differs from one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::tasks::Task;
use crate::error::Error;
use crate::finetune::{FinetuneError, Order, Precision, Settings};

/// The presets: name and TOML, whose first line says what it is.
pub const RECIPES: [(&str, &str); 2] = [
    ("mosaic", include_str!("../../recipes/mosaic.toml")),
    ("quick", include_str!("../../recipes/quick.toml")),
];

/// The key by which a file says which preset it differs from.
const BASE: &str = "base";

/// How GLUE is fine-tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Longest example in tokens.
    pub seq_len: usize,
    /// The order of training.
    pub order: Order,
    /// Most tokens of one forward and backward pass.
    pub micro_batch_tokens: usize,
    /// Decay rates of AdamW's two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of the steps spent warming up.
    pub warmup_fraction: f64,
    /// Learning rate at the end as a fraction of the peak.
    pub final_fraction: f64,
    /// What differs between the tasks.
    pub tasks: BTreeMap<Task, TaskRecipe>,
}

/// How one task is fine-tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskRecipe {
    /// Passes over the training set.
    pub epochs: u64,
    /// Examples a step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Share of every weight that is lost per update at the peak learning rate.
    pub weight_decay: f64,
    /// What activations are computed in on CUDA.
    pub precision: Precision,
    /// Where it starts.
    pub start: StartFrom,
    /// Seeds, one fine-tuning each; they decide the head's first values, the order and dropout.
    pub seeds: Vec<u64>,
}

/// Where a task starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartFrom {
    /// The pretrained model.
    Pretrained,
    /// The encoder and pooler that MNLI's first seed ends with.
    Mnli,
}

impl Recipe {
    /// The preset of that name, or the recipe in the TOML file of that name.
    ///
    /// # Errors
    /// [`FinetuneError::Recipe`] for a name that is neither, or a key that does not exist; [`Error::ConfigRange`].
    pub fn find(name: &str) -> Result<Recipe, Error> {
        let preset = RECIPES.into_iter().find(|recipe| recipe.0 == name);
        let refused =
            |reason: String| Error::Finetune(FinetuneError::Recipe { origin: name.to_owned(), reason });
        let recipe = match preset {
            Some((_, text)) => text.parse::<Table>().expect("presets are tested to be valid TOML"),
            None if !Path::new(name).is_file() => {
                let known = RECIPES.map(|recipe| recipe.0).join(", ");
                return Err(refused(format!("it is no recipe ({known}) and no file")));
            }
            None => {
                let path = Path::new(name);
                let text = fs::read_to_string(path)
                    .map_err(|source| Error::Read { path: path.to_owned(), source })?;
                let mut over: Table = text.parse().map_err(|source| Error::ConfigSyntax {
                    path: path.to_owned(),
                    source: Box::new(source),
                })?;
                let base = match over.remove(BASE) {
                    None => RECIPES[0].0.to_owned(),
                    Some(Value::String(base)) => base,
                    Some(other) => {
                        return Err(refused(format!("`{BASE}` is {other}, expected a recipe's name")));
                    }
                };
                let Some((_, text)) = RECIPES.into_iter().find(|recipe| recipe.0 == base) else {
                    let known = RECIPES.map(|recipe| recipe.0).join(", ");
                    return Err(refused(format!("`{BASE}` is {base:?}, expected one of {known}")));
                };
                let mut table = text.parse::<Table>().expect("presets are tested to be valid TOML");
                merge(&mut table, over);
                table
            }
        };
        let recipe: Recipe = Value::Table(recipe)
            .try_into()
            .map_err(|error: toml::de::Error| refused(error.message().to_owned()))?;
        recipe.validate(name)?;
        Ok(recipe)
    }

    fn validate(&self, name: &str) -> Result<(), Error> {
        for (task, of) in &self.tasks {
            let refused = |reason: &str| {
                let origin = format!("{name}, tasks.{}", task.spec().key);
                Err(Error::Finetune(FinetuneError::Recipe { origin, reason: reason.to_owned() }))
            };
            if of.seeds.is_empty() {
                return refused("`seeds` is empty, expected at least one");
            }
            if (1..of.seeds.len()).any(|at| of.seeds[..at].contains(&of.seeds[at])) {
                return refused("`seeds` has one twice");
            }
            if *task == Task::Mnli && of.start == StartFrom::Mnli {
                return refused("`start` is \"mnli\", which MNLI itself cannot start from");
            }
            self.settings(*task)?.validate()?;
        }
        Ok(())
    }

    /// The settings of a task's fine-tuning.
    ///
    /// # Errors
    /// [`FinetuneError::Recipe`] when the recipe does not have the task.
    pub fn settings(&self, task: Task) -> Result<Settings, Error> {
        let of = self.task(task)?;
        Ok(Settings {
            epochs: of.epochs,
            batch_size: of.batch_size,
            seq_len: self.seq_len,
            order: self.order,
            precision: of.precision,
            micro_batch_tokens: self.micro_batch_tokens,
            lr: of.lr,
            weight_decay: of.weight_decay,
            betas: self.betas,
            eps: self.eps,
            warmup_fraction: self.warmup_fraction,
            final_fraction: self.final_fraction,
        })
    }

    /// What the recipe says of a task.
    ///
    /// # Errors
    /// [`FinetuneError::Recipe`] when it says nothing.
    pub fn task(&self, task: Task) -> Result<&TaskRecipe, Error> {
        self.tasks.get(&task).ok_or_else(|| {
            let origin = "the recipe".to_owned();
            let reason = format!("it has no section [tasks.{}]", task.spec().key);
            FinetuneError::Recipe { origin, reason }.into()
        })
    }

    /// Gives every task its first `count` seeds; where it has fewer, further ones follow: 1, 2, ….
    pub fn take_seeds(&mut self, count: usize) {
        for task in self.tasks.values_mut() {
            task.seeds.truncate(count);
            let mut next = 1;
            while task.seeds.len() < count {
                if !task.seeds.contains(&next) {
                    task.seeds.push(next);
                }
                next += 1;
            }
        }
    }
}

/// Puts `over` on top of `table`, section by section.
fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glue::tasks::TASKS;

    fn file(text: &str) -> Result<Recipe, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        fs::write(&path, text).unwrap();
        Recipe::find(path.to_str().unwrap()).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn presets_have_every_task() {
        for (name, text) in RECIPES {
            let recipe = Recipe::find(name).unwrap();
            assert!(TASKS.iter().all(|task| recipe.tasks.contains_key(task)), "{name}");
            assert!(text.starts_with("# "));
        }
    }

    /// The numbers of finetuning_jobs.py that are easiest to get wrong.
    #[test]
    fn the_papers_recipe_is_the_papers() {
        let recipe = Recipe::find("mosaic").unwrap();
        let stsb = &recipe.tasks[&Task::Stsb];
        assert_eq!((stsb.precision, stsb.start, stsb.seeds.len()), (Precision::Fp32, StartFrom::Mnli, 5));
        let rte = recipe.settings(Task::Rte).unwrap();
        assert_eq!((rte.epochs, rte.batch_size, rte.seq_len), (3, 16, 256));
        assert_eq!((rte.lr, rte.weight_decay), (1e-5, 1e-5));
        assert_eq!(recipe.settings(Task::Mnli).unwrap().steps(392_702), 3 * 8_182);
        let fine_tunings: usize = recipe.tasks.values().map(|task| task.seeds.len()).sum();
        assert_eq!(fine_tunings, 25);
    }

    #[test]
    fn a_file_names_what_differs() {
        let recipe = file("base = \"quick\"\nseq_len = 64\n[tasks.rte]\nepochs = 7\n").unwrap();
        let quick = Recipe::find("quick").unwrap();
        assert_eq!((recipe.seq_len, recipe.tasks[&Task::Rte].epochs), (64, 7));
        assert_eq!(recipe.tasks[&Task::Cola], quick.tasks[&Task::Cola]);
        assert!(file("[tasks.rte]\nepoch = 7\n").unwrap_err().contains("unknown field `epoch`"));
        assert!(file("[tasks.wnli]\nepochs = 7\n").unwrap_err().contains("wnli"));
        assert!(file("base = \"slow\"\n").unwrap_err().contains("expected one of mosaic, quick"));
        assert!(file("[tasks.rte]\nlr = -1.0\n").unwrap_err().contains("`lr` is -1"));
        assert!(
            file("[tasks.rte]\nseeds = [1, 1]\n").unwrap_err().contains("tasks.rte: `seeds` has one twice")
        );
        assert!(
            Recipe::find("mosaik").unwrap_err().to_string().contains("no recipe (mosaic, quick) and no file")
        );
    }

    #[test]
    fn seeds_are_taken_or_added() {
        let mut recipe = Recipe::find("mosaic").unwrap();
        recipe.take_seeds(3);
        assert_eq!(recipe.tasks[&Task::Rte].seeds, [19, 8364, 717]);
        assert_eq!(recipe.tasks[&Task::Mnli].seeds, [19, 1, 2]);
    }
}
