//! The command line: one file per command group.

use clap::{Parser, Subcommand};

mod accounts;
pub mod bench;
mod cert;
mod config;
pub mod demo;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod generate;
mod init;
mod key;
mod kill_switch;
mod output;
mod proxy;
mod proxy_client;
mod settings;
mod status;
mod status_client;
mod status_text;
mod tunnel;
mod units;

pub use error::CliError;

use crate::exit::ExitCode;

/// A thread-per-core VPN for Linux.
#[derive(Parser, Debug)]
#[command(name = "corelane", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = exit_codes())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a server, in the foreground
    Serve(tunnel::ServeArgs),
    /// Bring a client's tunnel up, in the foreground
    Up(tunnel::UpArgs),
    /// Serve SOCKS and HTTP to what cannot run a tunnel, in the foreground
    Proxy(proxy::ProxyArgs),
    /// Serve SOCKS and HTTP at this host and carry it to a gateway inside TLS, in the foreground
    ProxyClient(proxy_client::ProxyClientArgs),
    /// Stop a client's daemon, or a proxy gateway's, cleanly
    Down(status::SocketArgs),
    /// Show what a running daemon is doing
    Status(status::StatusArgs),
    /// Make a running daemon read its configuration again, as SIGHUP does
    Reload(status::SocketArgs),
    #[command(flatten)]
    Accounts(accounts::AccountsCommand),
    /// Make and convert keys
    Key {
        #[command(subcommand)]
        command: key::KeyCommand,
    },
    /// Look after the kill switch that a client has left on
    KillSwitch {
        #[command(subcommand)]
        command: kill_switch::KillSwitchCommand,
    },
    /// Check and show configurations
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Set a server up: authority, certificate, keys, configuration, database
    Init {
        #[command(subcommand)]
        command: init::InitCommand,
    },
    /// Issue and revoke certificates of users and servers
    Cert {
        #[command(subcommand)]
        command: cert::CertCommand,
    },
    /// Generate and measure traffic, without any other program
    Bench(bench::BenchArgs),
    /// Show a server and a client at work between two network namespaces
    Demo(demo::DemoArgs),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// The directory; made if it is missing
        #[arg(value_name = "DIR")]
        directory: std::path::PathBuf,
    },
}

fn exit_codes() -> String {
    let codes = ExitCode::ALL.iter().map(|(code, word)| format!("{} {word}", *code as u8));
    format!("Exit codes: {}.", codes.collect::<Vec<_>>().join(", "))
}

/// Does what the command line of this process says, and says how it ended.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // With stderr gone there is nobody left to tell.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(args) => tunnel::serve(args),
        Command::Up(args) => tunnel::up(args),
        Command::Proxy(args) => proxy::run(args),
        Command::ProxyClient(args) => proxy_client::run(args),
        Command::Down(args) => status::down(&args),
        Command::Status(args) => status::status(&args),
        Command::Reload(args) => status::reload(&args),
        Command::Accounts(command) => accounts::run(command),
        Command::Key { command } => key::run(&command),
        Command::KillSwitch { command } => kill_switch::run(command),
        Command::Config { command } => config::run(command),
        Command::Init { command } => init::run(&command),
        Command::Cert { command } => cert::run(command),
        Command::Bench(args) => bench::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Version => output::print(concat!("corelane ", env!("CARGO_PKG_VERSION"), "\n")),
        Command::Completion { shell } => generate::completion(shell),
        Command::Man { directory } => generate::man(&directory),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
