//! Numbers with units: how a user writes them and how they are shown. Prefixes are decimal.

/// `9.41 Gbit/s`, from bits per second.
pub fn bits_per_second(value: f64) -> String {
    scaled(value, "bit/s")
}

/// `1.25 GB`, from bytes.
pub fn bytes(value: u64) -> String {
    scaled(value as f64, "B")
}

/// `812 kpps`, from packets per second.
pub fn packets_per_second(value: f64) -> String {
    scaled(value, "pps")
}

/// Three significant digits and a decimal prefix.
fn scaled(value: f64, unit: &str) -> String {
    let mut value = value;
    let mut prefix = "";
    for next in ["k", "M", "G", "T"] {
        // 999.5 would be shown as 1000.
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        prefix = next;
    }
    let digits = match value {
        v if prefix.is_empty() && v.fract() == 0.0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {prefix}{unit}")
}

/// A rate in bits per second as a user writes it: a number with an optional `K`, `M` or `G`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'm' | 'M')) => (&text[..at], 1e6),
        Some((at, 'g' | 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let wrong = || format!("`{text}` is not a rate: write bits per second as in 500K, 20M or 1.5G");
    let digits_only = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let value: f64 = number.parse().ok().filter(|_| digits_only).ok_or_else(wrong)?;
    let rate = value * factor;
    if !(1.0..=1e15).contains(&rate) {
        return Err(wrong());
    }
    Ok(rate.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::{bits_per_second, bytes, packets_per_second, parse_rate};

    #[test]
    fn three_significant_digits_and_a_prefix() {
        assert_eq!(bits_per_second(9_412_000_000.0), "9.41 Gbit/s");
        assert_eq!(bits_per_second(0.0), "0 bit/s");
        assert_eq!(bits_per_second(999_600.0), "1.00 Mbit/s");
        assert_eq!(bits_per_second(99_960.0), "100 kbit/s");
        assert_eq!(bytes(1_250_000_000), "1.25 GB");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(packets_per_second(81_234.0), "81.2 kpps");
        assert_eq!(bits_per_second(2.5e15), "2500 Tbit/s");
    }

    #[test]
    fn rates_as_written() {
        assert_eq!(parse_rate("500K"), Ok(500_000));
        assert_eq!(parse_rate("1.5g"), Ok(1_500_000_000));
        assert_eq!(parse_rate("20M"), Ok(20_000_000));
        assert_eq!(parse_rate("9600"), Ok(9600));
        for wrong in ["", "K", "-1M", "1e9", "inf", "nan", "10T", "1.2.3M", "0", "é"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
