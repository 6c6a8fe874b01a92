//! Memory and processor time of a process, from the kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::Result;

/// Clock ticks per second in which Linux reports processor time to every program.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time of the whole machine so far, all cores together, to 10 ms.
pub(crate) fn machine_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let (all, _) = stat.split_once('\n').ok_or("/proc/stat has no lines")?;
    // user, nice, system, idle, iowait, irq, softirq, steal
    let ticks = all.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [user, nice, system, _idle, _iowait, rest @ ..] = &*ticks else {
        return Err("/proc/stat lacks fields".into());
    };
    let busy = user + nice + system + rest.iter().take(3).sum::<u64>();
    Ok(of_ticks(busy))
}

/// Ticks as a time.
fn of_ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks * (1000 / TICKS_PER_SECOND))
}

/// A running process, by its folder under `/proc`.
pub(crate) struct Process {
    folder: PathBuf,
}

impl Process {
    /// The one with this id.
    pub(crate) fn of(id: u32) -> Self {
        Self { folder: Path::new("/proc").join(id.to_string()) }
    }

    /// The load generator itself.
    pub(crate) fn this() -> Self {
        Self { folder: PathBuf::from("/proc/self") }
    }

    /// Resident memory, in bytes. The kernel's own buffers of its sockets are not in it.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it has had, in bytes.
    #[expect(clippy::allow_attributes, reason = "one of the benchmarks uses it")]
    #[allow(dead_code, reason = "one of the benchmarks uses it")]
    pub(crate) fn most_resident(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(self.folder.join("status"))?;
        let kibibytes: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))
            .ok_or("the process has no resident memory")?
            .parse()?;
        Ok(kibibytes * 1024)
    }

    /// Processor time of all its threads so far, its own and the kernel's on its behalf,
    /// to 10 ms.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(self.folder.join("stat"))?;
        // The name of the program, the second field, may hold spaces; it ends with the
        // last parenthesis.
        let (_, fields) = stat.rsplit_once(')').ok_or("/proc/PID/stat has no name")?;
        let ticks = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u64>)
            .sum::<Result<u64, _>>()?;
        Ok(of_ticks(ticks))
    }

    /// Fails if it may not open this many files. The servers inherit the limit.
    pub(crate) fn require_descriptors(&self, wanted: usize) -> Result<()> {
        let limits = fs::read_to_string(self.folder.join("limits"))?;
        let limit: usize = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .and_then(|line| line.split_whitespace().next())
            .and_then(|soft| soft.parse().ok())
            .unwrap_or(usize::MAX);
        if limit < wanted {
            return Err(
                format!("{limit} open files are allowed, {wanted} needed: see ulimit -n").into()
            );
        }
        Ok(())
    }
}
