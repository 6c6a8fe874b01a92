//! Identifiers that may be logged. They give no access, unlike a token.

use std::{fmt, str::FromStr};

use uuid::{Uuid, Variant, Version};

use super::Timestamp;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Creates an identifier. Later ones sort after earlier ones (UUIDv7, RFC 9562).
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Returns the 16 bytes, for stores.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Returns true for a UUIDv7.
            #[must_use]
            pub fn is_version_7(&self) -> bool {
                let Self(id) = self;
                (id.get_variant(), id.get_version()) == (Variant::RFC4122, Some(Version::SortRand))
            }

            /// Length of the text form.
            pub const TEXT_LEN: usize = uuid::fmt::Hyphenated::LENGTH;

            /// Writes the text form into a buffer, without an allocation.
            #[must_use]
            pub fn write_to<'a>(&self, buffer: &'a mut [u8; Self::TEXT_LEN]) -> &'a str {
                self.0.as_hyphenated().encode_lower(buffer)
            }

            /// Returns the time at which it was generated. 1970 for bytes that are no UUIDv7.
            #[must_use]
            pub fn created_at(&self) -> Timestamp {
                let Self(id) = self;
                let since = id.get_timestamp().map(|time| time.to_unix());
                let (seconds, nanos) = since.unwrap_or_default();
                Timestamp::from_millis(seconds * 1000 + u64::from(nanos / 1_000_000))
            }

            /// Creates an identifier from the bytes of [`Self::as_bytes`].
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.as_hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

identifier! {
    /// Identifies a session.
    SessionId
}

impl SessionId {
    /// Creates an identifier of a partition, which its last byte is. A store that is spread over
    /// several servers keeps a session and its tokens on one of them.
    #[must_use]
    pub fn generate_in(partition: u8) -> Self {
        let mut bytes = *Self::generate().as_bytes();
        bytes[15] = partition;
        Self::from_bytes(bytes)
    }

    /// Returns the partition, see [`Self::generate_in`].
    #[must_use]
    pub const fn partition(&self) -> u8 {
        self.as_bytes()[15]
    }
}

identifier! {
    /// Identifies a message. The id of a reply is known before the message is committed.
    MessageId
}

identifier! {
    /// Identifies a token among those of its session. It opens nothing.
    TokenId
}
