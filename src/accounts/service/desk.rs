//! The desk: one thread at which logins, renewals and ends arrive, so that whoever sends them never
//! waits for a hash, a disk or a lock that is held for long.

use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::accounts::change::{Change, Rehash};
use crate::accounts::credentials::backoff::{Charge, Claimant, LoginSource};
use crate::accounts::credentials::password::{self, HashCost};
use crate::accounts::model::{Id, SessionEnd};
use crate::accounts::refusal::{Refusal, RefusalCode};
use crate::accounts::secret::Secret;
use crate::accounts::service::Shared;
use crate::accounts::service::admit::{Admission, Terms, admit, ensure_admissible};
use crate::accounts::service::attempt::{Grant, LoginAnswer, LoginAttempt};
use crate::accounts::service::audit::Deed;
use crate::accounts::service::calendar::Moment;
use crate::accounts::service::claims::{Claim, Claims};
use crate::accounts::service::judge::{
    Case, Identified, NotProved, PasswordCheck, UsedCode, claimed_user, denied, ensure_claimed,
    ensure_enough, judge, one_time,
};
use crate::accounts::service::notices::Enforcement;
use crate::accounts::service::passes::{self, Pass, PassAnswer, PassAttempt, Shown};
use crate::accounts::service::sessions::Refused;
use crate::accounts::service::state::State;
use crate::accounts::store::OneTime;
use crate::limits::{BUSY_RETRY_AFTER, LEASES_LOOK_EVERY, USAGE_WRITE_EVERY};
use crate::sys::clock;

/// Where the outcome of a renewal goes: until when the lease lasts.
pub type RenewalAnswer = Box<dyn FnOnce(Result<Instant, Refusal>) + Send>;

/// What arrives at the desk.
pub(super) enum DeskJob {
    Login(Box<LoginAttempt>, LoginAnswer),
    Checked(Box<Checked>),
    Pass(Box<PassAttempt>, PassAnswer),
    PassChecked(Box<PassAttempt>, PassAnswer, Charge, PasswordCheck),
    /// What the database says to the question with that number.
    Claimed(u64, Claim),
    Renew(Id, RenewalAnswer),
    End(Id, SessionEnd),
    /// The sessions of a user are to be looked at.
    Review(Id),
    Stop,
}

/// A login whose password has been checked.
pub(super) struct Checked {
    attempt: Box<LoginAttempt>,
    answer: LoginAnswer,
    charge: Charge,
    password: PasswordCheck,
    claim: Claim,
}

/// What somebody wants whose password is to be checked.
enum Wanted {
    Login(Box<LoginAttempt>, LoginAnswer),
    Pass(Box<PassAttempt>, PassAnswer),
}

/// A password is to be checked.
pub(super) struct ToCheck {
    wanted: Wanted,
    charge: Charge,
    shown: Secret,
    /// The user's hash, or nobody's.
    hash: String,
    /// What new passwords cost.
    cost: HashCost,
}

impl ToCheck {
    /// Takes as long as argon2 does.
    pub(super) fn check(self) -> DeskJob {
        let Self { wanted, charge, shown, hash, cost } = self;
        let hash_anew = || password::hash(shown.expose(), cost, &mut rand::rng()).ok();
        let password = match password::is_right(shown.expose(), &hash) {
            true => {
                let anew = password::is_cheaper(&hash, cost).then(hash_anew).flatten();
                PasswordCheck::Right { hash, anew }
            }
            false => PasswordCheck::Wrong,
        };
        let claim = Claim::NotAsked;
        match wanted {
            Wanted::Login(attempt, answer) => {
                DeskJob::Checked(Box::new(Checked { attempt, answer, charge, password, claim }))
            }
            Wanted::Pass(attempt, answer) => {
                DeskJob::PassChecked(attempt, answer, charge, password)
            }
        }
    }
}

pub(super) fn busy() -> Refusal {
    let message = "the server has too many logins to look at";
    Refusal::for_now(RefusalCode::Busy, message, BUSY_RETRY_AFTER)
}

/// Works until it is told to stop.
pub(super) fn run(shared: &Shared, claims: Option<Claims<Box<Checked>>>, jobs: &Receiver<DeskJob>) {
    let mut desk = Desk { shared, claims };
    let mut leases_due = clock::now() + LEASES_LOOK_EVERY;
    let mut usage_due = clock::now() + USAGE_WRITE_EVERY;
    loop {
        let claims_due = desk.claims.as_ref().and_then(Claims::due);
        let due = claims_due.map_or(leases_due, |due| due.min(leases_due));
        let wait = due.saturating_duration_since(clock::now());
        match jobs.recv_timeout(wait) {
            Ok(DeskJob::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            Ok(job) => desk.handle(job),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let now = Moment::now();
        desk.give_claims_up(now.instant);
        if now.instant >= leases_due {
            leases_due = now.instant + LEASES_LOOK_EVERY;
            shared.end_sessions(now, |state| overdue(state, now));
            shared.end_expired_passes(now);
        }
        if now.instant >= usage_due {
            usage_due = now.instant + USAGE_WRITE_EVERY;
            shared.write_usage(now);
        }
    }
    let all =
        |state: &State| state.live.keys().map(|id| (*id, SessionEnd::ServerStopped)).collect();
    let now = Moment::now();
    shared.end_sessions(now, all);
    shared.write_usage(now);
}

fn overdue(state: &State, now: Moment) -> Vec<(Id, SessionEnd)> {
    let ends = state.live.iter().map(|(session, live)| Some((*session, state.overdue(live, now)?)));
    ends.flatten().collect()
}

struct Desk<'a> {
    shared: &'a Shared,
    /// Logins that wait for the database, where servers share one.
    claims: Option<Claims<Box<Checked>>>,
}

/// What becomes of a login.
enum Verdict {
    Decided(Box<Result<Grant, Refusal>>),
    /// This is to be claimed first.
    Claim(OneTime),
}

impl Desk<'_> {
    fn handle(&mut self, job: DeskJob) {
        match job {
            DeskJob::Login(attempt, answer) => self.begin(attempt, answer),
            DeskJob::Checked(checked) => self.decide(checked),
            DeskJob::Pass(attempt, answer) => self.begin_pass(attempt, answer),
            DeskJob::PassChecked(attempt, answer, charge, password) => {
                answer(self.pass(&attempt, charge, &password));
            }
            DeskJob::Claimed(number, claim) => {
                let claims = self.claims.as_mut();
                let waiting = claims.and_then(|it| it.answered(number, claim, clock::now()));
                if let Some(checked) = waiting {
                    self.decide(Box::new(Checked { claim, ..*checked }));
                }
            }
            DeskJob::Renew(session, answer) => answer(self.renew(session)),
            DeskJob::End(session, end) => {
                self.shared.end_sessions(Moment::now(), |_| vec![(session, end)]);
            }
            DeskJob::Review(user) => {
                self.shared.review(&[user].into(), Moment::now());
            }
            DeskJob::Stop => {}
        }
    }

    /// Goes on with those who have waited for the database for long enough.
    fn give_claims_up(&mut self, now: Instant) {
        let overdue = self.claims.as_mut().map(|claims| claims.overdue(now));
        for checked in overdue.into_iter().flatten() {
            self.decide(Box::new(Checked { claim: Claim::Away, ..*checked }));
        }
    }

    fn begin(&mut self, attempt: Box<LoginAttempt>, answer: LoginAnswer) {
        let now = Moment::now();
        let mut state = self.shared.state();
        let policy = &self.shared.settings.policy;
        if let Err(not_proved) = ensure_enough(policy, &attempt.shown()) {
            drop(state);
            return answer(Err(not_proved.refusal));
        }
        let charge = match begin_charged(&mut state, &attempt, now.instant) {
            Ok(charge) => charge,
            Err(refusal) => {
                drop(state);
                return answer(Err(refusal));
            }
        };
        let Some(shown) = attempt.password.clone() else {
            drop(state);
            let password = PasswordCheck::NotShown;
            let claim = Claim::NotAsked;
            return self.decide(Box::new(Checked { attempt, answer, charge, password, claim }));
        };
        // Who does not exist is as much work as who does.
        let user = claimed_user(&state.book, &attempt).ok();
        let hash = user.and_then(|user| user.password.clone());
        drop(state);
        self.check(Wanted::Login(attempt, answer), charge, shown, hash);
    }

    /// Has a password checked against a hash, or against nobody's.
    fn check(&self, wanted: Wanted, charge: Charge, shown: Secret, hash: Option<String>) {
        let hash = hash.unwrap_or_else(|| self.shared.settings.nobodys_hash.clone());
        let cost = self.shared.hash_cost();
        let to_check = ToCheck { wanted, charge, shown, hash, cost };
        if let Err(ToCheck { wanted, charge, .. }) = self.shared.hashers.submit(to_check) {
            self.shared.state().backoff.give_back(charge);
            match wanted {
                Wanted::Login(_, answer) => answer(Err(busy())),
                Wanted::Pass(_, answer) => answer(Err(busy())),
            }
        }
    }

    fn begin_pass(&self, attempt: Box<PassAttempt>, answer: PassAnswer) {
        // There is nothing to guess about a certificate.
        if attempt.proof.secret().is_none() {
            return answer(self.pass(&attempt, Charge::default(), &PasswordCheck::NotShown));
        }
        let mut state = self.shared.state();
        let Shown { claimant, password } = Shown::of(&state, &attempt);
        let charge = match state.backoff.begin(&claimant, clock::now()) {
            Ok(charge) => charge,
            Err(wait) => {
                drop(state);
                return answer(Err(too_many_failures(wait)));
            }
        };
        drop(state);
        match password {
            Some((shown, hash)) => self.check(Wanted::Pass(attempt, answer), charge, shown, hash),
            None => answer(self.pass(&attempt, charge, &PasswordCheck::NotShown)),
        }
    }

    fn pass(
        &self,
        attempt: &PassAttempt,
        charge: Charge,
        password: &PasswordCheck,
    ) -> Result<Arc<Pass>, Refusal> {
        let now = Moment::now();
        let mut state = self.shared.state();
        let policy = &self.shared.settings.policy;
        let judged = passes::judge(&state.book, policy, &attempt.proof, password, now.unix);
        let (user, basis) = match judged {
            Ok((user, basis)) => (user.clone(), basis),
            Err(reason) => {
                drop(state);
                let refusal = denied();
                if passes::is_noted(reason) {
                    self.shared.audit_refusal(Refused::Pass(attempt), &refusal, reason, now);
                }
                return Err(refusal);
            }
        };
        state.backoff.give_back(charge);
        let (bounds, _) = state.book.policy_of(&user);
        if state.quota_exceeded(user.id, &bounds, state.unwritten_of(user.id), now.unix) {
            drop(state);
            let refusal = refusal_of(SessionEnd::QuotaExceeded).of(user.name);
            self.shared.audit_refusal(Refused::Pass(attempt), &refusal, &refusal.message, now);
            return Err(refusal);
        }
        let (pass, changes) = state.issue_pass(&user, basis, now, &mut rand::rng());
        state.familiar.remember(user.id, LoginSource::from(attempt.from));
        changes.iter().for_each(|change| state.book.apply(change));
        self.shared.keep(&state, changes);
        Ok(pass)
    }

    fn decide(&mut self, mut checked: Box<Checked>) {
        loop {
            match self.verdict(&mut checked) {
                Verdict::Decided(outcome) => return (checked.answer)(*outcome),
                Verdict::Claim(what) => {
                    let Some(claims) = &mut self.claims else { return };
                    match claims.ask(what, checked, clock::now()) {
                        Ok(()) => return,
                        Err(back) => checked = Box::new(Checked { claim: Claim::Away, ..*back }),
                    }
                }
            }
        }
    }

    fn verdict(&self, checked: &mut Checked) -> Verdict {
        let now = Moment::now();
        let shared = self.shared;
        let mut state = shared.state();
        let (who, to_claim) = match self.identify(&state, checked, now) {
            Ok(identified) => identified,
            Err(NotProved { refusal, reason }) => {
                // Who has only to show a code as well, or to come again, has guessed nothing.
                if matches!(refusal.code, RefusalCode::CodeNeeded | RefusalCode::Busy) {
                    state.backoff.give_back(std::mem::take(&mut checked.charge));
                }
                drop(state);
                let refused = Refused::Login(&checked.attempt);
                shared.audit_refusal(refused, &refusal, reason, now);
                return Verdict::Decided(Box::new(Err(refusal)));
            }
        };
        if let Some(what) = to_claim {
            return Verdict::Claim(what);
        }
        state.backoff.give_back(std::mem::take(&mut checked.charge));
        let (attempt, lease) = (&checked.attempt, shared.settings.lease);
        let token_is_enough = shared.settings.policy.takes_token_alone();
        let terms = Terms { lease, token_is_enough };
        let admitted = admit(&mut state, attempt, &who, terms, now, &mut rand::rng());
        Verdict::Decided(Box::new(match admitted {
            Ok(mut admission) => {
                admission.changes.extend(rehashed(who.user, &checked.password));
                self.enter(state, attempt, &who, admission, now)
            }
            Err(refusal) => {
                drop(state);
                let refused = Refused::Login(attempt);
                shared.audit_refusal(refused, &refusal, &refusal.message, now);
                Err(refusal)
            }
        }))
    }

    /// Who somebody is, and what is to be claimed before they go on.
    fn identify(
        &self,
        state: &State,
        checked: &Checked,
        now: Moment,
    ) -> Result<(Identified, Option<OneTime>), NotProved> {
        let Checked { attempt, password, claim, .. } = checked;
        let policy = &self.shared.settings.policy;
        let case = Case { book: &state.book, codes_used: &state.codes_used, policy };
        let who = judge(&case, attempt, password, now.unix)?;
        // Where nobody else uses the database, memory knows what was used.
        let one_time = self.claims.as_ref().and_then(|_| one_time(&state.book, &who));
        let Some(what) = one_time else { return Ok((who, None)) };
        if *claim == Claim::NotAsked {
            // Nothing is claimed for a login that leads nowhere.
            let leads_on = ensure_admissible(state, attempt, &who, now, &mut rand::rng()).is_ok();
            return Ok((who, leads_on.then_some(what)));
        }
        ensure_claimed(&state.book, attempt, &who, what, *claim)?;
        Ok((who, None))
    }

    /// Makes the login safe, and then true.
    fn enter(
        &self,
        mut state: MutexGuard<'_, State>,
        attempt: &LoginAttempt,
        who: &Identified,
        admission: Admission,
        now: Moment,
    ) -> Result<Grant, Refusal> {
        let Admission { mut changes, replaced, live, grant } = admission;
        let entry = login_deed(attempt, &grant).entry(&state.server, now.unix);
        changes.push(Change::Audit(entry.clone()));
        let new_device = changes.iter().find(|change| matches!(change, Change::PutDevice(_)));
        if let Err(error) = self.shared.journal.append(changes.clone()) {
            log::error!("a login of {} cannot be kept: {error}", grant.user);
            if let Some(Change::PutDevice(device)) = new_device {
                state.addresses.forget(device.id, now.unix);
            }
            let message = "the server cannot write its accounts (its log says why)";
            return Err(Refusal::for_now(RefusalCode::Busy, message, BUSY_RETRY_AFTER));
        }
        let (_, done) = Enforcement::begin();
        let mut ended = Vec::new();
        for session in replaced {
            ended.extend(state.close(session, SessionEnd::Replaced, now, &done));
        }
        for change in changes.iter().chain(&ended) {
            state.follow_rehash(change);
            state.book.apply(change);
        }
        if let Some(UsedCode::Totp(step)) = who.code {
            state.codes_used.insert(who.user, step);
        }
        state.live.insert(grant.session, live);
        state.familiar.remember(who.user, LoginSource::from(attempt.from.ip()));
        self.shared.keep(&state, ended);
        drop(state);
        self.shared.write_audit(&entry);
        Ok(grant)
    }

    fn renew(&self, session: Id) -> Result<Instant, Refusal> {
        let now = Moment::now();
        let mut state = self.shared.state();
        let gone =
            || Refusal::new(RefusalCode::LeaseExpired, "the lease has run out: log in again");
        let live = state.live.get(&session).ok_or_else(gone)?;
        if let Some(end) = state.fate(live, now.unix) {
            drop(state);
            self.shared.end_sessions(now, |_| vec![(session, end)]);
            return Err(refusal_of(end));
        }
        let device = live.device;
        let lease = state.lease_of(live, self.shared.settings.lease, now.unix);
        let server = state.server.clone();
        let mut record = state.book.lease(device, &server).cloned().ok_or_else(gone)?;
        let expires = now.instant + lease;
        if let Some(live) = state.live.get_mut(&session) {
            live.expires = expires;
        }
        record.granted = now.unix;
        record.expires.0 = now.unix.0.saturating_add(lease.as_millis() as i64);
        let change = Change::PutLease(record);
        state.book.apply(&change);
        self.shared.keep(&state, vec![change]);
        Ok(expires)
    }
}

/// The change of a password that was hashed anew.
fn rehashed(user: Id, password: &PasswordCheck) -> Option<Change> {
    let PasswordCheck::Right { hash: was, anew: Some(is) } = password else { return None };
    let hashes = Rehash { was: was.clone(), is: is.clone() };
    Some(Change::PasswordRehashed { user, hashes })
}

/// What a client is told whose session has ended.
pub fn refusal_of(end: SessionEnd) -> Refusal {
    let (code, message) = match end {
        SessionEnd::LoggedOut => (RefusalCode::LeaseExpired, "the lease was given back"),
        SessionEnd::Expired => (RefusalCode::LeaseExpired, "the lease has run out: log in again"),
        SessionEnd::Replaced => (RefusalCode::Replaced, "this device has logged in elsewhere"),
        SessionEnd::Kicked => (RefusalCode::Kicked, "an administrator has ended the session"),
        SessionEnd::Revoked => (
            RefusalCode::Revoked,
            "the account, the device, the token or the certificate is no longer good",
        ),
        SessionEnd::CertificateExpired => (
            RefusalCode::CertificateExpired,
            "the client's certificate has expired: have another issued (`corelane cert issue \
             NAME`, where the authority is)",
        ),
        SessionEnd::QuotaExceeded => (
            RefusalCode::QuotaExceeded,
            "what this account may move in a day or a month is used up",
        ),
        SessionEnd::ServerStopped => (RefusalCode::Stopping, "the server stops"),
    };
    Refusal::new(code, message)
}

fn begin_charged(
    state: &mut State,
    attempt: &LoginAttempt,
    now: Instant,
) -> Result<Charge, Refusal> {
    let source = LoginSource::from(attempt.from.ip());
    let user = claimed_user(&state.book, attempt).ok();
    let device = state.book.device_with_key(&attempt.device_key);
    let device = device.filter(|device| user.is_some_and(|user| user.id == device.user));
    let can_be_guessed = attempt.password.is_some() || attempt.code.is_some();
    let named = attempt.user.as_deref().and_then(|name| name.parse().ok());
    let name = named.or_else(|| user.map(|user| user.name.clone()));
    let claimant = Claimant {
        source,
        user: name.filter(|_| can_be_guessed),
        known_device: device.map(|device| device.public_key),
        known_source: user.is_some_and(|user| state.familiar.contains(user.id, source)),
    };
    state.backoff.begin(&claimant, now).map_err(too_many_failures)
}

fn too_many_failures(wait: Duration) -> Refusal {
    // Whole seconds, so that who waits as long as told has waited long enough.
    let wait = Duration::from_secs(wait.as_secs() + 1);
    let message = format!("too many logins have failed: try again in {} s", wait.as_secs());
    Refusal::for_now(RefusalCode::TooManyFailures, message, wait)
}

fn login_deed(attempt: &LoginAttempt, grant: &Grant) -> Deed {
    let addresses = grant.ipv4.map(|address| address.to_string()).into_iter();
    let addresses = addresses.chain(grant.ipv6.map(|address| address.to_string()));
    let detail = format!(
        "session {}, device {} ({}), addresses {}, client {}",
        grant.session.0,
        attempt.device_name,
        attempt.device_key,
        addresses.collect::<Vec<_>>().join(" "),
        attempt.version.chars().take(64).collect::<String>()
    );
    Deed {
        actor: grant.user.to_string(),
        action: "login",
        subject: grant.user.to_string(),
        from: Some(attempt.from.ip()),
        outcome: "ok".to_owned(),
        detail,
    }
}
