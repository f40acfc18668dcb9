//! Quincy, over QUIC with TLS 1.3, its default mode, and certificates that each end knows of the
//! other. Everything else is default, TUN offloads included.

use corelane::lab::addresses;

use super::certificate::Certificate;
use super::{Ends, INNER_SERVER, PORT, Setting, TUN, outer_server, with_prefix, write_private};
use crate::runner::Failure;

pub(super) fn ends(setting: &Setting<'_>) -> Result<Ends, Failure> {
    let (programs, directory) = (setting.programs, setting.directory);
    let server_certificate = Certificate::generate(programs, directory, "server")?;
    let client_certificate = Certificate::generate(programs, directory, "client")?;
    let fingerprint = client_certificate.fingerprint.replace(':', "").to_lowercase();
    let users = format!(
        "[users.client]\nauthorized_keys = []\nauthorized_certs = [\"sha256:{fingerprint}\"]\n"
    );
    let users = write_private(directory.join("users.toml"), &users)?;
    let server = format!(
        "name = \"perf\"\ninterface_name = \"{TUN}\"\n\
         bind_address = \"{}\"\nbind_port = {PORT}\n\
         tunnel_network = \"{}\"\nusers_file = {users:?}\n\
         [protocol]\nmode = \"tls\"\ncertificate_file = {:?}\ncertificate_key_file = {:?}\n\
         [log]\nlevel = \"error\"\n",
        addresses::SERVER_V4,
        with_prefix(INNER_SERVER),
        server_certificate.certificate,
        server_certificate.key,
    );
    let client = format!(
        "connection_string = \"{}\"\n\
         [protocol]\nmode = \"tls\"\ntrusted_certificate_paths = [{:?}]\n\
         client_certificate_file = {:?}\nclient_certificate_key_file = {:?}\n\
         [network]\ninterface_name = \"{TUN}\"\n\
         [log]\nlevel = \"error\"\n",
        outer_server(),
        server_certificate.certificate,
        client_certificate.certificate,
        client_certificate.key,
    );
    let server_file = write_private(directory.join("server.toml"), &server)?;
    let client_file = write_private(directory.join("client.toml"), &client)?;
    let mut server = setting.lab.server.command(programs.path("quincy-server")?)?;
    server.arg("--config-path").arg(server_file);
    let mut client = setting.lab.client.command(programs.path("quincy-client")?)?;
    client.arg("--config-path").arg(client_file);
    Ok(Ends { server: server.into(), client: client.into() })
}
