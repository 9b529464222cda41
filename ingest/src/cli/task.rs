//! `--task`, and what a cluster's variables say instead of it.

use anyhow::{Context, Result, bail};
use ingest::Task;

/// The value of `--task` that ingests everything, whatever the variables say.
const NONE: &str = "none";

/// Which share to ingest, and what says so; nothing for all. The command line goes before the variables, which `variable`
/// looks up.
pub(crate) fn choose(
    argument: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<(Task, &'static str)>> {
    match argument {
        Some(NONE) => return Ok(None),
        Some(share) => return Ok(Some((share.parse()?, "--task"))),
        None => {}
    }
    let number = |name: &str| -> Result<Option<u32>> {
        let Some(text) = variable(name) else { return Ok(None) };
        let number = text.trim().parse();
        number.map(Some).with_context(|| format!("the variable {name} is {text:?}, expected a number"))
    };
    if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
        return slurm(id, number).map(|task| Some((task, "SLURM_ARRAY_TASK_ID")));
    }
    if let Some(index) = number("JOB_COMPLETION_INDEX")? {
        let Some(count) = number("JOB_COMPLETIONS")? else {
            bail!(
                "JOB_COMPLETION_INDEX is {index}, but no variable JOB_COMPLETIONS says of how many; set it to the job's \
                 completions, or say --task {index}/N (--task none ingests everything)"
            );
        };
        let task = Task::new(index, count)
            .with_context(|| format!("JOB_COMPLETION_INDEX is {index}, JOB_COMPLETIONS is {count}"))?;
        return Ok(Some((task, "JOB_COMPLETION_INDEX")));
    }
    Ok(None)
}

/// The share of task `id` of a Slurm array 0-(N-1) or 1-N. Of an array that repeats some tasks only, Slurm does not tell
/// how many there were at first, so it is refused.
fn slurm(id: u32, number: impl Fn(&str) -> Result<Option<u32>>) -> Result<Task> {
    let all = "(--task none ingests everything)";
    let Some(count) = number("SLURM_ARRAY_TASK_COUNT")? else {
        bail!("SLURM_ARRAY_TASK_ID is {id}, but SLURM_ARRAY_TASK_COUNT is not set; say --task I/N {all}");
    };
    let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
    let last = number("SLURM_ARRAY_TASK_MAX")?.unwrap_or(first.saturating_add(count).saturating_sub(1));
    if first > 1
        || u64::from(last) + 1 != u64::from(first) + u64::from(count)
        || !(first..=last).contains(&id)
    {
        bail!(
            "the Slurm array has {count} tasks from {first} to {last}, this is {id}; of an array other than 0-(N-1) or 1-N, \
             such as one that repeats some tasks, only you know the whole: say --task I/N, I counted from 0 {all}"
        );
    }
    Ok(Task::new(id - first, count)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(argument: Option<&str>, variables: &[(&str, &str)]) -> Result<String, String> {
        let variable = |name: &str| {
            variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        };
        match choose(argument, variable) {
            Ok(None) => Ok("all".to_owned()),
            Ok(Some((task, from))) => Ok(format!("{task} by {from}")),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    #[test]
    fn the_command_line_goes_before_the_variables() {
        let slurm = [("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "8")];
        assert_eq!(chosen(None, &slurm).unwrap(), "3/8 by SLURM_ARRAY_TASK_ID");
        assert_eq!(chosen(Some("1/2"), &slurm).unwrap(), "1/2 by --task");
        assert_eq!(chosen(Some("none"), &slurm).unwrap(), "all");
        assert_eq!(chosen(None, &[]).unwrap(), "all");
    }

    #[test]
    fn slurm_arrays_count_from_zero_or_one() {
        let array = |id, count, min, max| {
            let names = [
                "SLURM_ARRAY_TASK_ID",
                "SLURM_ARRAY_TASK_COUNT",
                "SLURM_ARRAY_TASK_MIN",
                "SLURM_ARRAY_TASK_MAX",
            ];
            let values = [id, count, min, max];
            chosen(None, &names.into_iter().zip(values).collect::<Vec<_>>())
        };
        assert_eq!(array("0", "16", "0", "15").unwrap(), "0/16 by SLURM_ARRAY_TASK_ID");
        assert_eq!(array("16", "16", "1", "16").unwrap(), "15/16 by SLURM_ARRAY_TASK_ID");
        // Arrays 3,7 and 5 of what were 16 tasks.
        for [id, count, min, max] in [["3", "2", "3", "7"], ["5", "1", "5", "5"], ["1", "2", "0", "9"]] {
            let said = array(id, count, min, max).unwrap_err();
            assert!(said.contains("only you know the whole: say --task I/N"), "{said}");
        }
    }

    #[test]
    fn kubernetes_has_to_be_told_how_many() {
        let (index, count) = (("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "4"));
        assert_eq!(chosen(None, &[index, count]).unwrap(), "2/4 by JOB_COMPLETION_INDEX");
        let said = chosen(None, &[index]).unwrap_err();
        assert!(said.contains("no variable JOB_COMPLETIONS"), "{said}");
        let said = chosen(None, &[index, ("JOB_COMPLETIONS", "two")]).unwrap_err();
        assert!(said.contains("the variable JOB_COMPLETIONS is \"two\", expected a number"), "{said}");
    }
}
