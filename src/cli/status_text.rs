//! A status report for people: compact, aligned, only what is worth a look.

use crate::cli::units;
use crate::telemetry::drops::DropReason;
use crate::telemetry::status::{
    AccountsStatus, OffloadStatus, PeerStatus, ProxyStatus, StatusReport, UpstreamStatus,
    WorkerStatus,
};

/// Paths of a peer shown one by one; more are counted.
const PATHS_SHOWN_MAX: usize = 8;

/// Renders a report; with the one before it, rates stand in for totals.
pub(crate) fn render(report: &StatusReport, before: Option<&StatusReport>, colour: bool) -> String {
    let paint = Paint { colour };
    // A report within the same tick has no rates.
    let span_s = before.map(|before| report.uptime_s - before.uptime_s).filter(|span| *span > 0.0);
    let mut out = String::new();
    head(&mut out, report, paint);
    if let Some(now) = &report.proxy {
        let earlier = before.and_then(|before| before.proxy.as_ref());
        proxy(&mut out, now, earlier.zip(span_s), paint);
    }
    if report.tun.is_empty() {
        return out;
    }
    workers(&mut out, report, before.zip(span_s), paint);
    peers(&mut out, report, before.zip(span_s), paint);
    drops(&mut out, report, paint);
    out
}

/// Colours, or none.
#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn state(self, state: &str) -> String {
        match state {
            "up" => self.wrap("32", state),
            _ => self.wrap("33", state),
        }
    }

    fn alarm(self, text: &str) -> String {
        self.wrap("31", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn head(out: &mut String, report: &StatusReport, paint: Paint) {
    let name = paint.bold(&format!("corelane {}", report.role));
    let uptime = units::duration(report.uptime_s);
    let mut line = |label: &str, value: &str| out.push_str(&format!("{label:<11}{value}\n"));
    line(&name, "");
    let state = paint.state(&report.state);
    match report.state.as_str() {
        // Since when it does is not told.
        "stopping" => line("state", &state),
        _ => line("state", &format!("{state} for {uptime}")),
    }
    line("process", &format!("{}, version {}", report.pid, report.version));
    // A proxy gateway alone has no tunnel.
    if !report.tun.is_empty() {
        line("interface", &format!("{}, MTU {} B", report.tun, report.mtu));
        line("key", &report.public_key);
        let label = if report.role == "client" { "server" } else { "listening" };
        line(label, &report.endpoints.join(", "));
        line("offloads", &offloads(&report.offloads, report.role == "client"));
    }
    if let Some(accounts) = &report.accounts {
        let sessions = units::count(accounts.sessions as u64);
        match report.tun.as_str() {
            // Sessions are those of tunnels.
            "" => line("accounts", &changes(accounts)),
            _ => line("logins", &format!("{sessions} sessions, {}", changes(accounts))),
        }
        if let Some(trouble) = trouble(accounts) {
            line("database", &paint.alarm(&printable(&trouble)));
        }
    }
    if let Some(error) = &report.last_error {
        line("last error", &paint.alarm(&printable(error)));
    }
}

/// How it stands with the changes of accounts.
fn changes(accounts: &AccountsStatus) -> String {
    match accounts.waiting_batches + accounts.unkept_revocations {
        0 => "every change is stored".to_owned(),
        waiting => format!(
            "{} changes ({} KiB) wait for the database",
            units::count(waiting as u64),
            units::count(accounts.waiting_bytes.div_ceil(1024))
        ),
    }
}

/// What is wrong with the database, if anything is.
fn trouble(accounts: &AccountsStatus) -> Option<String> {
    let mut reasons = Vec::new();
    if let Some(reason) = &accounts.database_away {
        let since = accounts.database_away_s.unwrap_or_default();
        reasons.push(format!("away for {}: {reason}", units::duration(since)));
    }
    if accounts.spool_full {
        reasons.push("the spool is full, so changes are refused".to_owned());
    }
    for (count, what) in [
        (accounts.unkept_revocations as u64, "revocations are lost if the server ends now"),
        (accounts.refused_batches, "changes were refused by it (see the log)"),
        (accounts.rejected_batches, "changes had no room in the spool"),
    ] {
        if count > 0 {
            reasons.push(format!("{} {what}", units::count(count)));
        }
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

fn offloads(offloads: &OffloadStatus, is_client: bool) -> String {
    let mut all = vec![
        ("TUN checksums", offloads.tun_checksum),
        ("TUN TCP segmentation", offloads.tun_tcp_segmentation),
        ("TUN UDP segmentation", offloads.tun_udp_segmentation),
        ("UDP GSO", offloads.udp_gso),
        ("UDP GRO", offloads.udp_gro),
    ];
    // A client has a socket per path and nothing to steer.
    if !is_client {
        all.push(("lane steering", offloads.steering));
    }
    let names = |wanted: bool| -> Vec<&str> {
        all.iter().filter(|(_, on)| *on == wanted).map(|(name, _)| *name).collect()
    };
    match (names(true), names(false)) {
        (on, off) if off.is_empty() => on.join(", "),
        (on, off) if on.is_empty() => format!("none; missing: {}", off.join(", ")),
        (on, off) => format!("{}; missing: {}", on.join(", "), off.join(", ")),
    }
}

/// An earlier report and the seconds since.
type Before<'r> = Option<(&'r StatusReport, f64)>;

fn workers(out: &mut String, report: &StatusReport, before: Before<'_>, paint: Paint) {
    let mut rows = vec![
        ["worker", "CPU", "to wire", "", "from wire", "", "batch", "busy", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    for worker in &report.workers {
        let earlier = before.and_then(|(report, span_s)| {
            Some((report.workers.iter().find(|other| other.worker == worker.worker)?, span_s))
        });
        rows.push(worker_row(worker, earlier));
    }
    out.push('\n');
    table(out, &rows, &[8], paint);
}

fn worker_row(worker: &WorkerStatus, earlier: Option<(&WorkerStatus, f64)>) -> Vec<String> {
    let traffic = |now: (u64, u64), then: fn(&WorkerStatus) -> (u64, u64)| match earlier {
        Some((earlier, span_s)) => {
            let (packets, bytes) = then(earlier);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / span_s;
            let bits = units::bit_rate(rate(now.1, bytes) * 8.0);
            [bits, units::packet_rate(rate(now.0, packets))]
        }
        None => [units::bytes(now.1), format!("{} packets", units::count(now.0))],
    };
    let to_wire = traffic((worker.to_wire_packets, worker.to_wire_bytes), |earlier| {
        (earlier.to_wire_packets, earlier.to_wire_bytes)
    });
    let from_wire = traffic((worker.from_wire_packets, worker.from_wire_bytes), |earlier| {
        (earlier.from_wire_packets, earlier.from_wire_bytes)
    });
    let mut row = vec![
        worker.worker.to_string(),
        worker.cpu.map_or_else(|| "unpinned".to_owned(), |cpu| cpu.to_string()),
    ];
    row.extend(to_wire);
    row.extend(from_wire);
    row.push(format!("{:.1}", worker.average_batch));
    row.push(units::percent(worker.busy_share));
    row.push(worker_notes(worker));
    row
}

/// What is only worth a word if it happened.
fn worker_notes(worker: &WorkerStatus) -> String {
    let notes = [
        (worker.gso_fallbacks, "datagrams sent without GSO"),
        (worker.tun_fallbacks, "split TUN writes"),
        (worker.reordered, "reordered"),
    ];
    let said: Vec<String> = notes
        .iter()
        .filter(|(value, _)| *value > 0)
        .map(|(value, name)| format!("{} {name}", units::count(*value)))
        .collect();
    said.join(", ")
}

fn peers(out: &mut String, report: &StatusReport, before: Before<'_>, paint: Paint) {
    for peer in &report.peers {
        let earlier = before.and_then(|(report, span_s)| {
            let same = |other: &&PeerStatus| other.public_key == peer.public_key;
            Some((report.peers.iter().find(same)?, span_s))
        });
        out.push_str(&format!("\n{} {}\n", paint.bold("peer"), printable(&peer.public_key)));
        let mut line = |label: &str, value: &str| out.push_str(&format!("  {label:<11}{value}\n"));
        line("allowed", &peer.allowed_ips.join(", "));
        line("session", &session(peer, paint));
        line("traffic", &peer_traffic(peer, earlier));
        for path in peer.paths.iter().take(PATHS_SHOWN_MAX) {
            let endpoint = path.endpoint.as_deref().unwrap_or("address unknown");
            let state = paint.state(&path.state);
            let text = format!("{} {endpoint}, {state}, up to {} B", path.path, path.plaintext_max);
            line("path", &text);
        }
        if peer.paths.len() > PATHS_SHOWN_MAX {
            line("", &format!("and {} more paths", peer.paths.len() - PATHS_SHOWN_MAX));
        }
    }
}

fn session(peer: &PeerStatus, paint: Paint) -> String {
    let ago = |seconds: f64| format!("last handshake {} ago", units::duration(seconds));
    let handshake = peer.last_handshake_s.map(ago);
    if !peer.connected {
        let state = paint.wrap("33", "not connected");
        return match handshake {
            Some(handshake) => format!("{state}, {handshake}"),
            None => state,
        };
    }
    let facts = [
        Some(paint.wrap("32", "connected")),
        handshake,
        peer.handshake_ms.map(|took_ms| format!("took {took_ms:.1} ms")),
        peer.rtt_ms.map(|rtt_ms| format!("RTT {rtt_ms:.2} ms")),
        (peer.rekeys > 0).then(|| format!("{} rekeys", units::count(peer.rekeys))),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn peer_traffic(peer: &PeerStatus, earlier: Option<(&PeerStatus, f64)>) -> String {
    let (received, sent) = match earlier {
        Some((earlier, span_s)) => {
            let rate = |now: u64, then: u64| {
                units::bit_rate(now.saturating_sub(then) as f64 * 8.0 / span_s)
            };
            let received = rate(peer.received_bytes, earlier.received_bytes);
            (received, rate(peer.sent_bytes, earlier.sent_bytes))
        }
        None => (units::bytes(peer.received_bytes), units::bytes(peer.sent_bytes)),
    };
    format!("received {received}, sent {sent}")
}

fn drops(out: &mut String, report: &StatusReport, paint: Paint) {
    let mut rows = vec![["dropped", "why", ""].map(str::to_owned).to_vec()];
    for (name, packets) in report.drops.iter().filter(|(_, packets)| **packets > 0) {
        let known = DropReason::ALL.iter().find(|reason| reason.name() == name);
        let description = known.map_or("", |reason| reason.description());
        rows.push(vec![units::count(*packets), printable(name), description.to_owned()]);
    }
    if rows.len() > 1 {
        out.push('\n');
        table(out, &rows, &[1, 2], paint);
    }
}

fn proxy(
    out: &mut String,
    proxy: &ProxyStatus,
    earlier: Option<(&ProxyStatus, f64)>,
    paint: Paint,
) {
    let traffic = |now: u64, then: fn(&ProxyStatus) -> u64| match earlier {
        Some((earlier, span_s)) => {
            units::bit_rate(now.saturating_sub(then(earlier)) as f64 * 8.0 / span_s)
        }
        None => units::bytes(now),
    };
    let up = traffic(proxy.up_bytes, |proxy| proxy.up_bytes);
    let down = traffic(proxy.down_bytes, |proxy| proxy.down_bytes);
    out.push_str(&format!("\n{}\n", paint.bold("proxy")));
    let mut line = |label: &str, value: &str| out.push_str(&format!("  {label:<11}{value}\n"));
    let listening = printable(&proxy.listening.join(", "));
    line("listening", &format!("{listening}, {} workers", proxy.workers));
    let (now, accepted) = (units::count(proxy.connections), units::count(proxy.accepted));
    line("clients", &format!("{now} now, {accepted} in all"));
    line("origins", &format!("{} reached", units::count(proxy.reached)));
    if proxy.requests > 0 {
        let (all, reused) = (units::count(proxy.requests), units::count(proxy.reused));
        line("requests", &format!("{all} of HTTP, {reused} over a connection that was there"));
    }
    if proxy.vouched > 0 {
        let vouched = units::count(proxy.vouched);
        line("vouched", &format!("for {vouched} clients of other proxies"));
    }
    line("traffic", &format!("{up} up, {down} down"));
    if proxy.associations > 0 {
        let (up, down) = (units::count(proxy.up_datagrams), units::count(proxy.down_datagrams));
        let opened = units::count(proxy.associations);
        line("datagrams", &format!("{up} up, {down} down, {opened} associations"));
    }
    let ends = [
        (proxy.timed_out, "timed out"),
        (proxy.revoked, "revoked"),
        (proxy.broken, "broken"),
        (proxy.accept_pauses, "pauses for want of descriptors"),
        (proxy.strangers, "strangers at ports of clients"),
    ];
    let ends = ends.map(|(count, name)| (name.to_owned(), count)).into_iter();
    for (label, counts) in [
        ("ends", ends.collect::<Vec<_>>()),
        ("refused", proxy.refused.clone().into_iter().collect()),
        ("failed", proxy.failed.clone().into_iter().collect()),
        ("dropped", proxy.datagrams_dropped.clone().into_iter().collect()),
    ] {
        let happened = counts.iter().filter(|(_, count)| *count > 0);
        let said: Vec<String> = happened
            .map(|(name, count)| format!("{} {}", units::count(*count), printable(name)))
            .collect();
        if !said.is_empty() {
            line(label, &said.join(", "));
        }
    }
    if let Some(told) = access_log(proxy, paint) {
        line("access log", &told);
    }
    for it in &proxy.upstreams {
        line("upstream", &upstream(it));
    }
}

/// How it stands with the access log, if there is one.
fn access_log(proxy: &ProxyStatus, paint: Paint) -> Option<String> {
    let lines = units::count(proxy.access_log_lines);
    match (proxy.access_log_lines, proxy.access_log_lost) {
        (0, 0) => None,
        (_, 0) => Some(format!("{lines} lines, none lost")),
        (_, lost) => {
            let lost = paint.alarm(&format!("{} lost", units::count(lost)));
            Some(format!("{lines} lines, {lost}"))
        }
    }
}

/// How an upstream proxy fares, in a line.
fn upstream(it: &UpstreamStatus) -> String {
    let state = match it.out_for_s {
        Some(seconds) => format!("left out for {seconds} s"),
        None => "in use".to_owned(),
    };
    let (now, failed) = (units::count(it.connections), units::count(it.failed));
    let (server, name) = (printable(&it.server), printable(&it.upstream));
    let ready = match it.ready {
        0 => String::new(),
        ready => format!(", {} ready", units::count(ready)),
    };
    format!("{name}: {server} {state}, {now} connections{ready}, {failed} failures")
}

/// Columns two spaces apart, each as wide as its widest cell. Figures stand to the right, the
/// columns `text` to the left; the first row is the heading.
fn table(out: &mut String, rows: &[Vec<String>], text: &[usize], paint: Paint) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for (position, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match text.contains(&column) {
                true => line.push_str(&format!("{cell:<width$}  ")),
                false => line.push_str(&format!("{cell:>width$}  ")),
            }
        }
        let line = line.trim_end();
        let line = if position == 0 { paint.bold(line) } else { line.to_owned() };
        out.push_str(&format!("{line}\n"));
    }
}

/// Text from a daemon without characters that would move the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::status::LanesInUse;

    fn report(uptime_s: f64, packets: u64, bytes: u64) -> StatusReport {
        StatusReport {
            schema: 1,
            role: "client".to_owned(),
            version: "1.2.3".to_owned(),
            pid: 42,
            uptime_s,
            state: "up".to_owned(),
            tun: "corelane0".to_owned(),
            mtu: 1408,
            public_key: "KEY".to_owned(),
            endpoints: vec!["192.0.2.1:20443".to_owned()],
            offloads: OffloadStatus::default(),
            workers: vec![WorkerStatus {
                worker: 0,
                cpu: None,
                to_wire_packets: packets,
                to_wire_bytes: bytes,
                from_wire_packets: 0,
                from_wire_bytes: 0,
                batches: 0,
                average_batch: 0.0,
                busy_share: 0.5,
                gso_fallbacks: 0,
                tun_fallbacks: 0,
                reordered: 0,
            }],
            peers: vec![PeerStatus {
                public_key: "PEER".to_owned(),
                allowed_ips: vec!["0.0.0.0/0".to_owned()],
                connected: false,
                paths: Vec::new(),
                lanes_in_use: LanesInUse::default(),
                session_age_s: None,
                last_handshake_s: None,
                handshake_ms: None,
                rekeys: 0,
                received_bytes: 0,
                sent_bytes: bytes,
                rtt_ms: None,
                features: Vec::new(),
            }],
            drops: [("no_route".to_owned(), 0)].into(),
            accounts: None,
            proxy: None,
            last_error: Some("bad\u{1b}[2J".to_owned()),
        }
    }

    #[test]
    fn an_earlier_report_turns_totals_into_rates() {
        let (before, now) = (report(10.0, 1000, 1_000_000), report(12.0, 5000, 251_000_000));
        let text = render(&now, Some(&before), false);
        assert!(text.contains("1.00 Gbit/s  2.00 k/s"), "{text}");
        assert!(text.contains("received 0 bit/s, sent 1.00 Gbit/s"), "{text}");
        // Reports of the same moment, or of a daemon started anew, divide by nothing.
        for before in [report(12.0, 0, 0), report(99.0, 0, 0)] {
            assert!(render(&now, Some(&before), false).contains("5,000 packets"));
        }
    }

    #[test]
    fn only_what_happened_is_shown_and_nothing_moves_the_cursor() {
        let text = render(&report(1.0, 0, 0), None, false);
        assert!(!text.contains("no_route") && !text.contains("steering"), "{text}");
        assert!(text.contains("not connected\n") && text.contains("unpinned"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn what_waits_for_a_database_that_is_away_is_told() {
        let mut report = report(1.0, 0, 0);
        assert!(!render(&report, None, false).contains("logins"), "a client has no accounts");
        let accounts = AccountsStatus { sessions: 1234, ..AccountsStatus::default() };
        report.accounts = Some(accounts.clone());
        let well = render(&report, None, false);
        assert!(well.contains("logins     1,234 sessions, every change is stored\n"), "{well}");
        assert!(!well.contains("database  "), "{well}");
        let gateway = StatusReport { tun: String::new(), ..report.clone() };
        let text = render(&gateway, None, false);
        assert!(text.contains("accounts   every change is stored\n"), "no sessions: {text}");
        report.accounts = Some(AccountsStatus {
            waiting_batches: 3,
            waiting_bytes: 1025,
            refused_batches: 2,
            spool_full: true,
            unkept_revocations: 1,
            database_away: Some("PostgreSQL: \u{1b}gone".to_owned()),
            database_away_s: Some(5.0),
            ..accounts
        });
        let ill = render(&report, None, false);
        for part in [
            "4 changes (2 KiB) wait for the database",
            "; 1 revocations are lost if the server ends now",
            "database   away for 5 s: PostgreSQL: \u{fffd}gone; the spool is full",
            "; 2 changes were refused by it",
        ] {
            assert!(ill.contains(part), "{part} in {ill}");
        }
    }

    #[test]
    fn colours_do_not_disturb_the_alignment() {
        let report = report(1.0, 0, 0);
        let coloured = render(&report, None, true);
        let mut plain = coloured.clone();
        for code in ["1", "31", "32", "33", "0"] {
            plain = plain.replace(&format!("\u{1b}[{code}m"), "");
        }
        assert_ne!(coloured, plain);
        assert_eq!(plain, render(&report, None, false));
    }
}
