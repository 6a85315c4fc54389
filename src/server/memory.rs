//! How much memory the process uses, as the kernel says.

/// Figures of admin's `/memory`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident, not backed by files: the nearest to what the program asked for that is known without a lock.
    pub(crate) allocated: u64,
    /// What the allocator holds of the kernel, in memory or swapped out. Its reserve of addresses is not counted:
    /// nobody has to find room for that.
    pub(crate) heap: u64,
    /// Resident, files and all.
    pub(crate) physical: u64,
}

impl Memory {
    /// Reads the figures; zeros where the kernel does not tell.
    pub(crate) fn read() -> Self {
        std::fs::read_to_string("/proc/self/status").map(|status| Self::parse(&status)).unwrap_or_default()
    }

    fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kilobytes.unwrap_or_default() * 1024
        };
        Self { allocated: field("RssAnon"), heap: field("RssAnon") + field("VmSwap"), physical: field("VmRSS") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_bytes() {
        let status = "Name:\tx\nVmRSS:\t    2048 kB\nRssAnon:\t    1024 kB\nVmSwap:\t 3072 kB\n";
        assert_eq!(Memory::parse(status), Memory { allocated: 1 << 20, heap: 4 << 20, physical: 2 << 20 });
        assert_eq!(Memory::parse("odd"), Memory::default());
    }
}
