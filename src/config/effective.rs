//! The configuration in force, as a file that says where each value came from.

use crate::config::problems::{LineIndex, Origin};
use crate::config::proxy::ProxyConfig;
use crate::config::routes::{RuleSection, UpstreamSection};
use crate::config::schema::{Entry, PeerSection, ProxySection, Role, Section, Sections};

/// Column at which the origins stand, unless a value is longer.
const ORIGIN_COLUMN: usize = 48;

/// Renders `sections` as TOML that reads back as the same configuration.
pub(crate) fn render(sections: &Sections, role: Role, name: &str, text: &str) -> String {
    let is_proxy_alone = role == Role::Server && sections.is_proxy_alone();
    let command = if is_proxy_alone { ProxyConfig::COMMAND } else { role.command() };
    let mut out = format!("# {command} with: {name}\n");
    let lines = LineIndex::new(text);
    let counts = |name: &str| !is_proxy_alone || ProxyConfig::TABLES.contains(&name);
    for (section, entries) in sections.entries(role).into_iter().filter(|it| counts(it.0)) {
        table(&mut out, &format!("[{section}]"), &entries, &lines);
    }
    if role == Role::Server {
        for proxy in &sections.proxies {
            table(&mut out, &format!("[[{}]]", ProxySection::NAME), &proxy.keys.entries(), &lines);
            for upstream in &proxy.upstreams {
                let header = format!("[[{}]]", UpstreamSection::NAME);
                table(&mut out, &header, &upstream.keys.entries(), &lines);
            }
            for rule in &proxy.rules {
                let header = format!("[[{}]]", RuleSection::NAME);
                table(&mut out, &header, &rule.keys.entries(), &lines);
            }
        }
        for peer in &sections.peers {
            table(&mut out, &format!("[[{}]]", PeerSection::NAME), &peer.keys.entries(), &lines);
        }
    }
    out
}

fn table(out: &mut String, header: &str, entries: &[Entry], lines: &LineIndex) {
    out.push_str(&format!("\n{header}\n"));
    for entry in entries {
        let origin = match &entry.origin {
            Origin::Default => "default".to_owned(),
            Origin::File(span) => format!("file, line {}", lines.line_of(span.start) + 1),
            Origin::Flag(flag) => flag.clone(),
        };
        let line = match &entry.toml {
            Some(toml) => format!("{} = {toml}", entry.key),
            None => {
                out.push_str(&format!("# {} is not set\n", entry.key));
                continue;
            }
        };
        out.push_str(&format!("{line:<ORIGIN_COLUMN$} # {origin}\n"));
    }
}
