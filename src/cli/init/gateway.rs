//! `corelane init gateway`: everything that a proxy gateway without a tunnel needs.

use std::path::PathBuf;

use clap::Args;

use crate::cli::CliError;
use crate::cli::cert::AddressArgs;
use crate::login::pki::write_new;

use super::{DIRECTORY, proxy, replace, set_up, words_of_both};

/// The configuration, with `@WORDS@` to be replaced.
const TEMPLATE: &str = include_str!("gateway.toml");

#[derive(Args, Debug)]
pub(crate) struct GatewayArgs {
    // By the first of these clients reach the gateway.
    #[command(flatten)]
    server: AddressArgs,
    /// Where everything goes; made if it is missing
    #[arg(long = "dir", value_name = "DIR", default_value = DIRECTORY)]
    directory: PathBuf,
    /// TCP port of the gateway
    #[arg(long, default_value_t = proxy::PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

pub(super) fn run(args: &GatewayArgs) -> Result<(), CliError> {
    let made = set_up(&args.directory, &args.server, |places, pki, _| {
        let words =
            [&words_of_both(places, pki)[..], &[("@PORT@", args.port.to_string())]].concat();
        Ok(write_new(&places.config, replace(TEMPLATE, &words).as_bytes(), 0o644)?)
    })?;
    let host = made.names.first().map_or("", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let next = [
        format!("corelane user add NAME{}", made.named()),
        format!("corelane proxy -c {}", made.places.config.display()),
        format!(
            "corelane proxy-client --server {host}:{} --ca-pin {} --user NAME --listen \
             127.0.0.1:1080    # at the client",
            args.port, made.pin
        ),
    ];
    made.tell(None, &next)
}
