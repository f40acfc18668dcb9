use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

const READ: u32 = HANDSHAKES_READ_BURST;

fn gate() -> (Gate, Instant) {
    #[expect(clippy::disallowed_methods, reason = "the one origin of this test's virtual time")]
    let now = Instant::now();
    (Gate::new(now, &mut StdRng::seed_from_u64(3)), now)
}

fn v4(number: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + number).to_be_bytes())
}

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// How many of `senders`, which come at the same time, are read.
fn let_in(gate: &mut Gate, now: Instant, senders: impl IntoIterator<Item = IpAddr>) -> u32 {
    senders.into_iter().filter(|from| gate.lets_in(now, *from)).count() as u32
}

/// Closes the gate by those who are allowed to be read first.
fn close(gate: &mut Gate, now: Instant) {
    assert_eq!(let_in(gate, now, (0..READ).map(|it| v4(0x00f0_0000 + it))), READ);
}

#[test]
fn an_open_gate_reads_everybody_and_remembers_nobody() {
    let (mut gate, start) = gate();
    for second in 0..10 {
        let now = start + Duration::from_secs(second);
        let everybody = (0..READ).map(|it| v4(it / 2));
        assert_eq!(let_in(&mut gate, now, everybody), READ);
    }
    assert!(gate.seen.places.is_empty());
}

#[test]
fn a_closed_gate_reads_who_has_come_before() {
    let (mut gate, now) = gate();
    close(&mut gate, now);
    for (number, from) in [v4(1), v6("2001:db8:1:2::3")].into_iter().enumerate() {
        assert!(!gate.lets_in(now, from), "{number}: has not come before");
        assert!(gate.lets_in(now, from), "{number}: has");
    }
    assert!(gate.lets_in(now, v6("::ffff:10.0.0.1")), "the same in IPv6 clothing");
    assert!(!gate.lets_in(now, v4(2)));
    let token = ANYBODY.token;
    assert!(gate.lets_in(now + token, v4(3)), "first come, first served");
    assert!(!gate.lets_in(now + token, v4(4)));
}

/// The figures of the threat model: 100,000 a second, each from another address.
#[test]
fn a_client_gets_through_a_flood_from_ever_new_addresses_by_asking_again() {
    let (mut gate, start) = gate();
    close(&mut gate, start);
    let mut forged = 0;
    let mut flood = |gate: &mut Gate, from: u64, to: u64| -> u32 {
        (from..to)
            .map(|ms| {
                forged += 100;
                let senders = (forged - 100..forged).map(|it| v4(0x0100_0000 + it));
                let_in(gate, start + Duration::from_millis(ms), senders)
            })
            .sum()
    };
    let mut read = flood(&mut gate, 0, 1000);
    let clients = 500;
    let at = |ms| start + Duration::from_millis(ms);
    let client = |number| v4(0x00a0_0000 + number);
    let_in(&mut gate, at(1000), (0..clients).map(client));
    read += flood(&mut gate, 1000, 1250);
    let connected = let_in(&mut gate, at(1250), (0..clients).map(client));
    assert!(connected >= clients * 7 / 10, "{connected} of {clients} at the second try");
    read += flood(&mut gate, 1250, 2000);
    let share = 2 * HANDSHAKES_READ_PPS;
    assert!((share * 9 / 10..share * 11 / 10).contains(&read), "{read} forged ones were read");
}

#[test]
fn senders_that_come_too_often_leave_room_for_others() {
    let (mut gate, start) = gate();
    close(&mut gate, start);
    let few = |_| (0..10).map(v4).cycle().take(1000);
    let (mut read, mut others) = (0, 0);
    for ms in 0..1024 {
        let now = start + Duration::from_millis(ms);
        read += let_in(&mut gate, now, few(ms));
        let other = v4(0x0020_0000 + ms as u32 / 2);
        others += u32::from(gate.lets_in(now, other));
    }
    // Eight ticks, and what everybody may who comes first.
    let share = 8 * 10 * u32::from(PER_TICK) + HANDSHAKES_READ_PPS;
    assert!(read <= share + share / 10, "{read} of a few senders");
    assert!(others >= 500, "{others} of those who came twice");
}

/// Who forges each address twice gets at what those who ask again have, and no more.
#[test]
fn those_who_have_come_before_have_a_rate_too() {
    let (mut gate, start) = gate();
    close(&mut gate, start);
    let mut read = 0;
    for ms in 0..1000 {
        let now = start + Duration::from_millis(ms);
        let senders = (ms as u32 * 100..).take(100);
        read += let_in(&mut gate, now, senders.flat_map(|it| [v4(it), v4(it)]));
    }
    let share = HANDSHAKES_READ_PPS + HANDSHAKES_READ_AGAIN_PPS + HANDSHAKES_READ_AGAIN_BURST;
    assert!((share * 9 / 10..=share).contains(&read), "{read}");
}

#[test]
fn all_of_an_ipv6_slash_48_is_one_sender() {
    let (mut gate, start) = gate();
    close(&mut gate, start);
    let subnets = (0..=u16::MAX).map(|it| v6(&format!("2001:db8:1:{it:x}::1")));
    assert_eq!(let_in(&mut gate, start, subnets), u32::from(PER_TICK));
    assert!(!gate.lets_in(start, v6("2001:db8:2::1")));
    assert!(gate.lets_in(start, v6("2001:db8:2::1")), "another one has its own");
}

#[test]
fn what_is_remembered_never_grows() {
    let (mut gate, now) = gate();
    close(&mut gate, now);
    for number in 0..3 * HANDSHAKE_SENDERS_SEEN as u32 {
        gate.lets_in(now, v4(number));
        assert_eq!(gate.seen.places.len(), HANDSHAKE_SENDERS_SEEN);
    }
}
