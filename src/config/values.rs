//! How each type of value is read from TOML and written back.
//!
//! A value that is a string in TOML implements [`TextValue`]; the command line parses the same
//! types from the same text. Everything a key may hold implements [`ConfigValue`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use crate::accounts::credentials::demand::ProofSet;
use crate::accounts::names::Name;
use crate::config::problems::{Origin, Problems};
use crate::config::proxy::{ClientMark, PortRange, ProxyAuth, ProxyListen, ProxyProtocol, ViaName};
use crate::config::routes::RuleWay;
use crate::config::types::{
    CarrierMode, CpuList, Database, Directives, Domain, HostPort, InterfaceName, NatMode, PeerName,
    Switch,
};
use crate::handshake::keys::PublicKey;
use crate::host::resolver::DnsMode;
use crate::login::tls::Pin;
use crate::policy::acl::Action;
use crate::proxy::dial::guard::Allowed;
use crate::proxy::records::Format;
use crate::proxy::settings::LogPlace;
use crate::proxy::target::Target;
use crate::proxy::upstream::group::ServerAddress;
use crate::proxy::upstream::rules::Suffix;
use crate::telemetry::logging::LogFormat;

/// Characters of an unacceptable value that a message repeats.
const REPEATED_MAX: usize = 60;

/// Reads the value of one key and notes what is wrong with it.
pub(crate) struct Reader<'r> {
    /// The key, for messages.
    pub(crate) key: &'r str,
    /// The flag the value came from; the file if there is none.
    pub(crate) flag: Option<&'r str>,
    /// Where complaints go.
    pub(crate) problems: &'r mut Problems,
}

impl Reader<'_> {
    pub(crate) fn origin(&self, span: Range<usize>) -> Origin {
        match self.flag {
            Some(flag) => Origin::Flag(flag.to_owned()),
            None => Origin::File(span),
        }
    }

    pub(crate) fn refuse(&mut self, value: &Spanned<DeValue<'_>>, expected: &str) {
        let what = format!("`{}` takes {expected}, not {}", self.key, describe(value.get_ref()));
        self.problems.error(self.origin(value.span()), what);
    }
}

/// A value as a message names it.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let mut shown: String = text.escape_debug().take(REPEATED_MAX).collect();
            if text.chars().count() > REPEATED_MAX {
                shown.push('…');
            }
            format!("\"{shown}\"")
        }
        DeValue::Integer(integer) => integer.to_string().chars().take(REPEATED_MAX).collect(),
        DeValue::Float(float) => {
            format!("the fraction {float}").chars().take(REPEATED_MAX).collect()
        }
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// What a configuration key may hold.
pub(crate) trait ConfigValue: Sized {
    /// What is acceptable, to stand behind "takes": `an integer from 1 to 128`.
    fn takes() -> String;
    /// The value, or `None` once the reader has been told what is wrong.
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self>;
    /// The value as TOML; `None` if the key is simply absent.
    fn to_toml(&self) -> Option<String>;
}

/// A value that is written as a string.
pub(crate) trait TextValue: Sized {
    /// What is acceptable, to stand behind "takes".
    const EXPECTED: &'static str;
    /// The value, if `text` is acceptable.
    fn parse_text(text: &str) -> Option<Self>;
    /// The text that [`TextValue::parse_text`] turns into this value again.
    fn to_text(&self) -> String;
}

/// Parses a command-line argument as the value it stands for.
pub(crate) fn parse_argument<T: TextValue>(text: &str) -> Result<T, String> {
    T::parse_text(text).ok_or_else(|| format!("expected {}", T::EXPECTED))
}

/// A TOML string, quoted.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl<T: TextValue> ConfigValue for T {
    fn takes() -> String {
        T::EXPECTED.to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let parsed = value.get_ref().as_str().and_then(T::parse_text);
        if parsed.is_none() {
            reader.refuse(value, T::EXPECTED);
        }
        parsed
    }

    fn to_toml(&self) -> Option<String> {
        Some(quoted(&self.to_text()))
    }
}

/// A list, each element of which may be wrong on its own.
impl<T: ConfigValue> ConfigValue for Vec<T> {
    fn takes() -> String {
        format!("a list, each element {}", T::takes())
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(elements) = value.get_ref().as_array() else {
            reader.refuse(value, &Self::takes());
            return None;
        };
        // Every element is read, so that every wrong one is reported.
        let read: Vec<Option<T>> =
            elements.iter().map(|element| T::read(element, reader)).collect();
        read.into_iter().collect()
    }

    fn to_toml(&self) -> Option<String> {
        let elements: Vec<String> = self.iter().filter_map(T::to_toml).collect();
        Some(format!("[{}]", elements.join(", ")))
    }
}

/// A key that may be absent.
impl<T: ConfigValue> ConfigValue for Option<T> {
    fn takes() -> String {
        T::takes()
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        T::read(value, reader).map(Some)
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(T::to_toml)
    }
}

impl ConfigValue for bool {
    fn takes() -> String {
        "true or false".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let truth = value.get_ref().as_bool();
        if truth.is_none() {
            reader.refuse(value, &Self::takes());
        }
        truth
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// An integer from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// The integer `value`, clamped into the range.
    pub(crate) const fn clamped(value: u64) -> Self {
        if value < MIN {
            return Self(MIN);
        }
        Self(if value > MAX { MAX } else { value })
    }

    fn new(value: u64) -> Option<Self> {
        (MIN..=MAX).contains(&value).then_some(Self(value))
    }

    /// The integer; it does not compile for a range that is too wide.
    pub(crate) fn as_u16(self) -> u16 {
        const { assert!(MAX <= u16::MAX as u64) };
        self.0 as u16
    }

    /// The integer; it does not compile for a range that is too wide.
    pub(crate) fn as_u32(self) -> u32 {
        const { assert!(MAX <= u32::MAX as u64) };
        self.0 as u32
    }

    /// The integer; it does not compile for a range that is too wide.
    pub(crate) fn as_usize(self) -> usize {
        const { assert!(MAX <= usize::MAX as u64) };
        self.0 as usize
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Bounded<MIN, MAX> {
    type Err = String;

    /// Decimal, or hexadecimal behind `0x`.
    fn from_str(text: &str) -> Result<Self, String> {
        let value = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        value.ok().and_then(Self::new).ok_or_else(|| format!("expected {}", Self::takes()))
    }
}

impl<const MIN: u64, const MAX: u64> ConfigValue for Bounded<MIN, MAX> {
    fn takes() -> String {
        format!("an integer from {MIN} to {MAX}")
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let read = value
            .get_ref()
            .as_integer()
            .and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok())
            .and_then(Self::new);
        if read.is_none() {
            reader.refuse(value, &Self::takes());
        }
        read
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// A value, or `"auto"` for the program's own choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auto<T> {
    /// The program chooses.
    Auto,
    /// The admin chose.
    Chosen(T),
}

impl<T> Auto<T> {
    pub(crate) fn chosen(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Chosen(value) => Some(value),
        }
    }
}

impl<T: FromStr> FromStr for Auto<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Chosen) }
    }
}

impl<T: ConfigValue> ConfigValue for Auto<T> {
    fn takes() -> String {
        format!("\"auto\" or {}", T::takes())
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        if value.get_ref().as_str() == Some("auto") {
            return Some(Self::Auto);
        }
        // What `T` would say about a bad value leaves "auto" out.
        let problems = &mut Problems::default();
        let chosen = T::read(value, &mut Reader { key: reader.key, flag: reader.flag, problems });
        if chosen.is_none() {
            reader.refuse(value, &Self::takes());
        }
        chosen.map(Self::Chosen)
    }

    fn to_toml(&self) -> Option<String> {
        match self {
            Self::Auto => Some(quoted("auto")),
            Self::Chosen(value) => value.to_toml(),
        }
    }
}

impl ConfigValue for Switch {
    fn takes() -> String {
        "\"auto\", true or false".to_owned()
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        match value.get_ref() {
            DeValue::String(text) if text == "auto" => Some(Self::Auto),
            DeValue::Boolean(true) => Some(Self::On),
            DeValue::Boolean(false) => Some(Self::Off),
            _ => {
                reader.refuse(value, &Self::takes());
                None
            }
        }
    }

    fn to_toml(&self) -> Option<String> {
        Some(match self {
            Self::Auto => quoted("auto"),
            Self::On => true.to_string(),
            Self::Off => false.to_string(),
        })
    }
}

/// Implements [`TextValue`] by `FromStr` and `Display`.
macro_rules! text_values {
    ($($Type:ty: $expected:literal;)*) => {
        $(impl TextValue for $Type {
            const EXPECTED: &'static str = $expected;

            fn parse_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn to_text(&self) -> String {
                self.to_string()
            }
        })*
    };
}

text_values! {
    SocketAddr: "an address and port such as \"192.0.2.1:20443\" or \"[::]:20443\"";
    IpAddr: "an address such as \"10.77.0.1\" or \"fd77::1\"";
    DnsMode: "\"auto\", \"resolved\", \"resolvconf\", \"file\" or \"off\"";
    IpNet: "an address with prefix length such as \"10.77.0.1/24\" or \"fd77::1/64\"";
    PublicKey: "a public key, 32 bytes in base64 as `corelane key public` prints it";
    HostPort: "a host name or address with port such as \"vpn.example.org:20443\"";
    Database: "the path of a file, or \"postgres://user@host/database\" without a password";
    ProofSet: "a proof, or several joined by +, of certificate, password, totp and token";
    Pin: "a pin, 43 characters as `corelane init` prints it";
    Domain: "a domain such as \"corp.example.org\"";
    Name: "a name of letters, digits and . _ - @ +, beginning with a letter or a digit";
    InterfaceName: "an interface name of 1 to 15 characters without '/', ':' or spaces";
    PeerName: "a name of 1 to 64 printable characters";
    NatMode: "\"masquerade\" or \"off\"";
    Action: "\"allow\" or \"deny\"";
    CarrierMode: "\"auto\", \"udp\" or \"tls\"";
    ProxyListen: "an address and port such as \"tcp://127.0.0.1:1080\" or \"tls://[::]:8443\"";
    ProxyAuth: "\"off\" or \"required\"";
    Suffix: "a domain such as \"example.org\"";
    RuleWay: "\"direct\", \"block\", or the name of an upstream";
    ServerAddress: "a proxy such as \"socks5://192.0.2.1:1080\" or \
                    \"https://proxy.example.org:8443\"";
    Target: "a host and port such as \"example.org:443\"";
    ProxyProtocol: "\"socks5\", \"socks4\" or \"http\"";
    ViaName: "a name of letters, digits and . _ - : such as \"proxy.example.org\"";
    ClientMark: "\"off\", \"append\" or \"replace\"";
    PortRange: "a range of ports such as \"20000-20999\"";
    Allowed: "a prefix such as \"10.0.0.0/8\", or one of loopback, private, shared, link-local, \
              metadata, multicast, reserved and own";
    LogPlace: "the path of a file, or \"-\" for standard output";
    Format: "\"text\", \"json\" or \"common\"";
    CpuList: "a list of CPU numbers and ranges such as \"0-3,6\"";
    LogFormat: "\"text\" or \"json\"";
    Directives: "a level (off, error, warn, info, debug, trace), or levels by module such as \
                 \"info,corelane::control=debug\"";
}

impl TextValue for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse_text(text: &str) -> Option<Self> {
        (!text.is_empty() && !text.contains('\0')).then(|| Self::from(text))
    }

    /// Paths come from TOML or from [`parse_argument`], so they are UTF-8.
    fn to_text(&self) -> String {
        self.display().to_string()
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Bounded<MIN, MAX> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}
