//! `corelane init proxy`: the part of a server's file that is about the gateway, and what Traefik
//! needs to stand in front of it.
//!
//! The keys are those of Traefik v3: <https://doc.traefik.io/traefik/reference/>.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{CliError, output};
use crate::login::pki::{PkiError, ServerAddress, write_new};

use super::{DIRECTORY, io_error, quoted, quoted_path, replace};

/// Where clients of the gateway come, if nobody says otherwise.
pub(super) const PORT: u16 = 8443;
/// What Traefik listens on, with `@WORDS@` to be replaced, as in all of these.
const STATIC: &str = include_str!("traefik/static.toml");
/// Where its certificates come from.
const RESOLVER: &str = include_str!("traefik/resolver.toml");
/// Where it leads.
const DYNAMIC: &str = include_str!("traefik/dynamic.toml");
/// A page that it protects.
const PAGE: &str = include_str!("traefik/page.toml");
/// The gateway behind it.
const BEHIND_TRAEFIK: &str = include_str!("traefik/proxy.toml");
/// The gateway by itself.
const ALONE: &str = include_str!("proxy.toml");

#[derive(Args, Debug)]
pub(crate) struct ProxyArgs {
    /// Set Traefik up in front of the gateway: its files go here; made if it is missing
    #[arg(long, value_name = "DIR", requires = "domain")]
    traefik: Option<PathBuf>,
    /// DNS name by which Traefik tells the gateway's clients from those of pages
    #[arg(long, value_name = "NAME", value_parser = domain, requires = "traefik")]
    domain: Option<String>,
    /// DNS name of a page that Traefik shows to users of the accounts alone
    #[arg(long, value_name = "NAME", value_parser = domain, requires = "traefik")]
    page: Option<String>,
    /// Where that page is served
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000", value_parser = url)]
    backend: String,
    /// Whom Let's Encrypt writes to; without it Traefik shows a certificate that nobody trusts
    #[arg(long, value_name = "ADDRESS", value_parser = email, requires = "page")]
    email: Option<String>,
    /// TCP port of the gateway
    #[arg(long, default_value_t = PORT, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// TCP port where Traefik asks who its clients are
    #[arg(long, default_value_t = 1080, value_parser = clap::value_parser!(u16).range(1..),
        requires = "traefik")]
    auth_port: u16,
}

fn domain(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(ServerAddress::Domain(name)) => Ok(name),
        _ => Err("not a DNS name such as proxy.example.org".to_owned()),
    }
}

fn url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let is_url = rest.is_some_and(|rest| !rest.is_empty() && is_plain(rest));
    is_url.then(|| text.to_owned()).ok_or_else(|| "not a URL such as http://127.0.0.1:8000".into())
}

fn email(text: &str) -> Result<String, String> {
    let is_address = is_plain(text)
        && text.split_once('@').is_some_and(|(who, at)| !who.is_empty() && !at.is_empty());
    is_address.then(|| text.to_owned()).ok_or_else(|| "not an address such as a@example.org".into())
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

pub(super) fn run(args: &ProxyArgs) -> Result<(), CliError> {
    match (&args.traefik, &args.domain) {
        (Some(directory), Some(domain)) => behind_traefik(args, directory, domain),
        _ => output::print(&ALONE.replace("@PORT@", &args.port.to_string())),
    }
}

/// Writes all files, or none.
fn behind_traefik(args: &ProxyArgs, directory: &Path, domain: &str) -> Result<(), CliError> {
    fs::create_dir_all(directory).map_err(|error| io_error(directory, &error))?;
    let directory = fs::canonicalize(directory).map_err(|error| io_error(directory, &error))?;
    let files = Files::of(&directory);
    let texts = [
        (&files.fixed, files.fixed_text(args)),
        (&files.dynamic, dynamic_text(args, domain)),
        (&files.gateway, replace(BEHIND_TRAEFIK, &words(args, domain))),
    ];
    if let Some((there, _)) = texts.iter().find(|(path, _)| path.exists()) {
        return Err(PkiError::Exists(PathBuf::clone(there)).into());
    }
    for (at, (path, text)) in texts.iter().enumerate() {
        if let Err(error) = write_new(path, text.as_bytes(), 0o644) {
            for (made, _) in texts.iter().take(at) {
                let _ = fs::remove_file(made);
            }
            return Err(error.into());
        }
    }
    let (fixed, gateway) = (files.fixed.display(), files.gateway.display());
    let config = Path::new(DIRECTORY).join("server.toml");
    let config = config.display();
    output::print(&format!(
        "Made for {domain}:\n  {fixed}\n  {}\n  {gateway}\n\nNext:\n  cat {gateway} >> {config}\n  \
         corelane config check {config}\n  traefik --configFile={fixed}\n\nThe server has to be \
         started again to listen there, and its certificate has to be for {domain}: `corelane \
         cert renew` takes several names. Traefik takes the ports 80 and 443: logins that are \
         taken at 443 (`listen` in [login]) have to move, to 8444, say.\n",
        files.dynamic.display(),
    ))
}

/// What is written.
struct Files {
    /// What Traefik reads once.
    fixed: PathBuf,
    /// What it reads again when it changes.
    dynamic: PathBuf,
    /// The part of the server's file.
    gateway: PathBuf,
    /// Where Traefik keeps its certificates.
    storage: PathBuf,
}

impl Files {
    fn of(directory: &Path) -> Self {
        let file = |name| directory.join(name);
        Self {
            fixed: file("traefik.toml"),
            dynamic: file("corelane.toml"),
            gateway: file("proxy.toml"),
            storage: file("acme.json"),
        }
    }

    fn fixed_text(&self, args: &ProxyArgs) -> String {
        let resolver = args.email.as_deref().map_or_else(String::new, |email| {
            let words = [("@EMAIL@", quoted(email)), ("@STORAGE@", quoted_path(&self.storage))];
            replace(RESOLVER, &words)
        });
        let name = self.dynamic.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let words = [
            ("@STATIC@", self.fixed.display().to_string()),
            ("@DYNAMIC_NAME@", name),
            ("@DYNAMIC@", quoted_path(&self.dynamic)),
            ("@RESOLVER@\n", resolver),
        ];
        replace(STATIC, &words)
    }
}

fn dynamic_text(args: &ProxyArgs, domain: &str) -> String {
    let resolver = if args.email.is_some() { "certResolver = \"letsencrypt\"\n" } else { "" };
    let page = args.page.as_deref().map_or_else(String::new, |page| {
        let words = [
            ("@PAGE@", page.to_owned()),
            ("@RESOLVER_NAME@\n", resolver.to_owned() + "\n"),
            ("@BACKEND@", quoted(&args.backend)),
        ];
        replace(PAGE, &words)
    });
    let [domain, port, auth_port] = words(args, domain);
    replace(DYNAMIC, &[domain, port, auth_port, ("@PAGE_PART@\n", page)])
}

fn words(args: &ProxyArgs, domain: &str) -> [(&'static str, String); 3] {
    [
        ("@DOMAIN@", domain.to_owned()),
        ("@PORT@", args.port.to_string()),
        ("@AUTH_PORT@", args.auth_port.to_string()),
    ]
}
