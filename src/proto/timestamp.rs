//! `google.protobuf.Timestamp`.
//!
//! `pbjson-types` is not used: it writes `+00:00` where canonical proto-JSON requires `Z`.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self { seconds: (millis / 1000).cast_signed(), nanos: (millis % 1000) as i32 * 1_000_000 }
    }

    /// `None` before 1970, and where the fields hold no time.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let seconds = u64::try_from(self.seconds).ok()?;
        let nanos = u32::try_from(self.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
    }
}

/// RFC 3339, normalised to `Z`.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time =
            self.to_system_time().ok_or_else(|| serde::ser::Error::custom("no time since 1970"))?;
        serializer.collect_str(&humantime::format_rfc3339_millis(time))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Rfc3339;

        impl de::Visitor<'_> for Rfc3339 {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 timestamp in UTC")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                let time = humantime::parse_rfc3339(text).map_err(E::custom)?;
                let since = time.duration_since(UNIX_EPOCH).map_err(E::custom)?;
                Ok(Timestamp {
                    seconds: since.as_secs().cast_signed(),
                    nanos: since.subsec_nanos().cast_signed(),
                })
            }
        }

        deserializer.deserialize_str(Rfc3339)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_json_is_canonical() -> Result<(), serde_json::Error> {
        let time = Timestamp::from_millis(1_700_000_000_120);
        let json = serde_json::to_string(&time)?;
        assert_eq!(json, r#""2023-11-14T22:13:20.120Z""#);
        assert_eq!(serde_json::from_str::<Timestamp>(&json)?, time);
        Ok(())
    }
}
