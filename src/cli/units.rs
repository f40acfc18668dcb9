//! Figures as people read them.

/// A count with thousands set apart: `1,234,567`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in binary units with three digits: `1.21 GiB`.
pub(crate) fn bytes(value: u64) -> String {
    if value < 1024 {
        return format!("{value} B");
    }
    scaled(value as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// A rate of bits in decimal units, as links are rated: `9.41 Gbit/s`.
pub(crate) fn bit_rate(bits_per_s: f64) -> String {
    scaled(bits_per_s, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

/// A rate of packets in decimal units: `812 k/s`.
pub(crate) fn packet_rate(packets_per_s: f64) -> String {
    scaled(packets_per_s, 1000.0, &["/s", "k/s", "M/s", "G/s"])
}

/// A share of the whole: `7 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A time span by its two largest units: `3 d 4 h`, `12 s`.
pub(crate) fn duration(seconds: f64) -> String {
    // `as` saturates, so that a negative or absurd figure still shows something.
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Three significant digits in the unit that leaves at least one before the point.
fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or("");
    // 999.5 already shows as 1000.
    while value >= 999.5 {
        let Some(next) = units.next() else { break };
        unit = next;
        value /= step;
    }
    let decimals = match value {
        value if value >= 99.95 || value == 0.0 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_set_apart_by_thousands() {
        let shown = [0, 999, 1000, 1_234_567].map(count);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn sizes_and_rates_have_three_digits() {
        assert_eq!([0, 1023, 1024, 1 << 30].map(bytes), ["0 B", "1023 B", "1.00 KiB", "1.00 GiB"]);
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        let rates = [0.0, 999.4, 999.6, 9.41e9, 12.3e6, 456e3].map(bit_rate);
        assert_eq!(
            rates,
            ["0 bit/s", "999 bit/s", "1.00 kbit/s", "9.41 Gbit/s", "12.3 Mbit/s", "456 kbit/s"]
        );
        assert_eq!(packet_rate(812_345.0), "812 k/s");
    }

    #[test]
    fn durations_show_two_units() {
        let shown = [0.4, 59.9, 61.0, 3600.0, 273_600.0, -1.0, f64::NAN].map(duration);
        assert_eq!(shown, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "3 d 4 h", "0 s", "0 s"]);
    }
}
