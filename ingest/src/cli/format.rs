//! Numbers and tables as people read them.

use comfy_table::{CellAlignment, Table, presets};

/// An integer with a comma between thousands: 1,234,567.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with what is counted: 1 file, 2 files.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// A size in the largest decimal unit that leaves a number of at least 1.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 999.5 {
            let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} PB")
}

/// A share in per cent, to three digits as far as they matter.
pub(crate) fn share(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        10.0.. => 1,
        1.0..10.0 => 2,
        0.001..1.0 => 3,
        _ => 0,
    };
    if percent > 0.0 && percent < 0.001 { "< 0.001 %".to_owned() } else { format!("{percent:.digits$} %") }
}

/// A time in its two largest units.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// A table of names and values.
pub(crate) fn pairs<'a>(rows: impl IntoIterator<Item = (&'a str, String)>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    for (name, value) in rows {
        table.add_row([name, &value]);
    }
    table
}

/// A table with a header; all columns but the first hold numbers.
pub(crate) fn columns<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_easy_to_read() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 999, 1000, 99_949, 305_000_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "99.9 kB", "305 GB"]
        );
        assert_eq!([counted(1, "file"), counted(2000, "file")], ["1 file", "2,000 files"]);
        assert_eq!(
            [0.04, 59.6, 61.0, 7260.0, 90_000.0].map(duration),
            ["0.0 s", "1 min 00 s", "1 min 01 s", "2 h 01 min", "1 d 01 h"]
        );
        assert_eq!(
            [1.0, 0.2346, 0.01234, 0.00012, 0.0, 1e-7].map(share),
            ["100.0 %", "23.5 %", "1.23 %", "0.012 %", "0 %", "< 0.001 %"]
        );
        assert_eq!(bytes(999_600), "1.0 MB");
        assert_eq!(bytes(2_000_000_000_000_000), "2.0 PB");
    }
}
