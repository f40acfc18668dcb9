//! `corelane user`.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr};

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use crate::accounts::names::Name;
use crate::accounts::operations::{NewPassword, Operation, Outcome, UserView};
use crate::accounts::secret::Secret;
use crate::cli::accounts::limits::{self, LimitArgs};
use crate::cli::accounts::{CommonArgs, consequences, done_text, invite, join, strange, table};
use crate::cli::{CliError, units};
use crate::limits::PASSWORD_LEN_MAX;

#[derive(Subcommand, Debug)]
pub(crate) enum UserCommand {
    /// Make a user; its password is made and shown once, unless it is given
    Add {
        /// Its name
        name: Name,
        /// A group to be in; may be repeated
        #[arg(long, value_name = "GROUP")]
        group: Vec<Name>,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// List users
    Ls {
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Show a user
    Show {
        /// Its name
        name: Name,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Change what a user may do; it holds at once for those who are online
    Set(Box<SetArgs>),
    /// Give a user another password; sessions that last go on
    Passwd {
        /// Its name
        name: Name,
        #[command(flatten)]
        password: PasswordArgs,
        /// Make a password and show it once
        #[arg(long, conflicts_with_all = ["password_stdin", "no_password"])]
        generate: bool,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Let a user's passwords need a code of an authenticator as well; shows the secret once
    Totp {
        /// Its name
        name: Name,
        /// Show the secret as a QR code, too
        #[arg(long)]
        qr: bool,
        /// Take secret and recovery codes away instead
        #[arg(long, conflicts_with = "qr")]
        off: bool,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// End every session of a user, and grant none; prints how long that took
    Disable {
        /// Its name
        name: Name,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Let a user in again
    Enable {
        /// Its name
        name: Name,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Remove a user, its devices and tokens
    Rm {
        /// Its name
        name: Name,
        #[command(flatten)]
        common: CommonArgs,
    },
}

#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// Its name
    name: Name,
    /// A group to join; may be repeated
    #[arg(long, value_name = "GROUP")]
    join: Vec<Name>,
    /// A group to leave; may be repeated
    #[arg(long, value_name = "GROUP")]
    leave: Vec<Name>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Inner IPv4 address to keep for its first device
    #[arg(long, value_name = "ADDRESS")]
    ipv4: Option<Ipv4Addr>,
    /// Inner IPv6 address to keep for its first device
    #[arg(long, value_name = "ADDRESS")]
    ipv6: Option<Ipv6Addr>,
    /// Keep no address for it
    #[arg(long)]
    no_address: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// Where a password comes from.
#[derive(Args, Debug)]
pub(crate) struct PasswordArgs {
    /// Read the password from standard input: its first line
    #[arg(long)]
    password_stdin: bool,
    /// Have no password: log in by invite, token or certificate
    #[arg(long, conflicts_with = "password_stdin")]
    no_password: bool,
}

impl PasswordArgs {
    fn password(&self) -> Result<Option<NewPassword>, CliError> {
        if self.password_stdin {
            return Ok(Some(NewPassword::Given(read_line()?)));
        }
        Ok(self.no_password.then_some(NewPassword::None))
    }
}

/// The first line of standard input.
fn read_line() -> Result<Secret, CliError> {
    // As much as a password and its end of line may have, and one more, so that a longer one shows.
    let most = PASSWORD_LEN_MAX as u64 + 3;
    let mut line = Zeroizing::new(String::with_capacity(PASSWORD_LEN_MAX + 3));
    io::stdin().lock().take(most).read_line(&mut line).map_err(|error| {
        CliError::failure(format_args!("cannot read a password from standard input: {error}"))
    })?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Asks for a password twice.
fn prompt(name: &Name) -> Result<Secret, CliError> {
    if !io::stdin().is_terminal() {
        let message = "there is no terminal to ask for a password on: use `--password-stdin` or \
                       `--generate`";
        return Err(CliError::new(crate::exit::ExitCode::Usage, message));
    }
    let ask = |text: String| {
        rpassword::prompt_password(text).map(Secret::new).map_err(|error| {
            CliError::failure(format_args!("cannot read a password from the terminal: {error}"))
        })
    };
    let first = ask(format!("New password for {name}: "))?;
    let second = ask("The same again: ".to_owned())?;
    if first.expose() == second.expose() {
        Ok(first)
    } else {
        Err(CliError::failure("the two passwords differ; nothing was changed"))
    }
}

pub(crate) fn run(command: UserCommand) -> Result<(), CliError> {
    match command {
        UserCommand::Add { name, group, password, common } => {
            let password = password.password()?.unwrap_or(NewPassword::Generate);
            let groups = group.into_iter().collect();
            common.run(Operation::UserAdd { name, groups, password }, |outcome| {
                password_text("added", outcome)
            })
        }
        UserCommand::Ls { common } => common.run(Operation::UserList {}, users_text),
        UserCommand::Show { name, common } => {
            common.run(Operation::UserShow { name }, |outcome| match outcome {
                Outcome::User(user) => user_text(user),
                other => strange(other),
            })
        }
        UserCommand::Set(args) => set(*args),
        UserCommand::Passwd { name, password, generate, common } => {
            let password = match password.password()? {
                Some(password) => password,
                None if generate => NewPassword::Generate,
                None => NewPassword::Given(prompt(&name)?),
            };
            common.run(Operation::UserPassword { name, password }, |outcome| {
                password_text("changed", outcome)
            })
        }
        UserCommand::Totp { name, qr, off: false, common } => totp(name, qr, &common),
        UserCommand::Totp { name, off: true, common, .. } => {
            let what = format!("{name} needs no code any more");
            common.run(Operation::UserTotpOff { name }, |outcome| done_text(&what, outcome))
        }
        UserCommand::Disable { name, common } => {
            let what = format!("{name} is disabled");
            common.run(Operation::UserDisable { name }, |outcome| done_text(&what, outcome))
        }
        UserCommand::Enable { name, common } => {
            let what = format!("{name} is enabled");
            common.run(Operation::UserEnable { name }, |outcome| done_text(&what, outcome))
        }
        UserCommand::Rm { name, common } => {
            let what = format!("{name} is removed");
            common.run(Operation::UserRemove { name }, |outcome| done_text(&what, outcome))
        }
    }
}

fn set(args: SetArgs) -> Result<(), CliError> {
    let SetArgs { name, join, leave, limits, ipv4, ipv6, no_address, common } = args;
    let what = format!("{name} is changed");
    let operation = Operation::UserSet {
        name,
        join: join.into_iter().collect(),
        leave: leave.into_iter().collect(),
        limits: limits.changes(),
        reserve_ipv4: ipv4,
        reserve_ipv6: ipv6,
        unreserve: no_address,
    };
    common.run(operation, |outcome| done_text(&what, outcome))
}

fn totp(name: Name, qr: bool, common: &CommonArgs) -> Result<(), CliError> {
    let outcome = common.reach.execute(Operation::UserTotp { name })?;
    let drawing = match &outcome {
        Outcome::Totp(set) if qr && !common.json => invite::draw(set.address.expose())?,
        _ => String::new(),
    };
    common.show(&outcome, |outcome| match outcome {
        Outcome::Totp(set) => {
            let mut text = format!(
                "{} needs a code with every password from now on{}\n{drawing}secret  {}\n\
                 Recovery codes, each good once in place of a code:\n",
                set.user,
                consequences(&set.done),
                set.address.expose(),
            );
            for code in &set.recovery_codes {
                text.push_str(&format!("  {}\n", code.expose()));
            }
            text
        }
        other => strange(other),
    })
}

fn password_text(verb: &str, outcome: &Outcome) -> String {
    let Outcome::Password(set) = outcome else { return strange(outcome) };
    let mut text = format!("{} is {verb}{}\n", set.user, consequences(&set.done));
    if let Some(password) = &set.password {
        text.push_str(&format!("password  {}\n", password.expose()));
    }
    text
}

fn users_text(outcome: &Outcome) -> String {
    let Outcome::Users(users) = outcome else { return strange(outcome) };
    let row = |user: &UserView| {
        [
            user.name.to_string(),
            state_of(user).to_owned(),
            join(&user.groups),
            user.devices.to_string(),
            user.sessions.to_string(),
            units::bytes(user.month_bytes),
        ]
    };
    let rows: Vec<_> = users.iter().map(row).collect();
    table::render(["NAME", "STATE", "GROUPS", "DEVICES", "ONLINE", "THIS MONTH"], &rows)
}

fn state_of(user: &UserView) -> &'static str {
    if user.disabled { "disabled" } else { "enabled" }
}

fn user_text(user: &UserView) -> String {
    let proofs = [(user.has_password, "password"), (user.has_totp, "code with the password")];
    let proofs = proofs.iter().filter(|(has, _)| *has).map(|(_, name)| *name);
    let reserved = user.reserved_ipv4.map(|address| address.to_string()).into_iter();
    let reserved = reserved.chain(user.reserved_ipv6.map(|address| address.to_string()));
    table::list(&[
        ("name", user.name.to_string()),
        ("state", state_of(user).to_owned()),
        ("groups", join(&user.groups)),
        ("created", user.created.clone()),
        ("logs in by", join(proofs)),
        ("recovery codes", user.recovery_codes.to_string()),
        ("devices", format!("{}, {} online", user.devices, user.sessions)),
        (
            "moved",
            format!(
                "{} today, {} this month",
                units::bytes(user.day_bytes),
                units::bytes(user.month_bytes)
            ),
        ),
        ("kept addresses", join(reserved)),
        ("limits", limits::text(&user.bounds)),
        ("rules", join(&user.acl)),
    ])
}
