//! Configurations side by side: what differs, and what is the same.

use super::runs::RunData;

/// Settings that are the same in all runs.
pub(super) struct Section {
    pub(super) name: String,
    pub(super) rows: Vec<(String, String)>,
}

/// The settings in which the runs differ.
pub(super) struct Comparison {
    pub(super) note: String,
    pub(super) rows: Vec<ComparisonRow>,
}

pub(super) struct ComparisonRow {
    pub(super) key: String,
    /// One a run, and whether it is another than the first run's.
    pub(super) values: Vec<(String, bool)>,
}

/// The settings on which all runs agree, by section.
pub(super) fn sections(runs: &[RunData]) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for key in keys(runs).into_iter().filter(|key| !differs(runs, key)) {
        let (section, name) = key.split_once('.').unwrap_or(("run", key));
        let row = (name.to_owned(), runs[0].setting(key));
        match sections.iter_mut().find(|known| known.name == section) {
            Some(known) => known.rows.push(row),
            None => sections.push(Section { name: section.to_owned(), rows: vec![row] }),
        }
    }
    sections
}

/// The settings in which the runs differ.
pub(super) fn comparison(runs: &[RunData]) -> Comparison {
    let rows: Vec<ComparisonRow> = keys(runs)
        .into_iter()
        .filter(|key| differs(runs, key))
        .map(|key| {
            let first = runs[0].setting(key);
            let values = runs.iter().map(|run| run.setting(key));
            ComparisonRow {
                key: key.to_owned(),
                values: values.map(|value| (value.clone(), value != first)).collect(),
            }
        })
        .collect();
    let note = match rows.len() {
        0 => "All settings are the same.".to_owned(),
        1 => "One setting differs, all others are the same.".to_owned(),
        n => format!(
            "{n} settings differ, all others are the same. What is not as in the first run is marked."
        ),
    };
    Comparison { note, rows }
}

/// The keys that any run has, in the order in which configurations declare them.
fn keys(runs: &[RunData]) -> Vec<&str> {
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.settings) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    keys
}

fn differs(runs: &[RunData], key: &str) -> bool {
    runs.iter().any(|run| run.setting(key) != runs[0].setting(key))
}
