//! Addresses, and a second, slow way of giving them that must agree.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn plan(pools: &[&str], excluded: &[&str]) -> AddressPlan {
    let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    AddressPlan { pools: parse(pools), excluded: parse(excluded) }
}

fn holder(number: i64) -> Holder {
    Holder { device: Id(number), user: Id(100 + number) }
}

fn ipv4(addresses: &mut Addresses, number: i64) -> String {
    let leased = addresses.lease(holder(number), UnixMs(0)).unwrap();
    leased.ipv4.unwrap().to_string()
}

#[test]
fn what_a_pool_can_give_truth_table() {
    for (pools, excluded, first, count) in [
        (&["10.0.0.0/29"][..], &["10.0.0.1/32"][..], "10.0.0.2", 5),
        (&["10.0.0.0/30"], &[], "10.0.0.1", 2),
        (&["10.0.0.0/31"], &[], "10.0.0.0", 2),
        (&["10.0.0.9/32"], &[], "10.0.0.9", 1),
        (&["10.0.0.0/29"], &["10.0.0.0/30"], "10.0.0.4", 3),
        (&["10.0.0.0/29"], &["10.0.0.2/31"], "10.0.0.1", 4),
        (&["10.9.0.0/30", "10.0.0.0/30"], &[], "10.9.0.1", 4),
        (&["0.0.0.0/0"], &["0.0.0.0/1", "128.0.0.0/2", "224.0.0.0/3"], "192.0.0.0", 1 << 29),
    ] {
        let mut addresses = Addresses::new(&plan(pools, excluded)).unwrap();
        assert_eq!(ipv4(&mut addresses, 1), first, "{pools:?} {excluded:?}");
        if count < 100 {
            for number in 2..=count {
                ipv4(&mut addresses, number);
            }
            let error = addresses.lease(holder(99), UnixMs(0)).unwrap_err();
            assert_eq!(error, Exhausted { version: IpVersion::V4, usable: count as u128 });
        }
    }
    let overlap = Addresses::new(&plan(&["10.0.0.0/8", "10.1.0.0/16"], &[])).unwrap_err();
    assert!(matches!(overlap, BadPlan::Overlap(..)));
    let empty = Addresses::new(&plan(&["10.0.0.1/32"], &["10.0.0.0/24"])).unwrap_err();
    assert_eq!(empty, BadPlan::Empty(IpVersion::V4));
}

#[test]
fn both_versions_are_given_or_none() {
    let mut addresses = Addresses::new(&plan(&["fd00::/64", "10.0.0.1/32"], &[])).unwrap();
    let leased = addresses.lease(holder(1), UnixMs(0)).unwrap();
    assert_eq!(leased.ipv4, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(leased.ipv6, Some("fd00::1".parse().unwrap()));
    assert!(addresses.lease(holder(2), UnixMs(0)).is_err());
    assert_eq!(addresses.holder("fd00::2".parse().unwrap()), None, "nothing was taken");
    addresses.forget(Id(1), UnixMs(1));
    let leased = addresses.lease(holder(2), UnixMs(2)).unwrap();
    assert_eq!(leased.ipv6, Some("fd00::2".parse().unwrap()), "what nobody ever had comes first");
}

#[test]
fn a_reserved_address_waits_for_its_user() {
    let mut addresses = Addresses::new(&plan(&["10.0.0.0/29"], &[])).unwrap();
    let reserved = "10.0.0.1".parse::<Ipv4Addr>().unwrap();
    assert_eq!(addresses.reserve(Id(101), Some(reserved), None), Ok(()));
    let taken = addresses.reserve(Id(102), Some(reserved), None);
    assert_eq!(taken, Err(CannotReserve::Taken(reserved.into())));
    let outside = addresses.reserve(Id(102), None, Some("fd00::1".parse().unwrap()));
    assert!(matches!(outside, Err(CannotReserve::Outside(_))));
    assert_eq!(ipv4(&mut addresses, 2), "10.0.0.2");
    assert_eq!(ipv4(&mut addresses, 1), "10.0.0.1");
    let second = Holder { device: Id(50), user: Id(101) };
    let second = addresses.lease(second, UnixMs(0)).unwrap().ipv4.unwrap();
    assert_eq!(second.to_string(), "10.0.0.3", "the first device has it");
    // Reserved for another, an address is kept by its device until that is away.
    addresses.reserve(Id(109), Some("10.0.0.2".parse().unwrap()), None).unwrap();
    assert_eq!(ipv4(&mut addresses, 9), "10.0.0.4");
    addresses.release(Id(2), UnixMs(5));
    let leased = addresses.lease(holder(9), UnixMs(6)).unwrap();
    assert_eq!((leased.ipv4, leased.displaced), ("10.0.0.2".parse().ok(), vec![Id(2)]));
    assert_eq!(ipv4(&mut addresses, 2), "10.0.0.5");
}

#[test]
fn ten_thousand_leases_are_restored_in_a_moment() {
    let mut addresses = Addresses::new(&plan(&["10.0.0.0/16", "fd00::/64"], &[])).unwrap();
    let begun = crate::sys::clock::now();
    for number in 0..10_000_u32 {
        let ipv4 = Ipv4Addr::from_bits(0x0a00_0001 + number);
        let ipv6 = Ipv6Addr::from_bits((0xfd << 120) + 1 + u128::from(number));
        addresses.restore(holder(number.into()), Some(ipv4), Some(ipv6), Some(UnixMs(7)));
    }
    let leased = addresses.lease(holder(20_000), UnixMs(0)).unwrap();
    assert_eq!(leased.ipv4, Some(Ipv4Addr::from_bits(0x0a00_0001 + 10_000)));
    assert!(crate::sys::clock::now() - begun < std::time::Duration::from_secs(1));
}

/// One address of the model.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Fresh,
    Free(i64),
    Held(Holder, Option<i64>),
}

/// The rules of the module's text, word by word, by looking at every address each time.
struct Model {
    places: BTreeMap<u32, Place>,
    reserved: BTreeMap<u32, Id>,
}

impl Model {
    fn choose(&self, holder: Holder) -> Option<u32> {
        let is_open = |address: u32| {
            self.reserved.get(&address).is_none_or(|reserved_for| *reserved_for == holder.user)
        };
        let own = self.reserved.iter().find(|(_, user)| **user == holder.user);
        if let Some((address, _)) = own {
            match self.places[address] {
                Place::Held(other, _) if other.device == holder.device => return Some(*address),
                Place::Held(other, away) if other.user == holder.user || away.is_none() => {}
                _ => return Some(*address),
            }
        }
        let all = || self.places.iter().filter(|(address, _)| is_open(**address));
        let had = all().find(
            |(_, place)| matches!(place, Place::Held(other, _) if other.device == holder.device),
        );
        let fresh = all().find(|(address, place)| {
            **place == Place::Fresh && !self.reserved.contains_key(*address)
        });
        let free = all().filter_map(|(address, place)| match place {
            Place::Free(at) => Some((*at, address)),
            _ => None,
        });
        let away = all().filter_map(|(address, place)| match place {
            Place::Held(_, Some(at)) => Some((*at, address)),
            _ => None,
        });
        let oldest = free.min().or_else(|| away.min()).map(|(_, address)| *address);
        had.or(fresh).map(|(address, _)| *address).or(oldest)
    }

    fn take(&mut self, holder: Holder, address: u32, at: i64) {
        self.give_back(holder.device, at);
        self.places.insert(address, Place::Held(holder, None));
    }

    fn give_back(&mut self, device: Id, at: i64) {
        for place in self.places.values_mut() {
            if matches!(place, Place::Held(other, _) if other.device == device) {
                *place = Place::Free(at);
            }
        }
    }

    fn release(&mut self, device: Id, at: i64) {
        for place in self.places.values_mut() {
            if let Place::Held(other, away @ None) = place
                && other.device == device
            {
                *away = Some(at);
            }
        }
    }

    fn reserve(&mut self, user: Id, address: Option<u32>) {
        let before = self.reserved.iter().find(|(_, other)| **other == user);
        let before = before.map(|(address, _)| *address).filter(|other| Some(*other) != address);
        if let Some(before) = before {
            self.reserved.remove(&before);
            if self.places[&before] == Place::Fresh {
                self.places.insert(before, Place::Free(0));
            }
        }
        self.reserved.extend(address.map(|address| (address, user)));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Lease(i64),
    Release(i64),
    Forget(i64),
    Reserve(i64, Option<u32>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..9_i64).prop_map(Step::Lease),
        4 => (0..9_i64).prop_map(Step::Release),
        1 => (0..9_i64).prop_map(Step::Forget),
        1 => (0..3_i64, prop::option::of(0..8_u32)).prop_map(|(user, at)| Step::Reserve(user, at)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Three users, three devices each, six addresses.
    #[test]
    fn addresses_are_given_by_the_rules(steps in steps()) {
        let base = u32::from_be_bytes([10, 0, 0, 0]);
        let mut addresses = Addresses::new(&plan(&["10.0.0.0/29"], &[])).unwrap();
        let mut model = Model {
            places: (1..7).map(|host| (base + host, Place::Fresh)).collect(),
            reserved: BTreeMap::new(),
        };
        for (at, step) in (1..).zip(steps) {
            match step {
                Step::Lease(device) => {
                    let holder = Holder { device: Id(device), user: Id(100 + device % 3) };
                    let expected = model.choose(holder);
                    let leased = addresses.lease(holder, UnixMs(at));
                    let found = leased.ok().and_then(|leased| leased.ipv4).map(Ipv4Addr::to_bits);
                    prop_assert_eq!(found, expected, "device {} at {}", device, at);
                    if let Some(address) = expected {
                        model.take(holder, address, at);
                    }
                }
                Step::Release(device) => {
                    addresses.release(Id(device), UnixMs(at));
                    model.release(Id(device), at);
                }
                Step::Forget(device) => {
                    addresses.forget(Id(device), UnixMs(at));
                    model.give_back(Id(device), at);
                }
                Step::Reserve(user, host) => {
                    let (user, address) = (Id(100 + user), host.map(|host| base + host));
                    let reserved = addresses.reserve(user, address.map(Ipv4Addr::from_bits), None);
                    if reserved.is_ok() {
                        model.reserve(user, address);
                    }
                }
            }
        }
    }
}
