//! Error bodies of OpenAI-compatible servers.

use serde_json::Value;

/// An error that an upstream reports, in any of the known forms.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ErrorBody {
    pub(super) message: String,
    pub(super) kind: String,
    pub(super) code: String,
}

impl ErrorBody {
    /// Returns true if the body reports an error at all.
    pub(super) fn reports_an_error(&self) -> bool {
        !(self.message.is_empty() && self.kind.is_empty() && self.code.is_empty())
    }

    /// Reads `{"error":{message,type,code}}`, `{"error":"…"}`, the same without `error` around it,
    /// `{"detail":…}`, or a text that is not JSON.
    pub(super) fn read(body: &[u8]) -> Self {
        let Ok(value) = serde_json::from_slice::<Value>(body) else {
            let message = String::from_utf8_lossy(body).into_owned();
            return Self { message, ..Self::default() };
        };
        // Gemini sends a list of one error.
        let value = value.get(0).unwrap_or(&value);
        let inner = match value.get("error") {
            None | Some(Value::Null) => value,
            Some(error) => error,
        };
        let text = |names: &[&str]| {
            let found = names.iter().find_map(|name| inner.get(name).filter(|v| !v.is_null()));
            found.map(|found| found.as_str().map_or_else(|| found.to_string(), Into::into))
        };
        let message = inner.as_str().map(Into::into).or_else(|| text(&["message", "detail"]));
        Self {
            message: message.unwrap_or_default(),
            kind: text(&["type"]).unwrap_or_default(),
            code: text(&["code"]).unwrap_or_default(),
        }
    }
}
