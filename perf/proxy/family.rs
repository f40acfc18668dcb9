//! What a process and all that descend from it use.

use std::collections::BTreeMap;
use std::fs;

use corelane::sys::process;

use super::Failure;

/// What `/proc/PID/stat` tells (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Clock ticks of CPU time that ended children had used.
    of_children_ticks: u64,
}

/// Clock ticks per second, as every Linux tells programs (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time in seconds that process `root` and its descendants have used so far: exact for those
/// that run, to 10 ms for those that have ended.
pub(crate) fn cpu_seconds(root: u32) -> Result<f64, Failure> {
    let mut sum = 0.0;
    for (pid, stat) in family(root)? {
        let ended = stat.of_children_ticks as f64 / TICKS_PER_SECOND;
        // One that has ended since counts with its parent at the next look.
        sum += ended + process::cpu_time(pid).map_or(0.0, |time| time.as_secs_f64());
    }
    Ok(sum)
}

/// Bytes of memory of process `root` and its descendants; a page that several of them share counts
/// once in all (`Pss`).
pub(crate) fn memory_bytes(root: u32) -> Result<u64, Failure> {
    let mut sum = 0;
    for pid in family(root)?.into_keys() {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        sum += rollup.ok().and_then(|text| share_of_memory(&text)).unwrap_or(0);
    }
    if sum == 0 { Err("the memory of the proxy cannot be read".into()) } else { Ok(sum) }
}

fn family(root: u32) -> Result<BTreeMap<u32, Stat>, Failure> {
    let mut everybody = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        everybody.extend(stat(&text).map(|stat| (pid, stat)));
    }
    Ok(descendants(root, &everybody))
}

fn descendants(root: u32, everybody: &BTreeMap<u32, Stat>) -> BTreeMap<u32, Stat> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root];
    while let Some(pid) = pending.pop() {
        if let Some(stat) = everybody.get(&pid) {
            found.insert(pid, *stat);
            let children = everybody.iter().filter(|(_, stat)| stat.parent == pid);
            pending.extend(children.map(|(child, _)| *child));
        }
    }
    found
}

fn stat(text: &str) -> Option<Stat> {
    // The name, in brackets, may have anything in it.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number)?.parse::<u64>().ok();
    Some(Stat { parent: fields.get(1)?.parse().ok()?, of_children_ticks: ticks(13)? + ticks(14)? })
}

fn share_of_memory(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::{Stat, cpu_seconds, descendants, memory_bytes, share_of_memory, stat};

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "7 (a) b) S 3 7 7 0 -1 4 0 0 0 0 11 12 13 14 20 0 1 0 5";
        assert_eq!(stat(text), Some(Stat { parent: 3, of_children_ticks: 27 }));
        assert_eq!(stat("7 (a"), None);
    }

    #[test]
    fn grandchildren_belong_to_the_family_and_strangers_do_not() {
        let of = |parent| Stat { parent, of_children_ticks: 0 };
        let everybody = [(1, of(0)), (5, of(1)), (6, of(5)), (7, of(6)), (8, of(1))].into();
        assert!(descendants(5, &everybody).into_keys().eq([5, 6, 7]));
        assert!(descendants(9, &everybody).is_empty());
    }

    #[test]
    fn memory_is_the_share_of_it() {
        let text = "55-7f ---p 0 0 [rollup]\nRss:  900 kB\nPss:     12 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(share_of_memory(text), Some(12 * 1024));
        assert_eq!(share_of_memory("Rss: 900 kB\n"), None);
    }

    #[test]
    fn this_process_uses_both() {
        assert!(memory_bytes(std::process::id()).unwrap() > 100_000);
        assert!(cpu_seconds(std::process::id()).unwrap() > 0.0);
    }
}
