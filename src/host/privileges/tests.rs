use std::process::Command;

use caps::{CapSet, Capability};

use super::{describe_missing, drop_all_on_this_thread, drop_to, drop_to_with_reserve, missing};

const SETS: [CapSet; 5] =
    [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient, CapSet::Bounding];

/// Runs `work` on a thread of its own, whose privileges end with it.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn held(set: CapSet) -> Vec<Capability> {
    caps::read(None, set).unwrap().into_iter().collect()
}

#[test]
fn only_what_is_kept_remains_in_any_set_and_comes_back_by_no_program() {
    apart(|| {
        drop_to(&[Capability::CAP_NET_ADMIN]).expect("this test needs root");
        assert_eq!(held(CapSet::Effective), [Capability::CAP_NET_ADMIN]);
        for set in SETS {
            assert!(held(set).iter().all(|kept| *kept == Capability::CAP_NET_ADMIN), "{set:?}");
        }
        let output = Command::new("grep")
            .args(["-E", "CapPrm|NoNewPrivs", "/proc/self/status"])
            .output()
            .unwrap();
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = status.split_whitespace().collect();
        // Bit 12 is CAP_NET_ADMIN; root's programs get no more than the process had.
        assert_eq!(words, ["CapPrm:", "0000000000001000", "NoNewPrivs:", "1"]);
    });
}

#[test]
fn a_process_with_nothing_but_cap_net_admin_passes_every_step() {
    apart(|| {
        drop_to(&[Capability::CAP_NET_ADMIN]).expect("this test needs root");
        drop_to(&[Capability::CAP_NET_ADMIN]).unwrap();
        assert_eq!(held(CapSet::Effective), [Capability::CAP_NET_ADMIN]);
        // Asking to keep what is not held is no error and gives nothing.
        drop_to(&[Capability::CAP_NET_ADMIN, Capability::CAP_SYS_ADMIN]).unwrap();
        assert_eq!(held(CapSet::Effective), [Capability::CAP_NET_ADMIN]);
        drop_all_on_this_thread().unwrap();
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
            assert_eq!(held(set), [], "{set:?}");
        }
        drop_all_on_this_thread().unwrap();
    });
}

#[test]
fn a_reserve_is_in_effect_only_while_it_is_used() {
    use Capability::{CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_SYS_ADMIN};
    let keep = [CAP_NET_ADMIN];
    apart(|| {
        drop_to(&[CAP_NET_ADMIN, CAP_DAC_READ_SEARCH]).expect("this test needs root");
        let candidates = [CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH];
        let without = || held(CapSet::Effective) == keep;
        let reserve = drop_to_with_reserve(&keep, &candidates, without).unwrap();
        assert_eq!(reserve.capability(), Some(CAP_DAC_READ_SEARCH), "the first that is there");
        assert_eq!(held(CapSet::Effective), keep);
        assert_eq!(reserve.with(|| held(CapSet::Effective).len()), 2);
        assert_eq!(held(CapSet::Effective), keep);
        for set in [CapSet::Inheritable, CapSet::Ambient] {
            assert_eq!(held(set), [], "{set:?}");
        }
    });
    apart(|| {
        let reserve = drop_to_with_reserve(&keep, &[CAP_SYS_ADMIN], || false).unwrap();
        assert_eq!(reserve.capability(), None);
        assert_eq!(held(CapSet::Permitted), keep, "what is not needed is not held");
        assert_eq!(reserve.with(|| held(CapSet::Effective)), keep);
    });
}

#[test]
fn an_ambient_capability_survives_if_it_is_kept() {
    apart(|| {
        for capability in [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW] {
            caps::raise(None, CapSet::Inheritable, capability).expect("this test needs root");
            caps::raise(None, CapSet::Ambient, capability).unwrap();
        }
        drop_to(&[Capability::CAP_NET_ADMIN]).unwrap();
        assert_eq!(held(CapSet::Ambient), [Capability::CAP_NET_ADMIN]);
    });
}

#[test]
fn other_threads_keep_theirs() {
    let before = held(CapSet::Effective).len();
    apart(|| drop_all_on_this_thread().unwrap());
    assert_eq!(held(CapSet::Effective).len(), before);
}

#[test]
fn what_is_missing_comes_with_the_command_that_mends_it() {
    let needed = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE];
    assert_eq!(describe_missing(&needed), None, "this test needs root");
    apart(|| {
        drop_to(&[Capability::CAP_NET_BIND_SERVICE]).unwrap();
        assert_eq!(missing(&needed), [Capability::CAP_NET_ADMIN]);
        let text = describe_missing(&needed).unwrap();
        assert!(text.starts_with("this needs CAP_NET_ADMIN: run as root"), "{text}");
        assert!(text.contains("`setcap cap_net_admin+ep /"), "{text}");
        assert!(text.contains("`AmbientCapabilities=CAP_NET_ADMIN`"), "{text}");
    });
}
