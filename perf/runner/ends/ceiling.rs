//! The ceiling program.

use super::{Ends, INNER_CLIENT, INNER_SERVER, Setting, TUN, outer_server, with_prefix};
use crate::runner::Failure;
use crate::runner::programs::CEILING;

pub(super) fn ends(setting: &Setting<'_>) -> Result<Ends, Failure> {
    let program = setting.programs.path(CEILING)?;
    let mut server = setting.lab.server.command(&program)?;
    server.args(["--tun", TUN, "--address", &with_prefix(INNER_SERVER)]);
    server.args(["--listen", &outer_server()]);
    let mut client = setting.lab.client.command(&program)?;
    client.args(["--tun", TUN, "--address", &with_prefix(INNER_CLIENT)]);
    client.args(["--peer", &outer_server()]);
    Ok(Ends { server: server.into(), client: client.into() })
}
