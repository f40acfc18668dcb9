//! Memory under traffic for a long time. Ten seconds unless told otherwise:
//! `CORELANE_SOAK_S=600 cargo test --test attacks soak -- --nocapture`.

use std::thread;
use std::time::Duration;

use corelane::sys::{clock, process};

use crate::harness::{Options, SERVER_V4, SERVER_V6, Tunnel};

const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// How much more a daemon may weigh in the last quarter of the time than in the second.
const GROWTH_MAX: u64 = 512 * 1024;
/// Server and client.
const RESIDENT_MAX: u64 = 32 << 20;

#[test]
fn memory_stays_flat_under_traffic_and_rekeys() {
    let seconds = std::env::var("CORELANE_SOAK_S").map_or(10, |text| text.parse().unwrap());
    let client_flags = ["--set", "client.rekey_after_s=5"].map(str::to_owned).to_vec();
    let tunnel = Tunnel::start(Options { workers: (2, 2), client_flags, ..Options::default() });
    let daemons = [&tunnel.server, &tunnel.client];
    let mut samples = [Vec::new(), Vec::new()];
    let descriptors = |pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let descriptors_before = daemons.map(|daemon| descriptors(daemon.pid()));
    let began = clock::now();
    while clock::now() - began < Duration::from_secs(seconds) {
        // One round after the other: connections and flows of both families come and go.
        let streams = [
            tunnel.start_iperf(SERVER_V4, "-t 2 -P 2"),
            tunnel.start_iperf(SERVER_V6, "-t 2 -R"),
            tunnel.start_iperf(SERVER_V4, "-t 2 -u -b 20M -l 1200"),
        ];
        for _ in 0..8 {
            thread::sleep(SAMPLE_EVERY);
            for (samples, daemon) in samples.iter_mut().zip(daemons) {
                samples.push(process::resident_bytes(daemon.pid()).unwrap());
            }
        }
        for stream in streams {
            stream.finish();
        }
    }
    for (samples, daemon) in samples.iter().zip(daemons) {
        let quarter = samples.len() / 4;
        let highest = |range: &[u64]| range.iter().copied().max().unwrap();
        let early = highest(&samples[quarter..2 * quarter]);
        let late = highest(&samples[3 * quarter..]);
        eprintln!(
            "{} samples: {early} bytes in the second quarter, {late} in the last; of {}",
            samples.len(),
            daemon.config_file().display()
        );
        assert!(late <= early + GROWTH_MAX, "grown by {} bytes: {samples:?}", late - early);
        assert!(highest(samples) < RESIDENT_MAX, "{samples:?}");
    }
    assert_eq!(daemons.map(|daemon| descriptors(daemon.pid())), descriptors_before);
    assert!(tunnel.client_session().rekeys > 0);
}
