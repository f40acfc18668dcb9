//! Reads the text of a file, and the values of flags, into [`Sections`], noting every problem.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::problems::{Origin, Problems, names_secret};
use crate::config::proxy::ProxyTable;
use crate::config::routes::{RuleSection, RuleTable, UpstreamSection, UpstreamTable};
use crate::config::schema::{
    ClientLoginSection, PeerSection, PeerTable, ProxySection, Role, Section, Sections, Setting,
    tables,
};
use crate::config::source::{Override, PeerOverride};
use crate::config::values::Reader;

/// Finds out which role a file is for, by the section it has.
pub(crate) fn role_of(text: &str) -> Option<Role> {
    let (table, _) = DeTable::parse_recoverable(text);
    let has = |section: &str| table.get_ref().contains_key(section);
    // A client that logs in needs nothing of its own section.
    let is_client = has(Role::Client.section()) || has(ClientLoginSection::NAME);
    let is_server = has(Role::Server.section()) || has(ProxySection::NAME);
    let server = is_server.then_some(Role::Server);
    server.or_else(|| is_client.then_some(Role::Client))
}

/// Reads `text` as a configuration for `role`.
pub(crate) fn read(text: &str, role: Role, problems: &mut Problems) -> Sections {
    let (table, syntax_errors) = DeTable::parse_recoverable(text);
    let mut walker = Walker { sections: Sections::of(role), role, problems };
    for (name, value) in table.get_ref() {
        walker.table(name.get_ref(), name.span(), value);
    }
    let sections = walker.sections;

    // A line that is not TOML was guessed at: what the guess led to would only confuse.
    let spoiled: Vec<Range<usize>> =
        syntax_errors.iter().filter_map(toml::de::Error::span).collect();
    problems.forget_lines(text, &spoiled);
    for error in &syntax_errors {
        let origin = error.span().map_or(Origin::Default, Origin::File);
        problems.error(origin, format!("not valid TOML: {}", error.message()));
    }
    sections
}

/// Lays a value from the command line or the environment over the file's.
pub(crate) fn apply(
    change: &Override,
    sections: &mut Sections,
    role: Role,
    problems: &mut Problems,
) {
    let Override { flag, section, key, toml } = change;
    let parsed = DeValue::parse(toml);
    // `--set tun.name=vpn0` need not be quoted twice.
    let value = parsed
        .unwrap_or_else(|_| Spanned::new(0..toml.len(), DeValue::String(toml.as_str().into())));
    let reader = &mut Reader { key, flag: Some(flag), problems };
    if sections.set(role, section, &value, reader) != Some(true) {
        let what = format!("there is no key `{key}` in [{section}] for `{}`", role.command());
        match hint(role, section, key) {
            Some(help) => problems.error_with_help(Origin::Flag(flag.clone()), what, help),
            None => problems.error(Origin::Flag(flag.clone()), what),
        }
    }
}

/// Adds a peer from the command line, in place of the file's peer of the same key if it has one.
pub(crate) fn apply_peer(peer: &PeerOverride, sections: &mut Sections) {
    let origin = Origin::Flag(PeerOverride::FLAG.to_owned());
    let public_key = Setting { value: Some(peer.public_key), origin: origin.clone() };
    let allowed_ips = Setting { value: peer.allowed_ips.clone(), origin: origin.clone() };
    // Only a peer of the file gives way: the same key in two flags is a mistake to be reported.
    let gives_way = |present: &PeerTable| {
        present.keys.public_key.value == Some(peer.public_key) && present.place != origin
    };
    match sections.peers.iter_mut().find(|present| gives_way(present)) {
        Some(present) => {
            present.keys.allowed_ips = allowed_ips;
            present.place = origin;
        }
        None => {
            let keys = PeerSection { public_key, allowed_ips, ..PeerSection::default() };
            sections.peers.push(PeerTable { place: origin, keys });
        }
    }
}

fn other(role: Role) -> Role {
    match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    }
}

/// The tables of the rules of a `[[proxy]]`.
const RULE: &str = "rule";
/// The tables of its upstream proxies.
const UPSTREAM: &str = "upstream";

struct Walker<'p> {
    sections: Sections,
    role: Role,
    problems: &'p mut Problems,
}

impl Walker<'_> {
    fn table(&mut self, name: &str, span: Range<usize>, value: &Spanned<DeValue<'_>>) {
        if name == PeerSection::NAME && self.role == Role::Server {
            return self.peers(value);
        }
        if name == ProxySection::NAME && self.role == Role::Server {
            return self.proxies(value);
        }
        let other = other(self.role);
        let is_known = |role: Role| tables(role).iter().any(|(known, _)| *known == name);
        if is_known(other) && !is_known(self.role) {
            let what = format!("[{name}] has no meaning for `{}`", self.role.command());
            let help = format!("a file for `{}` has it", other.command());
            return self.problems.error_with_help(Origin::File(span), what, help);
        }
        if !is_known(self.role) {
            return self.unknown("section", name, span, hint_for_section(self.role, name));
        }
        let Some(table) = value.get_ref().as_table() else {
            let what = format!("`{name}` is a section: write `[{name}]` on a line of its own");
            return self.problems.error(Origin::File(value.span()), what);
        };
        if name == self.role.section() {
            self.sections.role_span = Some(span);
        }
        for (key, value) in table {
            let reader = &mut Reader { key: key.get_ref(), flag: None, problems: self.problems };
            if self.sections.set(self.role, name, value, reader) != Some(true) {
                self.unknown_key(name, key);
            }
        }
    }

    fn proxies(&mut self, value: &Spanned<DeValue<'_>>) {
        self.sections.mentions_proxies = true;
        let what = "proxies are a list of tables: write `[[proxy]]` above each";
        for (place, keys, table) in self.list::<ProxySection>(value, what, &[RULE, UPSTREAM]) {
            let rules = table.get(RULE).map(|value| self.proxy_rules(value)).unwrap_or_default();
            let upstreams =
                table.get(UPSTREAM).map(|value| self.proxy_upstreams(value)).unwrap_or_default();
            self.sections.proxies.push(ProxyTable { place, keys, rules, upstreams });
        }
    }

    fn proxy_rules(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<RuleTable> {
        let what = "rules are a list of tables: write `[[proxy.rule]]` above each";
        let rules = self.list::<RuleSection>(value, what, &[]).into_iter();
        rules.map(|(place, keys, _)| RuleTable { place, keys }).collect()
    }

    fn proxy_upstreams(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<UpstreamTable> {
        let what = "upstreams are a list of tables: write `[[proxy.upstream]]` above each";
        let upstreams = self.list::<UpstreamSection>(value, what, &[]).into_iter();
        upstreams.map(|(place, keys, _)| UpstreamTable { place, keys }).collect()
    }

    fn peers(&mut self, value: &Spanned<DeValue<'_>>) {
        let what = "peers are a list of tables: write `[[peer]]` above each";
        for (place, keys, _) in self.list::<PeerSection>(value, what, &[]) {
            self.sections.peers.push(PeerTable { place, keys });
        }
    }

    /// The tables of a list, with what they are made of; `not_a_list` is said of whatever is none.
    /// The tables `inside` of them are left to the caller.
    fn list<'v, T: Section + Default>(
        &mut self,
        value: &'v Spanned<DeValue<'_>>,
        not_a_list: &str,
        inside: &[&str],
    ) -> Vec<(Origin, T, &'v DeTable<'v>)> {
        let Some(elements) = value.get_ref().as_array() else {
            self.problems.error(Origin::File(value.span()), not_a_list);
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(elements.len());
        for element in elements {
            let Some(table) = element.get_ref().as_table() else {
                self.problems.error(Origin::File(element.span()), not_a_list);
                continue;
            };
            let mut keys = T::default();
            for (key, value) in table {
                if inside.contains(&key.get_ref().as_ref()) {
                    continue;
                }
                let reader =
                    &mut Reader { key: key.get_ref(), flag: None, problems: self.problems };
                if !keys.set(value, reader) {
                    self.unknown_key(T::NAME, key);
                }
            }
            tables.push((Origin::File(element.span()), keys, table));
        }
        tables
    }

    fn unknown_key(&mut self, section: &str, key: &Spanned<std::borrow::Cow<'_, str>>) {
        self.unknown("key", key.get_ref(), key.span(), hint(self.role, section, key.get_ref()));
    }

    fn unknown(&mut self, what: &str, name: &str, span: Range<usize>, help: Option<String>) {
        let what = format!("unknown {what} `{}`", name.escape_debug());
        match help {
            Some(help) => self.problems.error_with_help(Origin::File(span), what, help),
            None => self.problems.error(Origin::File(span), what),
        }
    }
}

/// What was probably meant by an unknown key of a section.
fn hint(role: Role, section: &str, key: &str) -> Option<String> {
    if names_secret(key) {
        return Some(
            "secrets stay out of this file: put the key into a file of its own (mode 0600) and \
             name that with `private_key_file` or `preshared_key_file`"
                .to_owned(),
        );
    }
    // First what this role has: a section may mean something else for the other.
    let mut all = [role, other(role)].into_iter().flat_map(tables);
    let home = all.clone().find(|(name, keys)| *name != section && keys.contains(&key));
    let own = all.find(|(name, _)| *name == section).map_or(&[][..], |(_, keys)| keys);
    match (home, nearest(key, own)) {
        (Some((name, _)), _) => Some(format!("`{key}` is a key of [{name}]")),
        (None, Some(near)) => Some(format!("did you mean `{near}`?")),
        (None, None) if own.is_empty() => hint_for_section(role, section),
        (None, None) => Some(format!("[{section}] has: {}", own.join(", "))),
    }
}

/// What was probably meant by an unknown section, or by a key outside any.
fn hint_for_section(role: Role, name: &str) -> Option<String> {
    let names: Vec<&str> = tables(role).iter().map(|(name, _)| *name).collect();
    let mut all = [role, other(role)].into_iter().flat_map(tables);
    if let Some((section, _)) = all.find(|(_, keys)| keys.contains(&name)) {
        return Some(format!("`{name}` is a key of [{section}]"));
    }
    match nearest(name, &names) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None => Some(format!("the sections are: {}", names.join(", "))),
    }
}

/// The candidate that differs least from `text`, unless even that differs too much.
fn nearest<'c>(text: &str, candidates: &[&'c str]) -> Option<&'c str> {
    candidates
        .iter()
        .copied()
        .filter(|candidate| is_near(text, candidate, (candidate.len() / 3).max(2)))
        .min_by_key(|candidate| strsim::damerau_levenshtein(text, candidate))
}

/// Whether two words differ by at most `distance_max` edits. Lengths are compared first, so that a
/// word of a megabyte costs nothing.
fn is_near(text: &str, candidate: &str, distance_max: usize) -> bool {
    text.len().abs_diff(candidate.len()) <= distance_max
        && strsim::damerau_levenshtein(text, candidate) <= distance_max
}
