//! Slurm's notation for hosts: `gpu[03-05,09],login`.

/// The first host of a list.
pub(super) fn first_host(list: &str) -> String {
    let mut host = String::new();
    let mut rest = list.trim();
    while let Some(at) = rest.find(['[', ',']) {
        host.push_str(&rest[..at]);
        if rest[at..].starts_with(',') {
            return host;
        }
        // `[03-05,09]` stands for its first number here.
        let (numbers, after) = rest[at + 1..].split_once(']').unwrap_or((&rest[at + 1..], ""));
        host.push_str(numbers.split(['-', ',']).next().unwrap_or_default());
        rest = after;
    }
    host + rest
}

#[cfg(test)]
mod tests {
    use super::first_host;

    #[test]
    fn the_first_of_each_notation() {
        for (list, host) in [
            ("gpu7", "gpu7"),
            ("gpu7,gpu9", "gpu7"),
            ("gpu[03-05,09],login", "gpu03"),
            ("gpu[12]", "gpu12"),
            ("rack[2-3]node[01,04]-ib,other", "rack2node01-ib"),
            ("node-1-[7-8].cluster", "node-1-7.cluster"),
            ("odd[1", "odd1"),
            ("", ""),
        ] {
            assert_eq!(first_host(list), host, "{list}");
        }
    }
}
