//! Bounds of password hashing.

use std::time::Duration;

/// Memory of one password hash in KiB: the second of the recommended settings of OWASP's Password
/// Storage Cheat Sheet, 19 MiB and two passes over them.
pub const ARGON2_MEMORY_KIB: u32 = 19 * 1024;
/// Passes over that memory.
pub const ARGON2_PASSES: u32 = 2;
/// Threads that hash passwords; each has the memory of one hash.
pub const HASHERS_MAX: usize = 4;
/// How far those threads stand back, as a nice value. This is the furthest: beside a thread that is
/// always busy, one of them gets a seventieth of their CPU, and all of it while the other waits.
/// What less costs others is in docs/performance.md, "Logins".
pub const HASHERS_NICE: i32 = 19;
/// How busy the other threads of the process have to be, as a share of one CPU, for hashing to hold
/// back: threads that move packets sleep now and then, and find their CPU's caches full of a hash.
pub const HASHERS_HOLD_BACK_ABOVE: f64 = 0.5;
/// How long a hashing thread then rests after each hash, as a multiple of the time that this took.
pub const HASHERS_REST_TIMES: u32 = 9;
/// The longest such rest.
pub const HASHERS_REST_MAX: Duration = Duration::from_millis(400);
/// How long it is watched how busy the others are before that is judged anew.
pub const HASHERS_WATCH: Duration = Duration::from_millis(100);
/// Logins that wait for a hash. One more is told that the server is busy: at some 20 ms each, and
/// the rest after it, these take one thread as long as a client waits.
pub const HASHES_QUEUED_MAX: usize = 128;
