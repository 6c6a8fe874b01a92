use std::collections::BTreeMap;

use secrecy::SecretString;

use crate::{
    cli::{
        setting::{Field, Group, HIDDEN, SETTING, Setting, field},
        value::{File, Length, Number, Switch, Text},
    },
    responder::openai::{Endpoint, settings::headers},
};

pub(super) const GROUP: Group = Group {
    heading: "Model",
    introduction: "For `--responder openai`; see [Models](OPERATIONS.md#models).",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "openai-base-url",
        variable: "DUOLOGUE_OPENAI_BASE_URL",
        field: Field {
            value_name: "URL",
            set: |values, text| {
                Endpoint::parse(text)?;
                values.openai.base_url = Some(text.into());
                Ok(())
            },
            // A query may hold a key.
            show: |values| {
                let base_url = values.openai.base_url.as_deref()?;
                Some(match base_url.split_once('?') {
                    Some((base, _)) => format!("{base}?{HIDDEN}"),
                    None => base_url.into(),
                })
            },
        },
        summary: "Base URL of an OpenAI-compatible model server",
        details: "The server must offer `POST …/chat/completions`. `/v1` is added to a bare host.",
        example: Some("http://localhost:8080"),
        common: true,
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "openai-api-key",
        variable: "DUOLOGUE_OPENAI_API_KEY",
        field: Field {
            value_name: "KEY",
            // Without the blanks and line breaks that files and shells add.
            set: |values, text| {
                let key = text.trim();
                values.openai.api_key = (!key.is_empty()).then(|| SecretString::from(key));
                Ok(())
            },
            show: |values| values.openai.api_key.as_ref().map(|_| HIDDEN.into()),
        },
        summary: "API key of the model server",
        details: "It is never shown and never logged. Every user of the machine can read flags: \
            prefer the variable.",
        example: Some("sk-…"),
        common: true,
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "openai-model",
        variable: "DUOLOGUE_OPENAI_MODEL",
        field: field!(optional Text, openai.model),
        summary: "Model name; optional where the server has only one",
        example: Some("gpt-5-mini"),
        common: true,
        global: true,
        ..SETTING
    },
    Setting {
        name: "system-prompt",
        variable: "DUOLOGUE_SYSTEM_PROMPT",
        field: field!(optional Text, openai.system_prompt),
        summary: "System prompt",
        details: "`{name}` stands for the user's name.",
        example: Some("You are a friendly assistant. You talk to {name}."),
        global: true,
        ..SETTING
    },
    Setting {
        name: "context-tokens",
        variable: "DUOLOGUE_CONTEXT_TOKENS",
        field: field!(Number<u32>, openai.context_tokens),
        summary: "Context window in tokens, prompt and reply together",
        details: "The gateway estimates tokens. The oldest turns are left out of a longer prompt.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-temperature",
        variable: "DUOLOGUE_OPENAI_TEMPERATURE",
        field: field!(optional Number<f32>, openai.defaults.temperature),
        summary: "Sampling temperature",
        default: Some("the model's own"),
        example: Some("0.7"),
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-max-tokens",
        variable: "DUOLOGUE_OPENAI_MAX_TOKENS",
        field: field!(optional Number<u32>, openai.defaults.max_tokens),
        summary: "Longest reply in tokens",
        details: "The prompt leaves room for it in the context window. Without this setting, a \
            quarter of the window stays free.",
        default: Some("the model's own"),
        example: Some("1024"),
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-headers",
        variable: "DUOLOGUE_OPENAI_HEADERS",
        field: Field {
            value_name: "JSON",
            set: |values, text| {
                // serde's own message would repeat the value.
                let named: BTreeMap<String, String> = serde_json::from_str(text)
                    .map_err(|_| "expected a JSON object of strings".to_owned())?;
                values.openai.headers = headers(&named)?;
                Ok(())
            },
            show: |values| (!values.openai.headers.is_empty()).then(|| HIDDEN.into()),
        },
        summary: "Additional headers of every request, a JSON object",
        details: "They are never shown and never logged.",
        example: Some(r#"{"X-Title":"Duologue"}"#),
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "openai-body",
        variable: "DUOLOGUE_OPENAI_BODY",
        field: Field {
            value_name: "JSON",
            set: |values, text| {
                values.openai.body =
                    serde_json::from_str(text).map_err(|_| "expected a JSON object".to_owned())?;
                Ok(())
            },
            show: |values| {
                let body = Some(&values.openai.body).filter(|body| !body.is_empty())?;
                serde_json::to_string(body).ok()
            },
        },
        summary: "Additional fields of every request, a JSON object",
        details: "`null` removes a field that the gateway would send.",
        example: Some(r#"{"top_p":0.9}"#),
        global: true,
        sensitive: true,
        ..SETTING
    },
    Setting {
        name: "openai-ca-cert",
        variable: "DUOLOGUE_OPENAI_CA_CERT",
        field: field!(optional File, openai.ca_cert),
        summary: "CA certificates to trust, PEM",
        default: Some("those of the system"),
        example: Some("ca.pem"),
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-connect-timeout",
        variable: "DUOLOGUE_OPENAI_CONNECT_TIMEOUT",
        field: field!(Length, openai.defaults.connect_timeout),
        summary: "Longest time to connect, TLS included",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-first-content-timeout",
        variable: "DUOLOGUE_OPENAI_FIRST_CONTENT_TIMEOUT",
        field: field!(Length, openai.defaults.first_content_timeout),
        summary: "Longest time from the request to the first text",
        details: "A model that reasons at length needs more.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-chunk-timeout",
        variable: "DUOLOGUE_OPENAI_CHUNK_TIMEOUT",
        field: field!(Length, openai.defaults.chunk_timeout),
        summary: "Longest silence within a reply",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-total-timeout",
        variable: "DUOLOGUE_OPENAI_TOTAL_TIMEOUT",
        field: field!(Length, openai.total_timeout),
        summary: "Longest time for a reply, waits and retries included",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-retries",
        variable: "DUOLOGUE_OPENAI_RETRIES",
        field: field!(Number<u32>, openai.defaults.retries),
        summary: "Retries before the first text",
        details: "A reply is never retried after its first text.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-concurrency",
        variable: "DUOLOGUE_OPENAI_CONCURRENCY",
        field: field!(Number<u32>, openai.defaults.capacity.concurrency),
        summary: "Concurrent requests per upstream",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-queue-size",
        variable: "DUOLOGUE_OPENAI_QUEUE_SIZE",
        field: field!(Number<u32>, openai.defaults.capacity.queue_size),
        summary: "Replies that may wait for a request to end",
        details: "Further turns are refused as `overloaded`.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-queue-timeout",
        variable: "DUOLOGUE_OPENAI_QUEUE_TIMEOUT",
        field: field!(Length, openai.defaults.capacity.queue_timeout),
        summary: "Longest wait in that queue while there is another upstream",
        global: true,
        ..SETTING
    },
    Setting {
        name: "openai-accept-missing-finish-reason",
        variable: "DUOLOGUE_OPENAI_ACCEPT_MISSING_FINISH_REASON",
        field: field!(Switch, openai.defaults.accept_missing_finish_reason),
        summary: "Accept replies that end with `[DONE]` and no `finish_reason`",
        details: "Such a reply then counts as complete.",
        global: true,
        ..SETTING
    },
];
