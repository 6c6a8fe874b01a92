use crate::{
    cli::{
        config::Environment,
        setting::{Field, Group, SETTING, Setting, field},
        value::{AddressOrOff, File, Length, Listen, Switch, ValueKind as _, Word},
    },
    server::{ForwardedHeader, TrustedProxies},
    session::AddressLog,
    telemetry,
    transport::{Hosts, Origins},
};

pub(super) const GROUP: Group = Group {
    heading: "Server",
    introduction: "Listen addresses are `HOST:PORT`: `127.0.0.1:3500`, `localhost:3500`, \
        `[::]:3500`, or `:3500` for every IPv4 address of the machine. The gateway can also listen on \
        a Unix socket: `unix:/run/duologue/duologue.sock`.",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "app-env",
        variable: "APP_ENV",
        field: Field {
            value_name: "ENVIRONMENT",
            set: |values, text| {
                values.set_environment(Word::<Environment>::parse(text)?);
                Ok(())
            },
            show: |values| Some(values.environment.to_string()),
        },
        summary: "`development` or `production`",
        details: "In production, logs are JSON, reflection and `/docs` are off, and pages of \
            localhost are not allowed, unless the settings for these say otherwise.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "config",
        variable: "DUOLOGUE_CONFIG",
        field: field!(optional File, config),
        summary: "Configuration file, TOML",
        details: "The keys are the flags with underscores (`session_ttl = \"1h\"`). The file may \
            also hold several upstreams. `duologue --generate toml` prints a commented one.",
        example: Some("duologue.toml"),
        common: true,
        global: true,
        ..SETTING
    },
    Setting {
        name: "addr",
        variable: "DUOLOGUE_ADDR",
        field: field!(Listen, server.addr),
        summary: "Listen address of every protocol",
        details: "The umask sets the permissions of a Unix socket's file.",
        common: true,
        ..SETTING
    },
    Setting {
        name: "ops-addr",
        variable: "DUOLOGUE_OPS_ADDR",
        field: field!(AddressOrOff, server.ops_addr),
        summary: "Listen address of metrics and probes; `off` disables it",
        details: "Do not expose this port to users.",
        ..SETTING
    },
    Setting {
        name: "ready-while-degraded",
        variable: "DUOLOGUE_READY_WHILE_DEGRADED",
        field: field!(Switch, server.ready_while_degraded),
        summary: "`/readyz` of `--ops-addr` answers 200 while the store cannot be reached",
        details: "With `false` it answers 503. `/readyz` of `--addr` answers 200 in any case: streams stay \
            open.",
        ..SETTING
    },
    Setting {
        name: "tls-cert",
        variable: "DUOLOGUE_TLS_CERT",
        field: field!(optional File, tls_cert),
        summary: "TLS certificate chain, PEM, leaf first",
        details: "Serves HTTPS on the same port. The file is read again on SIGHUP.",
        example: Some("/etc/duologue/cert.pem"),
        ..SETTING
    },
    Setting {
        name: "tls-key",
        variable: "DUOLOGUE_TLS_KEY",
        field: field!(optional File, tls_key),
        summary: "TLS private key, PEM",
        example: Some("/etc/duologue/key.pem"),
        ..SETTING
    },
    Setting {
        name: "host",
        variable: "DUOLOGUE_HOST",
        field: Field { value_name: "NAMES", ..field!(optional Word<Hosts>, hosts) },
        summary: "Host names of the gateway, comma-separated, without ports",
        details: "A page has the same origin if its `Origin` equals the request's `Host` (a \
            default port equals none) and that host is listed here, an IP address or \
            `localhost`. The port for operations answers to these names alone.",
        default: Some("none"),
        example: Some("chat.example.com"),
        ..SETTING
    },
    Setting {
        name: "allowed-origins",
        variable: "DUOLOGUE_ALLOWED_ORIGINS",
        field: Field { value_name: "ORIGINS", ..field!(optional Word<Origins>, origins) },
        summary: "Origins of web pages that may use the gateway, comma-separated, or `*`",
        details: "`https://*.example.com` allows every subdomain at any depth, but not the domain \
            itself. `null` and `file://` can be listed. An entry that can never match stops the \
            start.",
        default: Some("the same origin; in development also any port of localhost"),
        example: Some("https://chat.example.com,https://*.example.org"),
        ..SETTING
    },
    Setting {
        name: "trusted-proxies",
        variable: "DUOLOGUE_TRUSTED_PROXIES",
        field: Field {
            value_name: "NETWORKS",
            ..field!(Word<TrustedProxies>, server.trusted_proxies)
        },
        summary: "Networks of proxies that name their clients, comma-separated, or `none`",
        details: "Of a list of hops, the rightmost one that is not of these networks is the client. \
            A trusted proxy may also send the PROXY protocol, version 2. `unix` stands for every \
            peer on the Unix socket; without it, these peers count as one address.",
        example: Some("10.0.0.0/8,fd00::/8"),
        ..SETTING
    },
    Setting {
        name: "forwarded-header",
        variable: "DUOLOGUE_FORWARDED_HEADER",
        field: Field {
            value_name: "HEADER",
            ..field!(Word<ForwardedHeader>, server.forwarded_header)
        },
        summary: "Header with the client: `x-forwarded-for`, `forwarded` or `none`",
        details: "The trusted proxies must set this header. The other one is not read.",
        ..SETTING
    },
    Setting {
        name: "log-addresses",
        variable: "DUOLOGUE_LOG_ADDRESSES",
        field: Field { value_name: "FORM", ..field!(Word<AddressLog>, session.log_addresses) },
        summary: "Addresses of clients in the log: `full`, `hash` or `none`",
        details: "A hash has a key that changes with each start.",
        ..SETTING
    },
    Setting {
        name: "heartbeat",
        variable: "DUOLOGUE_HEARTBEAT",
        field: field!(Length, transport.heartbeat),
        summary: "Interval of keep-alive frames on a silent stream",
        ..SETTING
    },
    Setting {
        name: "drain-timeout",
        variable: "DUOLOGUE_DRAIN_TIMEOUT",
        field: field!(Length, server.drain_timeout),
        summary: "Longest time that a shutdown waits for running replies",
        details: "A reply that still runs is then committed as interrupted.",
        ..SETTING
    },
    Setting {
        name: "reflection",
        variable: "DUOLOGUE_REFLECTION",
        field: field!(Switch, transport.reflection),
        summary: "gRPC server reflection",
        default: Some("true in development, false in production"),
        ..SETTING
    },
    Setting {
        name: "docs",
        variable: "DUOLOGUE_DOCS",
        field: field!(Switch, transport.docs),
        summary: "Serve `/docs`, `/openapi.json` and `/asyncapi.yaml`",
        default: Some("true in development, false in production"),
        ..SETTING
    },
    Setting {
        name: "log",
        variable: "DUOLOGUE_LOG",
        field: Field {
            value_name: "FILTER",
            ..field!(Word<telemetry::LogFilter>, telemetry.filter)
        },
        summary: "Log filter: `error`, `warn`, `info`, `debug`, `trace`, or per module",
        details: "Example of a module: `info,duologue::session=debug`. Libraries log errors only.",
        ..SETTING
    },
];
