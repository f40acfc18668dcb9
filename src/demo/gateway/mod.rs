//! The demo of the proxy gateway: a client, a gateway that is also the router, and an origin.
//!
//! The client asks for the same page by each protocol, and for what the gateway must not give it;
//! then it reads as fast as it can, through the gateway and, by the kernel's own forwarding,
//! beside it.

mod client;
mod origin;
mod report;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

pub use report::{GATEWAY_DEMO_SCHEMA, GatewayReport, RefusalRow, RequestRow, RouteRow};

use super::daemon::Daemon;
use super::directory::PrivateDirectory;
use super::error::DemoError;
use super::site::{DaemonFiles, write_private};
use super::start::{Steps, await_status};
use super::{DemoOptions, Tell};
use crate::bench::{StopFlag, units};
use crate::lab::addresses::{ROUTER_CLIENT_SIDE_V4, SERVER_V4};
use crate::lab::{self, LabOptions, Routed};
use crate::login::pki::{PkiDirectory, ServerAddress, Validity};
use crate::sys::clock;
use client::{AskError, Gateway, Protocol, Road};

/// How many steps there are.
const STEPS: usize = 5;
/// TCP ports of the gateway.
const PORT: u16 = 1080;
const TLS_PORT: u16 = 8443;

/// Shows the proxy gateway at work. Must be called by a thread that outlives the demo, since the
/// gateway dies with it, and before the process starts another thread, since it may have to enter
/// a user namespace.
///
/// # Errors
/// [`DemoError`]: what went wrong or was not to be seen and, where the gateway may know more, the
/// end of its log.
pub fn show_gateway(
    options: &DemoOptions,
    stop: &StopFlag,
    tell: Tell<'_>,
) -> Result<GatewayReport, DemoError> {
    let mut steps = Steps::new(0, STEPS, tell);
    steps.begin("lay out a client, a gateway and an origin");
    let in_user_namespace = lab::ensure_privileges()?;
    let lab = Routed::build(LabOptions::default())?;
    let origin = origin::start(&lab.server, SERVER_V4)?;
    steps.done(if in_user_namespace { "inside a user namespace" } else { "as root" });

    steps.begin("corelane proxy");
    let directory = PrivateDirectory::create()?;
    let (files, known) = write_files(&directory, options)?;
    let mut gateway = Daemon::spawn(&lab.router, &options.program, "proxy", &files, None)?;
    let serving = await_status(&mut gateway, stop, "the gateway to serve", |status| {
        status.proxy.as_ref().is_some_and(|proxy| !proxy.listening.is_empty())
    });
    serving.map_err(|error| error.with_logs(&[&gateway]))?;
    steps.done("serving");

    let mut scene =
        Scene { lab: &lab, origin, known: &known, gateway: &mut gateway, options, stop };
    let shown = scene.show(&mut steps);
    shown.map_err(|error| {
        let ended = gateway.check_running().err().filter(|_| !stop.is_raised());
        ended.unwrap_or(error).with_logs(&[&gateway])
    })
}

fn write_files(
    directory: &PrivateDirectory,
    options: &DemoOptions,
) -> Result<(DaemonFiles, Gateway), DemoError> {
    let logs = options.keep_logs.as_deref().unwrap_or_else(|| directory.path());
    fs::create_dir_all(logs)
        .map_err(DemoError::io(format!("make the directory {}", logs.display())))?;
    let files = DaemonFiles {
        config: directory.path().join("gateway.toml"),
        status_socket: directory.path().join("gateway.sock"),
        log: logs.join("gateway.log"),
    };
    let socket = toml::Value::from(files.status_socket.to_string_lossy().into_owned());
    let workers =
        options.workers.map_or_else(String::new, |count| format!("[workers]\ncount = {count}\n"));
    let [plain, tls] = [PORT, TLS_PORT].map(|port| SocketAddrV4::new(ROUTER_CLIENT_SIDE_V4, port));
    let (pki, trust) = make_certificates(&directory.path().join("pki"))?;
    let [certificate, key] = [pki.server_certificate(), pki.server_key()]
        .map(|path| toml::Value::from(path.to_string_lossy().into_owned()));
    // Nobody but the demo reaches this network.
    let config = format!(
        "[[proxy]]\nlisten = [\"{plain}\", \"tls://{tls}\"]\nallow_remote = true\n\
         certificate_file = {certificate}\nkey_file = {key}\n[status]\nsocket = {socket}\n\
         {workers}"
    );
    write_private(&files.config, &config)?;
    Ok((files, Gateway { plain, tls, trust }))
}

/// Certificates for the gateway, and clients that trust no others.
fn make_certificates(path: &Path) -> Result<(PkiDirectory, Arc<ClientConfig>), DemoError> {
    fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> DemoError {
        DemoError::io("make certificates")(io::Error::other(error))
    }
    let (now, mut rng) = (clock::unix_time(), rand::rng());
    let pki = PkiDirectory::create(path, "demo", now, &mut rng).map_err(failed)?;
    let here = [ServerAddress::Address(ROUTER_CLIENT_SIDE_V4.into())];
    pki.issue_server(&here, Validity::days(now, 1), &mut rng).map_err(failed)?;
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(pki.certificate()).map_err(failed)?;
    roots.add(certificate).map_err(failed)?;
    let trust = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok((pki, Arc::new(trust)))
}

/// Everything that takes part.
struct Scene<'a> {
    lab: &'a Routed,
    origin: SocketAddrV4,
    known: &'a Gateway,
    gateway: &'a mut Daemon,
    options: &'a DemoOptions,
    stop: &'a StopFlag,
}

impl Scene<'_> {
    fn show(&mut self, steps: &mut Steps<'_>) -> Result<GatewayReport, DemoError> {
        steps.begin("the same page by each protocol");
        let requests = self.requests()?;
        steps.done(&format!("{} times", requests.len()));

        steps.begin("what the gateway must not give");
        let refusals = self.refusals()?;
        steps.done("refused");

        steps.begin("as fast as it goes, beside the gateway and through it");
        let routes = self.routes()?;
        let fastest = routes.iter().map(|route| route.bps).fold(0.0, f64::max);
        steps.done(&format!("up to {}", units::bits_per_second(fastest)));

        let status = self.gateway.status()?.proxy;
        let status = status.ok_or_else(|| {
            DemoError::NotShown("the gateway says nothing about its clients".to_owned())
        })?;
        Ok(GatewayReport {
            schema: GATEWAY_DEMO_SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: status.workers,
            requests,
            refusals,
            routes,
            clients: status.accepted,
            origins_reached: status.reached,
            up_bytes: status.up_bytes,
            down_bytes: status.down_bytes,
        })
    }

    fn requests(&self) -> Result<Vec<RequestRow>, DemoError> {
        let mut rows = Vec::new();
        for road in Road::ALL {
            self.check()?;
            let began = clock::now();
            let page = self.lab.client.run(|| client::fetch(road, self.known, self.origin))?;
            let took_ms = clock::now().duration_since(began).as_secs_f64() * 1e3;
            let name = road.name().to_owned();
            match page {
                Ok(page) if page == origin::PAGE => rows.push(RequestRow { by: name, took_ms }),
                Ok(other) => {
                    let text = String::from_utf8_lossy(&other).into_owned();
                    return Err(DemoError::NotShown(format!("{name} brought `{text}`")));
                }
                Err(error) => return Err(DemoError::NotShown(format!("{name}: {error}"))),
            }
        }
        Ok(rows)
    }

    /// The gateway's own loopback interface, and the service that tells cloud machines their
    /// secrets. That the way is open otherwise the requests have shown.
    fn refusals(&self) -> Result<Vec<RefusalRow>, DemoError> {
        const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
        let mut rows = Vec::new();
        for target in [(Ipv4Addr::LOCALHOST, PORT), (METADATA, 80)] {
            let target = SocketAddrV4::new(target.0, target.1);
            for (protocol, expected) in [(Protocol::Socks5, "02"), (Protocol::Connect, "403")] {
                let road = Road::Through(protocol);
                let by = road.name().to_owned();
                let outcome =
                    self.lab.client.run(|| client::reach(road, self.known, target).map(drop))?;
                match outcome {
                    Err(AskError::Refused(answer)) if answer == expected => {
                        rows.push(RefusalRow { by, target: target.to_string(), answer });
                    }
                    other => {
                        let text = format!("{by} to {target}: {other:?} instead of {expected}");
                        return Err(DemoError::NotShown(text));
                    }
                }
            }
        }
        Ok(rows)
    }

    fn routes(&mut self) -> Result<Vec<RouteRow>, DemoError> {
        let mut rows: Vec<RouteRow> = Vec::new();
        for road in Road::ALL {
            self.check()?;
            let cpu_before = self.gateway.cpu_seconds()?;
            let (duration, origin) = (self.options.duration, self.origin);
            let read = self
                .lab
                .client
                .run(|| client::read_for(road, self.known, origin, duration, self.stop))?;
            let (bytes, seconds) =
                read.map_err(|error| DemoError::NotShown(format!("{}: {error}", road.name())))?;
            if self.stop.is_raised() {
                return Err(DemoError::Interrupted);
            }
            let cpu = self.gateway.cpu_seconds()? - cpu_before;
            let bps = bytes as f64 * 8.0 / seconds;
            let direct = rows.first().map_or(bps, |row| row.bps);
            let is_proxied = road != Road::Direct;
            rows.push(RouteRow {
                by: road.name().to_owned(),
                bps,
                percent_of_direct: 100.0 * bps / direct,
                cpu_s_per_gb: is_proxied.then_some(cpu * 1e9 / bytes as f64),
            });
        }
        Ok(rows)
    }

    fn check(&self) -> Result<(), DemoError> {
        if self.stop.is_raised() { Err(DemoError::Interrupted) } else { Ok(()) }
    }
}
