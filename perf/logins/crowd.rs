//! Ten thousand users, each with a device, a token and a lease, as a database has them.

use std::net::Ipv4Addr;

use corelane::accounts::change::{Batch, BatchSource, Change};
use corelane::accounts::credentials::password::{self, HashCost};
use corelane::accounts::credentials::token;
use corelane::accounts::model::{Device, Id, LeaseRecord, Token, TokenScope, UnixMs, User};
use corelane::accounts::names::Name;
use corelane::accounts::secret::Secret;
use corelane::accounts::store::{DatabaseUrl, Store};
use corelane::handshake::keys::PrivateKey;
use corelane::sys::clock;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Failure;

/// The password of every user.
pub(crate) const PASSWORD: &str = "correct horse battery";
/// Inner addresses begin here; the server's own is the one before.
const FIRST_INNER: u32 = u32::from_be_bytes([10, 77, 1, 0]);

/// What one user has; made again whenever it is needed.
pub(crate) struct Person {
    pub(crate) user: Name,
    pub(crate) device: Name,
    pub(crate) key: PrivateKey,
    pub(crate) token: Secret,
    token_hash: [u8; 32],
    ids: [Id; 3],
    number: u32,
}

impl Person {
    pub(crate) fn new(number: usize) -> Result<Self, Failure> {
        let mut rng = StdRng::seed_from_u64(1 << 33 | number as u64);
        let (token, token_hash) = token::generate(&mut rng);
        Ok(Self {
            user: format!("user{number}").parse()?,
            device: "laptop".parse()?,
            key: PrivateKey::generate(&mut rng),
            token,
            token_hash,
            ids: [(); 3].map(|()| Id::generate(&mut rng)),
            number: u32::try_from(number)?,
        })
    }

    /// All that a database knows of this user.
    fn changes(&self, server: &Name, password: &str, now: UnixMs) -> [Change; 4] {
        let [user, device, token] = self.ids;
        let later = UnixMs(now.0 + 3_600_000);
        [
            Change::AddUser(User {
                password: Some(password.to_owned()),
                ..User::new(user, self.user.clone(), now)
            }),
            Change::PutDevice(Device {
                id: device,
                user,
                name: self.device.clone(),
                public_key: self.key.public(),
                created: now,
                last_login: now,
            }),
            Change::PutToken(Token {
                id: token,
                user,
                hash: self.token_hash,
                label: "laptop".to_owned(),
                scope: TokenScope::Device,
                device: Some(device),
                created: now,
                expires: None,
                last_used: None,
            }),
            Change::PutLease(LeaseRecord {
                device,
                server: server.clone(),
                ipv4: Some(Ipv4Addr::from_bits(FIRST_INNER + self.number)),
                ipv6: None,
                granted: now,
                expires: later,
            }),
        ]
    }
}

/// Fills a new database with so many people of a server.
pub(crate) fn settle(database: &DatabaseUrl, server: &Name, people: usize) -> Result<(), Failure> {
    let mut rng = rand::rng();
    // One hash serves all: what a check costs is in the hash.
    let password = password::hash(PASSWORD, HashCost::DEFAULT, &mut rng)?;
    let now = UnixMs(i64::try_from(clock::unix_time().as_millis())?);
    let mut changes = Vec::with_capacity(4 * people);
    for number in 0..people {
        changes.extend(Person::new(number)?.changes(server, &password, now));
    }
    let source = BatchSource { spool: Id::generate(&mut rng), server: server.clone() };
    Store::open(database)?.commit(&source, &[Batch { sequence: 1, changes }])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_the_same_each_time_and_the_database_has_them_all() {
        let directory = tempfile::tempdir().unwrap();
        let database = DatabaseUrl::Sqlite(directory.path().join("accounts.db"));
        settle(&database, &"vpn".parse().unwrap(), 3).unwrap();
        let snapshot = Store::open(&database).unwrap().load(0).unwrap();
        assert_eq!((snapshot.users.len(), snapshot.leases.len()), (3, 3));
        let person = Person::new(2).unwrap();
        let known = snapshot.devices.values().any(|it| it.public_key == person.key.public());
        assert!(known && snapshot.tokens.values().any(|it| it.hash == person.token_hash));
    }
}
