use crate::{
    cli::{
        lists::{Audiences, AuthModes},
        setting::{Field, Group, SETTING, Setting, field},
        value::{File, Length, LengthOrForever, Number, Switch, Text, Word},
    },
    identity::{Algorithms, JwksLocation},
};

pub(super) const GROUP: Group = Group {
    heading: "Callers",
    introduction: "[Who may use it](OPERATIONS.md#who-may-use-it) has complete examples.",
    settings: SETTINGS,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "auth",
        variable: "DUOLOGUE_AUTH",
        field: Field { value_name: "LIST", ..field!(AuthModes, auth) },
        summary: "Who may create sessions, comma-separated: `open`, `api-key`, `jwt`",
        details: "`open`: everybody. `api-key`: callers with a key of `--api-keys`. `jwt`: callers \
            with a JSON Web Token of `--jwt-issuer`. Existing tokens stay valid when the list \
            changes.",
        ..SETTING
    },
    Setting {
        name: "api-keys",
        variable: "DUOLOGUE_API_KEYS",
        field: field!(File, api_keys),
        summary: "File of the API keys, which `duologue keys` changes",
        details: "The gateway reads it again when it changes.",
        global: true,
        ..SETTING
    },
    Setting {
        name: "jwt-issuer",
        variable: "DUOLOGUE_JWT_ISSUER",
        field: Field { value_name: "ISSUER", ..field!(optional Text, jwt_issuer) },
        summary: "Issuer of the JWTs, the claim `iss`",
        example: Some("https://login.example.com"),
        ..SETTING
    },
    Setting {
        name: "jwt-audience",
        variable: "DUOLOGUE_JWT_AUDIENCE",
        field: Field { value_name: "LIST", ..field!(Audiences, jwt_audiences) },
        summary: "Audience of the JWTs, the claim `aud`; one of a comma-separated list",
        example: Some("https://chat.example.com"),
        default: Some("none"),
        ..SETTING
    },
    Setting {
        name: "jwt-jwks",
        variable: "DUOLOGUE_JWT_JWKS",
        field: Field { value_name: "LOCATION", ..field!(optional Word<JwksLocation>, jwt_jwks) },
        summary: "Public keys of the issuer, a JSON Web Key Set: an https URL or a file",
        details: "A URL is read every five minutes, and when a token has an unknown key. A file is \
            read again when it changes.",
        example: Some("https://login.example.com/jwks"),
        ..SETTING
    },
    Setting {
        name: "jwt-algorithms",
        variable: "DUOLOGUE_JWT_ALGORITHMS",
        field: Field { value_name: "LIST", ..field!(Word<Algorithms>, jwt_algorithms) },
        summary: "Signature algorithms that are accepted, comma-separated",
        details: "Of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA.",
        ..SETTING
    },
    Setting {
        name: "jwt-leeway",
        variable: "DUOLOGUE_JWT_LEEWAY",
        field: field!(Length, jwt_leeway),
        summary: "Tolerated difference between the clocks of the issuer and the gateway",
        ..SETTING
    },
    Setting {
        name: "bind-subject",
        variable: "DUOLOGUE_BIND_SUBJECT",
        field: field!(Switch, session.access.bind_subject),
        summary: "A session with an owner needs the credential of its owner beside the token",
        details: "A stream ends when its credential expires, unless an `open` frame has brought a \
            newer one. Without this, the token alone opens the session.",
        ..SETTING
    },
    Setting {
        name: "session-token-budget",
        variable: "DUOLOGUE_SESSION_TOKEN_BUDGET",
        field: field!(Number<u64>, session.budgets.session),
        summary: "Model tokens of a session over its life; 0 is no limit",
        details: "Tokens that the model reads and writes count, also those of stopped replies. The \
            reply that is running finishes, the next turn is refused with `budget_exceeded`.",
        ..SETTING
    },
    Setting {
        name: "subject-daily-token-budget",
        variable: "DUOLOGUE_SUBJECT_DAILY_TOKEN_BUDGET",
        field: field!(Number<u64>, session.budgets.subject_per_day),
        summary: "Model tokens of an owner of sessions per day (UTC); 0 is no limit",
        ..SETTING
    },
    Setting {
        name: "daily-token-budget",
        variable: "DUOLOGUE_DAILY_TOKEN_BUDGET",
        field: field!(Number<u64>, session.budgets.per_day),
        summary: "Model tokens of all sessions per day (UTC); 0 is no limit",
        ..SETTING
    },
    Setting {
        name: "retention",
        variable: "DUOLOGUE_RETENTION",
        field: field!(LengthOrForever, session.retention),
        summary: "Age since its last message at which an owned conversation is deleted",
        details: "`forever` keeps it until its owner deletes it. Conversations without an owner are \
            deleted when they expire.",
        ..SETTING
    },
];
