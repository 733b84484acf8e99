//! Keeps the pages of keys out of swap.

/// Locks the pages that hold `value`, which must not move any more, until the process ends. Where the limit on locked memory
/// (`RLIMIT_MEMLOCK`) is reached they stay as they are: keys still work, and `coffer doctor` shows the limit.
pub(crate) fn lock<T: ?Sized>(value: &T) {
    if let Ok(guard) = region::lock(std::ptr::from_ref(value).cast::<u8>(), size_of_val(value)) {
        // Locks are not counted: to unlock one key's page would unlock its neighbour's.
        std::mem::forget(guard);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn locked_pages_show_in_the_process_status() {
        let key = Box::new([7u8; 32]);
        super::lock(&*key);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmLck:")).unwrap();
        let locked: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        let limit = std::fs::read_to_string("/proc/self/limits").unwrap();
        let limit = limit.lines().find(|l| l.starts_with("Max locked memory")).unwrap();
        assert!(locked >= 4 || limit.contains(" 0 "), "{line} ({limit})");
    }
}
