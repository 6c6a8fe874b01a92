use secrecy::SecretString;

use crate::{
    cli::{
        setting::{Field, Group, HIDDEN, SETTING, Setting, field},
        value::{File, Length, Number},
    },
    responder::grpc::Endpoint,
};

pub(super) const GROUP: Group = Group {
    heading: "Bot",
    introduction: "For `--responder grpc`; see [Your own bot](OPERATIONS.md#your-own-bot).",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "bot-endpoint",
        variable: "DUOLOGUE_BOT_ENDPOINT",
        field: Field {
            value_name: "URL",
            set: |values, text| {
                values.bot_endpoint = Some(Endpoint::parse(text)?);
                Ok(())
            },
            show: |values| {
                let endpoint = values.bot_endpoint.as_ref()?;
                Some(endpoint.uri().to_string().trim_end_matches('/').into())
            },
        },
        summary: "Address of the bot: `http://HOST[:PORT]` or `https://HOST[:PORT]`",
        details: "Without a port, 80 and 443 are used.",
        example: Some("http://localhost:50051"),
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "bot-token",
        variable: "DUOLOGUE_BOT_TOKEN",
        field: Field {
            value_name: "TOKEN",
            set: |values, text| {
                values.bot.token = Some(SecretString::from(text));
                Ok(())
            },
            show: |values| values.bot.token.as_ref().map(|_| HIDDEN.into()),
        },
        summary: "Bearer token for the bot",
        details: "It is never shown and never logged. Every user of the machine can read flags: \
            prefer the variable.",
        example: Some("change-me"),
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "bot-ca-cert",
        variable: "DUOLOGUE_BOT_CA_CERT",
        field: field!(optional File, bot.ca_cert),
        summary: "CA certificates to trust, PEM",
        default: Some("those of the system"),
        example: Some("ca.pem"),
        ..SETTING
    },
    Setting {
        name: "bot-history",
        variable: "DUOLOGUE_BOT_HISTORY",
        field: field!(Number<u32>, bot.history),
        summary: "Number of the newest messages that the bot receives",
        details: "Use 0 for a bot that remembers the conversation itself.",
        ..SETTING
    },
    Setting {
        name: "bot-connect-timeout",
        variable: "DUOLOGUE_BOT_CONNECT_TIMEOUT",
        field: field!(Length, bot.connect_timeout),
        summary: "Longest time to connect, TLS included",
        ..SETTING
    },
    Setting {
        name: "bot-first-content-timeout",
        variable: "DUOLOGUE_BOT_FIRST_CONTENT_TIMEOUT",
        field: field!(Length, bot.first_content_timeout),
        summary: "Longest time from the call to the first text",
        ..SETTING
    },
    Setting {
        name: "bot-chunk-timeout",
        variable: "DUOLOGUE_BOT_CHUNK_TIMEOUT",
        field: field!(Length, bot.chunk_timeout),
        summary: "Longest silence within a reply",
        ..SETTING
    },
    Setting {
        name: "bot-total-timeout",
        variable: "DUOLOGUE_BOT_TOTAL_TIMEOUT",
        field: field!(Length, bot.total_timeout),
        summary: "Longest time for a reply, waits and retries included",
        ..SETTING
    },
    Setting {
        name: "bot-retries",
        variable: "DUOLOGUE_BOT_RETRIES",
        field: field!(Number<u32>, bot.retries),
        summary: "Retries before the first text, if the bot is not available",
        ..SETTING
    },
    Setting {
        name: "bot-concurrency",
        variable: "DUOLOGUE_BOT_CONCURRENCY",
        field: field!(Number<u32>, bot.capacity.concurrency),
        summary: "Concurrent calls",
        ..SETTING
    },
    Setting {
        name: "bot-queue-size",
        variable: "DUOLOGUE_BOT_QUEUE_SIZE",
        field: field!(Number<u32>, bot.capacity.queue_size),
        summary: "Replies that may wait for a call to end",
        details: "Further turns are refused as `overloaded`.",
        ..SETTING
    },
    Setting {
        name: "bot-queue-timeout",
        variable: "DUOLOGUE_BOT_QUEUE_TIMEOUT",
        field: field!(Length, bot.capacity.queue_timeout),
        summary: "Longest time until the bot takes a call",
        ..SETTING
    },
    Setting {
        name: "bot-keep-alive",
        variable: "DUOLOGUE_BOT_KEEP_ALIVE",
        field: field!(Length, bot.keep_alive),
        summary: "Silence after which the bot must answer an HTTP/2 PING",
        details: "`0s` sends none. Most gRPC servers accept a PING every five minutes and close the \
            connection if more arrive.",
        ..SETTING
    },
];
