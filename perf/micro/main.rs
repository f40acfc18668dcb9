//! Micro-benchmarks of what the packet path and the handshake are made of, each beside the bare
//! cryptography or copy that it cannot do without. See `perf/README.md`.
//!
//! ```text
//! cargo bench --bench micro -- [FILTER]
//! ```

#![expect(clippy::unwrap_used, reason = "a measurement ends where its set-up fails")]

mod handshake;
mod lookups;
mod packets;
mod sealing;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    sealing::bench(&mut criterion);
    packets::bench(&mut criterion);
    lookups::bench(&mut criterion);
    handshake::bench(&mut criterion);
    criterion.final_summary();
}
