use crate::cli::{
    setting::{Field, Group, SETTING, Setting, field},
    value::{Length, LengthOrNever, Text, Word},
    values::ResponderKind,
};

pub(super) const GROUP: Group = Group { heading: "Replies", introduction: "", settings: SETTINGS };

const SETTINGS: &[Setting] = &[
    Setting {
        name: "responder",
        variable: "DUOLOGUE_RESPONDER",
        field: Field { value_name: "RESPONDER", ..field!(Word<ResponderKind>, responder) },
        summary: "Source of replies: `simulated`, `openai` or `grpc`",
        details: "`openai` is any OpenAI-compatible model, `grpc` is your own bot.",
        common: true,
        global: true,
        ..SETTING
    },
    Setting {
        name: "abandon-after",
        variable: "DUOLOGUE_ABANDON_AFTER",
        field: field!(LengthOrNever, session.abandon_after),
        summary: "Time without a subscriber after which a reply is stopped, or `never`",
        details: "A reply belongs to the session: by default it goes on when everybody has left.",
        ..SETTING
    },
    Setting {
        name: "simulated-reply",
        variable: "DUOLOGUE_SIMULATED_REPLY",
        field: field!(Text, simulated_reply),
        summary: "Reply of the simulated responder",
        details: "`{text}` stands for the message, `{name}` for the user's name.",
        ..SETTING
    },
    Setting {
        name: "simulated-delay",
        variable: "DUOLOGUE_SIMULATED_DELAY",
        field: field!(Length, simulated_delay),
        summary: "Delay between the words of the simulated reply",
        details: "`0s` sends the reply as one delta.",
        ..SETTING
    },
];
