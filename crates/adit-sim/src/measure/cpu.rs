//! CPU time of threads.

use std::fs;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Clock ticks in a second (`USER_HZ`, proc_pid_stat(5)), which is fixed on x86 and Arm.
const TICK: Duration = Duration::from_millis(10);

/// Of the calling thread.
pub(super) fn this_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// The threads of this process with that name.
pub(super) fn named(name: &str) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .flatten()
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name))
        .filter_map(|task| task.file_name().to_str()?.parse().ok())
        .collect()
}

/// Of a thread of this process; `None` once it is gone.
pub(super) fn thread(id: u32) -> Option<Duration> {
    // Nanoseconds where the kernel keeps them, ticks otherwise.
    let precise = fs::read_to_string(format!("/proc/self/task/{id}/schedstat"))
        .ok()
        .and_then(|text| Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?)))
        .filter(|time| !time.is_zero());
    precise.or_else(|| {
        let stat = fs::read_to_string(format!("/proc/self/task/{id}/stat")).ok()?;
        // The second field, the name, may contain anything but ends with the last parenthesis.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(11);
        let ticks: u32 = fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?;
        Some(TICK * ticks)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_time_of_its_thread_by_both_ways_of_asking() {
        std::thread::Builder::new()
            .name("adit-busy".to_owned())
            .spawn(|| {
                let [id] = named("adit-busy")[..] else { panic!("one thread has the name") };
                while this_thread() < Duration::from_millis(40) {
                    std::hint::black_box(0);
                }
                assert!(thread(id).expect("it is this thread") >= Duration::from_millis(20));
            })
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(thread(u32::MAX), None);
    }
}
