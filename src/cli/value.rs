//! The kinds of values that settings have: how each is read, and shown again.

use std::{
    fmt::Display,
    marker::PhantomData,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use bytesize::ByteSize;

use crate::server::ListenAddr;

pub(super) trait ValueKind {
    /// The type that the program works with.
    type Value;
    /// Stands for the value in the help text.
    const NAME: &'static str;

    /// Reads a value.
    ///
    /// # Errors
    /// Says what was expected. Does not repeat the value: it may be a secret.
    fn parse(text: &str) -> Result<Self::Value, String>;

    /// Writes a value so that `parse` can read it.
    fn show(value: &Self::Value) -> String;
}

/// A length of time: `500ms`, `30s`, `1h 30m`.
pub(super) struct Length;

impl ValueKind for Length {
    type Value = Duration;
    const NAME: &'static str = "DURATION";

    fn parse(text: &str) -> Result<Duration, String> {
        humantime::parse_duration(text)
            .map_err(|_| "expected a duration, for example `500ms`, `30s` or `1h`".into())
    }

    fn show(value: &Duration) -> String {
        let seconds = value.as_secs();
        let unit = [("h", 3600), ("m", 60)];
        let whole = unit.into_iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
        match whole {
            Some((name, unit)) if value.subsec_nanos() == 0 => format!("{}{name}", seconds / unit),
            _ => humantime::format_duration(*value).to_string(),
        }
    }
}

/// A length of time, or a word for its absence.
macro_rules! length_or {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl ValueKind for $name {
            type Value = Option<Duration>;
            const NAME: &'static str = "DURATION";

            fn parse(text: &str) -> Result<Option<Duration>, String> {
                if text == $word {
                    return Ok(None);
                }
                let length = Length::parse(text).map(Some);
                length.map_err(|problem| format!("{problem}, or `{}`", $word))
            }

            fn show(value: &Option<Duration>) -> String {
                value.as_ref().map_or_else(|| $word.into(), Length::show)
            }
        }
    };
}

length_or! {
    /// A length of time, or `forever`.
    LengthOrForever, "forever"
}

length_or! {
    /// A length of time, or `never`.
    LengthOrNever, "never"
}

/// A number of bytes: `1000`, `64KiB`, `4MiB`.
pub(super) struct Size;

impl ValueKind for Size {
    type Value = usize;
    const NAME: &'static str = "SIZE";

    fn parse(text: &str) -> Result<usize, String> {
        let size = text
            .parse::<ByteSize>()
            .map_err(|_| "expected a size, for example `64KiB` or `4MiB`".to_owned())?;
        Ok(usize::try_from(size.as_u64()).unwrap_or(usize::MAX))
    }

    fn show(bytes: &usize) -> String {
        let unit = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let whole = unit.into_iter().find(|(_, unit)| *bytes > 0 && bytes.is_multiple_of(*unit));
        whole.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
    }
}

/// A number. `u32` and `usize` take whole numbers from 0, `f32` takes fractions too.
pub(super) struct Number<T>(PhantomData<T>);

impl<T: FromStr + Display> ValueKind for Number<T> {
    type Value = T;
    const NAME: &'static str = "NUMBER";

    fn parse(text: &str) -> Result<T, String> {
        text.trim().parse().map_err(|_| {
            let kind = std::any::type_name::<T>();
            if kind.starts_with('f') {
                "expected a number, for example `0.7`".into()
            } else {
                "expected a whole number that is not negative and not too large".into()
            }
        })
    }

    fn show(value: &T) -> String {
        value.to_string()
    }
}

/// `true` or `false`.
pub(super) struct Switch;

impl ValueKind for Switch {
    type Value = bool;
    const NAME: &'static str = "BOOLEAN";

    fn parse(text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| "expected `true` or `false`".into())
    }

    fn show(value: &bool) -> String {
        value.to_string()
    }
}

pub(super) struct Text;

impl ValueKind for Text {
    type Value = String;
    const NAME: &'static str = "TEXT";

    fn parse(text: &str) -> Result<String, String> {
        Ok(text.into())
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

/// A path of a file.
pub(super) struct File;

impl ValueKind for File {
    type Value = PathBuf;
    const NAME: &'static str = "PATH";

    fn parse(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() {
            return Err("the path is empty".into());
        }
        Ok(text.into())
    }

    fn show(value: &PathBuf) -> String {
        value.display().to_string()
    }
}

/// A value that is read and shown by its own type.
pub(super) struct Word<T>(PhantomData<T>);

impl<T: FromStr<Err = String> + Display> ValueKind for Word<T> {
    type Value = T;
    const NAME: &'static str = "VALUE";

    fn parse(text: &str) -> Result<T, String> {
        text.parse()
    }

    fn show(value: &T) -> String {
        value.to_string()
    }
}

/// The listen address of the port: `HOST:PORT` or `unix:PATH`.
pub(super) struct Listen;

impl ValueKind for Listen {
    type Value = ListenAddr;
    const NAME: &'static str = "ADDRESS";

    fn parse(text: &str) -> Result<ListenAddr, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("expected the path of a socket after `unix:`".into()),
            Some(path) => Ok(ListenAddr::Unix(path.into())),
            None => Address::parse(text)
                .map(ListenAddr::Tcp)
                .map_err(|problem| format!("{problem}, or `unix:PATH`")),
        }
    }

    fn show(value: &ListenAddr) -> String {
        value.to_string()
    }
}

/// A listen address: `HOST:PORT`. A host name stands for its first address, and no host for
/// every IPv4 address of the machine.
pub(super) struct Address;

impl ValueKind for Address {
    type Value = SocketAddr;
    const NAME: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<SocketAddr, String> {
        let expected = "expected HOST:PORT, for example `localhost:4500`";
        let host_and_port =
            if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.into() };
        let port = host_and_port.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(expected.into());
        }
        let addresses = host_and_port.to_socket_addrs();
        let mut addresses: Vec<_> =
            addresses.map_err(|error| format!("{error}; {expected}"))?.collect();
        // `localhost` may have both; many clients try IPv4 only.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.first().copied().ok_or_else(|| expected.into())
    }

    fn show(value: &SocketAddr) -> String {
        value.to_string()
    }
}

/// A listen address, or `off`.
pub(super) struct AddressOrOff;

impl ValueKind for AddressOrOff {
    type Value = Option<SocketAddr>;
    const NAME: &'static str = "HOST:PORT";

    fn parse(text: &str) -> Result<Option<SocketAddr>, String> {
        if text == "off" {
            return Ok(None);
        }
        Address::parse(text).map(Some).map_err(|problem| format!("{problem}, or `off`"))
    }

    fn show(value: &Option<SocketAddr>) -> String {
        value.map_or_else(|| "off".into(), |addr| addr.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_so_that_they_can_be_read() {
        for (millis, text) in
            [(0, "0s"), (500, "500ms"), (90_000, "1m 30s"), (5_400_000, "90m"), (86_400_000, "24h")]
        {
            let length = Duration::from_millis(millis);
            assert_eq!(Length::show(&length), text);
            assert_eq!(Length::parse(text), Ok(length));
        }
        assert_eq!(Length::parse("1day"), Ok(Duration::from_secs(86_400)));
        assert!(Length::parse("soon").is_err());
    }

    #[test]
    fn sizes_are_shown_so_that_they_can_be_read() {
        for (bytes, text) in [(0, "0"), (1000, "1000"), (65_536, "64KiB"), (3 << 30, "3GiB")] {
            assert_eq!(Size::show(&bytes), text);
            assert_eq!(Size::parse(text), Ok(bytes));
        }
        assert!(Size::parse("lots").is_err());
    }

    #[test]
    fn addresses_may_leave_out_the_host() {
        let every = SocketAddr::from(([0, 0, 0, 0], 3500));
        assert_eq!(Address::parse(":3500"), Ok(every));
        assert_eq!(Address::parse("0.0.0.0:3500"), Ok(every));
        assert!(Address::parse("localhost:3500").is_ok_and(|addr| addr.ip().is_loopback()));
        for wrong in ["3500", "", ":", "localhost", "[::]", "localhost:70000"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Listen::parse(":3500"), Ok(ListenAddr::Tcp(every)));
        let socket = Listen::parse("unix:run/duologue.sock").unwrap();
        assert_eq!(Listen::show(&socket), "unix:run/duologue.sock");
        assert!(Listen::parse("unix:").is_err());
        assert!(Listen::parse("localhost").is_err_and(|problem| problem.contains("`unix:PATH`")));
        assert_eq!(AddressOrOff::parse("off"), Ok(None));
        assert!(AddressOrOff::parse("no").is_err_and(|problem| problem.contains("`off`")));
    }
}
