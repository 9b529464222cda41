//! The tables of a report: what data, what machine; and how numbers are written there.

use super::runs::RunData;

/// A small table, of one run or shared by all.
pub(crate) struct Group {
    /// The runs it is about, when there are several.
    pub(crate) name: Option<String>,
    pub(crate) rows: Vec<(&'static str, String)>,
    /// The command line.
    pub(crate) command: Option<String>,
}

/// What each run was trained on; runs on the same data share a table.
pub(crate) fn data(runs: &[RunData]) -> Vec<Group> {
    grouped(runs, |run| {
        let data = &run.provenance.data;
        let inputs = match data.inputs.len() {
            0..=6 => data.inputs.join(", "),
            n => format!("{} and {} more", data.inputs[..5].join(", "), n - 5),
        };
        let rows = vec![
            (
                "Documents",
                format!("{}, of which {} held out", count(data.documents), count(data.held_out_documents)),
            ),
            ("Tokens", count(data.tokens)),
            ("Text", format!("{:.1} MB", data.text_bytes as f64 / 1e6)),
            ("Vocabulary", count(u64::from(data.vocab_size))),
            ("Made from", inputs),
            ("Shards", data.folders().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            ("Manifest", format!("BLAKE3 {}", data.manifest_blake3)),
            ("Tokenizer", format!("BLAKE3 {}", data.tokenizer_blake3)),
        ];
        (rows, None)
    })
}

/// Where and with what each run was trained.
pub(crate) fn machine(runs: &[RunData]) -> Vec<Group> {
    grouped(runs, |run| {
        let (origin, host) = (&run.provenance, &run.provenance.host);
        let mut rows = vec![
            ("Processor", format!("{}, {} available", host.cpu, plural(host.cores as u64, "core"))),
            ("Memory", format!("{:.0} GB", host.memory_bytes as f64 / 1e9)),
        ];
        if !host.gpus.is_empty() {
            rows.push(("Graphics cards", host.gpus.join(", ")));
        }
        rows.push(("System", host.system.clone()));
        rows.push((
            "Trained on",
            match origin.device.as_str() {
                "cpu" => format!("the processor, {}", plural(origin.threads as u64, "thread")),
                device => device.to_owned(),
            },
        ));
        let commit = origin.commit.as_ref().map_or(String::new(), |commit| format!(", commit {commit}"));
        rows.push(("Program", format!("{}{commit}, libtorch {}", origin.program, origin.torch)));
        rows.push(("Started", origin.started.clone()));
        for resumption in &origin.resumptions {
            rows.push(("Resumed", format!("{} at step {}", resumption.at, count(resumption.step))));
        }
        (rows, Some(origin.command.join(" ")))
    })
}

/// One table a run, with equal ones merged.
fn grouped(
    runs: &[RunData],
    table: impl Fn(&RunData) -> (Vec<(&'static str, String)>, Option<String>),
) -> Vec<Group> {
    let mut groups: Vec<(Vec<&str>, Group)> = Vec::new();
    for run in runs {
        let (rows, command) = table(run);
        match groups.iter_mut().find(|(_, known)| known.rows == rows && known.command == command) {
            Some((names, _)) => names.push(&run.name),
            None => groups.push((vec![&run.name], Group { name: None, rows, command })),
        }
    }
    let several = groups.len() > 1;
    groups
        .into_iter()
        .map(|(names, group)| Group { name: several.then(|| names.join(", ")), ..group })
        .collect()
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 core`, `2 cores`.
fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Three significant digits and a letter.
pub(crate) fn short(number: f64) -> String {
    let (value, unit) = match number {
        n if n >= 1e9 => (n / 1e9, " B"),
        n if n >= 1e6 => (n / 1e6, " M"),
        n if n >= 1e3 => (n / 1e3, " k"),
        n => (n, ""),
    };
    let decimals = if unit.is_empty() || value >= 100.0 { 0 } else { 1 + usize::from(value < 10.0) };
    format!("{value:.decimals$}{unit}")
}

/// `0.1234` as `12.3 %`.
pub(crate) fn percent(share: f64) -> String {
    let text = format!("{:.1}", 100.0 * share);
    format!("{} %", text.trim_end_matches(".0"))
}

/// Seconds as `3 d 4 h`, `2 h 5 min`, `1 min 40 s` or `12.3 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        86_400.. => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
        3_600.. => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        60.. => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{seconds:.1} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [950.0, 4_321.0, 43_210.0, 137_400_384.0, 2.5e9].map(short),
            ["950", "4.32 k", "43.2 k", "137 M", "2.50 B"]
        );
        assert_eq!([0.15, 0.1234, 1.0].map(percent), ["15 %", "12.3 %", "100 %"]);
        assert_eq!(
            [12.34, 100.0, 7_500.0, 273_600.0].map(duration),
            ["12.3 s", "1 min 40 s", "2 h 5 min", "3 d 4 h"]
        );
        assert_eq!([1, 2].map(|n| plural(n, "core")), ["1 core", "2 cores"]);
    }
}
