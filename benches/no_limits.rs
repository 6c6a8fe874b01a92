//! The environment of a gateway that is loaded from one address: without limits per address.

/// Variables and their values. 0 is no limit.
pub(crate) const NO_LIMITS: [(&str, &str); 9] = [
    ("DUOLOGUE_ADDRESS_SESSIONS_PER_MINUTE", "0"),
    ("DUOLOGUE_ADDRESS_MESSAGES_PER_SECOND", "0"),
    ("DUOLOGUE_ADDRESS_MESSAGES_PER_DAY", "0"),
    ("DUOLOGUE_ADDRESS_BYTES_PER_MINUTE", "0"),
    ("DUOLOGUE_ADDRESS_STORED_SESSIONS", "0"),
    ("DUOLOGUE_ADDRESS_STORED_BYTES", "0"),
    ("DUOLOGUE_ADDRESS_STREAMS", "0"),
    ("DUOLOGUE_ADDRESS_CONNECTIONS", "0"),
    ("DUOLOGUE_ADDRESS_FAILURES_PER_MINUTE", "0"),
];
