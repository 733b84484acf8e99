//! How much memory may still be taken.

use std::{fs, path::Path};

const GROUPS: &str = "/sys/fs/cgroup";

/// Bytes that this process may still take, by the kernel's estimate and by the limits of the control groups (version 2) that it is
/// in. `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    let system = machine("MemAvailable:")?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    Some(
        Path::new(GROUPS)
            .join(group)
            .ancestors()
            .take_while(|path| path.starts_with(GROUPS))
            .filter_map(left)
            .fold(system, u64::min),
    )
}

/// Bytes of memory that the machine has. `None` where the system does not tell.
pub fn total_memory() -> Option<u64> {
    machine("MemTotal:")
}

/// A line of `/proc/meminfo`, in bytes.
fn machine(name: &str) -> Option<u64> {
    field(&fs::read_to_string("/proc/meminfo").ok()?, name)?.checked_mul(1 << 10)
}

/// What a control group has left; pages of files that the kernel can drop count as left.
fn left(group: &Path) -> Option<u64> {
    let limit = fs::read_to_string(group.join("memory.max")).ok()?.trim().parse::<u64>().ok()?;
    let used = fs::read_to_string(group.join("memory.stat")).ok()?;
    let used = ["anon", "shmem", "kernel"].iter().filter_map(|name| field(&used, name)).sum();
    Some(limit.saturating_sub(used))
}

/// The number behind `name` in lines of names and numbers.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "anon_thp 7\nanon 12\nMemAvailable:   24000 kB\nempty\n";
        assert_eq!([field(text, "anon"), field(text, "MemAvailable:")], [Some(12), Some(24_000)]);
        assert_eq!([field(text, "empty"), field(text, "none")], [None, None]);
    }

    #[test]
    fn a_group_without_a_limit_has_none_left_to_tell() {
        let folder = std::env::temp_dir().join(format!("coffer-room-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("memory.stat"), "anon 100\nfile 5000\nshmem 20\nkernel 3\n").unwrap();
        for (limit, expected) in [("max", None), ("1000\n", Some(877)), ("50", Some(0))] {
            fs::write(folder.join("memory.max"), limit).unwrap();
            assert_eq!(left(&folder), expected, "{limit}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
